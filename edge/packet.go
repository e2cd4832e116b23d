package edge

import (
	"bytes"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/eco2-team/eventbus/router/hub"
)

// packet is what many lines are written at once, encoded once: plain for HTTP/1.0,
// as a chunk for HTTP/1.1. Both are parts of one buffer.
type packet struct {
	plain, chunk, buf []byte
	// end: the stream ends with it, and why; empty: it goes on.
	end ending
}

func (p *packet) bytes(chunked bool) []byte {
	if chunked {
		return p.chunk
	}
	return p.plain
}

// Chunked coding, RFC 9112, section 7.1.
const (
	// chunkRoom is what precedes a chunk's data at most: its size in hex and a line
	// end.
	chunkRoom = 8 + 2
	chunkEnd  = "\r\n"
	lastChunk = "0\r\n\r\n"
)

// newPacket is a packet of what add appends.
func newPacket(end ending, add func([]byte) []byte) packet {
	return seal(add(room(nil)), end)
}

// room begins a packet's data.
func room(buf []byte) []byte {
	var none [chunkRoom]byte
	return append(buf[:0], none[:]...)
}

// seal makes a packet of data that has chunkRoom before it.
func seal(b []byte, why ending) packet {
	end := len(b)
	var size [chunkRoom]byte
	head := appendChunkHead(size[:0], end-chunkRoom)
	start := chunkRoom - len(head)
	copy(b[start:], head)
	b = appendChunkEnd(b, why)
	return packet{plain: b[chunkRoom:end:end], chunk: b[start:], buf: b, end: why}
}

// appendChunkHead begins a chunk of so many bytes.
func appendChunkHead(b []byte, size int) []byte {
	return append(strconv.AppendUint(b, uint64(size), 16), chunkEnd...)
}

// appendChunkEnd ends it, and the stream where there is a reason to.
func appendChunkEnd(b []byte, why ending) []byte {
	if b = append(b, chunkEnd...); why != "" {
		b = append(b, lastChunk...)
	}
	return b
}

// scratch is what it takes to hand events on; it is borrowed.
type scratch struct {
	items []hub.Item[frame]
	buf   []byte
}

// packet is one of events.
func (s *scratch) packet(items []hub.Item[frame]) packet {
	b := room(s.buf)
	for _, it := range items {
		b = append(b, it.Value.text...)
	}
	p := seal(b, lastOf(items))
	s.buf = p.buf
	return p
}

// coded is what leads, and events, for one line.
func (s *scratch) coded(lead []byte, items []hub.Item[frame], chunked bool) ([]byte, ending) {
	s.buf = append(s.buf[:0], lead...)
	if len(items) == 0 {
		return s.buf, ""
	}
	b, end := s.buf, lastOf(items)
	if chunked {
		size := 0
		for _, it := range items {
			size += len(it.Value.text)
		}
		b = appendChunkHead(b, size)
	}
	for _, it := range items {
		b = append(b, it.Value.text...)
	}
	if chunked {
		b = appendChunkEnd(b, end)
	}
	s.buf = b
	return b, end
}

// lastOf tells whether a stream ends with the events.
func lastOf(items []hub.Item[frame]) ending {
	if items[len(items)-1].Final {
		return endOver
	}
	return ""
}

// lead is what a stream begins with, up to the body that was filled: what net/http
// would write, in one piece.
func (c *call) lead() []byte {
	h, body := c.out.w.Header(), c.out.body.GetData()
	h.Set("Content-Type", c.out.body.GetContentType())
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	status := "HTTP/1.0 200 OK\r\n"
	if c.chunked {
		h.Set("Transfer-Encoding", "chunked")
		status = "HTTP/1.1 200 OK\r\n"
	}
	head := bytes.NewBuffer(make([]byte, 0, 512))
	head.WriteString(status)
	_ = h.Write(head) // a buffer
	head.WriteString("\r\n")
	b := head.Bytes()
	if !c.chunked {
		return append(b, body...)
	}
	return appendChunkEnd(append(appendChunkHead(b, len(body)), body...), "")
}

// keep: a line that does not take all of a packet keeps its bytes.
func (s *scratch) keep() { s.buf = nil }

// chunkWriter is the connection of a line that is alone, as streamWriter wants it.
type chunkWriter struct{ line *line }

// Header implements http.ResponseWriter; it was sent long ago.
func (w *chunkWriter) Header() http.Header { return http.Header{} }

// WriteHeader implements http.ResponseWriter.
func (w *chunkWriter) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (w *chunkWriter) Write(b []byte) (int, error) {
	if !w.line.chunked {
		return len(b), w.coded(b)
	}
	s := w.line.lines().borrow()
	defer w.line.lines().giveBack(s)
	p := seal(append(room(s.buf), b...), "")
	s.buf = p.buf
	return len(b), w.coded(p.chunk)
}

// coded writes what is coded already.
func (w *chunkWriter) coded(b []byte) error {
	f := w.line.waiting()
	if f == nil {
		return os.ErrClosed
	}
	_, err := f.Write(b)
	return err
}

// FlushError implements what http.ResponseController wants.
func (w *chunkWriter) FlushError() error { return nil }

// SetWriteDeadline implements what http.ResponseController wants.
func (w *chunkWriter) SetWriteDeadline(t time.Time) error {
	f := w.line.waiting()
	if f == nil {
		return os.ErrClosed
	}
	return f.SetWriteDeadline(t)
}
