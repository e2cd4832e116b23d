package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// subscriber follows a job until it is over, over as many connections as that
// takes.
type subscriber struct {
	run  *run
	view *view
	// restless ones cut their connection every now and then.
	restless bool
	// connect follows the job for one connection and tells whether it is over.
	connect func(ctx context.Context, s *subscriber) (over bool)
}

// follow returns when the job is over for the subscriber, or ctx ends.
func (s *subscriber) follow(ctx context.Context) {
	for ctx.Err() == nil {
		life, cancel := ctx, context.CancelFunc(func() {})
		if s.restless {
			life, cancel = context.WithTimeout(ctx, time.Duration(50+rand.IntN(900))*time.Millisecond)
		}
		over := s.connect(life, s)
		cancel()
		if over {
			return
		}
		// A browser waits for its retry time; this one is impatient.
		select {
		case <-time.After(time.Duration(20+rand.IntN(200)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// silenceLimit is how long a gRPC subscriber waits for a heartbeat. A browser
// waits for ever.
const silenceLimit = 3 * heartbeat

// byGRPC is one Subscribe stream.
func byGRPC(ctx context.Context, s *subscriber) (over bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silenceLimit, cancel)
	defer watchdog.Stop()
	j := s.view.job
	stream, err := s.run.client.Subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: j.domain, JobId: j.id, AfterId: s.view.cursor()})
	for err == nil {
		var m *eventbusv1.SubscribeResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		watchdog.Reset(silenceLimit)
		if g := m.GetGap(); g != nil {
			s.view.gap(g.GetReason().String())
		}
		for _, e := range m.GetEvents() {
			n, _ := strconv.Atoi(e.GetContent())
			s.view.event(received{id: e.GetId(), n: n, seq: int(e.GetSeq()), final: e.GetFinal()})
		}
	}
	if ctx.Err() != nil {
		return false
	}
	switch {
	case errors.Is(err, io.EOF), status.Code(err) == codes.OutOfRange:
		if !s.view.ended() {
			s.view.wrong("the stream ended (%v) before the final event, after %s", err, s.view.cursor())
		}
		return true
	default:
		s.run.answers.add("subscribe", err)
		return s.view.ended()
	}
}

// bySSE is one connection of an EventSource, to any edge.
func bySSE(ctx context.Context, s *subscriber) (over bool) {
	addr := s.run.https[rand.IntN(len(s.run.https))]
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+s.view.job.path(), http.NoBody)
	if err != nil {
		s.view.wrong("%v", err)
		return true
	}
	r.Header.Set("Accept", "text/event-stream")
	if id := s.view.cursor(); id != "" {
		r.Header.Set("Last-Event-ID", id)
	}
	resp, err := s.run.plain.Do(r)
	if err != nil {
		return false // the edge is away: a browser tries again
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent:
		if !s.view.ended() {
			s.view.wrong("204 before the final event, after %q", s.view.cursor())
		}
		return true
	default:
		s.view.wrong("status %d: a browser never comes back", resp.StatusCode)
		return false
	}
	f := frames{in: bufio.NewReader(resp.Body)}
	for f.next() {
		s.frame(&f)
	}
	return false // a browser comes back until it is told 204
}

// frame is what a browser does with one.
func (s *subscriber) frame(f *frames) {
	switch {
	case f.data == "":
	case f.event == "gap":
		s.view.gap(f.data)
	case f.event == "error":
		s.run.answers.note("error frame " + f.data)
	default:
		var e struct {
			ID      string `json:"id"`
			Seq     int    `json:"seq"`
			Content string `json:"content"`
			Final   bool   `json:"final"`
		}
		if err := json.Unmarshal([]byte(f.data), &e); err != nil || e.ID != f.id {
			s.view.wrong("frame %+v: %v", f, err)
			return
		}
		n, _ := strconv.Atoi(e.Content)
		s.view.event(received{id: e.ID, n: n, seq: e.Seq, final: e.Final})
	}
}

// frames reads a stream of Server-Sent Events.
type frames struct {
	in              *bufio.Reader
	id, event, data string
}

// next waits for a whole frame; an incomplete one is none, as in a browser.
func (f *frames) next() bool {
	f.id, f.event, f.data = "", "", ""
	for some := false; ; {
		line, err := f.in.ReadString('\n')
		if err != nil {
			return false
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if some {
				return true
			}
			continue
		}
		some = true
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			f.id = value
		case "event":
			f.event = value
		case "data":
			f.data += value
		}
	}
}
