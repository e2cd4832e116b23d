package router

import (
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"github.com/eco2-team/eventbus/router/event"
)

// announcement is what a job's channel carries: events that are neighbours in the
// job log, and the ID before them ("0": none), so that a hole shows at once.
type announcement struct {
	domain string
	jobID  string
	prev   event.ID
	events []*event.Event
}

// append encodes it, with each event's JSON in texts.
func (a *announcement) append(b []byte) []byte {
	b = append(b, `{"domain":"`...)
	b = append(b, a.domain...) // domains and job ids need no escaping
	b = append(b, `","job_id":"`...)
	b = append(b, a.jobID...)
	b = append(b, `","prev":"`...)
	b = appendPrev(b, a.prev)
	b = append(b, `","events":[`...)
	for i, e := range a.events {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.AppendJSON(b)
	}
	return append(b, "]}"...)
}

func appendPrev(b []byte, id event.ID) []byte {
	if id.IsZero() {
		return append(b, '0')
	}
	return id.Append(b)
}

func parsePrev(s string) (event.ID, error) {
	if s == "0" {
		return event.ID{}, nil
	}
	return event.ParseID(s)
}

// heard is an announcement as a hub gets it: its events stay text.
type heard struct {
	domain string
	jobID  string
	prev   event.ID
	events []event.Text
}

// parseAnnouncement reads what append wrote. Its events' text is passed on to
// browsers as it is, so this is where it is checked.
func parseAnnouncement(data string) (heard, error) {
	if !gjson.Valid(data) {
		return heard{}, errors.New("announcement: not JSON")
	}
	var h heard
	var prev string
	var err error
	gjson.Parse(data).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "domain":
			h.domain = v.Str
		case "job_id":
			h.jobID = v.Str
		case "prev":
			prev = v.Str
		case "events":
			h.events, err = parseTexts(v)
		}
		return err == nil
	})
	if err == nil {
		h.prev, err = parsePrev(prev)
	}
	if err != nil {
		return heard{}, fmt.Errorf("announcement of job %q: %w", h.jobID, err)
	}
	return h, nil
}

func parseTexts(list gjson.Result) (texts []event.Text, err error) {
	if list.Type == gjson.Null {
		return nil, nil
	}
	if !list.IsArray() {
		return nil, errors.New("events are not a list")
	}
	list.ForEach(func(_, v gjson.Result) bool {
		var t event.Text
		if t, err = event.ParseText(v.Raw); err == nil && t.ID.IsZero() {
			err = errors.New("an event has no id")
		}
		texts = append(texts, t)
		return err == nil
	})
	return texts, err
}
