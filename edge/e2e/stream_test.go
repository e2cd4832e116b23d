package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// frame is one block of an SSE stream as it came, without its blank line.
type frame struct {
	id, event, data string
	hasID, hasData  bool
	retry           string
	comment         string
}

// dispatched tells whether an EventSource would fire an event for it.
func (f frame) dispatched() bool { return f.hasData }

// step is an event of the bus as its JSON says.
type step struct {
	ID       string          `json:"id"`
	Domain   string          `json:"domain"`
	JobID    string          `json:"job_id"`
	Seq      int             `json:"seq"`
	Stage    string          `json:"stage"`
	Status   string          `json:"status"`
	Progress *int            `json:"progress"`
	Content  string          `json:"content"`
	Result   json.RawMessage `json:"result"`
	Final    bool            `json:"final"`
}

// stream is a browser's connection, as cheap as can be: a socket, and the
// goroutine that reads it is the test's.
type stream struct {
	t      testing.TB
	conn   net.Conn
	status int
	header http.Header
	body   *bufio.Reader
}

// header is a line of a request's header.
type header struct{ name, value string }

func lastEventID(id string) header { return header{"Last-Event-ID", id} }

// dial opens a stream and reads the answer's header.
func dial(t testing.TB, addr, path string, headers ...header) (*stream, error) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(testContext(t), "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &stream{t: t, conn: conn}
	if err := s.request(addr, path, headers); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

func (s *stream) request(addr, path string, headers []header) error {
	var b strings.Builder
	b.WriteString("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nAccept: text/event-stream\r\n")
	for _, h := range headers {
		b.WriteString(h.name + ": " + h.value + "\r\n")
	}
	s.patient()
	if _, err := s.conn.Write([]byte(b.String() + "\r\n")); err != nil {
		return err
	}
	in := bufio.NewReaderSize(s.conn, 2<<10)
	resp, err := http.ReadResponse(in, nil) //nolint:bodyclose // the connection is closed
	if err != nil {
		return err
	}
	s.status, s.header, s.body = resp.StatusCode, resp.Header, bufio.NewReaderSize(resp.Body, 2<<10)
	return nil
}

// open opens a stream, which must be one.
func (b *bus) open(path string, headers ...header) *stream {
	b.t.Helper()
	s, err := dial(b.t, b.http, path, headers...)
	if err != nil {
		b.t.Fatalf("open %s: %v", path, err)
	}
	b.t.Cleanup(s.close)
	if got := s.header.Get("Content-Type"); s.status != http.StatusOK || got != "text/event-stream" {
		b.t.Fatalf("open %s: %d %s", path, s.status, got)
	}
	return s
}

// close cuts the connection. Doing it again is harmless.
func (s *stream) close() { _ = s.conn.Close() }

// patient bounds what is waited for next; a keepalive is not it.
func (s *stream) patient() {
	_ = s.conn.SetReadDeadline(time.Now().Add(patience)) // else the next read fails
}

// next returns the next frame; io.EOF where the server ended the stream in order. An
// incomplete frame is none, as in a browser.
func (s *stream) next() (frame, error) {
	var f frame
	for more := false; ; more = true {
		line, err := s.body.ReadString('\n')
		if err != nil {
			return frame{}, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if more {
				return f, nil
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			f.comment = value
		case "id":
			f.id, f.hasID = value, true
		case "event":
			f.event = value
		case "data":
			if f.hasData {
				f.data += "\n"
			}
			f.data, f.hasData = f.data+value, true
		case "retry":
			f.retry = value
		}
	}
}

// read waits for what an EventSource would fire.
func (s *stream) read() (frame, error) {
	s.patient()
	for {
		if f, err := s.next(); err != nil || f.dispatched() {
			return f, err
		}
	}
}

// readAll reads the job's events to the end, which must come in order. It may run
// beside the test.
func (s *stream) readAll() ([]step, error) {
	var out []step
	for {
		f, err := s.read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		var e step
		if err == nil {
			e, err = decode(f)
		}
		if err != nil {
			return out, fmt.Errorf("after %d events: %w", len(out), err)
		}
		out = append(out, e)
	}
}

// decode reads a job's event and checks that frame and event agree.
func decode(f frame) (step, error) {
	var e step
	if err := json.Unmarshal([]byte(f.data), &e); err != nil {
		return e, fmt.Errorf("frame %+v: %w", f, err)
	}
	if f.event != e.Stage || f.id != e.ID || e.ID == "" {
		return e, fmt.Errorf("not an event of a job: %+v", f)
	}
	return e, nil
}

// frame is read, which must succeed.
func (s *stream) frame() frame {
	s.t.Helper()
	f, err := s.read()
	if err != nil {
		s.t.Fatalf("read the stream: %v", err)
	}
	return f
}

// step waits for an event of the job; anything else that would fire fails.
func (s *stream) step() step {
	s.t.Helper()
	e, err := decode(s.frame())
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// steps waits for n events.
func (s *stream) steps(n int) []step {
	s.t.Helper()
	out := make([]step, n)
	for i := range out {
		out[i] = s.step()
	}
	return out
}

// rest is readAll, which must succeed.
func (s *stream) rest() []step {
	s.t.Helper()
	all, err := s.readAll()
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// ids are the events' ids.
func ids(steps []step) []string {
	out := make([]string, len(steps))
	for i, e := range steps {
		out[i] = e.ID
	}
	return out
}

// dense checks that events are numbered from, from+1 …: each once, in order.
func dense(t testing.TB, from int, steps []step) {
	t.Helper()
	for i, e := range steps {
		if e.Seq != from+i {
			t.Fatalf("event %d has seq %d, want %d", i, e.Seq, from+i)
		}
	}
}

// same compares lists.
func same[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// answer is an HTTP answer that has ended.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request on a connection of its own and reads the whole answer.
func (b *bus) ask(method, path, body string, headers ...header) answer {
	b.t.Helper()
	r, err := http.NewRequestWithContext(testContext(b.t), method, b.url(path), strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, h := range headers {
		r.Header.Set(h.name, h.value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// ndjsonIDs are the ids of the events of an NDJSON answer; heartbeats are empty
// lines.
func ndjsonIDs(t testing.TB, body string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(body) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		id, ok := object(t, []byte(line))["id"].(string)
		if !ok {
			t.Fatalf("not an event: %s", line)
		}
		out = append(out, id)
	}
	return out
}
