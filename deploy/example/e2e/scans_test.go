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
	// kills is about how many workers are killed. It is counted in scans that have ended, not
	// in time: on a slow machine, too, something is done between two of them.
	kills = 25
	// minKills is enough for a small run.
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
		Env: map[string]string{"LEGACY_SHARE": "0.25", "FAIL_RATE": "0.03", "PACE": "5ms", "QUEUE_TRIES": "30"},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	page := openPage(t, s.APIURL)
	page.upload(draw(t, n))

	workers := slices.Concat(s.Services("go"), s.Services("python"))
	broker := dial(t, s.AMQPURL)
	eventually(t, "all of them take scans", func() bool { return broker.state(queue.Jobs).Consumers == len(workers) })
	ended := make(chan struct{}, n)
	var killed int
	var killer sync.WaitGroup
	killer.Go(func() { killed = killSome(workers, ended, max(2, n/kills)) })
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
			ended <- struct{}{}
		})
	}
	watchers.Wait()
	page.finished()
	close(ended)
	killer.Wait()
	if t.Failed() {
		return
	}

	by, again := map[string]int{}, 0
	for _, one := range all {
		one.check(ctx, t, s.APIURL)
		by[strings.Split(one.worker(), "-")[0]]++
		if one.again() {
			again++
		}
	}
	page.check(ctx)
	t.Logf("%d scans by %v, %d of them handed out again; %d workers killed", n, by, again, killed)
	for _, kind := range []string{"go", "python", "legacy"} {
		if by[kind] == 0 {
			t.Errorf("no scan was one of a %s worker", kind)
		}
	}
	if again == 0 || killed < minKills {
		t.Error("nothing was interrupted: the test shows nothing")
	}
	broker.wantEmpty(queue.Jobs, queue.Legacy, queue.Dead)
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

// killSome kills a worker that publishes by gRPC at once, and another one each time that so
// many scans have ended.
func killSome(workers []*stack.Service, ended <-chan struct{}, every int) (killed int) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := 0; ; n++ {
		if n%every == 0 && workers[random.IntN(len(workers))].Kill() {
			killed++
		}
		if _, open := <-ended; !open {
			return killed
		}
	}
}

// broker is a connection to RabbitMQ that asks what is in its queues.
type broker struct {
	t       *testing.T
	channel *amqp.Channel
}

func dial(t *testing.T, url string) broker {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return broker{t, ch}
}

func (b broker) state(name string) amqp.Queue {
	b.t.Helper()
	q, err := b.channel.QueueDeclarePassive(name, true, false, false, false, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return q
}

// wantEmpty waits until there is nothing in some queues that is not in anybody's hands.
func (b broker) wantEmpty(queues ...string) {
	b.t.Helper()
	for _, name := range queues {
		eventually(b.t, name+" is empty", func() bool { return b.state(name).Messages == 0 })
	}
}
