package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/certs/certstest"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

func publish(t testing.TB, p *client.Publisher, events ...*eventbusv1.Event) []string {
	t.Helper()
	var ids []string
	for _, e := range events {
		r, err := p.Publish(patience(t), e)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	return ids
}

func TestSubscribe_ResumesAfterCutsAndRestartsAndEndsAtTheFinalEvent(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	net := bustest.NewDoor(t, bus.GRPC)
	p := publisher(t, dial(t, bus.GRPC, client.Options{}), client.PublisherOptions{})
	c := dial(t, net.Addr, client.Options{})
	const n = 60
	publish(t, p, token("j", 0))
	i := 0
	for m, err := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{}) {
		if err != nil || m.Gap != nil {
			t.Fatalf("after %d events: %v %v", i, m.Gap, err)
		}
		if got := int(m.Event.GetSeq()); got != i+1 || m.Cursor != m.Event.GetId() {
			t.Fatalf("event %d: seq %d, cursor %s, id %s", i, got, m.Cursor, m.Event.GetId())
		}
		i++
		switch { // each event asks for the next
		case i == n/2:
			bus.Restart(t)
			bus.WaitReady(t)
		case i%10 == 0:
			net.Cut()
		}
		switch {
		case i < n:
			publish(t, p, token("j", i))
		case i == n:
			publish(t, p, done("j"))
		}
	}
	if i != n+1 {
		t.Errorf("%d events, want %d", i, n+1)
	}
}

func TestSubscribe_AJobThatIsOverEndsTheLoopAtOnce(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	ids := publish(t, p, token("j", 0), done("j"))
	whole(t, c, "j", 1) // it is in the job's log now
	for m, err := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{After: ids[1]}) {
		t.Errorf("after the final event: %v %v", m, err)
	}
	for m, err := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{Replay: eventbusv1.Replay_REPLAY_NONE}) {
		t.Errorf("live only: %v %v", m, err)
	}
	if e, err := c.State(patience(t), "chat", "j"); err != nil || !e.GetFinal() {
		t.Errorf("state: %v %v", e, err)
	}
	if _, err := c.State(patience(t), "chat", "other"); status.Code(err) != codes.NotFound {
		t.Errorf("state of no job: %v", err)
	}
}

// A live-only subscription that was cut before it saw anything must not skip what
// came meanwhile.
func TestSubscribe_LiveOnlyIsCutBeforeItsFirstEventAndSkipsNothing(t *testing.T) {
	t.Parallel()
	for _, before := range []int{0, 3} {
		t.Run(fmt.Sprintf("%d events before", before), func(t *testing.T) {
			t.Parallel()
			bus := bustest.New(t)
			net := bustest.NewDoor(t, bus.GRPC)
			p := publisher(t, dial(t, bus.GRPC, client.Options{}), client.PublisherOptions{})
			for i := range before {
				publish(t, p, token("j", i))
			}
			if before > 0 {
				bustest.Eventually(t, "they are in the log", func() bool {
					r, err := dial(t, bus.GRPC, client.Options{}).API().ListEvents(patience(t), &eventbusv1.ListEventsRequest{Domain: "chat", JobId: "j"})
					return err == nil && len(r.GetEvents()) == before
				})
			}
			var asked, opened atomic.Int64
			c := client.New(counting{dial(t, net.Addr, client.Options{}).API(), &asked, &opened}, nil)
			got := make(chan []string, 1)
			go func() {
				var seen []string
				for m, err := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{Replay: eventbusv1.Replay_REPLAY_NONE}) {
					if err != nil {
						t.Error(err)
					}
					seen = append(seen, m.Event.GetContent())
				}
				got <- seen
			}()
			bustest.Eventually(t, "it is subscribed", func() bool { return opened.Load() == 1 })
			net.Shut()
			for i := before; i < before+3; i++ {
				publish(t, p, token("j", i))
			}
			publish(t, p, done("j"))
			net.Open()
			var want []string
			for i := before; i < before+3; i++ {
				want = append(want, fmt.Sprintf("t%d ", i))
			}
			if seen := <-got; !slices.Equal(seen, append(want, "")) {
				t.Errorf("got %q, want %q", seen, want)
			}
		})
	}
}

func TestSubscribe_TellsOfAGapAndGoesOn(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	publish(t, p, token("j", 0))
	var stages []string
	for m, err := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Gap != nil {
			stages = append(stages, m.Gap.GetReason().String())
			continue
		}
		if stages = append(stages, m.Event.GetContent()); len(stages) == 1 {
			bus.Redis.FlushAll(t)
			publish(t, p, token("j", 1), done("j"))
		}
	}
	if want := []string{"t0 ", "REASON_LOG_RESET", "t1 ", ""}; !slices.Equal(stages, want) {
		t.Errorf("got %q, want %q", stages, want)
	}
}

func TestSubscribe_EndsWithItsContextOrTheLoopAndTellsRefusals(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	c := dial(t, bus.GRPC, client.Options{})
	p := publisher(t, c, client.PublisherOptions{})
	publish(t, p, token("j", 0), token("j", 1))
	for m := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{}) {
		if m.Event.GetSeq() != 1 {
			t.Error("the loop goes on after it was left")
		}
		break
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("enough")
	var last error
	for _, err := range c.Subscribe(ctx, "chat", "j", client.SubscribeOptions{}) {
		last = err
		cancel(enough)
	}
	if !errors.Is(last, enough) {
		t.Errorf("the last turn has %v", last)
	}
	for _, err := range c.Subscribe(patience(t), "nowhere", "j", client.SubscribeOptions{}) {
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "nowhere") {
			t.Errorf("an unknown domain: %v", err)
		}
	}
}

func TestWatch_CarriesManyJobsOverCutsAndEndsWithTheLast(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t)
	net := bustest.NewDoor(t, bus.GRPC)
	p := publisher(t, dial(t, bus.GRPC, client.Options{}), client.PublisherOptions{})
	c := dial(t, net.Addr, client.Options{})
	jobs := []string{"a", "b", "c", "d", "e"}
	const n = 40
	next := map[string]int{}
	advance := func(job string) {
		switch i := next[job]; {
		case i < n:
			publish(t, p, token(job, i))
		case i == n:
			publish(t, p, done(job))
		}
	}
	seen := 0
	var cursor string
	opened := func(at string) {
		cursor = at
		for _, j := range jobs {
			advance(j)
		}
		publish(t, p, token("other", 0))
	}
	for m, err := range c.Watch(patience(t), "chat", client.WatchOptions{Jobs: jobs, Opened: opened}) {
		if err != nil || m.Gap != nil {
			t.Fatalf("after %d events: %v %v", seen, m.Gap, err)
		}
		job := m.Event.GetJobId()
		if next[job]++; int(m.Event.GetSeq()) != next[job] {
			t.Fatalf("%s: seq %d, want %d", job, m.Event.GetSeq(), next[job])
		}
		if seen++; seen%25 == 0 {
			net.Cut()
		}
		advance(job)
	}
	if want := len(jobs) * (n + 1); seen != want {
		t.Errorf("%d events, want %d", seen, want)
	}
	// All of it again, from where it began.
	again := 0
	for m, err := range c.Watch(patience(t), "chat", client.WatchOptions{Jobs: jobs, Stages: []string{"done"}, Cursor: cursor}) {
		if err != nil || m.Gap != nil || !m.Event.GetFinal() {
			t.Fatalf("%v %v", m, err)
		}
		again++
	}
	if again != len(jobs) {
		t.Errorf("%d final events, want %d", again, len(jobs))
	}
}

const secret = "a secret that has thirty-two bytes, and some more"

func mint(t testing.TB, life time.Duration) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "tester", "exp": time.Now().Add(life).Unix(),
		"eventbus": map[string]any{"subscribe": []string{"chat/*"}, "publish": []string{"chat/*"}},
	}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TLS both ways, and a token that ends in mid-stream: the next stream has the next
// token.
func TestClient_TLSAndTokensThatEnd(t *testing.T) {
	t.Parallel()
	ca := certstest.New(t)
	router, own := ca.Issue("127.0.0.1"), ca.Issue("worker")
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	writeFile(t, key, secret)
	bus := bustest.New(t, bustest.Settings{
		"AUTH_REQUIRED": "true", "AUTH_KEY": key,
		"GRPC_TLS_CERT": router.Cert, "GRPC_TLS_KEY": router.Key, "GRPC_TLS_CLIENT_CA": ca.File,
		"ROUTER_TLS_CA": ca.File, "ROUTER_TLS_CERT": own.Cert, "ROUTER_TLS_KEY": own.Key,
	})
	config := ca.Client(own)
	config.MinVersion = tls.VersionTLS12
	var asked atomic.Int64
	var life atomic.Int64
	life.Store(int64(time.Hour))
	c := dial(t, bus.GRPC, client.Options{TLS: config, Token: func(context.Context) (string, error) {
		if asked.Add(1) == 1 {
			return "", errors.New("the issuer has a bad moment")
		}
		return mint(t, time.Duration(life.Load())), nil
	}})
	p := publisher(t, c, client.PublisherOptions{})
	publish(t, p, token("j", 0))
	if n := asked.Load(); n < 2 {
		t.Errorf("asked for %d tokens", n)
	}

	life.Store(int64(time.Second)) // and the leeway of 5 s
	seen := 0
	before := asked.Load()
	for m, err := range c.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		switch seen {
		case 1:
			go func() {
				bustest.Eventually(t, "the stream began anew", func() bool { return asked.Load() > before+1 })
				life.Store(int64(time.Hour))
				publish(t, p, done("j"))
			}()
		case 2:
			if !m.Event.GetFinal() {
				t.Errorf("got %v", m.Event)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d events", seen)
	}

	none := dial(t, bus.GRPC, client.Options{TLS: config})
	for _, err := range none.Subscribe(patience(t), "chat", "j", client.SubscribeOptions{}) {
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("without a token: %v", err)
		}
	}
	file := filepath.Join(dir, "token")
	writeFile(t, file, mint(t, time.Hour)+"\n")
	whole(t, dial(t, bus.GRPC, client.Options{TLS: config, Token: client.TokenFile(file)}), "j", 1)
	whole(t, dial(t, bus.GRPC, client.Options{TLS: config, Token: client.StaticToken(mint(t, time.Hour))}), "j", 1)
}
