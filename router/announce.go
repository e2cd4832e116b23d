package router

import (
	"encoding/json"
	"fmt"

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

// parseAnnouncement reads what append wrote.
func parseAnnouncement(data []byte) (announcement, error) {
	var w struct {
		Domain string         `json:"domain"`
		JobID  string         `json:"job_id"`
		Prev   string         `json:"prev"`
		Events []*event.Event `json:"events"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return announcement{}, fmt.Errorf("announcement: %w", err)
	}
	prev, err := parsePrev(w.Prev)
	if err != nil {
		return announcement{}, fmt.Errorf("announcement: prev: %w", err)
	}
	for _, e := range w.Events {
		if e == nil {
			return announcement{}, fmt.Errorf("announcement of job %q: an event is null", w.JobID)
		}
	}
	return announcement{w.Domain, w.JobID, prev, w.Events}, nil
}
