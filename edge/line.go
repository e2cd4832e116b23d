package edge

import (
	"context"
	"errors"
	"net"
	"net/http"
)

// errGone ends the stream of a browser that has closed its connection.
var errGone = errors.New("edge: browser gone")

// line is a browser's connection that was taken over from net/http. It is a
// member of its job's crowd, or alone: then it has a goroutine, crawl.
type line struct {
	lines *lines
	topic *topic
	conn  *net.TCPConn
	leave func() // the gate
	id    uint64
	until int64 // when its token ends, by lines.now; 0 is never
	// fd is conn's as long as conn is open: only who ends the line closes it.
	fd      int
	chunked bool
	// since is when it began, in milliseconds since 1970.
	since uint64

	// What follows is guarded by topic.crowd.mu.
	done bool
	why  ending // where done
	// at is its place among the members; -1 while it is alone.
	at int
	// wrote is when a member was written something, by lines.now.
	wrote int64
	// cancel ends crawl; nil while it is a member.
	cancel context.CancelCauseFunc
}

// send writes without waiting; rest is what the connection did not take.
func (l *line) send(p *packet) (rest []byte, err error) {
	b := p.bytes(l.chunked)
	n, err := l.lines.write(l.fd, b)
	return b[n:], err
}

// crawl serves a line that is alone, until it has joined the crowd, or to the
// end: first the rest of a packet, then what the feed has, each write with its
// deadline. With an end, nothing follows the rest.
func (l *line) crawl(ctx context.Context, f *jobFeed, rest []byte, end ending) {
	defer l.lines.work.Done()
	cw := &chunkWriter{l.conn, l.chunked}
	w := &streamWriter{
		ResponseWriter: cw, control: http.NewResponseController(cw), pace: *l.lines.pace,
		clear:    true, // members' writes do not look at deadlines
		timeouts: l.lines.client.metrics.writeTimeouts,
	}
	o := newOutlet(true, w, l.lines.client)
	defer o.reset()
	o.opened, o.feed = true, f
	for {
		w.raw(l.conn, rest)
		if end != "" || w.err != nil {
			break
		}
		var joined bool
		if rest, end, joined = l.topic.crowd.join(ctx, l, f); joined {
			return
		}
		if end != "" || len(rest) > 0 {
			continue
		}
		if o.fill(ctx) != nil {
			rest, end = nil, o.why
			if l.chunked {
				rest = []byte(lastChunk)
			}
			continue
		}
		_, _ = w.Write(o.body.GetData())
		_ = w.FlushError()
	}
	f.caughtUp()
	if w.err != nil {
		end = w.why
	}
	c := &l.topic.crowd
	c.mu.Lock()
	c.end(l, end)
	c.unlock()
}

// raw writes what is coded already.
func (w *streamWriter) raw(c net.Conn, b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	w.allow(len(b))
	_, err := c.Write(b)
	w.note(err)
	_ = w.FlushError()
}

// finish lets go of all that an ended line holds. Who reads the end of the stream
// finds room for the next one.
func (l *line) finish() {
	l.lines.forget(l)
	l.lines.client.metrics.streams.WithLabelValues(kindJob, transportLine).Dec()
	l.lines.client.metrics.ended.WithLabelValues(string(l.why)).Inc()
	l.leave()
	l.topic.owner.leave(l.topic)
	if l.fd >= 0 {
		discard(l.fd)
	}
	_ = l.conn.Close()
	l.lines.release()
}
