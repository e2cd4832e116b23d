package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/eco2-team/eventbus/edge/browsertest"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// page is a page of another origin, in a real browser, that has the module from a
// bus behind a network that breaks.
type page struct {
	t    *testing.T
	ctx  context.Context
	bus  *bustest.Bus
	door *bustest.Door
	jobs *client.Publisher
}

// newPage starts all of it. The page has window.lib, the module, and window.bus, made
// with the options.
func newPage(t *testing.T, options string, change ...bustest.Settings) *page {
	t.Helper()
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>A page of another origin</title>"))
	}))
	t.Cleanup(site.Close)
	p := &page{t: t, bus: bustest.New(t, append([]bustest.Settings{{"CORS_ORIGINS": site.URL}}, change...)...)}
	p.door = bustest.NewDoor(t, p.bus.HTTP)

	ctx, cancel := context.WithTimeout(browsertest.New(t), 3*bustest.Patience)
	t.Cleanup(cancel)
	p.ctx = ctx
	browsertest.Watch(t, ctx)
	if err := chromedp.Do(ctx, chromedp.Navigate(site.URL)); err != nil {
		t.Fatal(err)
	}
	p.run(fmt.Sprintf(`await import('http://%s/eventbus.js').then((lib) => {
		window.lib = lib;
		window.options = %s;
		window.bus = new lib.EventBus({ minDelay: 20, ...window.options });
		// keep keeps what a source says.
		window.keep = (source) => {
			source.seqs = []; source.gaps = []; source.states = [source.connection];
			source.on('event', (e) => source.seqs.push(e.seq));
			source.on('gap', (gap) => source.gaps.push(gap));
			source.on('connection', (c) => source.states.push(c));
			return source;
		};
	})`, p.door.Addr, options))
	return p
}

// publishes lets the page's test publish.
func (p *page) publishes(o client.Options) *page {
	p.t.Helper()
	c, err := client.Dial(p.bus.GRPC, o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.jobs = c.Publisher(client.PublisherOptions{})
	p.t.Cleanup(func() {
		if err := p.jobs.Close(context.Background()); err != nil {
			p.t.Error(err)
		}
		_ = c.Close()
	})
	return p
}

func (p *page) publish(e *eventbusv1.Event) string {
	p.t.Helper()
	r, err := p.jobs.Publish(p.ctx, e)
	if err != nil {
		p.t.Fatal(err)
	}
	return r.ID
}

func token(job string, i int) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: "chat", JobId: job, Stage: "token", Status: "streaming", Content: fmt.Sprintf("t%d ", i)}
}

func done(job string) *eventbusv1.Event {
	return &eventbusv1.Event{Domain: "chat", JobId: job, Stage: "done", Status: "completed", Progress: new(int32(100)), Final: true}
}

// run runs JavaScript, which may await.
func (p *page) run(code string) {
	p.t.Helper()
	wait := chromedp.EvalAwaitPromise
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[any](fmt.Sprintf("(async () => { %s; return null; })()", code), wait)); err != nil {
		p.t.Fatalf("%s: %v", code, err)
	}
}

func (p *page) until(expression string, want any) {
	p.t.Helper()
	browsertest.Until(p.t, p.ctx, bustest.Patience, expression, want)
}

// value reads an expression now.
func value[T any](p *page, expression string) T {
	p.t.Helper()
	return browsertest.Value[T](p.t, p.ctx, expression)
}

// dense checks that a job's events came each once and in order.
func (p *page) dense(job string, n int) {
	p.t.Helper()
	seqs := value[[]int](p, job+".seqs")
	for i, seq := range seqs {
		if seq != i+1 {
			p.t.Fatalf("%s: event %d has seq %d", job, i, seq)
		}
	}
	if len(seqs) != n {
		p.t.Errorf("%s: %d events, want %d", job, len(seqs), n)
	}
}
