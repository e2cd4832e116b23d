package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

func (e *testEdge) streams() int { return int(e.metrics.open(kindJob)) }

// members is how many lines of a job stand together.
func (e *testEdge) members(job string) int {
	e.topics.mu.Lock()
	defer e.topics.mu.Unlock()
	if t := e.topics.byJob[jobKey{"scan", job}]; t != nil {
		return int(t.crowd.size.Load())
	}
	return 0
}

func (e *testEdge) together(job string, n int) {
	e.t.Helper()
	until(e.t, strconv.Itoa(n)+" lines stand together", func() bool { return e.members(job) == n })
}

// quiet is an edge without heartbeats.
func quiet(_ *Config, o *Options) { o.Heartbeat = time.Hour }

// tooMuch does not fit into the kernel's buffers of a connection that nobody
// reads, after shrink.
func tooMuch() string { return strings.Repeat("x", 700<<10) }

const (
	get11 = " HTTP/1.1\r\nHost: edge\r\nAccept: text/event-stream\r\n\r\n"
	get10 = " HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"
)

// rawStream opens a stream by hand, skips the header, and returns it.
func (e *testEdge) rawStream(job, get string) (*net.TCPConn, *bufio.Reader, string) {
	e.t.Helper()
	c := e.raw("GET " + jobPath(job) + get)
	_ = c.SetReadDeadline(time.Now().Add(3 * tooLong))
	r := bufio.NewReader(c)
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			e.t.Fatal(err)
		}
		if line == "\r\n" {
			return c, r, head.String()
		}
		head.WriteString(line)
	}
}

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

func TestLine_WireIsThatOfHTTP11AndOfHTTP10(t *testing.T) {
	opening := "retry: 2000\n: subscribed\n\n"
	for name, c := range map[string]struct {
		get, head string
		code      func(string) string
		end       string
	}{
		"HTTP/1.1": {get11, "HTTP/1.1 200 OK", chunk, "0\r\n\r\n"},
		"HTTP/1.0": {get10, "HTTP/1.0 200 OK", func(s string) string { return s }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRouter(t)
			e := newEdge(t, f, quiet)
			_, r, head := e.rawStream("j", c.get)
			if !strings.HasPrefix(head, c.head) || !strings.Contains(head, "Connection: close\r\n") ||
				strings.Contains(head, "Transfer-Encoding: chunked\r\n") != (name == "HTTP/1.1") {
				t.Errorf("the header is %q", head)
			}
			e.together("j", 1)
			one := `id: 1700000000001-0
event: vision
data: {"id":"1700000000001-0","domain":"scan","job_id":"j","seq":1,"stage":"vision","status":"started","publish_time":"2023-11-14T22:13:20.001Z"}

`
			done := strings.NewReplacer("001-0", "002-0", `"seq":1`, `"seq":2`, "vision", "done", "started", "completed", ".001Z", ".002Z",
				`}`, `,"final":true}`).Replace(one)
			f.publish("j", &eventbusv1.Event{Stage: "vision", Status: "started"})
			read(t, r, c.code(opening)+c.code(one))
			f.finish("j")
			rest, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := sortFields(string(rest)); got != sortFields(c.code(done)+c.end) {
				t.Errorf("got %q, want %q", rest, c.code(done)+c.end)
			}
			until(t, "nothing is left", func() bool { return e.streams() == 0 })
		})
	}
}

// sortFields: the order of fields is not contract.
func sortFields(s string) string {
	b := []byte(s)
	for i := range b {
		for j := i + 1; j < len(b); j++ {
			if b[j] < b[i] {
				b[i], b[j] = b[j], b[i]
			}
		}
	}
	return string(b)
}

// read fails the test unless what comes next is the text.
func read(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	if string(b) != want {
		t.Fatalf("got %q, want %q", b, want)
	}
}

func TestLine_KeepalivesComeWhileNothingHappens(t *testing.T) {
	for get, code := range map[string]func(string) string{get11: chunk, get10: func(s string) string { return s }} {
		e := newEdge(t, newFakeRouter(t))
		begun := time.Now() // they may wait for who reads them
		_, r, _ := e.rawStream("j", get)
		read(t, r, code("retry: 2000\n: subscribed\n\n"))
		e.together("j", 1)
		for range 3 {
			read(t, r, code(": keepalive\n\n"))
		}
		if took := time.Since(begun); took < e.opts.Heartbeat {
			t.Errorf("three keepalives within %s", took)
		}
	}
}

// What a browser sends after its request is neither kept nor answered, and does
// not cost it the end of the stream.
func TestLine_BytesAfterTheRequestChangeNothing(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	c, r, _ := e.rawStream("j", get11)
	e.together("j", 1)
	for range 3 {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: edge\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		f.steps("j", 1)
	}
	f.finish("j")
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(rest), "\r\n0\r\n\r\n") || strings.Count(string(rest), "event: ") != 4 {
		t.Errorf("%q %v", rest, err)
	}
}

func TestLine_BrowserThatIsGoneIsNoticedAtOnce(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"closed":      (*net.TCPConn).Close,
		"reset":       func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
		"half closed": (*net.TCPConn).CloseWrite,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRouter(t)
			e := newEdge(t, f, quiet)
			const n = 20
			conns := make([]*net.TCPConn, n)
			for i := range conns {
				conns[i], _, _ = e.rawStream("j"+strconv.Itoa(i%3), get11)
			}
			until(t, "all are lines", func() bool { return e.members("j0")+e.members("j1")+e.members("j2") == n })
			for _, c := range conns {
				if err := leave(c); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "all have left", func() bool {
				return e.streams() == 0 && counter(e.metrics.topics) == 0 && counter(e.metrics.connections) == 0
			})
			until(t, "the router is left", func() bool { return f.open.Load() == 0 })
		})
	}
}

// Streams that go on without a goroutine leave nothing behind, either.
func TestLine_ManyLeaveNothingBehind(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	descriptors := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	e.open(jobPath("j")).opened().close()
	until(t, "it has left", func() bool { return e.streams() == 0 })
	e.web.CloseIdleConnections()
	before := descriptors()
	goroutines, _ := settled()
	const n = 300
	var all []*browser
	for range n {
		all = append(all, e.open(jobPath("j")).opened())
	}
	e.together("j", n)
	f.steps("j", 3)
	for i, b := range all {
		b.ids(3)
		if i%2 == 0 {
			b.close()
		}
	}
	f.finish("j")
	for i, b := range all {
		if i%2 == 1 {
			b.ids(1)
			b.ended()
		}
	}
	until(t, "all have left", func() bool { return e.streams() == 0 && counter(e.metrics.connections) == 0 })
	until(t, "nothing is left", func() bool {
		e.Server.lines.mu.Lock()
		defer e.Server.lines.mu.Unlock()
		return len(e.Server.lines.all) == 0 && e.Server.lines.count == 0
	})
	until(t, "descriptors are back", func() bool { return descriptors() <= before+2 })
	until(t, "goroutines are back", func() bool { now, _ := settled(); return now <= goroutines+2 })
}

// Who comes while events never cease finds its place.
func TestLine_NewcomersJoinWhileEventsNeverCease(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, quiet)
	first := e.open(jobPath("j")).opened()
	e.together("j", 1)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				n += len(f.steps("j", 3))
				for range 3 {
					first.next()
				}
			}
		}
	}()
	var late []*browser
	for i := range 20 {
		late = append(late, e.open(jobPath("j")).opened())
		e.together("j", i+2)
	}
	close(stop)
	n := <-done
	f.finish("j")
	for _, b := range late {
		before := 0
		for range n + 1 {
			seq := seqOf(t, b.next())
			if seq != before+1 {
				t.Fatalf("%d follows %d", seq, before)
			}
			before = seq
		}
		b.ended()
	}
}

func seqOf(t *testing.T, frame string) int {
	t.Helper()
	_, after, _ := strings.Cut(frame, `"seq":`)
	digits, _, _ := strings.Cut(after, ",")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatalf("no seq in %q", frame)
	}
	return n
}

// An event that comes in the moment in which a line joins is not left lying until
// the next one.
func TestLine_NothingIsMissedInTheMomentOfJoining(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	var got []byte
	e.Server.lines.write = func(_ int, b []byte) (int, error) {
		got = append(got, b...)
		return len(b), nil
	}
	ring := hub.NewTopicAt[frame](limits(), event.ID{})
	tp := &topic{owner: e.topics, crowd: crowd{lines: e.Server.lines}}
	tp.ring.Store(ring)
	text := mustItem(t, sample())
	l := &line{topic: tp, at: -1, cancel: func(error) { // the line has looked, and is not yet counted
		ring.Extend([]hub.Item[frame]{{ID: event.ID{Ms: 1}, Size: 300, Value: text}})
		tp.crowd.poke()
	}}
	if _, _, ok := tp.crowd.join(t.Context(), l, &jobFeed{topics: e.topics, topic: tp, sub: tp.subscribe(event.ID{})}, nil); !ok {
		t.Fatal("it could not join")
	}
	same(t, "it was written", string(got), string(text.text))
}
