package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"
)

// picture is one that is uploaded.
type picture struct {
	kind    string
	bytes   []byte
	damaged bool
}

// draw draws the i-th picture: blocks of colours, as PNG or JPEG, every twentieth cut off.
func draw(t *testing.T, i int) picture {
	t.Helper()
	random := rand.New(rand.NewPCG(uint64(i), 7))
	img := image.NewNRGBA(image.Rect(0, 0, 80+random.IntN(400), 60+random.IntN(300)))
	ground := color.NRGBA{uint8(random.IntN(256)), uint8(random.IntN(256)), uint8(random.IntN(256)), 255}
	block := color.NRGBA{uint8(random.IntN(256)), uint8(random.IntN(256)), uint8(random.IntN(256)), 255}
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			c := ground
			if (x/31+y/17)%3 == 0 {
				c = block
			}
			img.SetNRGBA(x, y, c)
		}
	}
	var out bytes.Buffer
	p := picture{kind: "image/png", damaged: i%20 == 13}
	var err error
	if i%4 == 3 {
		p.kind = "image/jpeg"
		err = jpeg.Encode(&out, img, nil)
	} else {
		err = png.Encode(&out, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.bytes = out.Bytes()
	if p.damaged {
		p.bytes = p.bytes[:len(p.bytes)/2]
	}
	return p
}

// job is the answer to POST /scan.
type job struct {
	JobID     string `json:"job_id"`
	StreamURL string `json:"stream_url"`
	ResultURL string `json:"result_url"`
}

// answer is any answer of the API.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

func (a answer) job(t *testing.T) job {
	t.Helper()
	var j job
	if err := json.Unmarshal(a.body, &j); err != nil {
		t.Fatalf("%d %s: %v", a.code, a.body, err)
	}
	return j
}

func do(ctx context.Context, t *testing.T, method, url string, body io.Reader, headers ...string) answer {
	t.Helper()
	a, err := try(ctx, t, method, url, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func try(ctx context.Context, t *testing.T, method, url string, body io.Reader, headers ...string) (answer, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, raw}, err
}

// upload posts a picture, as a form where form is set. Where it gets no answer it asks again,
// as a client should: on a slow machine the API may close a connection that waits too long.
func upload(ctx context.Context, t *testing.T, api string, p picture, key string, form bool) answer {
	t.Helper()
	body, kind := p.bytes, p.kind
	if form {
		var out bytes.Buffer
		w := multipart.NewWriter(&out)
		part, err := w.CreateFormFile("picture", "picture")
		if err == nil {
			_, err = part.Write(p.bytes)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		body, kind = out.Bytes(), w.FormDataContentType()
	}
	for {
		a, err := try(ctx, t, http.MethodPost, api+"/scan", bytes.NewReader(body), "Content-Type", kind, "Idempotency-Key", key)
		if err == nil && a.code != http.StatusServiceUnavailable {
			return a
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("upload: %d %s, %v", a.code, a.body, err)
		}
	}
}

// event is what a browser gets.
type event struct {
	ID         string            `json:"id"`
	JobID      string            `json:"job_id"`
	Seq        int               `json:"seq"`
	Stage      string            `json:"stage"`
	Status     string            `json:"status"`
	Content    string            `json:"content"`
	Message    string            `json:"message"`
	Result     json.RawMessage   `json:"result"`
	Attributes map[string]string `json:"attributes"`
	Final      bool              `json:"final"`
}

// watch follows a job as an EventSource does, over lost connections, until its final event.
// It returns all events that came, whatever they are, and the number of gaps.
func watch(ctx context.Context, t *testing.T, j job) (events []event, gaps int) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, j.StreamURL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := sse.Client{Backoff: sse.Backoff{MaxInterval: 2 * time.Second}}
	connection := client.NewConnection(r)
	connection.SubscribeToAll(func(frame sse.Event) {
		switch frame.Type {
		case "gap":
			gaps++
			return
		case "error":
			t.Logf("job %s: error frame %s", j.JobID, frame.Data)
			return
		}
		if frame.Data == "" {
			return
		}
		var e event
		if err := json.Unmarshal([]byte(frame.Data), &e); err != nil || e.ID != frame.LastEventID {
			t.Errorf("job %s: frame %+v: %v", j.JobID, frame, err)
			return
		}
		events = append(events, e)
		if e.Final {
			cancel()
		}
	})
	if err := connection.Connect(); len(events) == 0 || !events[len(events)-1].Final {
		t.Errorf("job %s: the stream ended after %d events without a final one: %v", j.JobID, len(events), err)
	}
	return events, gaps
}
