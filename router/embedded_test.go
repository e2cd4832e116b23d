package router

import (
	"testing"

	"github.com/eco2-team/eventbus/router/embedded"
	"github.com/eco2-team/eventbus/router/event"
)

func TestEmbedded_CarriesAJob(t *testing.T) {
	r, err := embedded.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	tb := newBus(t, testConfig(r.URL(), ""), func(c *Config) { c.Embedded = true })
	tb.Start()
	tb.waitReady()
	s := tb.subscribe("job", SubscribeOptions{})
	tb.publish(event.Event{JobID: "job", Stage: "queued", Status: "started"})
	tb.publish(event.Event{JobID: "job", Stage: "token", Status: "streaming", Content: "a"})
	tb.publish(event.Event{JobID: "job", Stage: "done", Final: true})
	dense(t, s.drain())
	state, err := tb.State(testContext(t), "scan", "job")
	if err != nil || state.Stage != "done" {
		t.Fatalf("state %+v: %v", state, err)
	}
}
