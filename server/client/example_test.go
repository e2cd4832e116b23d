package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/eco2-team/eventbus/server/client"
)

// A worker that plays one job, to its end or to its failure.
func Example_worker() {
	ctx := context.Background()
	bus, err := client.Dial(os.Getenv("EVENTBUS_ADDR"), client.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = bus.Close() }()
	publisher := bus.Publisher(client.PublisherOptions{})
	defer func() { // flush on exit, for as long as the supervisor waits
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := publisher.Close(ctx); err != nil {
			fmt.Println(err) // names each event that is not acknowledged
		}
	}()

	job := publisher.Job("scan", "example-worker")
	_ = job.Progress(ctx, "vision", 10)
	_ = job.Progress(ctx, "vision", 40, client.WithStatus(client.Completed))
	if err := job.Done(ctx, map[string]string{"kind": "can"}); err != nil {
		_ = job.Fail(ctx, err)
	}

	for m, err := range bus.Subscribe(ctx, "scan", "example-worker", client.SubscribeOptions{}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(m.Event.GetSeq(), m.Event.GetStage(), m.Event.GetStatus(), m.Event.GetProgress())
	}
	// Output:
	// 1 vision started 10
	// 2 vision completed 40
	// 3 done completed 100
}

// The answer of a language model: while the bus is slower than the text, its tokens
// go together.
func ExampleJob_Tokens() {
	ctx := context.Background()
	bus, err := client.Dial(os.Getenv("EVENTBUS_ADDR"), client.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = bus.Close() }()
	publisher := bus.Publisher(client.PublisherOptions{})
	defer func() { _ = publisher.Close(ctx) }()

	job := publisher.Job("chat", "example-tokens")
	if _, err := job.Tokens(ctx, slices.Values([]string{"Rinse ", "the ", "can."})); err != nil {
		_ = job.Fail(ctx, err)
	}
	_ = job.Done(ctx, nil)

	for m, err := range bus.Subscribe(ctx, "chat", "example-tokens", client.SubscribeOptions{}) {
		if err != nil {
			panic(err)
		}
		fmt.Print(m.Event.GetContent())
	}
	// Output: Rinse the can.
}

// A worker that may get the same work twice, as from a queue, names its steps: the bus
// keeps one event of each.
func ExampleWithKey() {
	ctx := context.Background()
	bus, err := client.Dial(os.Getenv("EVENTBUS_ADDR"), client.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = bus.Close() }()

	for range 2 { // the second time, after a crash
		publisher := bus.Publisher(client.PublisherOptions{})
		job := publisher.Job("scan", "example-key")
		_ = job.Progress(ctx, "vision", 10, client.WithKey("vision/started"))
		_ = job.Progress(ctx, "rule", 50, client.WithKey("rule/started"))
		if err := job.Done(ctx, nil, client.WithKey("done")); err != nil {
			fmt.Println(err)
		}
		_ = publisher.Close(ctx)
	}

	for m := range bus.Subscribe(ctx, "scan", "example-key", client.SubscribeOptions{}) {
		fmt.Println(m.Event.GetSeq(), m.Event.GetStage())
	}
	// Output:
	// 1 vision
	// 2 rule
	// 3 done
}

// Follow a job, and tell a gap from an event.
func ExampleClient_Subscribe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bus, err := client.Dial(os.Getenv("EVENTBUS_ADDR"), client.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = bus.Close() }()
	publisher := bus.Publisher(client.PublisherOptions{})
	defer func() { _ = publisher.Close(ctx) }()
	_ = publisher.Job("scan", "example-subscribe").Fail(ctx, errors.New("no photo"))

	for m, err := range bus.Subscribe(ctx, "scan", "example-subscribe", client.SubscribeOptions{}) {
		switch {
		case err != nil:
			fmt.Println("cannot follow it:", err)
		case m.Gap != nil:
			fmt.Println("forget what you have:", m.Gap.GetReason())
		default:
			fmt.Println(m.Event.GetStage(), m.Event.GetMessage())
		}
	}
	// Output: failed no photo
}

// Many jobs on one stream, until all of them are over.
func ExampleClient_Watch() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bus, err := client.Dial(os.Getenv("EVENTBUS_ADDR"), client.Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = bus.Close() }()
	publisher := bus.Publisher(client.PublisherOptions{})
	defer func() { _ = publisher.Close(ctx) }()

	jobs := []string{"example-watch-1", "example-watch-2"}
	work := func(string) {
		for _, id := range jobs {
			_ = publisher.Job("scan", id).Done(ctx, nil)
		}
	}
	over := map[string]bool{}
	for m, err := range bus.Watch(ctx, "scan", client.WatchOptions{Jobs: jobs, Opened: work}) {
		if err != nil {
			panic(err)
		}
		over[m.Event.GetJobId()] = m.Event.GetFinal()
	}
	fmt.Println(over)
	// Output: map[example-watch-1:true example-watch-2:true]
}
