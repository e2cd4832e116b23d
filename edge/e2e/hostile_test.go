package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// hostile makes what no honest client sends, the same for the same seed.
type hostile struct {
	rnd *rand.Rand
	// job is one of legacy workers that nobody may stop.
	job string
}

// bits is a corpus: what has broken parsers, and ours in tests and fuzzing.
func bits() []string {
	return []string{
		"", " ", ".", "..", "...", "/", "//", "\\", "%", "%00", "%2e%2e%2f", "\x00", "\r\n", "\n\ndata: evil\n\n", "\r\nid: 0-0\r\n", "\u2028", "캔 ♻️",
		"\xff\xfe", "\xed\xa0\x80", "\xc0\xaf", "0-0", "1-0", "-1-0", "1-", "-", "0x1-0", "+1-0", "1e9-0", "18446744073709551615-18446744073709551615",
		"18446744073709551616-0", "99999999999999999999999-1", "9223372036854775808-0", "1-0,2-0", "0-0,0-0,0-0,0-0", "1-0,,,", "$", ">", "*", "(1-0", "+",
		"recovery:12", "null", "NaN", "Infinity", "-0", "1e400", "true", "[]", "{}", `{"a":`, `{"id":"1-0"}`, `"`, `\`, `\ud800`, `{"stage":"a","seq":-1}`,
		strings.Repeat("[", 5000), strings.Repeat("a", 129), strings.Repeat("%41", 400), "scan", "chat", "SCAN", "sc{an", "{tag}", "log:{x}",
		"error", "gap", "open", "message", "done", "' OR 1=1", "redis.call('FLUSHALL')", "${jndi:ldap://x}", "<script>", "../../etc/passwd",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "2147483648", "-2147483649", "4294967296", "9007199254740993",
	}
}

func (h *hostile) bit() string {
	all := bits()
	s := all[h.rnd.IntN(len(all))]
	switch h.rnd.IntN(6) {
	case 0:
		s += all[h.rnd.IntN(len(all))]
	case 1:
		b := []byte(s + "x")
		b[h.rnd.IntN(len(b))] ^= byte(1 + h.rnd.IntN(255))
		s = string(b)
	}
	return s
}

func (h *hostile) bytes(most int) []byte {
	b := make([]byte, h.rnd.IntN(most))
	for i := range b {
		b[i] = byte(h.rnd.IntN(256))
	}
	return b
}

// request is what goes to the edge's port: HTTP more or less.
func (h *hostile) request() string {
	method := []string{"GET", "GET", "GET", "POST", "PUT", "OPTIONS", "HEAD", "CONNECT", "get", "PRI * HTTP/2.0"}[h.rnd.IntN(10)]
	part := func() string {
		if h.rnd.IntN(2) == 0 {
			return url.PathEscape(h.bit())
		}
		return strings.NewReplacer("\n", "%0a", "\r", "%0d", " ", "%20").Replace(h.bit())
	}
	path := []string{
		"/api/v1/" + part() + "/" + part() + "/events", events("scan", part()), "/api/v1/scan/events?job_ids=" + part() + "&stages=" + part(),
		"/api/v1/stream?job_id=" + part() + "&domain=" + part(), events("scan", "j") + "?last_event_id=" + part() + "&replay=" + part(),
		"/api/v1/scan/events?cursor=" + part(), "/" + part(), "http://" + part(), "*", "/api/v1/scan/" + part() + "/state", events("scan", "hostile"),
	}[h.rnd.IntN(11)]
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.%d\r\nHost: edge\r\n", method, path, h.rnd.IntN(3))
	accept := []string{"text/event-stream", "*/*", h.bit()}[h.rnd.IntN(3)]
	fmt.Fprintf(&b, "Accept: %s\r\nLast-Event-ID: %s\r\n", accept, h.bit())
	if h.rnd.IntN(3) == 0 {
		fmt.Fprintf(&b, "%s: %s\r\nIdempotency-Key: %s\r\nX-Forwarded-For: %s\r\nGrpc-Timeout: %s\r\nX-HTTP-Method-Override: DELETE\r\n",
			h.bit(), h.bit(), h.bit(), h.bit(), h.bit())
	}
	if method != "POST" {
		return b.String() + "\r\n"
	}
	body := []string{h.bit(), `{"stage":"` + h.bit() + `","result":` + h.bit() + `}`, string(h.bytes(300)), `{"stage":"a","progress":` + h.bit() + `}`}[h.rnd.IntN(4)]
	length := strconv.Itoa(len(body))
	if h.rnd.IntN(6) == 0 {
		length = h.bit()
	}
	fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %s\r\n\r\n%s", length, body)
	return b.String()
}

// send sends bytes to a port and reads the first line of the answer; empty where the
// connection was only closed.
func (h *hostile) send(ctx context.Context, addr, text string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, text); err != nil {
		return "", nil // refused in the middle of it
	}
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // half a request may wait
	b := make([]byte, 64)
	n, err := conn.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) && n == 0 {
		return "", nil // reset
	}
	line, _, _ := strings.Cut(string(b[:n]), "\r\n")
	return line, nil
}

// entry is what a legacy worker's bug writes into a shard log. One in two is of the
// job and has a stage, and must be delivered whatever else is in it.
func (h *hostile) entry() (args []any, shown bool) {
	shown = h.rnd.IntN(2) == 0
	job, stage := h.bit(), h.bit()
	key := fmt.Sprintf("scan:events:%d", h.rnd.IntN(4))
	if shown {
		job, stage, key = h.job, "s"+strconv.Itoa(h.rnd.IntN(5)), shardKey("scan", h.job)
	} else if job == h.job {
		job = "x"
	}
	args = []any{"XADD", key, "*", "job_id", job, "stage", stage, "status", "s" + h.bit()}
	for _, f := range []string{"seq", "ts", "progress", "result", "message", "content", "node", "trace_id", "span_id", "traceparent", "attributes", "orig", "bytes", "id"} {
		if h.rnd.IntN(2) == 0 {
			args = append(args, f, h.bit())
		}
	}
	for range h.rnd.IntN(4) {
		args = append(args, "x"+h.bit(), string(h.bytes(50)))
	}
	return args, shown
}

// raw lets a gRPC client send any bytes as a message.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (raw) Name() string                       { return "proto" }

// call sends a message that is none, or one with hostile texts, to a method, known or
// not.
func (h *hostile) call(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-hostile", url.QueryEscape(h.bit()), "authorization", url.QueryEscape(h.bit()), "x-bin", h.bit())
	method := []string{"Publish", "PublishBatch", "Subscribe", "Watch", "GetState", "ListEvents", "Nothing", "../Publish"}[h.rnd.IntN(8)]
	var msg []byte
	field := func(n byte, s string) { msg = append(append(append(msg, n<<3|2), byte(len(s)%128)), s[:len(s)%128]...) }
	switch h.rnd.IntN(3) {
	case 0:
		msg = h.bytes(200)
	case 1: // well-formed, of texts
		for n := range byte(5) {
			field(n+1, h.bit())
		}
	case 2: // an event within
		field(2, "scan")
		for n := range byte(8) {
			field(n+3, h.bit())
		}
		inner := msg
		msg = nil
		field(1, string(inner[:min(len(inner), 127)]))
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/eventbus.v1.EventBusService/"+method, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	if err := s.SendMsg(msg); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	var out []byte
	for range 3 {
		if err := s.RecvMsg(&out); err != nil {
			return err
		}
	}
	return nil
}

// A thousand hostile inputs, by HTTP, gRPC, in the shard logs and as cursors: none is
// answered with a fault of ours, no process dies, and clients that are honest get
// every event, once and in order, meanwhile and afterwards.
func TestHostile_ThousandInputsHarmNobody(t *testing.T) {
	t.Parallel()
	const each, workers = 334, 8 // of HTTP, gRPC and legacy entries: 1,002
	seed := rand.Uint64N(1 << 32)
	t.Logf("seed %d", seed)
	b := newBus(t)
	h := func(i uint64) *hostile { return &hostile{rand.New(rand.NewPCG(seed, i)), "victim"} }
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()

	// The honest ones.
	good, victim := b.open(events("chat", "good")), b.open(events("scan", "victim"))
	goodRPC, err := b.calls.subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: "chat", JobId: "good"})
	if err != nil {
		t.Fatal(err)
	}
	victimRPC, err := b.calls.subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: "scan", JobId: "victim"})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	published := 0
	var honest errgroup.Group
	honest.Go(func() error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := publishThrough(ctx, b.calls, "good", published, 1); err != nil {
				return err
			}
			published++
			select {
			case <-tick.C:
			case <-stop:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})

	var attack errgroup.Group
	attack.SetLimit(workers)
	for i := range uint64(each) {
		attack.Go(func() error {
			h := h(3 * i)
			text := h.request()
			line, err := h.send(ctx, b.http, text)
			if err != nil || strings.HasPrefix(line, "HTTP/1.1 500") {
				return fmt.Errorf("HTTP input %d, %q: %q, %w", i, text, line, err)
			}
			return nil
		})
		attack.Go(func() error {
			err := h(3*i+1).call(ctx, b.calls.conn)
			st := status.Convert(err)
			switch {
			case st.Code() == codes.Internal && strings.Contains(st.Message(), "unmarshal"), // the library's word for it
				st.Code() == codes.Internal && strings.Contains(st.Message(), "malformed"):
			case st.Code() == codes.Internal, st.Code() == codes.Unknown && !errors.Is(err, io.EOF), st.Code() == codes.Unavailable:
				return fmt.Errorf("gRPC input %d: %w", i, err)
			}
			return nil
		})
	}
	if err := attack.Wait(); err != nil {
		t.Error(err)
	}
	shown := 0
	for i := range uint64(each) {
		args, isShown := h(3*i + 2).entry()
		if err := b.streams.Client().Do(ctx, args...).Err(); err != nil {
			t.Fatalf("entry %d, %q: %v", i, args, err)
		}
		if isShown {
			shown++
		}
	}
	close(stop)
	if err := honest.Wait(); err != nil {
		t.Error(err)
	}
	b.calls.publish(done("chat", "good"))
	b.calls.publish(done("scan", "victim"))
	if err := wantAll(good.rest(), published); err != nil {
		t.Errorf("an honest browser: %v", err)
	}
	if got := len(goodRPC.rest()); got != published+1 {
		t.Errorf("an honest subscriber got %d events, want %d", got, published+1)
	}
	if got := victimRPC.rest(); len(got) != shown+1 || got[shown].GetSeq() != uint32(shown+1) {
		t.Errorf("a subscriber of the hostile worker's job got %d events, want %d", len(got), shown+1)
	}
	for n := 1; n <= shown+1; n++ {
		f, err := victim.read()
		if err != nil {
			t.Fatalf("a browser of the hostile worker's job, event %d of %d: %v", n, shown+1, err)
		}
		if e := object(t, []byte(f.data)); e["seq"] != float64(n) || e["id"] != f.id {
			t.Fatalf("a browser of the hostile worker's job, event %d: %+v", n, f)
		}
	}
	if n := b.router.metric("eventbus_dead_letters_total"); n == 0 {
		t.Error("no dead letter was counted")
	}
	t.Logf("%d inputs; %d events to honest clients, %d of the hostile worker were delivered", 3*each, published+1, shown)
	for _, n := range []*node{b.router, b.edge} {
		if code, text := n.readyz(); code != 200 || !n.Running() || strings.Contains(n.Log(), "panic") {
			t.Errorf("%s: %d %s, running %t", n.name, code, text, n.Running())
		}
	}
}
