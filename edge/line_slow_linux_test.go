package edge

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// valve is a browser's connection that it reads when it wants to.
type valve struct {
	net.Conn
	mu   sync.Mutex
	wait chan struct{} // nil while it reads
}

func (v *valve) Read(b []byte) (int, error) {
	v.mu.Lock()
	wait := v.wait
	v.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return v.Conn.Read(b)
}

func (v *valve) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.wait == nil {
		v.wait = make(chan struct{})
	}
}

func (v *valve) goOn() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.wait != nil {
		close(v.wait)
		v.wait = nil
	}
}

func (v *valve) Close() error {
	v.goOn()
	return v.Conn.Close()
}

// narrow opens a stream on a connection of its own, with small buffers,
// that reads when it is told to.
func (e *testEdge) narrow(path string, headers ...header) (*browser, *valve) {
	e.t.Helper()
	var v *valve
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10) })
	}}
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		v = &valve{Conn: c}
		return v, nil
	}}
	other := &testEdge{Server: e.Server, t: e.t, url: e.url, web: &http.Client{Transport: tr}}
	b := other.open(path, headers...)
	e.t.Cleanup(v.goOn)
	return b, v
}

// shrink makes the kernel buffer little for each line.
func (e *testEdge) shrink() {
	e.Server.lines.mu.Lock()
	defer e.Server.lines.mu.Unlock()
	for _, l := range e.Server.lines.all {
		l.topic.crowd.mu.Lock()
		_ = unix.SetsockoptInt(int(l.fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 16<<10)
		l.topic.crowd.mu.Unlock()
	}
}

// files is how many lines have Go's own object of their connection.
func (e *testEdge) files() (n int) {
	e.Server.lines.mu.Lock()
	defer e.Server.lines.mu.Unlock()
	for _, l := range e.Server.lines.all {
		l.topic.crowd.mu.Lock()
		if l.file != nil {
			n++
		}
		l.topic.crowd.mu.Unlock()
	}
	return n
}

// block makes all browsers of a job that do not read wait in the middle of a
// write.
func (f *fakeRouter) block(e *testEdge, job string) []string {
	f.t.Helper()
	e.shrink()
	ids := f.publish(job, &eventbusv1.Event{Stage: "big", Content: tooMuch()})
	e.together(job, 0)
	return ids
}

// A browser that reads slowly loses nothing, and stands with the others again.
func TestLine_SlowBrowserGetsEverythingOnceAndComesBack(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	good := e.open(jobPath("j")).opened()
	slow, v := e.narrow(jobPath("j"))
	slow.opened()
	e.together("j", 2)
	e.shrink()
	for round := range 3 {
		v.stop()
		var want []string
		for e.members("j") == 2 {
			id := f.publish("j", &eventbusv1.Event{Stage: "big", Content: strings.Repeat("x", 64<<10)})[0]
			want = append(want, id)
			same(t, "the other one gets it at once", good.ids(1), []string{id})
		}
		for range round * limits().RingItems { // it falls out of the ring, too
			want = append(want, f.steps("j", 1)...)
		}
		v.goOn()
		same(t, "the slow one", slow.ids(len(want)), want)
		good.ids(round * limits().RingItems)
		e.together("j", 2)
		same(t, "live", slow.ids(0), []string{})
		same(t, "lines that keep what waiting takes", e.files(), 0)
	}
	last := f.finish("j")
	for _, b := range []*browser{good, slow} {
		same(t, "the end", b.ids(1), []string{last})
		b.ended()
	}
	same(t, "cut", counter(e.metrics.writeTimeouts), 0)
}

// Who does not read the last packet ends nevertheless, and with it.
func TestLine_SlowBrowserGetsTheEndOnce(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	slow, v := e.narrow(jobPath("j"))
	slow.opened()
	e.together("j", 1)
	e.shrink()
	v.stop()
	last := f.publish("j", &eventbusv1.Event{Stage: "done", Status: "completed", Content: tooMuch(), Final: true})[0]
	until(t, "it is alone", func() bool { return e.members("j") == 0 })
	v.goOn()
	same(t, "the end", slow.ids(1), []string{last})
	slow.ended()
	until(t, "nothing is left", func() bool { return e.streams() == 0 && counter(e.metrics.topics) == 0 })
}

// A browser may be gone in the middle of a write that waits for it.
func TestLine_SlowBrowserThatIsGoneIsNoticedAtOnce(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	e.pace = pace{time.Hour, 1}
	c, _, _ := e.rawStream("j", get11)
	e.together("j", 1)
	f.block(e, "j")
	_ = c.Close()
	until(t, "nothing is left", func() bool { return e.streams() == 0 && counter(e.metrics.topics) == 0 })
	same(t, "cut", counter(e.metrics.writeTimeouts), 0)
}

func TestLine_DrainReachesMembersAndSlowOnes(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	_, chunked, _ := e.rawStream("j", get11)
	_, plain, _ := e.rawStream("j", get10)
	slow, v := e.narrow(jobPath("k"))
	slow.opened()
	e.together("j", 2)
	e.together("k", 1)
	v.stop()
	ids := f.block(e, "k")
	stopped := make(chan error)
	go func() { stopped <- e.Stop(t.Context()) }()
	for r, end := range map[*bufio.Reader]string{chunked: "\n\n\r\n0\r\n\r\n", plain: "\n\n"} {
		text, err := io.ReadAll(r)
		if err != nil || !strings.HasSuffix(string(text), end) || strings.Count(string(text), "retry: ") != 2 {
			t.Errorf("%q %v", text, err)
		}
	}
	v.goOn()
	same(t, "the slow one", slow.ids(len(ids)), ids)
	if last := slow.next(); !isAway(last) {
		t.Errorf("got %q", last)
	}
	slow.ended()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	same(t, "streams", e.streams(), 0)
}

func TestLine_DrainCutsWhoDoesNotRead(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet, func(_ *Config, o *Options) { o.Drain = 300 * time.Millisecond })
	c, _, _ := e.rawStream("j", get11)
	_ = c.SetReadBuffer(1)
	e.together("j", 1)
	f.block(e, "j")
	begun := time.Now()
	if err := e.Stop(context.Background()); err == nil || time.Since(begun) > tooLong {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
	same(t, "streams", e.streams(), 0)
}
