package e2e

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/deploy/example/queue"
	"github.com/eco2-team/eventbus/deploy/example/stack"
	"github.com/eco2-team/eventbus/deploy/example/worker"
)

// tries is how often a scan is handed out again in these tests. An outage costs a few.
const tries = "6"

// startWorker starts one in this process. stop waits until it has ended.
func startWorker(t *testing.T, s *stack.Stack, change func(*worker.Config)) (stop func()) {
	t.Helper()
	n, err := strconv.Atoi(tries)
	if err != nil {
		t.Fatal(err)
	}
	c := worker.Config{
		AMQPURL: s.AMQPURL, RouterAddr: s.RouterAddr, Tries: n, Name: "test", Jobs: 4, Pace: time.Millisecond, Drain: time.Minute,
	}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx, c, slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Errorf("the worker: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

func testDeadLetter(t *testing.T, s *stack.Stack) {
	ctx := t.Context()
	stop := startWorker(t, s, func(c *worker.Config) { c.FailRate = 1 })
	defer stop()
	j := upload(ctx, t, s.APIURL, draw(t, 4), "", false).job(t)
	events, gaps := watch(ctx, t, j)
	last := events[len(events)-1]
	if len(events) != 4 || gaps > 0 || last.Stage != "failed" || last.Status != "failed" || last.Message != "it was tried too often" {
		t.Errorf("%+v, want queued twice, vision started, failed", events)
	}
	eventually(t, "the result says so", func() bool {
		code, r := resultOf(t, s, j)
		return code == http.StatusOK && r.Status == "failed" && r.Error == last.Message
	})
	dial(t, s.AMQPURL).wantEmpty(queue.Jobs, queue.Dead)
}

// One scan takes a while; a worker that stops finishes it, and takes no other.
func testStop(t *testing.T, s *stack.Stack) {
	ctx := t.Context()
	stop := startWorker(t, s, func(c *worker.Config) { c.Name, c.Pace, c.Jobs = "first", 5*time.Millisecond, 1 })
	p := draw(t, 5)
	j := upload(ctx, t, s.APIURL, p, "", false).job(t)
	eventually(t, "it is under way", func() bool { return !strings.Contains(stageOf(t, s, j), "queued") })
	waiting := upload(ctx, t, s.APIURL, p, "", false).job(t)
	stop()
	if code, _ := resultOf(t, s, j); code != http.StatusOK {
		t.Errorf("after the worker has stopped its scan is %d", code)
	}
	if stage := stageOf(t, s, waiting); stage != "queued" {
		t.Errorf("a worker that stops has taken another scan: it is at %q", stage)
	}
	startWorker(t, s, func(c *worker.Config) { c.Name = "second" })
	for _, job := range []job{j, waiting} {
		events, gaps := watch(ctx, t, job)
		seen{p, job, events, gaps}.check(ctx, t, s.APIURL)
	}
}

func stageOf(t *testing.T, s *stack.Stack, j job) string {
	t.Helper()
	_, r := resultOf(t, s, j)
	return r.Stage
}

// RabbitMQ, the bus and Redis die one after the other while scans are under way with workers
// in Go and Python, and come back with what they had.
func testOutages(t *testing.T, s *stack.Stack) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const n = 24
	var all [n]seen
	for i := range all {
		p := draw(t, i)
		all[i] = seen{picture: p, job: upload(ctx, t, s.APIURL, p, "", false).job(t)}
	}
	kill(t, s, "rabbitmq") // with all of them in it
	startWorker(t, s, func(c *worker.Config) { c.Pace, c.Jobs = 10*time.Millisecond, 2 })
	if err := s.StartWorkers(ctx, 0, 2, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eventbus", "redis", "rabbitmq"} {
		eventually(t, "some are under way", func() bool {
			running := 0
			for _, one := range all {
				a := do(ctx, t, http.MethodGet, s.APIURL+one.job.ResultURL, http.NoBody)
				if a.code == http.StatusAccepted && !strings.Contains(string(a.body), `"queued"`) {
					running++
				}
			}
			return running > 0
		})
		kill(t, s, name)
	}
	for i := range all {
		all[i].events, all[i].gaps = watch(ctx, t, all[i].job)
	}
	again, by := 0, map[string]int{}
	for _, one := range all {
		eventually(t, "the API answers", func() bool {
			a := do(ctx, t, http.MethodGet, s.APIURL+one.job.ResultURL, http.NoBody)
			return a.code == http.StatusOK
		})
		one.check(ctx, t, s.APIURL)
		if one.again() {
			again++
		}
		by[one.worker()]++
	}
	t.Logf("%d of %d scans were handed out again; they are by %v", again, n, by)
	if again == 0 {
		t.Error("no scan was handed out again: the test shows nothing")
	}
	dial(t, s.AMQPURL).wantEmpty(queue.Jobs, queue.Dead)
}

// kill kills a service, and returns when it has been started again.
func kill(t *testing.T, s *stack.Stack, name string) {
	t.Helper()
	service := s.Services(name)[0]
	runs := service.Runs()
	if !service.Kill() {
		t.Fatalf("%s was not running", name)
	}
	eventually(t, name+" is started again", func() bool { return service.Runs() > runs })
}

// A scan that no queue takes is not accepted.
func testReturned(t *testing.T, s *stack.Stack) {
	n, err := strconv.Atoi(tries)
	if err != nil {
		t.Fatal(err)
	}
	p := queue.NewPublisher(s.AMQPURL, n)
	defer p.Close()
	one := queue.Scan{JobID: "j", Picture: []byte("x")}
	if err := p.Publish(t.Context(), queue.Jobs, one); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, s.AMQPURL).channel.QueueDelete(queue.Jobs, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), queue.Jobs, one); err == nil || !strings.Contains(err.Error(), "NO_ROUTE") {
		t.Errorf("without a queue: %v", err)
	}
	// It connects again, and makes the queue anew.
	if err := p.Publish(t.Context(), queue.Jobs, one); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
