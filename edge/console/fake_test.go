package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeBus answers the page as the edge does, and fails as networks do.
type fakeBus struct {
	faults

	mu     sync.Mutex
	events []map[string]any
	// changed is closed and made anew at every event.
	changed chan struct{}
	// gone counts the connections that were told with 204 that all is over.
	gone int
	// keys are the Idempotency-Keys of what was published.
	keys []string
}

type faults struct {
	// cutAfter ends every connection of a job in the middle of the frame after so
	// many; 0: never.
	cutAfter int
	// withheld is a seq that is neither sent nor in the log; 0: none.
	withheld int
	// badGateways is how many resumptions of a job a proxy answers with 502, as
	// during a deployment.
	badGateways int
	// loseReplies writes what is published, but hangs up instead of answering.
	loseReplies bool
}

func newFakeBus(f faults) *fakeBus {
	return &fakeBus{faults: f, changed: make(chan struct{})}
}

// serve puts the page and the bus on a loopback port.
func (b *fakeBus) serve(t *testing.T) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", Handler(Settings{}))
	mux.HandleFunc("GET /api/v1/{domain}/events", b.watch)
	mux.HandleFunc("GET /api/v1/{domain}/{job}/events", b.subscribe)
	mux.HandleFunc("GET /api/v1/{domain}/{job}/state", b.state)
	mux.HandleFunc("POST /api/v1/{domain}/{job}/events", b.publish)
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections() // a stream ends only when its browser leaves
		server.Close()
	})
	return server.URL
}

// add appends an event of the job; fields are pairs of name and value.
func (b *fakeBus) add(job, stage, status string, fields ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.append(job, stage, status, fields...)
}

func (b *fakeBus) append(job, stage, status string, fields ...any) (id string) {
	id = fmt.Sprintf("%d-0", 1000+len(b.events))
	e := map[string]any{"id": id, "domain": "scan", "job_id": job, "seq": len(b.of(job)) + 1, "stage": stage, "status": status}
	for i := 0; i < len(fields); i += 2 {
		e[fields[i].(string)] = fields[i+1]
	}
	b.events = append(b.events, e)
	close(b.changed)
	b.changed = make(chan struct{})
	return id
}

func (b *fakeBus) of(job string) (of []map[string]any) {
	for _, e := range b.events {
		if e["job_id"] == job {
			of = append(of, e)
		}
	}
	return of
}

func cursorOf(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return r.URL.Query().Get("last_event_id")
}

func (b *fakeBus) subscribe(w http.ResponseWriter, r *http.Request) {
	job, cursor := r.PathValue("job"), cursorOf(r)
	if strings.HasPrefix(job, "refused") {
		refuse(w, http.StatusBadRequest, "job_id: not a good one")
		return
	}
	b.mu.Lock()
	if past := b.of(job); cursor != "" && len(past) > 0 && past[len(past)-1]["id"] == cursor && past[len(past)-1]["final"] == true {
		b.gone++
		b.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	badGateway := cursor != "" && r.Header.Get("Accept") == "text/event-stream" && b.badGateways > 0
	if badGateway {
		b.badGateways--
	}
	b.mu.Unlock()
	if badGateway {
		http.Error(w, "<html>Bad Gateway</html>", http.StatusBadGateway)
		return
	}
	b.stream(w, r, cursor, b.cutAfter, func(e map[string]any) bool { return e["job_id"] == job && e["seq"] != b.withheld })
}

func (b *fakeBus) watch(w http.ResponseWriter, r *http.Request) {
	cursor := cursorOf(r)
	if cursor == "" { // live only
		b.mu.Lock()
		cursor = fmt.Sprintf("%04d-0", 999+len(b.events)) // ids are compared as text
		b.mu.Unlock()
	}
	b.stream(w, r, cursor, 0, func(map[string]any) bool { return true })
}

// stream sends what matches after the cursor, until the final event of a job.
func (b *fakeBus) stream(w http.ResponseWriter, r *http.Request, cursor string, cutAfter int, match func(map[string]any) bool) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprint(w, "retry: 10\n: subscribed\n\n")
	for sent := 0; ; {
		b.mu.Lock()
		events, changed := b.events, b.changed
		b.mu.Unlock()
		for _, e := range events {
			id := e["id"].(string)
			if !match(e) || (cursor != "" && id <= cursor) {
				continue
			}
			cursor = id
			data, _ := json.Marshal(e)
			frame := fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", id, e["stage"], data)
			if sent++; cutAfter > 0 && sent > cutAfter {
				_, _ = fmt.Fprint(w, frame[:len(frame)-1])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			_, _ = fmt.Fprint(w, frame)
			if e["final"] == true && r.PathValue("job") != "" {
				return
			}
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (b *fakeBus) state(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.of(r.PathValue("job"))
	if len(of) == 0 {
		refuse(w, http.StatusNotFound, "no such job")
		return
	}
	_ = json.NewEncoder(w).Encode(of[len(of)-1])
}

func (b *fakeBus) publish(w http.ResponseWriter, r *http.Request) {
	var e map[string]any
	if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.Header.Get("Content-Type") != "application/json" {
		refuse(w, http.StatusBadRequest, "not JSON")
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keys = append(b.keys, r.Header.Get("Idempotency-Key"))
	if e["stage"] == "gap" {
		refuse(w, http.StatusBadRequest, "stage: gap is a browser's own")
		return
	}
	id := b.append(r.PathValue("job"), e["stage"].(string), e["status"].(string),
		"progress", e["progress"], "message", e["message"], "final", e["final"] == true)
	if b.loseReplies {
		panic(http.ErrAbortHandler)
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"id": id})
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"code": 3, "message": message})
}

func (b *fakeBus) told204() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gone
}

func (b *fakeBus) setLoseReplies(lose bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loseReplies = lose
}

func (b *fakeBus) distinctKeys() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Compact(slices.Clone(b.keys))
}
