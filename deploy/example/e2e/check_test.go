package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/deploy/example/scan"
)

// seen is what one watcher saw of one scan.
type seen struct {
	picture picture
	job     job
	events  []event
	gaps    int
}

// worker is who completed the first stage; "legacy" says nothing of itself.
func (s seen) worker() string {
	for _, e := range s.events {
		if e.Stage == "vision" || e.Stage == "failed" {
			if w := e.Attributes["worker"]; w != "" {
				return w
			}
			return "legacy"
		}
	}
	return "nobody"
}

// again tells whether the scan was handed out more than once.
func (s seen) again() bool {
	return slices.ContainsFunc(s.events, func(e event) bool { return e.Attributes["attempt"] > "1" })
}

// check says whether everything was seen, once and in order, and whether it is right.
func (s seen) check(ctx context.Context, t *testing.T, api string) {
	t.Helper()
	if s.gaps > 0 {
		t.Errorf("job %s: %d gaps", s.job.JobID, s.gaps)
	}
	var steps []string
	for i, e := range s.events {
		if e.Seq != i+1 {
			t.Errorf("job %s: event %d has seq %d", s.job.JobID, i+1, e.Seq)
		}
		if e.JobID != s.job.JobID {
			t.Errorf("job %s: an event of %s", s.job.JobID, e.JobID)
		}
		if e.Status != "streaming" {
			steps = append(steps, e.Stage+" "+e.Status)
		}
	}
	if want := s.steps(); !slices.Equal(steps, want) {
		t.Errorf("job %s of %s:\n got %v\nwant %v", s.job.JobID, s.worker(), steps, want)
		return
	}
	s.checkAnswer(ctx, t, api)
	if !s.picture.damaged {
		s.checkResult(t)
	}
}

// steps are all that must come, in this order, but the tokens.
func (s seen) steps() []string {
	legacy := s.worker() == "legacy"
	out := []string{"queued started"}
	if !legacy {
		out = append(out, "queued completed")
	}
	if s.picture.damaged {
		out = append(out, "vision started")
		if legacy {
			return append(out, "vision failed")
		}
		return append(out, "failed failed")
	}
	for _, stage := range scan.Stages()[1:] {
		out = append(out, stage+" started", stage+" completed")
	}
	return append(out, "done completed")
}

// checkAnswer compares what the API says of the job with its final event.
func (s seen) checkAnswer(ctx context.Context, t *testing.T, api string) {
	t.Helper()
	a := do(ctx, t, http.MethodGet, api+s.job.ResultURL, http.NoBody)
	var got struct {
		Status string          `json:"status"`
		Result json.RawMessage `json:"result"`
		Error  string          `json:"error"`
	}
	if err := json.Unmarshal(a.body, &got); err != nil || a.code != http.StatusOK {
		t.Errorf("job %s: the result is %d %s", s.job.JobID, a.code, a.body)
		return
	}
	final := s.events[len(s.events)-1]
	if got.Status != final.Status || !sameJSON(got.Result, final.Result) || got.Error != final.Message {
		t.Errorf("job %s: the API says %s, the final event %+v", s.job.JobID, a.body, final)
	}
}

// checkResult computes the result here.
func (s seen) checkResult(t *testing.T) {
	t.Helper()
	var r scan.Result
	text := strings.Builder{}
	for _, e := range s.events {
		if e.Status == "streaming" {
			text.WriteString(e.Content)
		}
		if e.Final {
			if err := json.Unmarshal(e.Result, &r); err != nil {
				t.Fatalf("job %s: %v: %s", s.job.JobID, err, e.Result)
			}
		}
	}
	want := scan.Result{Vision: r.Vision, Reward: scan.RewardFor(s.job.JobID)}
	looked, err := scan.Look(s.picture.bytes)
	if err != nil {
		t.Fatal(err)
	}
	if s.picture.kind == "image/png" { // of a JPEG each decoder makes a little other pixels
		want.Vision = looked
	}
	if want.Rule, err = scan.RuleFor(want.Vision); err != nil {
		t.Fatal(err)
	}
	want.Answer = scan.AnswerFor(want.Vision, want.Rule)
	if !reflect.DeepEqual(r, want) || r.Vision.Width != looked.Width || r.Vision.Height != looked.Height || r.Vision.Format != looked.Format {
		t.Errorf("job %s of %s:\n got %+v\nwant %+v", s.job.JobID, s.worker(), r, want)
	}
	if s.worker() != "legacy" && text.String() != r.Answer.Text {
		t.Errorf("job %s: the tokens are %q, the answer is %q", s.job.JobID, text.String(), r.Answer.Text)
	}
	for _, e := range s.events {
		if e.Stage == "vision" && e.Status == "completed" {
			var v scan.Vision
			if err := json.Unmarshal(e.Result, &v); err != nil || !reflect.DeepEqual(v, r.Vision) {
				t.Errorf("job %s: vision was %s, the result has %+v", s.job.JobID, e.Result, r.Vision)
			}
		}
	}
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
