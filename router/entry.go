package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/eco2-team/eventbus/router/event"
)

// The entry format: flat string fields, as legacy workers write them. A field
// "final" marks an entry of the bus; without it the entry is a legacy one.

// entry is one entry of a stream as Redis returned it: field, value, field …
type entry struct {
	id     event.ID
	fields []string
}

// get returns the value of the last field of that name.
func (en entry) get(name string) (string, bool) {
	for i := len(en.fields) - 2; i >= 0; i -= 2 {
		if en.fields[i] == name {
			return en.fields[i+1], true
		}
	}
	return "", false
}

func (en entry) size() int {
	n := 0
	for _, f := range en.fields {
		n += len(f)
	}
	return n
}

// parseEntries reads the reply of XRANGE and its kin.
func parseEntries(reply any) ([]entry, error) {
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("redis: a list of entries is %T", reply)
	}
	out := make([]entry, 0, len(list))
	for _, item := range list {
		pair, ok := item.([]any)
		if !ok || len(pair) != 2 {
			return nil, fmt.Errorf("redis: an entry is %T", item)
		}
		idText, _ := pair[0].(string)
		id, err := event.ParseID(idText)
		if err != nil {
			return nil, fmt.Errorf("redis: %w", err)
		}
		fields, ok := pair[1].([]any)
		if !ok {
			return nil, fmt.Errorf("redis: the fields of entry %s are %T", id, pair[1])
		}
		en := entry{id: id, fields: make([]string, len(fields)&^1)}
		for i := range en.fields {
			en.fields[i], _ = fields[i].(string)
		}
		out = append(out, en)
	}
	return out, nil
}

// appendShardFields appends the fields of an event in the shard log, as a command's
// arguments; ts is when it was published. The legacy ones are always there, because
// other readers of the stream expect them.
func appendShardFields(f []any, e *event.Event, ts string) []any {
	f = append(f, "job_id", e.JobID, "stage", e.Stage, "status", e.Status, "seq", "0",
		"ts", ts, "progress", progressText(e), "result", e.Result, "final", boolText(e.Final))
	return appendOptional(f, e)
}

// appendShardValues appends what publish.lua makes the same fields of.
func appendShardValues(f []any, e *event.Event, ts string) []any {
	f = append(f, e.JobID, e.Stage, e.Status, ts, progressText(e), e.Result, 0)
	head := len(f)
	f = appendOptional(f, e)
	f[head-1] = len(f) - head
	return f
}

func progressText(e *event.Event) string {
	if !e.HasProgress {
		return ""
	}
	return strconv.Itoa(int(e.Progress))
}

// appendLogFields appends the fields of an event in the job log, besides seq, final
// and bytes, which the projection script writes.
func appendLogFields(f []any, e *event.Event) []any {
	f = append(f, "stage", e.Stage, "status", e.Status)
	if e.HasProgress {
		f = append(f, "progress", strconv.Itoa(int(e.Progress)))
	}
	if e.Result != "" {
		f = append(f, "result", e.Result)
	}
	return appendOptional(f, e)
}

func appendOptional(f []any, e *event.Event) []any {
	if e.Message != "" {
		f = append(f, "message", e.Message)
	}
	if e.Content != "" {
		f = append(f, "content", e.Content)
	}
	if len(e.Attributes) > 0 {
		f = append(f, "attributes", string(event.AppendAttributes(nil, e.Attributes)))
	}
	if e.Traceparent != "" {
		f = append(f, "traceparent", e.Traceparent)
	}
	return f
}

// texts turns arguments that are strings all into fields.
func texts(args []any) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i], _ = a.(string)
	}
	return out
}

func boolText(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// parseShardEntry reads an entry of a shard log. An error means a dead letter:
// the job_id or the stage is bad.
func parseShardEntry(domain string, en entry) (*event.Event, error) {
	e := &event.Event{ID: en.id, Domain: domain, PublishMs: en.id.Ms}
	mark, _ := en.get("final")
	bus := mark == "0" || mark == "1"
	e.JobID, _ = en.get("job_id")
	e.Stage, _ = en.get("stage")
	if !event.ValidJobID(e.JobID) {
		return nil, errors.New(event.Violate("job_id", e.JobID, event.JobIDRule).String())
	}
	if bus && !event.ValidStage(e.Stage) {
		return nil, errors.New(event.Violate("stage", e.Stage, event.StageRule).String())
	}
	if e.Stage == "" {
		return nil, errors.New(event.Violate("stage", e.Stage, "must not be empty").String())
	}
	e.Stage = validText(e.Stage)
	for i := 0; i+1 < len(en.fields); i += 2 {
		setField(e, en.fields[i], en.fields[i+1], bus)
	}
	if !bus {
		e.Final = e.Stage == "done" || e.Status == "failed"
	}
	return e, nil
}

// parseLogEntry reads an entry of a job log.
func parseLogEntry(domain, jobID string, en entry) (*event.Event, error) {
	e := &event.Event{ID: en.id, Domain: domain, JobID: jobID, PublishMs: en.id.Ms}
	for i := 0; i+1 < len(en.fields); i += 2 {
		name, v := en.fields[i], en.fields[i+1]
		switch name {
		case "stage":
			e.Stage = v
		case "seq":
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("job log: entry %s: seq %q", en.id, v)
			}
			e.Seq = uint32(n)
		case "orig":
			if orig, err := event.ParseID(v); err == nil {
				e.PublishMs = orig.Ms
			}
		case "bytes":
		default:
			setField(e, name, v, true)
		}
	}
	if e.Seq == 0 {
		return nil, fmt.Errorf("job log: entry %s has no seq", en.id)
	}
	return e, nil
}

// setField takes one field over. A bad optional field becomes an attribute, and
// so does one that the bus does not know.
func setField(e *event.Event, name, v string, bus bool) {
	if v == "" {
		return
	}
	v = validText(v)
	switch name {
	case "job_id", "stage", "seq", "ts":
	case "status":
		e.Status = v
	case "message":
		e.Message = v
	case "content":
		e.Content = v
	case "traceparent":
		e.Traceparent = v
	case "progress":
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 0 || n > 100 {
			setAttribute(e, name, v)
			return
		}
		e.Progress, e.HasProgress = int32(n), true
	case "result":
		if !event.ValidResult(v) {
			quoted, _ := json.Marshal(v) // a string always encodes
			v = string(quoted)
		}
		e.Result = v
	case "final":
		if !bus {
			setAttribute(e, name, v)
			return
		}
		e.Final = v == "1"
	case "attributes":
		var m map[string]string
		if !bus || json.Unmarshal([]byte(v), &m) != nil {
			setAttribute(e, name, v)
			return
		}
		if e.Attributes == nil {
			e.Attributes = m
		} else {
			maps.Copy(e.Attributes, m)
		}
	default:
		setAttribute(e, name, v)
	}
}

func setAttribute(e *event.Event, name, v string) {
	if e.Attributes == nil {
		e.Attributes = make(map[string]string)
	}
	e.Attributes[validText(name)] = v
}

// validText replaces what is not UTF-8, which neither JSON nor protobuf carries.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
