package edge

import (
	"context"
	"errors"
	"net/http"
	"os"
)

// errGone ends the stream of a browser that has closed its connection.
var errGone = errors.New("edge: browser gone")

// line is a browser's connection that was taken over from net/http. It is a
// member of its job's crowd, or alone: then it has a goroutine, crawl. Of the
// connection a member has the descriptor only: Go's own objects for it are half of
// what a browser that waits would cost.
type line struct {
	topic *topic
	leave func() // the gate
	id    uint64
	until int64 // when its token ends, by lines.now; 0 is never
	// since is when it began, in milliseconds since 1970.
	since uint64

	// What follows is guarded by topic.crowd.mu. cancel ends crawl; nil while it is a
	// member.
	cancel context.CancelCauseFunc
	// file has fd, once a write had to wait; see waiting.
	file *os.File
	// wrote is when a member was written something, by lines.now.
	wrote int64
	why   ending // where done
	fd    int32  // -1 when closed
	// at is its place among the members; -1 while it is alone.
	at   int32
	done bool

	chunked bool // for good
}

// send writes without waiting; rest is what the connection did not take.
func (l *line) send(b []byte) (rest []byte, err error) {
	n, err := l.lines().write(int(l.fd), b)
	return b[n:], err
}

func (l *line) lines() *lines { return l.topic.crowd.lines }

// waiting is the connection for writes that wait; nil where it is closed.
func (l *line) waiting() *os.File {
	c := &l.topic.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.file == nil && l.fd >= 0 {
		l.file = os.NewFile(uintptr(l.fd), "browser")
	}
	return l.file
}

// forgo gives up what waiting made; crowd.mu is held. Without a descriptor to spare
// it stays.
func (l *line) forgo() {
	if l.file == nil {
		return
	}
	if fd := duplicate(l.file); fd >= 0 {
		_ = l.file.Close()
		l.fd, l.file = int32(fd), nil
	}
}

// hangUp closes the connection; crowd.mu is held, or the line is done. A write that
// waits fails.
func (l *line) hangUp() {
	switch {
	case l.fd < 0:
	case l.file != nil:
		_ = l.file.Close()
	default:
		closeNow(int(l.fd))
	}
	l.fd, l.file = -1, nil
}

// begin makes a line a member where nothing is in the way, else it is alone. The
// goroutine is the caller's: most need none of their own. What leads is written with
// the first events.
func (l *line) begin(f *jobFeed, lead []byte) {
	var ctx context.Context
	ctx, l.cancel = context.WithCancelCause(context.Background())
	l.lines().remember(l)
	if rest, end, joined := l.topic.crowd.join(ctx, l, f, lead); !joined {
		l.lines().work.Add(1)
		go l.crawl(ctx, f, rest, end)
	}
}

// crawl serves a line that is alone, until it has joined the crowd, or to the
// end: first the rest of a packet, then what the feed has, each write with its
// deadline. With an end, nothing follows the rest.
func (l *line) crawl(ctx context.Context, f *jobFeed, rest []byte, end ending) {
	s := l.lines()
	defer s.work.Done()
	cw := &chunkWriter{l}
	w := &streamWriter{
		ResponseWriter: cw, control: http.NewResponseController(cw), pace: *s.pace,
		clear:    true, // members' writes do not look at deadlines
		timeouts: s.client.metrics.writeTimeouts,
	}
	o := newOutlet(true, w, s.client)
	defer o.reset()
	o.opened, o.feed = true, f
	for {
		w.raw(cw, rest)
		if end != "" || w.err != nil {
			break
		}
		var joined bool
		if rest, end, joined = l.topic.crowd.join(ctx, l, f, nil); joined {
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
func (w *streamWriter) raw(c *chunkWriter, b []byte) {
	if w.err != nil || len(b) == 0 {
		return
	}
	w.allow(len(b))
	w.note(c.coded(b))
	_ = w.FlushError()
}

// finish lets go of all that an ended line holds. Who reads the end of the stream
// finds room for the next one.
func (l *line) finish() {
	s := l.lines()
	s.forget(l)
	s.client.metrics.ended.WithLabelValues(string(l.why)).Inc() // before it is no stream any more
	s.client.metrics.streams.WithLabelValues(kindJob, transportLine).Dec()
	l.leave()
	l.topic.owner.leave(l.topic)
	if l.fd >= 0 {
		discard(int(l.fd))
	}
	l.hangUp()
	s.release()
}
