package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the event as the contract shows it to everybody: proto
// names, seq a number, unset fields left out, all on one line. Result is spliced,
// never decoded.
func (e *Event) AppendJSON(b []byte) []byte {
	return e.AppendJSONTail(e.appendJSONToSeq(b))
}

// AppendJSONHead appends what stands between id and seq; AppendJSONTail what
// follows seq. The projection script puts id and seq between them.
func (e *Event) AppendJSONHead(b []byte) []byte {
	b = append(b, `,"domain":`...)
	b = appendString(b, e.Domain)
	b = append(b, `,"job_id":`...)
	b = appendString(b, e.JobID)
	return append(b, `,"seq":`...)
}

// AppendJSONTail appends everything after seq, with the closing brace.
func (e *Event) AppendJSONTail(b []byte) []byte {
	b = append(b, stageHead[:len(stageHead)-1]...)
	b = appendString(b, e.Stage)
	b = appendField(b, `,"status":`, e.Status)
	if e.HasProgress {
		b = append(b, `,"progress":`...)
		b = strconv.AppendInt(b, int64(e.Progress), 10)
	}
	b = appendField(b, `,"message":`, e.Message)
	b = appendField(b, `,"content":`, e.Content)
	if e.Result != "" {
		b = append(b, `,"result":`...)
		b = appendResult(b, e.Result)
	}
	if len(e.Attributes) > 0 {
		b = append(b, `,"attributes":`...)
		b = AppendAttributes(b, e.Attributes)
	}
	if e.Final {
		b = append(b, `,"final":true`...)
	}
	b = append(b, `,"publish_time":"`...)
	b = e.PublishTime().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, '"')
	b = appendField(b, `,"traceparent":`, e.Traceparent)
	return append(b, '}')
}

// AppendAttributes appends the attributes as one JSON object.
func AppendAttributes(b []byte, m map[string]string) []byte {
	b = append(b, '{')
	first := true
	for k, v := range m {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, k)
		b = append(b, ':')
		b = appendString(b, v)
	}
	return append(b, '}')
}

func appendField(b []byte, name, v string) []byte {
	if v == "" {
		return b
	}
	b = append(b, name...)
	return appendString(b, v)
}

// appendResult appends JSON text on one line.
func appendResult(b []byte, result string) []byte {
	if !strings.ContainsAny(result, "\r\n") {
		return append(b, result...)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, []byte(result)); err != nil { // not JSON: a hub never has that
		return appendString(b, result)
	}
	return append(b, line.Bytes()...)
}

const hex = "0123456789abcdef"

// appendString appends s as a JSON string (RFC 8259 section 7). It escapes
// control characters, so that a line of JSON is one line, and replaces bytes
// that are not UTF-8.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

// wire is the JSON of AppendJSON.
type wire struct {
	ID          string            `json:"id"`
	Domain      string            `json:"domain"`
	JobID       string            `json:"job_id"`
	Seq         uint32            `json:"seq"`
	Stage       string            `json:"stage"`
	Status      string            `json:"status"`
	Progress    *int32            `json:"progress"`
	Message     string            `json:"message"`
	Content     string            `json:"content"`
	Result      json.RawMessage   `json:"result"`
	Attributes  map[string]string `json:"attributes"`
	Final       bool              `json:"final"`
	PublishTime publishTime       `json:"publish_time"`
	Traceparent string            `json:"traceparent"`
}

// UnmarshalJSON reads what AppendJSON wrote.
func (e *Event) UnmarshalJSON(data []byte) error {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	id, err := ParseID(w.ID)
	if err != nil {
		return fmt.Errorf("event: id: %w", err)
	}
	*e = Event{
		ID: id, Domain: w.Domain, JobID: w.JobID, Seq: w.Seq, Stage: w.Stage, Status: w.Status,
		Message: w.Message, Content: w.Content, Result: string(w.Result), Attributes: w.Attributes,
		Final: w.Final, Traceparent: w.Traceparent, PublishMs: uint64(w.PublishTime),
	}
	if w.Progress != nil {
		e.Progress, e.HasProgress = *w.Progress, true
	}
	if e.PublishMs == 0 {
		e.PublishMs = id.Ms
	}
	return nil
}

// publishTime is milliseconds since 1970, in JSON an RFC 3339 time.
type publishTime uint64

func (p *publishTime) UnmarshalJSON(data []byte) error {
	var t time.Time
	if err := t.UnmarshalJSON(data); err != nil {
		return err
	}
	*p = publishTime(max(t.UnixMilli(), 0))
	return nil
}
