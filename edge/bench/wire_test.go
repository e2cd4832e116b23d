package bench

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/router/event"
)

const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

// chunked is a response whose chunks are the frames.
func chunked(frames ...string) string {
	var b strings.Builder
	b.WriteString(head)
	for _, f := range frames {
		fmt.Fprintf(&b, "%X\r\n%s\r\n", len(f), f)
	}
	return b.String()
}

// frame is an event as the bus encodes it, published as number n.
func frame(seq uint32, n uint64) string {
	e := event.Event{
		ID: event.ID{Ms: 1737415902456, Seq: uint64(seq)}, Domain: "scan", JobID: "j", Seq: seq, Stage: stage, Status: "streaming",
		Content: string(appendStamp(nil, 1000, n, 200)), PublishMs: 1737415902456,
	}
	return fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Stage, e.AppendJSON(nil))
}

func frames(seqs ...uint32) []string {
	out := []string{"retry: 2000\n: subscribed\n\n"}
	for _, s := range seqs {
		out = append(out, frame(s, uint64(s)))
	}
	return out
}

// read feeds a browser pieces of at most size bytes.
func read(t *testing.T, b *browser, text string, size int) (*tally, error) {
	t.Helper()
	ty := &tally{latency: newHistogram(), faults: &faults{}}
	for len(text) > 0 {
		n := min(size, len(text))
		if err := b.feed([]byte(text[:n]), 3_001_000, ty); err != nil {
			return ty, err
		}
		text = text[n:]
	}
	return ty, nil
}

func ordered() *browser { return &browser{job: &job{domain: "scan", id: "j", inOrder: true}} }

func TestWire_ReadsFramesHoweverTheyAreCut(t *testing.T) {
	all := append(frames(1, 2), ": keepalive\n\n", frame(3, 3))
	split := chunked(all...)
	joined := chunked(strings.Join(all, ""))
	plain := "HTTP/1.0 200 OK\r\n\r\n" + strings.Join(all, "")
	for name, text := range map[string]string{"a chunk a frame": split, "one chunk": joined, "no chunks": plain} {
		for _, size := range []int{1, 2, 7, 100, 1 << 20} {
			b := ordered()
			ty, err := read(t, b, text, size)
			if err != nil || ty.faults.err() != nil {
				t.Fatalf("%s, %d bytes: %v, %v", name, size, err, ty.faults.err())
			}
			if ty.delivered != 3 || b.seq != 3 || b.sum != 6 || string(b.lastID) != "1737415902456-3" || ty.bytes != int64(len(text)) {
				t.Errorf("%s, %d bytes: %d delivered, %d bytes, %+v", name, size, ty.delivered, ty.bytes, b)
			}
			if got := ty.latency.Max(); got < 3000 || got > 3003 { // to three digits
				t.Errorf("latency %d µs", got)
			}
		}
	}
}

func TestWire_FaultsAreCountedAsWhatTheyAre(t *testing.T) {
	gap := "event: gap\ndata: {\"reason\":\"REASON_LOG_RESET\"}\n\n"
	for name, c := range map[string]struct {
		frames    []string
		want      Faults
		delivered int64
	}{
		"nothing":                     {frames(1, 2, 3), Faults{}, 3},
		"one lost":                    {frames(1, 3), Faults{Lost: 1}, 2},
		"the first two lost":          {frames(3), Faults{Lost: 2}, 1},
		"a duplicate":                 {frames(1, 2, 2), Faults{Duplicates: 1}, 2},
		"an old duplicate":            {frames(1, 2, 3, 1), Faults{Duplicates: 1}, 3},
		"two exchanged":               {frames(1, 3, 2), Faults{Reordered: 1}, 3},
		"late, and late again":        {frames(2, 1, 1), Faults{Reordered: 1, Duplicates: 1}, 2},
		"numbered in another order":   {[]string{frame(1, 2), frame(2, 1)}, Faults{Reordered: 2}, 2},
		"a gap":                       {append(frames(1), gap), Faults{Gaps: 1}, 1},
		"an event of somebody else":   {[]string{"id: 1-1\ndata: {\"seq\":1}\n\n"}, Faults{Foreign: 1}, 0},
		"an event without an id":      {[]string{strings.SplitN(frame(1, 1), "\n", 2)[1]}, Faults{Foreign: 1}, 0},
		"a cursor is not an event":    {[]string{"id: 5-0\n\n"}, Faults{}, 0},
		"a keepalive is not an event": {[]string{": keepalive\n\n"}, Faults{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ty, err := read(t, ordered(), chunked(c.frames...), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, ty.faults.total()); d != "" || ty.delivered != c.delivered {
				t.Errorf("%s%d delivered, want %d", d, ty.delivered, c.delivered)
			}
			if (ty.faults.err() != nil) != (c.want != Faults{}) {
				t.Errorf("err: %v", ty.faults.err())
			}
		})
	}
}

func TestWire_WhatEndsAConnectionIsAnError(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"refused":       {"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno!", `"HTTP/1.1 503 Service Unavailable: no!"`},
		"over":          {"HTTP/1.1 204 No Content\r\n\r\n", "204"},
		"ended":         {chunked(frames(1)...) + "0\r\n\r\n", errEnded.Error()},
		"error frame":   {chunked("event: error\ndata: {\"code\":14}\n\n"), `{"code":14}`},
		"bad chunk":     {head + "xyz\r\n", errChunk.Error()},
		"endless chunk": {head + "fffffffffffffffffff\r\n", errChunk.Error()},
		"no chunk end":  {head + "1\r\na!!", errChunk.Error()},
		"endless head":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead), errTooLong.Error()},
		"endless frame": {"HTTP/1.1 200 OK\r\n\r\ndata: " + strings.Repeat("x", maxFrame), errTooLong.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(t, ordered(), c.text, 1<<20)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %s", err, c.says)
			}
		})
	}
}

func TestWire_ABrowserResumesAfterTheLastEvent(t *testing.T) {
	b := ordered()
	if r := string(b.request("h:1", "")); strings.Contains(r, "Last-Event-ID") || strings.Contains(r, "Authorization") {
		t.Errorf("first request: %s", r)
	}
	if _, err := read(t, b, chunked(frames(1, 2)...)+"5\r\nid: 9", 1<<20); err != nil { // cut within a frame
		t.Fatal(err)
	}
	b.again()
	r := string(b.request("h:1", "t"))
	for _, want := range []string{"GET /api/v1/scan/j/events HTTP/1.1\r\n", "Host: h:1\r\n", "Last-Event-ID: 1737415902456-2\r\n", "Authorization: Bearer t\r\n"} {
		if !strings.Contains(r, want) {
			t.Errorf("%q lacks %q", r, want)
		}
	}
	ty, err := read(t, b, chunked(frame(3, 3), frame(4, 4)), 1<<20)
	if err := errors.Join(err, ty.faults.err()); err != nil || b.seq != 4 {
		t.Errorf("%v, seq %d", err, b.seq)
	}
}

func TestWire_StampsSurvive(t *testing.T) {
	now := time.Now().UnixNano()
	for _, size := range []int{0, minPayload, 200, 5000} {
		content := appendStamp(nil, now, 1<<40, size)
		if len(content) < size || len(content) > max(size, minPayload) {
			t.Errorf("%d bytes, want %d", len(content), size)
		}
		e := event.Event{JobID: "j", Seq: 7, Content: string(content)}
		if s, ok := readStamp(e.AppendJSON(nil)); !ok || s != (stamp{7, now, 1 << 40}) {
			t.Errorf("%d bytes: %+v, %v", size, s, ok)
		}
	}
	for _, bad := range []string{"", "{}", "~", "~1", "~1~2", `{"seq":1,"content":"~1~2"}`, `{"content":"~1~2~"}`, `{"seq":,"content":"~1~2~"}`} {
		if s, ok := readStamp([]byte(bad)); ok {
			t.Errorf("%s: %+v", bad, s)
		}
	}
}

// The load test shares the machine with what it measures.
func TestWire_ADeliveryAllocatesNothing(t *testing.T) {
	b := ordered()
	ty := &tally{latency: newHistogram(), faults: &faults{}}
	if err := b.feed([]byte(chunked(frames(1)...)), 3_001_000, ty); err != nil {
		t.Fatal(err)
	}
	var text [][]byte
	for seq := uint32(2); seq < 1100; seq++ {
		f := frame(seq, uint64(seq))
		text = append(text, fmt.Appendf(nil, "%x\r\n%s\r\n", len(f), f))
	}
	at := 0
	if n := testing.AllocsPerRun(1000, func() {
		if err := b.feed(text[at], 3_001_000, ty); err != nil {
			t.Fatal(err)
		}
		at++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := ty.faults.err(); err != nil {
		t.Error(err)
	}
}

func BenchmarkWire(b *testing.B) {
	br := &browser{job: &job{}}
	ty := &tally{latency: newHistogram(), faults: &faults{}}
	_ = br.feed([]byte(head), 1, ty)
	f := frame(1, 1)
	one := fmt.Appendf(nil, "%x\r\n%s\r\n", len(f), f)
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	for b.Loop() {
		br.seq = 0
		if err := br.feed(one, 3_001_000, ty); err != nil {
			b.Fatal(err)
		}
	}
}
