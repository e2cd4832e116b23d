package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/eco2-team/eventbus/router/event"
)

// browser is one SSE connection and what it has seen. It reads as little of each
// frame as the checks need, because the load test shares the machine with the bus.
// It belongs to its reader.
type browser struct {
	job *job
	// slot is where its reader keeps it; from is its source address.
	slot, fd int
	from     int

	state bodyState
	// left is how much of the chunk is to come; without chunks it is never used.
	left uint64
	// rest is what was read of a head, or of a frame that is not complete.
	rest []byte
	// opened: the first frame was there.
	opened bool

	// seq is the highest seen, lastID its id. missing are holes below it.
	seq     uint32
	lastID  []byte
	missing map[uint32]struct{}
	// sum adds the numbers that the publisher gave its events: equal sums at equal
	// counts mean that what was published is what arrived.
	sum uint64
}

// bodyState is where in the HTTP response a browser reads.
type bodyState uint8

const (
	inHead bodyState = iota
	inSize
	inExtension
	inData
	inTail
	// inPlain is a body without chunks.
	inPlain
)

const (
	maxHead = 16 << 10
	// maxFrame bounds what a browser keeps of an incomplete frame.
	maxFrame = 4 << 20
)

var (
	errEnded   = errors.New("the server ended the stream")
	errChunk   = errors.New("the response's chunks are malformed")
	errTooLong = errors.New("a head or a frame has no end")
)

// again makes the browser ready for a new connection after the last one.
func (b *browser) again() {
	b.state, b.left, b.rest, b.opened, b.fd = inHead, 0, nil, false, -1
}

// request is what it sends. The id of the last event makes it a resume.
func (b *browser) request(host, token string) []byte {
	r := make([]byte, 0, 256)
	r = fmt.Appendf(r, "GET /api/v1/%s/%s/events HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n", b.job.domain, b.job.id, host)
	if len(b.lastID) > 0 {
		r = fmt.Appendf(r, "Last-Event-ID: %s\r\n", b.lastID)
	}
	if token != "" {
		r = fmt.Appendf(r, "Authorization: Bearer %s\r\n", token)
	}
	return append(r, "\r\n"...)
}

// feed takes bytes as they come off the connection, read at now (ns since 1970).
// An error ends the connection.
func (b *browser) feed(data []byte, now int64, t *tally) error {
	t.bytes += int64(len(data))
	var err error
	for len(data) > 0 && err == nil {
		switch b.state {
		case inHead:
			data, err = b.head(data)
		case inSize, inExtension:
			err = b.size(data[0])
			data = data[1:]
		case inData:
			n := min(uint64(len(data)), b.left)
			err = b.body(data[:n], now, t)
			data = data[n:]
			if b.left -= n; b.left == 0 {
				b.state, b.left = inTail, 2
			}
		case inTail:
			if data[0] != "\n\r"[b.left-1] {
				return errChunk
			}
			data = data[1:]
			if b.left--; b.left == 0 {
				b.state = inSize
			}
		case inPlain:
			err = b.body(data, now, t)
			data = nil
		}
	}
	return err
}

// size takes one byte of a chunk's first line.
func (b *browser) size(c byte) error {
	var digit uint64
	switch {
	case c == '\n':
		if b.left == 0 {
			return errEnded
		}
		b.state = inData
		return nil
	case b.state == inExtension, c == '\r', c == ';':
		b.state = inExtension
		return nil
	case '0' <= c && c <= '9':
		digit = uint64(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		digit = uint64(c|0x20-'a') + 10
	default:
		return errChunk
	}
	if b.left >= 1<<32 {
		return errChunk
	}
	b.left = b.left<<4 | digit
	return nil
}

// head waits for the whole head and returns what follows it.
func (b *browser) head(data []byte) ([]byte, error) {
	b.rest = append(b.rest, data...)
	end := bytes.Index(b.rest, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b.rest) > maxHead {
			return nil, errTooLong
		}
		return nil, nil
	}
	head, body := string(b.rest[:end]), b.rest[end+4:]
	b.rest = nil
	line, fields, _ := strings.Cut(head, "\r\n")
	_, code, _ := strings.Cut(line, " ")
	if status, _, _ := strings.Cut(code, " "); status != strconv.Itoa(http.StatusOK) {
		return nil, fmt.Errorf("the server answers %q", line+clip(body))
	}
	b.state = inPlain
	if strings.Contains(strings.ToLower(fields), "transfer-encoding: chunked") {
		b.state = inSize
	}
	return body, nil
}

func clip(text []byte) string {
	if len(text) == 0 {
		return ""
	}
	return ": " + string(text[:min(len(text), 200)])
}

// body takes a piece of the event stream; frames need not end where pieces do.
func (b *browser) body(piece []byte, now int64, t *tally) error {
	if len(b.rest) > 0 {
		b.rest = append(b.rest, piece...)
		piece = b.rest
	}
	for {
		f, n := nextFrame(piece)
		if n == 0 {
			break
		}
		piece = piece[n:]
		if err := b.take(f, now, t); err != nil {
			return err
		}
	}
	if len(piece) > maxFrame {
		return errTooLong
	}
	if len(piece) == 0 {
		b.rest = b.rest[:0]
	} else {
		b.rest = append(b.rest[:0], piece...)
	}
	return nil
}

// rawFrame is a frame's fields, where they lie in the buffer.
type rawFrame struct{ id, name, data []byte }

// nextFrame reads one frame with its blank line, and tells how long it is; 0 where
// it is not complete. The bus ends lines with LF and has one data line a frame.
func nextFrame(b []byte) (f rawFrame, n int) {
	for {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			return rawFrame{}, 0
		}
		line := b[n : n+end]
		n += end + 1
		if end == 0 {
			return f, n
		}
		switch line[0] {
		case 'd':
			f.data = field(line, "data:", f.data)
		case 'i':
			f.id = field(line, "id:", f.id)
		case 'e':
			f.name = field(line, "event:", f.name)
		}
	}
}

func field(line []byte, name string, before []byte) []byte {
	if len(line) < len(name) || string(line[:len(name)]) != name {
		return before
	}
	line = line[len(name):]
	if len(line) > 0 && line[0] == ' ' {
		line = line[1:]
	}
	return line
}

// take is one frame: the opening, a keepalive, a cursor, or an event.
func (b *browser) take(f rawFrame, now int64, t *tally) error {
	b.opened = true
	if f.data == nil {
		if len(f.id) > 0 {
			b.lastID = append(b.lastID[:0], f.id...)
		}
		return nil
	}
	switch string(f.name) {
	case "gap":
		t.faults.add(&t.faults.Gaps, "job %s: gap %s", b.job.id, f.data)
		return nil
	case "error":
		return fmt.Errorf("the server reports %s", f.data)
	}
	s, ok := readStamp(f.data)
	if !ok || len(f.id) == 0 {
		t.faults.add(&t.faults.Foreign, "job %s: not an event of this test: id %q, %s", b.job.id, f.id, f.data)
		return nil
	}
	if !b.check(s, t) {
		return nil
	}
	b.lastID = append(b.lastID[:0], f.id...)
	b.sum += s.n
	t.delivered++
	t.last = now
	if s.sent >= t.since {
		// Out of its bounds is a clock that jumped: the bound then says so.
		_ = t.latency.RecordValue(min(max((now-s.sent)/1000, 1), maxLatency))
	}
	if t.laps != nil {
		t.laps.hit(s.seq)
	}
	return nil
}

// check tells whether the event counts: every seq once and in order.
func (b *browser) check(s stamp, t *tally) bool {
	fresh := s.seq > b.seq
	if !fresh {
		if _, hole := b.missing[s.seq]; hole {
			delete(b.missing, s.seq)
			t.faults.move(&t.faults.Lost, &t.faults.Reordered, "job %s: seq %d after %d", b.job.id, s.seq, b.seq)
			return true
		}
		t.faults.add(&t.faults.Duplicates, "job %s: seq %d again, after %d", b.job.id, s.seq, b.seq)
		return false
	}
	for hole := b.seq + 1; hole < s.seq; hole++ {
		if b.missing == nil {
			b.missing = make(map[uint32]struct{})
		}
		b.missing[hole] = struct{}{}
		t.faults.add(&t.faults.Lost, "job %s: seq %d after %d", b.job.id, s.seq, b.seq)
		if len(b.missing) > maxHoles {
			break
		}
	}
	if b.job.inOrder && s.n != uint64(s.seq) {
		t.faults.add(&t.faults.Reordered, "job %s: seq %d is the event that was published as number %d", b.job.id, s.seq, s.n)
	}
	b.seq = s.seq
	return true
}

// maxHoles bounds what is remembered of a stream that lost nearly everything.
const maxHoles = 1000

// stamp is what the test reads of an event.
type stamp struct {
	seq  uint32
	sent int64 // ns since 1970
	n    uint64
}

// mark begins an event's content: ~sent~number~padding. It occurs nowhere else in
// the event's JSON.
const mark = '~'

// appendStamp makes the content of an event.
func appendStamp(b []byte, sent int64, n uint64, size int) []byte {
	start := len(b)
	b = append(b, mark)
	b = strconv.AppendInt(b, sent, 10)
	b = append(b, mark)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, mark)
	for len(b)-start < size {
		b = append(b, "abcdefghijklmnopqrstuvwxyz"[(len(b)-start)%26])
	}
	return b
}

// minPayload holds the longest stamp.
const minPayload = 48

// readStamp finds it, and the seq, in the event's JSON.
func readStamp(data []byte) (s stamp, ok bool) {
	at := bytes.IndexByte(data, mark)
	if at < 0 {
		return s, false
	}
	sent, rest := number(data[at+1:])
	if len(rest) == 0 || rest[0] != mark {
		return s, false
	}
	n, rest := number(rest[1:])
	if len(rest) == 0 || rest[0] != mark {
		return s, false
	}
	at = bytes.Index(data, []byte(`"seq":`))
	if at < 0 {
		return s, false
	}
	after := data[at+6:]
	for len(after) > 0 && after[0] == ' ' {
		after = after[1:]
	}
	seq, rest := number(after)
	return stamp{seq: uint32(seq), sent: int64(sent), n: n}, seq > 0 && len(rest) < len(after)
}

// number reads digits.
func number(b []byte) (v uint64, rest []byte) {
	i := 0
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		v = v*10 + uint64(b[i]-'0')
		i++
	}
	return v, b[i:]
}

// shardsOf spreads n jobs evenly over shards, so that a row does not depend on the
// luck of its names.
func nameJobs(domain, prefix string, n, shards int) []*job {
	jobs := make([]*job, 0, n)
	taken := make([]int, shards)
	most := (n + shards - 1) / shards
	for i := 0; len(jobs) < n; i++ {
		id := prefix + "-" + strconv.Itoa(i)
		if s := event.ShardOf(id, shards); taken[s] < most {
			taken[s]++
			jobs = append(jobs, &job{domain: domain, id: id})
		}
	}
	return jobs
}
