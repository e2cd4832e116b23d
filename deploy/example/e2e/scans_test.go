package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/eco2-team/eventbus/deploy/example/queue"
	"github.com/eco2-team/eventbus/deploy/example/stack"
)

const (
	// uploads at a time; all scans are watched at the same time.
	uploads = 8
	// killEvery is the time between two kills: longer than a scan, so that none is hit each
	// time it is tried.
	killEvery = 1500 * time.Millisecond
	// enough kills for a small run.
	minKills = 4
)

// The promise of all this. Scans of workers in Go, Python and old ones, side by side, some
// uploaded twice, some of damaged pictures, while workers in Go and Python are killed: every
// job ends, every watcher saw each of its events once and in order, and the result is right.
//
// Old workers are not killed: what one has taken is lost with it, see python/legacy.py.
func TestScans_EachEndsOnceWhateverHappensToWorkers(t *testing.T) {
	n := *scans
	if testing.Short() {
		n = min(n, 20)
	}
	s := newStack(t, stack.Options{
		GoWorkers: 3, PythonWorkers: 3, LegacyWorkers: 2,
		Env: map[string]string{"LEGACY_SHARE": "0.15", "FAIL_RATE": "0.03", "PACE": "5ms", "QUEUE_TRIES": "30"},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	page := openPage(t, s.APIURL)
	page.upload(draw(t, n))

	over := make(chan struct{})
	var killed int
	var killer sync.WaitGroup
	killer.Go(func() { killed = killSome(s.Workers(), over) })
	all := make([]seen, n)
	turns := make(chan struct{}, uploads)
	var watchers sync.WaitGroup
	for i := range n {
		watchers.Go(func() {
			p := draw(t, i)
			j := func() job {
				turns <- struct{}{}
				defer func() { <-turns }()
				return uploadSome(ctx, t, s.APIURL, p, i)
			}()
			events, gaps := watch(ctx, t, j)
			all[i] = seen{p, j, events, gaps}
		})
	}
	watchers.Wait()
	page.finished()
	close(over)
	killer.Wait()
	if t.Failed() {
		return
	}

	workers, again := map[string]int{}, 0
	for _, one := range all {
		one.check(ctx, t, s.APIURL)
		workers[strings.Split(one.worker(), "-")[0]]++
		if one.again() {
			again++
		}
	}
	page.check(ctx)
	t.Logf("%d scans by %v, %d of them handed out again; %d workers killed", n, workers, again, killed)
	for _, kind := range []string{"go", "python", "legacy"} {
		if workers[kind] == 0 {
			t.Errorf("no scan was one of a %s worker", kind)
		}
	}
	if again == 0 || killed < minKills {
		t.Error("nothing was interrupted: the test shows nothing")
	}
	wantEmpty(t, s.AMQPURL, queue.Jobs, queue.Legacy, queue.Dead)
}

// uploadSome uploads a picture, in one of the ways that there are; some twice at once, as a
// client does that got no answer.
func uploadSome(ctx context.Context, t *testing.T, api string, p picture, i int) job {
	t.Helper()
	key, times := "", 1
	if i%2 == 0 {
		key = fmt.Sprintf("upload %d", i)
	}
	if i%10 == 0 {
		times = 2
	}
	answers := make([]answer, times)
	var both sync.WaitGroup
	for k := range answers {
		both.Go(func() { answers[k] = upload(ctx, t, api, p, key, i%3 == 0) })
	}
	both.Wait()
	first := answers[0].job(t)
	for _, a := range answers {
		if a.code/100 != 2 || a.job(t) != first {
			t.Errorf("upload %d: %d %s, want %+v", i, a.code, a.body, first)
		}
	}
	return first
}

// killSome kills workers that publish by gRPC, one after the other, until all is over. A
// small run may be over early: the first kills come at once.
func killSome(workers []*stack.Service, over <-chan struct{}) (killed int) {
	workers = slices.DeleteFunc(workers, func(w *stack.Service) bool { return strings.HasPrefix(w.Name(), "legacy") })
	random := rand.New(rand.NewPCG(1, 2))
	tick := time.NewTicker(killEvery)
	defer tick.Stop()
	for {
		if workers[random.IntN(len(workers))].Kill() {
			killed++
		}
		select {
		case <-tick.C:
		case <-over:
			return killed
		}
	}
}

// wantEmpty waits until RabbitMQ has nothing in some queues that is not in anybody's hands.
func wantEmpty(t *testing.T, url string, queues ...string) {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range queues {
		eventually(t, name+" is empty", func() bool {
			q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			return q.Messages == 0
		})
	}
}
