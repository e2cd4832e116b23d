package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/client"
)

// transports are the two ways to read a stream, by the options of a job.
func transports(t *testing.T, test func(t *testing.T, p *page, stages string)) {
	t.Helper()
	for name, stages := range map[string]string{"fetch": "", "EventSource": "stages: ['token', 'done'],"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPage(t, "{ credentials: 'include' }").publishes(client.Options{}), stages)
		})
	}
}

func TestJob_IsWholeOverCutsAndEndsAtTheFinalEvent(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, p *page, stages string) {
		const n = 40
		p.publish(token("j", 0))
		p.run("window.j = keep(bus.job('chat', 'j', {" + stages + "}))")
		var text strings.Builder
		text.WriteString("t0 ")
		for i := 1; i < n; i++ {
			p.publish(token("j", i))
			fmt.Fprintf(&text, "t%d ", i)
			if i%10 == 0 {
				p.until("j.text", text.String()) // as they come
				p.door.Cut()
			}
		}
		p.publish(done("j"))
		p.until("j.connection", "over")
		p.dense("j", n+1)
		if got := value[string](p, "j.text"); got != text.String() {
			t.Errorf("text %q", got)
		}
		if got := value[string](p, "[j.progress, j.stage, j.status, j.final, j.failed, j.gaps.length].join()"); got != "100,done,completed,true,false,0" {
			t.Errorf("the job is %s", got)
		}
		if got := value[[]string](p, "j.states"); got[0] != "connecting" || got[1] != "live" || got[2] != "reconnecting" || got[3] != "live" {
			t.Errorf("it was %v", got)
		}
		connections := p.door.Connections()
		// 204: whoever has the final event is told that nothing follows.
		p.run("window.again = keep(bus.job('chat', 'j', {" + stages + " after: j.last.id }))")
		p.until("again.connection", "over")
		if got := value[int](p, "again.seqs.length"); got != 0 {
			t.Errorf("%d events after the final one", got)
		}
		p.run("window.live = keep(bus.job('chat', 'j', {" + stages + " replay: 'none' }))")
		p.until("live.connection", "over")
		if more := p.door.Connections() - connections; more > 8 {
			t.Errorf("%d connections for jobs that are over", more)
		}
		if got := value[string](p, "(async () => (await bus.state('chat', 'j')).stage + (await bus.state('chat', 'none')))().then((s) => window.s = s) && ''"); got != "" {
			t.Error(got)
		}
		p.until("window.s", "donenull")
	})
}

// A live-only stream that is cut before its first event must not skip what came
// meanwhile.
func TestJob_LiveOnlySkipsNothingAfterACut(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, p *page, stages string) {
		p.run("window.j = keep(bus.job('chat', 'j', {" + stages + " replay: 'none' }))")
		p.until("j.connection", "live")
		p.door.Shut()
		p.until("j.connection", "reconnecting")
		p.publish(token("j", 0))
		p.publish(done("j"))
		p.door.Open()
		p.until("j.connection", "over")
		p.dense("j", 2)
	})
}

func TestJob_AGapForgetsWhatWasShown(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, p *page, stages string) {
		p.publish(token("j", 0))
		p.run("window.j = keep(bus.job('chat', 'j', {" + stages + "}))")
		p.until("j.text", "t0 ")
		p.bus.Redis.FlushAll(t)
		p.publish(token("j", 1))
		p.publish(done("j"))
		p.until("j.connection", "over")
		if got := value[string](p, "[j.text, j.gaps.length, j.gaps[0].reason, j.seqs].join()"); got != "t1 ,1,REASON_LOG_RESET,1,1,2" {
			t.Errorf("the job is %s", got)
		}
	})
}

// A router that restarts in mid-stream, an edge with it: the page comes back.
func TestJob_ComesBackAfterARestartAndWaitsMeanwhile(t *testing.T) {
	t.Parallel()
	transports(t, func(t *testing.T, p *page, stages string) {
		p.publish(token("j", 0))
		p.run("window.j = keep(bus.job('chat', 'j', {" + stages + "}))")
		p.until("j.text", "t0 ")
		p.bus.Kill()
		p.until("j.connection", "reconnecting")
		p.bus.Start(t)
		p.publish(token("j", 1))
		p.publish(done("j"))
		p.until("j.connection", "over")
		p.dense("j", 3)
	})
}

func TestJob_ALoopGetsAllAndASlowOneStopsTheReading(t *testing.T) {
	t.Parallel()
	p := newPage(t, "{ credentials: 'include' }").publishes(client.Options{})
	const n = 5000
	for i := range n {
		if _, err := p.jobs.Send(p.ctx, token("j", i)); err != nil {
			t.Fatal(err)
		}
	}
	p.publish(done("j"))
	p.run(`window.read = []; window.slow = new Promise((go) => window.go = go);
		const job = window.j = keep(bus.job('chat', 'j'));
		(async () => {
			for await (const event of job) {
				read.push(event.seq);
				if (read.length === 1) await slow;
			}
			window.left = 'over';
		})()`)
	p.until("read.length", 1)
	// The loop stands: what is read of the network has a bound. Time passes by another
	// stream on the same edge.
	p.run(`await new Promise((over) => bus.job('chat', 'j').on('over', over))`)
	if held := value[int](p, "j.seqs.length"); held >= n {
		t.Errorf("%d events were read for a loop that stands at 1", held)
	}
	p.run("go()")
	p.until("window.left", "over")
	p.dense("({ seqs: read })", n+1)
	// Leaving a loop, and closing.
	p.run(`const job = window.k = keep(bus.job('chat', 'j'));
		for await (const event of job) break;
		job.close();
		for await (const event of job) throw new Error('closed')`)
	p.until("k.connection", "closed")
}

const secret = "a secret that has thirty-two bytes, and some more"

func mint(t *testing.T, life time.Duration) string {
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

func TestJob_TokensAreRenewedWhereTheyAreRefusedAndWhereTheyEnd(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPage(t, `{ asked: [], token: async ({ refused }) => {
		options.asked.push(refused);
		return options.tokens.length > 1 ? options.tokens.shift() : options.tokens[0];
	} }`, bustest.Settings{"AUTH_REQUIRED": "true", "AUTH_KEY": key}).
		publishes(client.Options{Token: client.StaticToken(mint(t, time.Hour))})
	// The first is a bad one; the second ends in mid-stream, after its life and the
	// leeway of 5 s.
	tokens, err := json.Marshal([]string{"nonsense", mint(t, 10*time.Second), mint(t, time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	p.run("options.tokens = " + string(tokens))
	p.publish(token("j", 0))
	p.run("window.j = keep(bus.job('chat', 'j', { stages: ['token', 'done'] }))") // no EventSource all the same
	p.until("j.text", "t0 ")
	if got := value[string](p, "options.asked.join()"); got != "false,true" {
		t.Errorf("asked for tokens, refused: %s", got)
	}
	p.until("options.asked.join()", "false,true,true") // it ended
	p.publish(token("j", 1))
	p.publish(done("j"))
	p.until("j.connection", "over")
	p.dense("j", 3)

	// A token that is refused again, or a grant that is missing, is for good.
	p.run("window.other = keep(bus.job('scan', 'j'))")
	p.until("other.connection", "failed")
	if got := value[string](p, "[other.error.name, other.error.status, other.error.code].join()"); got != "EventBusError,403,7" {
		t.Errorf("the error is %s", got)
	}
	p.run("window.bad = keep(new lib.EventBus({ token: () => 'nonsense' }).job('chat', 'j'))")
	p.until("bad.error?.status", 401)
	p.run(`await bad[Symbol.asyncIterator]().next().then(() => { throw new Error('no error'); }, (e) => { if (e.status !== 401) throw e; })`)
}

func TestWatch_ManyJobsOnOneConnection(t *testing.T) {
	t.Parallel()
	p := newPage(t, "{ credentials: 'include' }").publishes(client.Options{})
	const n = 20
	jobs := []string{"a", "b", "c"}
	all := append([]string{"early"}, jobs...)
	for i := range 5 {
		p.publish(token("early", i)) // before anybody watched it
	}
	p.run(`window.w = keep(bus.watch('chat', { jobs: ['a', 'b', 'c'] }));
		for (const id of ['a', 'b', 'c']) window[id] = keep(w.job(id))`)
	for i := range n {
		for _, j := range jobs {
			p.publish(token(j, i))
		}
		switch i {
		case 5:
			p.until("a.seqs.length", 6)
			p.door.Cut()
		case 10: // and a further job, from its start
			p.run("[window.early] = w.add('early'); keep(early)")
			p.until("early.seqs.length", 5)
		}
	}
	for i := 5; i < n; i++ {
		p.publish(token("early", i))
	}
	for _, j := range all {
		if j == "c" {
			p.until("a.connection + b.connection + early.connection", "overoverover")
			if got := value[string](p, "w.connection + w.over + c.connection"); got != "livefalselive" {
				t.Errorf("before the last is over: %s", got)
			}
		}
		p.publish(&eventbusv1.Event{Domain: "chat", JobId: j, Stage: "done", Progress: new(int32(100)), Final: true})
	}
	p.until("w.connection", "over")
	for _, j := range all {
		p.dense(j, n+1)
		if got := value[int](p, j+".progress"); got != 100 {
			t.Errorf("%s: progress %d", j, got)
		}
	}
	if got := value[int](p, "w.seqs.length + 1000 * w.gaps.length"); got != len(all)*(n+1) {
		t.Errorf("%d events of all jobs, want %d", got, len(all)*(n+1))
	}
	if got := value[bool](p, "(() => { try { bus.watch('chat', { jobs: Array.from({ length: 257 }, (_, i) => 'j' + i) }); } catch (e) { return e instanceof RangeError; } })()"); !got {
		t.Error("257 jobs are not refused")
	}
}

func TestFiles_AreServedToPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	bus := bustest.New(t, bustest.Settings{"CORS_ORIGINS": "https://app.example.com"})
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(method, path, tag string) (*http.Response, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), bustest.Patience)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "http://"+bus.HTTP+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", "https://app.example.com")
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		resp, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for path, contentType := range map[string]string{"/eventbus.js": "text/javascript; charset=utf-8", "/eventbus.d.ts": "text/plain; charset=utf-8"} {
		r, body := ask(http.MethodGet, path, "")
		h := r.Header
		if r.StatusCode != http.StatusOK || !strings.Contains(body, "class EventBus") || h.Get("Content-Type") != contentType ||
			h.Get("Cache-Control") != "no-cache" || h.Get("Access-Control-Allow-Origin") != "https://app.example.com" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", path, r.StatusCode, h)
		}
		if r, body := ask(http.MethodGet, path, h.Get("ETag")); r.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("%s again: %d", path, r.StatusCode)
		}
		if r, body := ask(http.MethodHead, path, ""); r.StatusCode != http.StatusOK || body != "" {
			t.Errorf("HEAD %s: %d", path, r.StatusCode)
		}
		if r, _ := ask(http.MethodPost, path, ""); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d %s", path, r.StatusCode, r.Header.Get("Allow"))
		}
	}
}
