package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/eco2-team/eventbus/deploy/example/queue"
	"github.com/eco2-team/eventbus/deploy/example/scan"
	"github.com/eco2-team/eventbus/deploy/example/stack"
)

// Without workers, so that jobs stay where they are; tests bring their own.
func TestWithoutWorkers(t *testing.T) {
	s := newStack(t, stack.Options{Env: map[string]string{"QUEUE_TRIES": tries, "PACE": "10ms"}})
	t.Run("the API", func(t *testing.T) { testAPI(t, s) })
	t.Run("one key is one scan", func(t *testing.T) { testKeys(t, s) })
	t.Run("a scan that fails too often", func(t *testing.T) { testDeadLetter(t, s) })
	t.Run("a worker that is asked to stop", func(t *testing.T) { testStop(t, s) })
	t.Run("everything else is killed", func(t *testing.T) { testOutages(t, s) })
	t.Run("a scan for nobody", func(t *testing.T) { testReturned(t, s) }) // the last: it takes the queue away
}

func testAPI(t *testing.T, s *stack.Stack) {
	ctx := t.Context()
	p := draw(t, 1)
	a := upload(ctx, t, s.APIURL, p, "", false)
	j := a.job(t)
	if a.code != http.StatusAccepted || a.header.Get("Location") != j.ResultURL || j.ResultURL != "/scan/"+j.JobID+"/result" ||
		j.StreamURL != s.EventsURL+"/api/v1/scan/"+j.JobID+"/events" {
		t.Errorf("%d %v %+v", a.code, a.header, j)
	}
	a = do(ctx, t, http.MethodGet, s.APIURL+j.ResultURL, http.NoBody)
	if a.code != http.StatusAccepted || !strings.Contains(string(a.body), `"running"`) || a.header.Get("Retry-After") == "" {
		t.Errorf("while it waits: %d %v %s", a.code, a.header, a.body)
	}
	for name, test := range map[string]struct {
		method, path, kind, key string
		body                    []byte
		want                    int
	}{
		"unknown job":      {http.MethodGet, "/scan/0b5fd5a5-3c5e-4b8f-9f4b-2f3f0f1d2c3b/result", "", "", nil, http.StatusNotFound},
		"no job id":        {http.MethodGet, "/scan/a%2Fb/result", "", "", nil, http.StatusNotFound},
		"wrong method":     {http.MethodDelete, "/scan", "", "", nil, http.StatusMethodNotAllowed},
		"no picture":       {http.MethodPost, "/scan", "image/png", "", []byte("text"), http.StatusUnsupportedMediaType},
		"nothing":          {http.MethodPost, "/scan", "image/png", "", nil, http.StatusUnsupportedMediaType},
		"no content type":  {http.MethodPost, "/scan", "", "", p.bytes, http.StatusUnsupportedMediaType},
		"form without one": {http.MethodPost, "/scan", "multipart/form-data; boundary=x", "", []byte("--x--\r\n"), http.StatusBadRequest},
		"too large":        {http.MethodPost, "/scan", "image/png", "", make([]byte, 4<<20+1), http.StatusRequestEntityTooLarge},
		"long key":         {http.MethodPost, "/scan", "image/png", strings.Repeat("k", 129), p.bytes, http.StatusBadRequest},
	} {
		headers := []string{"Content-Type", test.kind, "Idempotency-Key", test.key}
		if a := do(ctx, t, test.method, s.APIURL+test.path, bytes.NewReader(test.body), headers...); a.code != test.want {
			t.Errorf("%s: %d %s, want %d", name, a.code, a.body, test.want)
		}
	}
	if a := do(ctx, t, http.MethodGet, s.APIURL+"/", http.NoBody); a.code != http.StatusOK || !strings.Contains(string(a.body), "page.js") {
		t.Errorf("the page: %d %s", a.code, a.body)
	}
	stop := startWorker(t, s, nil)
	defer stop()
	events, gaps := watch(ctx, t, j)
	seen{p, j, events, gaps}.check(ctx, t, s.APIURL)
}

func testKeys(t *testing.T, s *stack.Stack) {
	ctx := t.Context()
	p := draw(t, 2)
	answers := make([]answer, 8)
	var at sync.WaitGroup
	for i := range answers {
		at.Go(func() { answers[i] = upload(ctx, t, s.APIURL, p, "the key", i%2 == 0) })
	}
	at.Wait()
	j := answers[0].job(t)
	for _, a := range answers {
		if a.code/100 != 2 || a.job(t) != j {
			t.Errorf("the same key: %d %s, want %+v", a.code, a.body, j)
		}
	}
	if a := upload(ctx, t, s.APIURL, draw(t, 3), "the key", false); a.code != http.StatusUnprocessableEntity {
		t.Errorf("the same key for another picture: %d %s", a.code, a.body)
	}
	if a := upload(ctx, t, s.APIURL, p, "another key", false); a.job(t) == j {
		t.Error("another key is the same job")
	}
	// All of them are in the queue, and several workers' hands, at the same time.
	stop := startWorker(t, s, nil)
	defer stop()
	stop2 := startWorker(t, s, nil)
	defer stop2()
	events, gaps := watch(ctx, t, j)
	seen{p, j, events, gaps}.check(ctx, t, s.APIURL)
	if a := upload(ctx, t, s.APIURL, p, "the key", false); a.code != http.StatusOK || a.job(t) != j {
		t.Errorf("the same key when the job is over: %d %s", a.code, a.body)
	}
	dial(t, s.AMQPURL).wantEmpty(queue.Jobs)
	after, gaps := watch(ctx, t, j)
	if gaps > 0 || len(after) != len(events) {
		t.Errorf("%d events afterwards, %d before", len(after), len(events))
	}
}

// result is the answer to GET …/result.
type result struct {
	Status string      `json:"status"`
	Stage  string      `json:"stage"`
	Error  string      `json:"error"`
	Result scan.Result `json:"result"`
}

func resultOf(t *testing.T, s *stack.Stack, j job) (code int, r result) {
	t.Helper()
	a := do(t.Context(), t, http.MethodGet, s.APIURL+j.ResultURL, http.NoBody)
	if err := json.Unmarshal(a.body, &r); err != nil {
		t.Fatalf("%d %s: %v", a.code, a.body, err)
	}
	return a.code, r
}
