package server

import (
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
)

// fromProto takes what a publisher may set. m must have passed the validator; it
// must not be changed afterwards, because its attributes are shared.
func fromProto(m *eventbusv1.Event) *event.Event {
	e := &event.Event{
		Domain:      m.GetDomain(),
		JobID:       m.GetJobId(),
		Stage:       m.GetStage(),
		Status:      m.GetStatus(),
		Message:     m.GetMessage(),
		Content:     m.GetContent(),
		Attributes:  m.GetAttributes(),
		Final:       m.GetFinal(),
		Traceparent: m.GetTraceparent(),
	}
	if m.Progress != nil {
		e.Progress, e.HasProgress = m.GetProgress(), true
	}
	if m.GetResult() != nil {
		e.Result = string(appendJSON(nil, m.GetResult()))
	}
	return e
}

// toProto is the event as subscribers get it. The message shares the event's
// strings and attributes and is only to be encoded. Entries of legacy workers may
// hold any bytes, a proto string only UTF-8: the rest becomes U+FFFD.
func toProto(e *event.Event) *eventbusv1.Event {
	t := e.PublishTime()
	m := &eventbusv1.Event{
		Id:          e.ID.String(),
		Domain:      validUTF8(e.Domain),
		JobId:       validUTF8(e.JobID),
		Seq:         e.Seq,
		Stage:       validUTF8(e.Stage),
		Status:      validUTF8(e.Status),
		Message:     validUTF8(e.Message),
		Content:     validUTF8(e.Content),
		Attributes:  validAttributes(e.Attributes),
		Final:       e.Final,
		PublishTime: &timestamppb.Timestamp{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())},
		Traceparent: validUTF8(e.Traceparent),
	}
	if e.HasProgress {
		m.Progress = &e.Progress
	}
	if e.Result != "" {
		m.Result = parseJSON(e.Result)
	}
	return m
}

// validAttributes is m itself where it is fit for a proto map.
func validAttributes(m map[string]string) map[string]string {
	fit := true
	for k, v := range m {
		fit = fit && utf8.ValidString(k) && utf8.ValidString(v)
	}
	if fit {
		return m
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[validUTF8(k)] = validUTF8(v)
	}
	return out
}

func gapToProto(g *event.Gap) *eventbusv1.Gap {
	if g == nil {
		return nil
	}
	return &eventbusv1.Gap{Reason: eventbusv1.Gap_Reason(g.Reason), OldestId: idText(g.Oldest)}
}

// idText is empty for the zero ID, which is no entry's.
func idText(id event.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// wireBound is at least what the event takes on the wire, in bytes, without
// encoding it. JSON text grows at most 5.5 times as a Value: "1," is 11 bytes.
func wireBound(e *event.Event) int { return e.Size() + 5*len(e.Result) }
