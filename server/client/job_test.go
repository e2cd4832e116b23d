package client_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

// events follows a job to its end.
func events(t testing.TB, c *client.Client, domain, job string) []*eventbusv1.Event {
	t.Helper()
	var out []*eventbusv1.Event
	for m, err := range c.Subscribe(patience(t), domain, job, client.SubscribeOptions{}) {
		if err != nil || m.Gap != nil {
			t.Fatalf("%s: %v %v", job, m.Gap, err)
		}
		out = append(out, m.Event)
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJob_SaysWhatAWorkerSays(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	job := p.Job("scan", "j")
	ctx := patience(t)
	must(t, job.Progress(ctx, "vision", 10, client.WithMessage("looking"), client.WithAttribute("model", "v2")))
	must(t, job.Progress(ctx, "vision", 400, client.WithStatus(client.Completed), client.WithKey("vision/completed")))
	n, err := job.Tokens(ctx, slices.Values([]string{"Hel", "lo"}), client.WithStage("answer"))
	if must(t, err); n != 2 {
		t.Errorf("%d tokens", n)
	}
	must(t, job.Publish(ctx, &eventbusv1.Event{Stage: "reward", Status: client.Waiting}))
	must(t, job.Done(ctx, map[string]any{"kind": "can"}))
	if err := job.Token(ctx, "late"); !errors.Is(err, client.ErrOver) {
		t.Errorf("after Done: %v", err)
	}

	got := events(t, c, "scan", "j")
	var said []string
	for _, e := range got {
		said = append(said, strings.Join([]string{e.GetStage(), e.GetStatus(), e.GetContent(), e.GetMessage()}, "|"))
	}
	want := []string{"vision|started||looking", "vision|completed||", "answer|streaming|Hel|", "answer|streaming|lo|", "reward|waiting||", "done|completed||"}
	if !slices.Equal(said, want) {
		t.Fatalf("got %q, want %q", said, want)
	}
	if got[0].GetProgress() != 10 || got[1].GetProgress() != 100 || got[0].GetAttributes()["model"] != "v2" {
		t.Errorf("%v %v", got[0], got[1])
	}
	if last := got[5]; !last.GetFinal() || last.GetProgress() != 100 || last.GetResult().GetStructValue().AsMap()["kind"] != "can" {
		t.Errorf("the last event: %v", last)
	}
}

func TestJob_FailEndsItInTheStageThatItWasAt(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	job := p.Job("scan", "j")
	must(t, job.Progress(patience(t), "vision", 10))
	must(t, job.Fail(patience(t), errors.New("no lid")))
	if err := job.Fail(patience(t), errors.New("again")); !errors.Is(err, client.ErrOver) {
		t.Errorf("a second end: %v", err)
	}
	last := events(t, c, "scan", "j")[1]
	if !last.GetFinal() || last.GetStage() != "vision" || last.GetStatus() != client.Failed || last.GetMessage() != "no lid" {
		t.Errorf("the last event: %v", last)
	}
	// It may fail before it is at anything.
	must(t, p.Job("scan", "k").Fail(patience(t), errors.New("no photo")))
	if e := events(t, c, "scan", "k")[0]; e.GetStage() != "failed" {
		t.Errorf("%v", e)
	}
}

// A worker looks at the error of Done only: it must not end a job as done whose
// events were lost.
func TestJob_DoneTellsOfALostEventAndDoesNotEndTheJob(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{}) // its Close tells of nothing that is known
	job := p.Job("scan", "j")
	must(t, job.Progress(patience(t), "not a stage", 10))
	if err := job.Done(patience(t), nil); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "scan/j") {
		t.Errorf("Done: %v", err)
	}
	must(t, job.Fail(patience(t), job.Err(), client.WithStage("vision")))
	got := events(t, c, "scan", "j")
	if len(got) != 1 || got[0].GetStatus() != client.Failed || !got[0].GetFinal() {
		t.Errorf("the job is %v", got)
	}
}
