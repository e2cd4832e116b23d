package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/hub"
)

// The wire of https://html.spec.whatwg.org/multipage/server-sent-events.html.
// Each frame ends with its blank line. A field's value never holds CR, LF or
// NUL: ids are digits, "-" and ","; event names pass event.ValidStage; data is
// JSON on one line.

// frame is one event, encoded once for all browsers of this edge. It is shared
// and must not be changed.
type frame struct {
	// text is the SSE frame; the JSON within it, with its line feed, is the
	// NDJSON line.
	text []byte
	json int
	// trail is nil unless the event's way is written down.
	trail *trail
}

func (f frame) bytes(sse bool) []byte {
	if sse {
		return f.text
	}
	return f.text[f.json : len(f.text)-1]
}

// overhead is what an item takes in memory beside its text, in bytes.
const overhead = 96

// encoder makes frames of events. It belongs to one goroutine.
type encoder struct {
	// scratch is where a frame grows, so that it is kept at its exact size.
	scratch []byte
}

// item encodes one event of a job's stream.
func (c *encoder) item(m *eventbusv1.Event) (hub.Item[frame], error) {
	e, err := fromProto(m)
	if err != nil {
		return hub.Item[frame]{}, err
	}
	f := c.frame(m.GetId(), &e)
	return hub.Item[frame]{ID: e.ID, Final: e.Final, Size: len(f.text) + overhead, Value: f}, nil
}

// textItem is the frame of an event that a router has encoded.
func textItem(m *relayv1.Text) (hub.Item[frame], error) {
	id, text := event.ID{Ms: m.GetIdMs(), Seq: m.GetIdSeq()}, m.GetJson()
	from, to := int(m.GetStageStart()), int(m.GetStageEnd())
	if id.IsZero() || len(text) == 0 || from > to || to > len(text) || bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return hub.Item[frame]{}, status.Errorf(codes.Internal, "the router sent an event %s that is not a line of JSON", id)
	}
	head := make([]byte, 0, 128) // on the stack
	head = id.Append(append(head, "id: "...))
	if from < to {
		head = append(append(head, "\nevent: "...), text[from:to]...)
	}
	head = append(head, "\ndata: "...)
	f := frame{text: make([]byte, 0, len(head)+len(text)+2), json: len(head)}
	f.text = append(append(append(f.text, head...), text...), "\n\n"...)
	return hub.Item[frame]{ID: id, Final: m.GetFinal(), Size: len(f.text) + overhead, Value: f}, nil
}

func (c *encoder) frame(id string, e *event.Event) frame {
	var start int
	c.scratch, start = appendFrame(c.scratch[:0], id, e)
	return frame{text: bytes.Clone(c.scratch), json: start}
}

// appendFrame appends the frame of an event and tells where its JSON begins. The
// id is the event's, or the cursor after it in a Watch; an empty one is left out,
// because it would reset the browser's.
func appendFrame(b []byte, id string, e *event.Event) (out []byte, start int) {
	if id != "" {
		b = append(b, "id: "...)
		b = append(b, id...)
		b = append(b, '\n')
	}
	if event.ValidStage(e.Stage) { // a legacy producer's may be anything
		b = append(b, "event: "...)
		b = append(b, e.Stage...)
		b = append(b, '\n')
	}
	b = append(b, "data: "...)
	start = len(b)
	b = e.AppendJSON(b)
	return append(b, "\n\n"...), start
}

// fromProto is the event of a router's message.
func fromProto(m *eventbusv1.Event) (event.Event, error) {
	id, err := event.ParseID(m.GetId())
	if err != nil {
		return event.Event{}, status.Errorf(codes.Internal, "the router sent an event of job %q whose id %v", m.GetJobId(), err)
	}
	e := event.Event{
		ID:          id,
		Domain:      m.GetDomain(),
		JobID:       m.GetJobId(),
		Seq:         m.GetSeq(),
		Stage:       m.GetStage(),
		Status:      m.GetStatus(),
		Message:     m.GetMessage(),
		Content:     m.GetContent(),
		Attributes:  m.GetAttributes(),
		Final:       m.GetFinal(),
		Traceparent: m.GetTraceparent(),
		PublishMs:   id.Ms,
	}
	if m.Progress != nil {
		e.Progress, e.HasProgress = m.GetProgress(), true
	}
	if t := m.GetPublishTime(); t != nil {
		e.PublishMs = uint64(max(t.AsTime().UnixMilli(), 0))
	}
	if m.GetResult() != nil {
		text, err := protojson.Marshal(m.GetResult())
		if err != nil {
			text = []byte("null") // NaN and infinities, which no router sends
		}
		e.Result = string(text)
	}
	return e, nil
}

// appendGap appends a gap. It has no id: the browser resumes where it was.
func appendGap(b []byte, sse bool, g *eventbusv1.Gap) []byte {
	body := struct {
		Reason   string `json:"reason"`
		OldestID string `json:"oldest_id,omitempty"`
		JobID    string `json:"job_id,omitempty"`
	}{g.GetReason().String(), g.GetOldestId(), g.GetJobId()}
	return appendNotice(b, sse, "gap", body)
}

// appendError appends the error that ends a stream, without an id.
func appendError(b []byte, sse bool, st *status.Status) []byte {
	return appendNotice(b, sse, "error", json.RawMessage(statusJSON(st)))
}

func appendNotice(b []byte, sse bool, name string, body any) []byte {
	text, err := json.Marshal(body)
	if err != nil { // strings and valid JSON: it cannot fail
		text = []byte("{}")
	}
	if sse {
		return fmt.Appendf(b, "event: %s\ndata: %s\n\n", name, text)
	}
	return fmt.Appendf(b, "{%q:%s}\n", name, text)
}

// appendOpening appends what every stream begins with, so that headers and
// proxies' buffers move at once.
func appendOpening(b []byte, sse bool) []byte {
	if sse {
		return append(appendRetry(b, retryMillis), ": subscribed\n\n"...)
	}
	return append(b, '\n')
}

func appendKeepalive(b []byte, sse bool) []byte {
	if sse {
		return append(b, ": keepalive\n\n"...)
	}
	return append(b, '\n')
}

// appendCursor appends an id without data: the browser keeps it and dispatches
// nothing.
func appendCursor(b []byte, id string) []byte {
	b = append(b, "id: "...)
	b = append(b, id...)
	return append(b, "\n\n"...)
}

// appendAway appends what sends a browser away for a while.
func appendAway(b []byte, millis int) []byte {
	return append(appendRetry(b, millis), '\n')
}

func appendRetry(b []byte, millis int) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, int64(millis), 10)
	return append(b, '\n')
}

// awayMillis spreads those that are sent away.
func awayMillis() int { return minAway + rand.IntN(maxAway-minAway+1) }
