package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/hub"
)

const (
	contentSSE    = "text/event-stream"
	contentNDJSON = "application/x-ndjson"
	contentJSON   = "application/json"
)

// feed is where a stream's frames come from.
type feed interface {
	// begin adds what the browser gets at once, after the opening.
	begin(ctx context.Context, o *outlet) error
	// next waits for something and adds it; it adds nothing after a heartbeat's
	// time. Its errors end the stream: io.EOF as it should end, others as an error
	// that the browser is told.
	next(ctx context.Context, o *outlet) error
	// wrote is told of the events that the browser's connection took.
	wrote(items []hub.Item[frame])
}

// outlet is a browser's stream on its way out. Each fill gathers what is written
// at once: whole frames. A single frame is written from where all browsers share
// it, several are put together in a buffer that is borrowed for the write. It
// belongs to the request's goroutine.
type outlet struct {
	sse     bool
	w       *streamWriter
	feed    feed
	metrics *metrics
	buffers *sync.Pool // of *[]byte

	// body is what the gateway writes next; the same one for the whole stream, so
	// that forwarding allocates nothing.
	body   httpbody.HttpBody
	one    []byte
	buf    *[]byte
	frames int
	// events are those gathered, where the feed is told when they are written. They
	// are the feed's, which does not change them before its next.
	events []hub.Item[frame]

	opened bool
	closed bool   // what was gathered last is the end
	why    ending // of the end
}

func newOutlet(sse bool, w *streamWriter, c *client) *outlet {
	o := &outlet{sse: sse, w: w, metrics: c.metrics, buffers: c.buffers}
	o.body.ContentType = contentNDJSON
	if sse {
		o.body.ContentType = contentSSE
	}
	return o
}

// fill gathers what comes next into body. io.EOF ends the stream.
func (o *outlet) fill(ctx context.Context) error {
	o.reset()
	if o.closed || o.w.err != nil {
		return io.EOF
	}
	var err error
	if !o.opened {
		o.opened = true
		o.append(func(b []byte) []byte { return appendOpening(b, o.sse) })
		err = o.feed.begin(ctx, o)
	} else {
		err = o.feed.next(ctx, o)
	}
	if err != nil {
		if err := o.end(ctx, err); err != nil {
			return err
		}
	}
	if o.empty() {
		o.append(func(b []byte) []byte { return appendKeepalive(b, o.sse) })
	}
	if o.frames > 0 {
		o.metrics.framesSent.Add(float64(o.frames))
	}
	o.body.Data = o.one
	if o.buf != nil {
		o.body.Data = *o.buf
	}
	return nil
}

// end adds what the browser is told at the end, or returns io.EOF where that is
// nothing.
func (o *outlet) end(ctx context.Context, err error) error {
	o.closed = true
	switch {
	case errors.Is(context.Cause(ctx), errDraining):
		if o.why = endDrain; !o.sse {
			return o.rest()
		}
		o.append(func(b []byte) []byte { return appendAway(b, awayMillis()) })
	case errors.Is(context.Cause(ctx), errExpired):
		o.why = endExpired
		o.append(func(b []byte) []byte { return appendError(b, o.sse, status.Convert(accessStatus(access.Expired()))) })
	case errors.Is(err, io.EOF):
		o.why = endOver
		return o.rest()
	case ctx.Err() != nil:
		o.why = endGone
		return o.rest()
	default:
		o.why = endError
		o.append(func(b []byte) []byte { return appendError(b, o.sse, status.Convert(err)) })
	}
	return nil
}

// count counts the end of a stream that had begun.
func (o *outlet) count() {
	why := o.why
	if o.w.err != nil {
		why = o.w.why
	} else if why == "" {
		why = endGone
	}
	o.metrics.ended.WithLabelValues(string(why)).Inc()
}

// rest is io.EOF unless something is still to be written.
func (o *outlet) rest() error {
	if o.empty() {
		return io.EOF
	}
	return nil
}

func (o *outlet) empty() bool { return o.one == nil && o.buf == nil }

// frame adds an event.
func (o *outlet) frame(f frame) {
	o.frames++
	if b := f.bytes(o.sse); o.empty() {
		o.one = b
	} else {
		o.append(func(buf []byte) []byte { return append(buf, b...) })
	}
}

// gap adds a gap.
func (o *outlet) gap(g *eventbusv1.Gap) {
	o.metrics.gaps.WithLabelValues(g.GetReason().String()).Inc()
	o.append(func(b []byte) []byte { return appendGap(b, o.sse, g) })
}

// cursor adds where to resume.
func (o *outlet) cursor(id string) {
	if o.sse && id != "" {
		o.append(func(b []byte) []byte { return appendCursor(b, id) })
	}
}

func (o *outlet) append(add func([]byte) []byte) {
	if o.buf == nil {
		o.buf = o.buffers.Get().(*[]byte)
		*o.buf = append((*o.buf)[:0], o.one...)
		o.one = nil
	}
	*o.buf = add(*o.buf)
}

// reset gives the buffer back: what it held was written.
func (o *outlet) reset() {
	if len(o.events) > 0 && o.w.err == nil {
		o.feed.wrote(o.events)
	}
	o.events = nil
	o.one, o.frames, o.body.Data = nil, 0, nil
	if o.buf != nil {
		if cap(*o.buf) <= maxPooled {
			o.buffers.Put(o.buf)
		}
		o.buf = nil
	}
}

// maxPooled is the largest buffer that is kept: a batch with one large frame.
const maxPooled = 512 << 10

// streamWriter writes a stream to a browser, each write with a deadline of its
// own, so that a browser that does not read is cut off and holds nothing. A
// failed write is kept and not returned: the gateway would log each browser that
// leaves; outlet ends the stream instead.
type streamWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	pace    pace
	// clear: in HTTP/2 a deadline ends the stream even where no write waits, so it
	// must not outlive the write.
	clear    bool
	deadline time.Time
	wrote    bool // or tried to
	timeouts interface{ Inc() }
	err      error
	why      ending // of err
}

// pace is what a browser must read at.
type pace struct {
	// timeout bounds one write; rate, bytes per second, adds to it for large frames
	// on slow links.
	timeout time.Duration
	rate    int
}

func (p pace) allow(n int) time.Duration {
	return p.timeout + time.Duration(n)*time.Second/time.Duration(p.rate)
}

func newStreamWriter(w http.ResponseWriter, r *http.Request, p pace, m *metrics) *streamWriter {
	return &streamWriter{
		ResponseWriter: w, control: http.NewResponseController(w), pace: p,
		clear: r.ProtoMajor >= 2, timeouts: m.writeTimeouts,
	}
}

// Write always claims success; see err.
func (w *streamWriter) Write(b []byte) (int, error) {
	if w.err == nil && len(b) > 0 {
		w.wrote = true
		w.allow(len(b))
		_, err := w.ResponseWriter.Write(b)
		w.note(err)
	}
	return len(b), nil
}

// FlushError always claims success; see err.
func (w *streamWriter) FlushError() error {
	if w.err == nil {
		w.note(w.control.Flush())
	}
	if w.err == nil && w.clear {
		w.note(w.control.SetWriteDeadline(time.Time{}))
	}
	return nil
}

// finish gives net/http time for what it writes after the handler. In HTTP/2 that
// never waits for the browser.
func (w *streamWriter) finish() {
	if w.err == nil && !w.clear {
		w.allow(0)
	}
}

// allow gives the connection time for n bytes.
func (w *streamWriter) allow(n int) {
	w.deadline = time.Now().Add(w.pace.allow(n))
	w.note(w.control.SetWriteDeadline(w.deadline))
}

func (w *streamWriter) note(err error) {
	if err == nil || w.err != nil {
		return
	}
	w.err, w.why = err, endGone
	if errors.Is(err, os.ErrDeadlineExceeded) || !w.deadline.IsZero() && time.Now().After(w.deadline) {
		w.timeouts.Inc()
		w.why = endTimeout
	}
}
