package event

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Text is an event as browsers get it, with what is to be known without decoding
// it: it is encoded once, by the router that projects it, and passed on as it is.
// Like an Event it is shared and must not be changed.
type Text struct {
	ID    ID
	Seq   uint32
	Final bool
	// JSON is one line, without CR and LF.
	JSON []byte
	// StageStart and StageEnd are where the stage stands in JSON. Both are zero
	// where it breaks StageRule.
	StageStart, StageEnd uint32
}

// Size is roughly what the text takes in memory, in bytes.
func (t *Text) Size() int { return 144 + len(t.JSON) }

// Event decodes the text.
func (t *Text) Event() (*Event, error) {
	e := new(Event)
	return e, json.Unmarshal(t.JSON, e)
}

// Text encodes the event.
func (e *Event) Text() Text {
	b := e.appendJSONToSeq(make([]byte, 0, e.Size()))
	t := Text{ID: e.ID, Seq: e.Seq, Final: e.Final}
	if ValidStage(e.Stage) {
		t.StageStart = uint32(len(b) + len(stageHead))
		t.StageEnd = t.StageStart + uint32(len(e.Stage))
	}
	t.JSON = e.AppendJSONTail(b)
	return t
}

// ParseText takes over what AppendJSON wrote; s must be valid JSON. What another
// encoder wrote is decoded and encoded anew where that makes a difference.
func ParseText(s string) (Text, error) {
	if t, ok := parsePlain(s); ok {
		return t, nil
	}
	e := new(Event)
	if err := json.Unmarshal([]byte(s), e); err != nil {
		return Text{}, err
	}
	return e.Text(), nil
}

// parsePlain tells whether each field has its type and the whole is one line.
func parsePlain(s string) (t Text, ok bool) {
	r := gjson.Parse(s)
	if !r.IsObject() || strings.ContainsAny(s, "\r\n") || !utf8.ValidString(s) {
		return Text{}, false
	}
	var err error
	stage := ""
	r.ForEach(func(k, v gjson.Result) bool {
		ok = v.Type == gjson.String
		switch k.Str {
		case "id":
			t.ID, err = ParseID(v.Str)
			ok = ok && err == nil
		case "stage":
			stage = v.Str
			t.StageStart = uint32(v.Index + 1) // after the quote
		case "domain", "job_id", "status", "message", "content", "traceparent":
		case "publish_time":
			_, err = time.Parse(time.RFC3339, v.Str)
			ok = ok && err == nil
		case "seq":
			var n uint64
			n, err = strconv.ParseUint(v.Raw, 10, 32)
			t.Seq, ok = uint32(n), err == nil
		case "progress":
			_, err = strconv.ParseInt(v.Raw, 10, 32)
			ok = err == nil
		case "final":
			t.Final, ok = v.Bool(), v.IsBool()
		case "attributes":
			ok = v.IsObject()
			v.ForEach(func(_, a gjson.Result) bool { ok = ok && a.Type == gjson.String; return ok })
		default: // a result is any JSON, and so is what a later version adds
			ok = true
		}
		return ok
	})
	if !ok || t.ID.IsZero() || stage == "" {
		return Text{}, false
	}
	t.StageEnd = t.StageStart + uint32(len(stage))
	if !ValidStage(stage) {
		t.StageStart, t.StageEnd = 0, 0
	} else if int(t.StageEnd) > len(s) || s[t.StageStart:t.StageEnd] != stage {
		return Text{}, false // escaped
	}
	t.JSON = []byte(s)
	return t, true
}

const stageHead = `,"stage":"`

func (e *Event) appendJSONToSeq(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = e.ID.Append(b)
	b = append(b, '"')
	b = e.AppendJSONHead(b)
	return strconv.AppendUint(b, uint64(e.Seq), 10)
}

// String shows the text in test failures and logs.
func (t *Text) String() string { return fmt.Sprintf("%s #%d %s", t.ID, t.Seq, t.JSON) }
