package api

import (
	"context"
	"crypto/md5" //nolint:gosec // spreads, hides nothing
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"time"

	"github.com/google/uuid"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"

	"github.com/eco2-team/eventbus/deploy/example/bus"
	"github.com/eco2-team/eventbus/deploy/example/queue"
	"github.com/eco2-team/eventbus/deploy/example/scan"
)

const (
	// maxPicture bounds an upload; RabbitMQ carries it.
	maxPicture = 4 << 20
	// maxKey is that of the bus.
	maxKey = 128
	// pictureHash is the attribute of a job's first event that names its picture.
	pictureHash = "picture_sha256"
	// publishTimeout is how long the caller waits for a bus that is away.
	publishTimeout = 10 * time.Second
	// findTimeout is how long an event that was published may take into the log.
	findTimeout = 5 * time.Second
	// retryAfter is in seconds.
	retryAfter = "2"
)

// accepted is the answer to POST /scan.
type accepted struct {
	JobID     string `json:"job_id"`
	StreamURL string `json:"stream_url"`
	ResultURL string `json:"result_url"`
}

// status is every other answer.
type status struct {
	JobID    string          `json:"job_id,omitempty"`
	Status   string          `json:"status,omitempty"`
	Stage    string          `json:"stage,omitempty"`
	Progress int32           `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// httpError is an answer that is not 2xx.
type httpError struct {
	code int
	text string
}

func (e httpError) Error() string { return e.text }

// postScan takes a picture. The job's first event comes first, so that whoever gets the
// answer finds a job; then RabbitMQ confirms that it has the picture on disk.
func (s *server) postScan(w http.ResponseWriter, r *http.Request) {
	job, known, err := s.take(w, r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	result := "/scan/" + job + "/result"
	w.Header().Set("Location", result)
	code := http.StatusAccepted
	if known {
		code = http.StatusOK
	}
	answer(w, code, accepted{job, s.config.EventsURL + "/api/v1/" + bus.Domain + "/" + job + "/events", result})
}

func (s *server) take(w http.ResponseWriter, r *http.Request) (job string, known bool, err error) {
	key := r.Header.Get("Idempotency-Key")
	if !keyRule.MatchString(key) {
		return "", false, httpError{http.StatusBadRequest, fmt.Sprintf("Idempotency-Key has %d characters, want at most %d of printable ASCII", len(key), maxKey)}
	}
	picture, kind, err := readPicture(w, r)
	if err != nil {
		return "", false, err
	}
	job = uuid.NewString()
	if key != "" {
		// The same key is the same job, whichever API is asked: nobody needs to remember it.
		job = uuid.NewSHA1(uuid.NameSpaceURL, []byte("scan/"+key)).String()
	}
	known, err = s.begin(r, job, picture)
	if err != nil || known {
		return job, known, err
	}
	err = s.queue.Publish(r.Context(), s.queueOf(job), queue.Scan{
		JobID: job, Picture: picture, ContentType: kind, Traceparent: r.Header.Get("Traceparent"),
	})
	if err != nil {
		if key == "" || s.queueOf(job) == queue.Legacy {
			s.abandon(r, job)
		}
		return "", false, err
	}
	// Whoever gets the answer finds the job: the log has it a moment after Publish.
	if _, err := s.first(r, job); err != nil {
		s.log.Warn("a scan was taken, but is not in the log yet", "job_id", job, "error", err)
	}
	return job, false, nil
}

// abandon ends a job that nobody will put into the queue again.
func (s *server) abandon(r *http.Request, job string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), publishTimeout)
	defer cancel()
	_, err := s.bus.Publish(ctx, &eventbusv1.Event{
		JobId: job, Stage: "failed", Status: "failed", Message: "it could not be queued", Final: true,
	}, "failed")
	if err != nil {
		s.log.Warn("a job that was not queued has no end", "job_id", job, "error", err)
	}
}

// first is the first event of a job, which has been published.
func (s *server) first(r *http.Request, job string) (*eventbusv1.Event, error) {
	ctx, cancel := context.WithTimeout(r.Context(), findTimeout)
	defer cancel()
	e, err := s.bus.Find(ctx, job, "queued", "started")
	if err != nil && r.Context().Err() == nil && ctx.Err() != nil {
		return nil, errNotFound
	}
	return e, err
}

var errNotFound = errors.New("no such event within " + findTimeout.String())

var keyRule = regexp.MustCompile(fmt.Sprintf(`^[\x20-\x7e]{0,%d}$`, maxKey))

// begin publishes a job's first event. known: the job was there, and needs no other message.
//
// One that only waits gets another one: the first may never have reached RabbitMQ, and for
// workers that publish by gRPC a second one is harmless. Old workers would play it twice:
// for them one is sent, and no more.
func (s *server) begin(r *http.Request, job string, picture []byte) (known bool, err error) {
	sum := sha256.Sum256(picture)
	hash := hex.EncodeToString(sum[:])
	progress, _ := scan.Progress("queued")
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	known, err = s.bus.Publish(ctx, &eventbusv1.Event{
		JobId: job, Stage: "queued", Status: "started", Progress: &progress, Traceparent: r.Header.Get("Traceparent"),
		Attributes: map[string]string{pictureHash: hash},
	}, "started")
	if err != nil || !known {
		return false, err
	}
	first, err := s.first(r, job)
	if errors.Is(err, errNotFound) {
		return true, nil // its log has expired, its key has not
	}
	if err != nil {
		return false, err
	}
	if first.GetAttributes()[pictureHash] != hash {
		return false, httpError{http.StatusUnprocessableEntity, "this Idempotency-Key was used for another picture"}
	}
	if s.queueOf(job) == queue.Legacy {
		return true, nil
	}
	now, err := s.bus.State(r.Context(), job)
	return now.GetStage() != "queued" || now.GetStatus() != "started", err
}

// queueOf sends the same job to the same queue each time.
func (s *server) queueOf(job string) string {
	sum := md5.Sum([]byte(job)) //nolint:gosec // as above
	const parts = 1 << 16
	if float64(binary.BigEndian.Uint16(sum[8:10]))/parts < s.config.LegacyShare {
		return queue.Legacy
	}
	return queue.Jobs
}

// readPicture reads the body, or the first file of a form.
func readPicture(w http.ResponseWriter, r *http.Request) (picture []byte, kind string, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxPicture+1<<16) // the form around it
	var body io.Reader = r.Body
	kind, _, err = mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return nil, "", httpError{http.StatusUnsupportedMediaType, "Content-Type is missing, want image/png, image/jpeg or multipart/form-data"}
	}
	if kind == "multipart/form-data" {
		body, err = firstFile(r)
		if err != nil {
			return nil, "", err
		}
	}
	picture, err = io.ReadAll(io.LimitReader(body, maxPicture+1))
	if over := new(http.MaxBytesError); errors.As(err, &over) || len(picture) > maxPicture {
		return nil, "", httpError{http.StatusRequestEntityTooLarge, fmt.Sprintf("the picture is larger than %d bytes", maxPicture)}
	}
	if err != nil {
		return nil, "", httpError{http.StatusBadRequest, "the body ends early: " + err.Error()}
	}
	_, format, err := scan.Check(picture)
	if err != nil {
		return nil, "", httpError{http.StatusUnsupportedMediaType, err.Error()}
	}
	return picture, "image/" + format, nil
}

func firstFile(r *http.Request) (io.Reader, error) {
	form, err := r.MultipartReader()
	for err == nil {
		part, e := form.NextPart()
		if e == nil && part.FileName() != "" {
			return part, nil
		}
		err = e
	}
	return nil, httpError{http.StatusBadRequest, "the form has no file: " + err.Error()}
}

// getResult is 200 when the job is over, 202 while it runs, and 404 where there is none,
// or none any more.
func (s *server) getResult(w http.ResponseWriter, r *http.Request) {
	job := r.PathValue("job_id")
	if !jobRule.MatchString(job) {
		s.refuse(w, r, httpError{http.StatusNotFound, "no such job"})
		return
	}
	e, err := s.bus.State(r.Context(), job)
	switch {
	case err != nil:
		s.refuse(w, r, err)
	case e == nil:
		s.refuse(w, r, httpError{http.StatusNotFound, "no such job"})
	case !e.GetFinal():
		w.Header().Set("Retry-After", retryAfter)
		answer(w, http.StatusAccepted, status{JobID: job, Status: "running", Stage: e.GetStage(), Progress: e.GetProgress()})
	default:
		out := status{JobID: job, Status: e.GetStatus(), Stage: e.GetStage(), Progress: e.GetProgress(), Error: e.GetMessage()}
		if e.GetResult() != nil {
			if out.Result, err = e.GetResult().MarshalJSON(); err != nil {
				s.refuse(w, r, err)
				return
			}
		}
		answer(w, http.StatusOK, out)
	}
}

var jobRule = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// refuse answers an error. What is not the caller's own is 503: with an Idempotency-Key
// asking again is safe.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if e := (httpError{}); errors.As(err, &e) {
		answer(w, e.code, status{Error: e.text})
		return
	}
	s.log.Warn("request failed", "path", r.URL.Path, "error", err)
	w.Header().Set("Retry-After", retryAfter)
	answer(w, http.StatusServiceUnavailable, status{Error: "the queue or the bus is away, try again"})
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the caller has gone
}
