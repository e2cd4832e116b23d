package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// proxy is a TCP proxy in front of an edge: the network between it and a browser.
// It breaks connections and remembers what browsers asked.
type proxy struct {
	t        testing.TB
	lis      net.Listener
	upstream string
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // browsers' ends
	all   []*line
	// limits are how many bytes of an answer to a path pass before the connection
	// breaks.
	limits map[string]int
	closed bool
}

func newProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, lis: lis, upstream: upstream, conns: map[net.Conn]bool{}, limits: map[string]int{}}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = lis.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) url(path string) string { return "http://" + p.lis.Addr().String() + path }

func (p *proxy) accept() {
	for {
		down, err := p.lis.Accept()
		if err != nil {
			return
		}
		up, err := new(net.Dialer).Dial("tcp", p.upstream)
		if err != nil {
			_ = down.Close()
			continue
		}
		l := &line{p: p, down: down}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = errors.Join(down.Close(), up.Close())
			return
		}
		p.conns[down], p.all = true, append(p.all, l)
		p.mu.Unlock()
		p.running.Go(func() { // requests
			_, _ = io.Copy(io.MultiWriter(up, (*recorder)(l)), down)
			_ = up.Close()
		})
		p.running.Go(func() { // answers
			_, _ = io.Copy(l, up)
			p.break1(down)
		})
	}
}

// line is one connection; what it holds is guarded by the proxy's mu. Answers are
// written to it.
type line struct {
	p    *proxy
	down net.Conn
	// asked is all that the browser sent, limit what may pass of the answer to its
	// latest request, and passed what did.
	asked         bytes.Buffer
	limit, passed int
}

// recorder is the line's other direction: a browser sends one request at a time.
type recorder line

func (r *recorder) Write(b []byte) (int, error) {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	r.limit, r.passed = 0, 0
	if f := bytes.Fields(b); len(f) > 1 {
		r.limit = r.p.limits[string(f[1])]
	}
	return r.asked.Write(b)
}

// Write breaks off within a frame, where there is a limit.
func (l *line) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	room := len(b)
	if l.limit > 0 {
		room = min(room, l.limit-l.passed)
	}
	l.passed += room
	l.p.mu.Unlock()
	n, err := l.down.Write(b[:room])
	if err == nil && room < len(b) {
		err = io.ErrShortWrite
	}
	return n, err
}

// limit lets so many bytes of each answer to a path through.
func (p *proxy) limit(path string, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits[path] = bytes
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	conns := p.conns
	p.conns = map[net.Conn]bool{}
	p.mu.Unlock()
	for c := range conns {
		p.break1(c)
	}
}

// break1 closes a browser's end, which ends the other too.
func (p *proxy) break1(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close()
}

// requests are the Last-Event-IDs of all requests for a path so far, empty where
// there was none.
func (p *proxy) requests(path string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := regexp.MustCompile(`(?i)\r\nLast-Event-ID: *([^\r]*)`)
	var out []string
	for _, l := range p.all {
		for head := range strings.SplitSeq(l.asked.String(), "\r\n\r\n") {
			first, _, _ := strings.Cut(head, "\r\n")
			if f := strings.Fields(first); len(f) != 3 || f[0] != "GET" || f[1] != path {
				continue
			}
			last := ""
			if m := id.FindStringSubmatch(head); m != nil {
				last, _ = url.QueryUnescape(m[1])
			}
			out = append(out, last)
		}
	}
	return out
}
