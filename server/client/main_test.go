package client_test

import (
	"context"
	"fmt"
	"testing"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

// The examples have no testing.TB: their bus is the test binary's.
func TestMain(m *testing.M) { bustest.MainWithBus(m, "EVENTBUS_ADDR") }

// dial connects to a bus for the time of a test.
func dial(t testing.TB, addr string, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// publisher is one that is closed with the test, and has then lost nothing.
func publisher(t testing.TB, c *client.Client, o client.PublisherOptions) *client.Publisher {
	t.Helper()
	p := c.Publisher(o)
	t.Cleanup(func() {
		if err := p.Close(patience(t)); err != nil {
			t.Errorf("close the publisher: %v", err)
		}
	})
	return p
}

// patience ends with the patience of the tests, also in a cleanup.
func patience(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bustest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func token(job string, i int) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: "chat", JobId: job, Stage: "token", Status: "streaming", Content: fmt.Sprintf("t%d ", i)}
}

func done(job string) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: "chat", JobId: job, Stage: "done", Status: "completed", Final: true}
}

// whole follows a job to its end and checks that it is n tokens and the final event,
// each once and in order.
func whole(t testing.TB, c *client.Client, job string, n int) {
	t.Helper()
	i := 0
	for m, err := range c.Subscribe(patience(t), "chat", job, client.SubscribeOptions{}) {
		switch {
		case err != nil:
			t.Fatalf("%s: after %d events: %v", job, i, err)
		case m.Gap != nil:
			t.Fatalf("%s: after %d events: %v", job, i, m.Gap)
		case int(m.Event.GetSeq()) != i+1:
			t.Fatalf("%s: event %d has seq %d", job, i, m.Event.GetSeq())
		case i < n && m.Event.GetContent() != fmt.Sprintf("t%d ", i):
			t.Fatalf("%s: event %d is %q", job, i, m.Event.GetContent())
		}
		i++
	}
	if i != n+1 {
		t.Errorf("%s: %d events, want %d", job, i, n+1)
	}
}
