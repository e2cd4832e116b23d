package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/floor"
)

// FloorCommand is the hidden command that runs ServeFloor: a process of its own, so
// that its cost can be measured.
const FloorCommand = "bench-floor"

// FloorConfig is where the floor listens, and its Redis.
type FloorConfig struct {
	HTTPAddr string `name:"http-addr" required:"" help:"Where browsers connect."`
	GRPCAddr string `name:"grpc-addr" required:"" help:"Where callers publish."`
	Redis    string `name:"redis" required:"" help:"Its Redis, redis://…"`
}

// ServeFloor serves, by the same routes as the bus, the least that a server of
// events does: XADD and PUBLISH for each, and to browsers what comes back, encoded
// once. Nothing is kept, repeated, or told. It ends with ctx.
func ServeFloor(ctx context.Context, cfg FloorConfig) error {
	s := &floorServer{jobs: make(map[string]*floorJob)}
	f, err := floor.Open(ctx, cfg.Redis, s.deliver)
	if err != nil {
		return err
	}
	s.floor = f
	rpc, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.GRPCAddr)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	web, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.HTTPAddr)
	if err != nil {
		return errors.Join(err, rpc.Close(), f.Close())
	}
	//nolint:forbidigo // the floor is a measure and no server of the bus
	callers := grpc.NewServer()
	eventbusv1.RegisterEventBusServiceServer(callers, s)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/{domain}/{job}/events", s.serve)
	browsers := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 2)
	go func() { ended <- callers.Serve(rpc) }()
	go func() { ended <- browsers.Serve(web) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	callers.Stop()
	return errors.Join(err, browsers.Close(), f.Close())
}

// floorServer is both sides of the floor.
type floorServer struct {
	eventbusv1.UnimplementedEventBusServiceServer
	floor *floor.Floor

	mu   sync.Mutex // guards jobs, and what is in them
	jobs map[string]*floorJob
}

type floorJob struct {
	seq      uint32
	browsers map[*floorBrowser]struct{}
}

// floorBrowser has room for what is under way; then everybody waits for it.
type floorBrowser struct {
	frames chan []byte
	gone   <-chan struct{}
}

const floorQueue = 256

// Publish implements EventBusServiceServer.
func (s *floorServer) Publish(ctx context.Context, r *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	ids, err := s.floor.Publish(ctx, floorEvent(r.GetEvent()))
	if err != nil {
		return nil, err
	}
	return &eventbusv1.PublishResponse{Id: ids[0]}, nil
}

// PublishBatch implements EventBusServiceServer.
func (s *floorServer) PublishBatch(ctx context.Context, r *eventbusv1.PublishBatchRequest) (*eventbusv1.PublishBatchResponse, error) {
	events := make([]floor.Event, len(r.GetRequests()))
	for i, one := range r.GetRequests() {
		events[i] = floorEvent(one.GetEvent())
	}
	ids, err := s.floor.Publish(ctx, events...)
	if err != nil {
		return nil, err
	}
	out := &eventbusv1.PublishBatchResponse{Responses: make([]*eventbusv1.PublishResponse, len(ids))}
	for i, id := range ids {
		out.Responses[i] = &eventbusv1.PublishResponse{Id: id}
	}
	return out, nil
}

// floorEvent is the JSON of an event from its stage on; id and seq are known later.
func floorEvent(m *eventbusv1.Event) floor.Event {
	e := event.Event{Stage: m.GetStage(), Status: m.GetStatus(), Content: m.GetContent(), PublishMs: uint64(time.Now().UnixMilli())}
	return floor.Event{Job: m.GetJobId(), Payload: e.AppendJSONTail(make([]byte, 0, 128+len(e.Content)))}
}

// deliver encodes an event once and hands it to the job's browsers.
func (s *floorServer) deliver(name string, payload []byte) {
	s.mu.Lock()
	j := s.job(name)
	j.seq++
	seq := strconv.FormatUint(uint64(j.seq), 10)
	to := make([]*floorBrowser, 0, len(j.browsers))
	for b := range j.browsers {
		to = append(to, b)
	}
	s.mu.Unlock()
	frame := make([]byte, 0, len(payload)+len(name)+128)
	frame = fmt.Appendf(frame, "id: %s-0\nevent: %s\ndata: {\"id\":\"%[1]s-0\",\"job_id\":%q,\"seq\":%[1]s", seq, stage, name)
	frame = append(append(frame, payload...), "\n\n"...)
	for _, b := range to {
		select {
		case b.frames <- frame:
		case <-b.gone:
		}
	}
}

// job is the job of a name; the caller holds mu.
func (s *floorServer) job(name string) *floorJob {
	j := s.jobs[name]
	if j == nil {
		j = &floorJob{browsers: make(map[*floorBrowser]struct{})}
		s.jobs[name] = j
	}
	return j
}

// serve is one browser.
func (s *floorServer) serve(w http.ResponseWriter, r *http.Request) {
	b := &floorBrowser{frames: make(chan []byte, floorQueue), gone: r.Context().Done()}
	s.mu.Lock()
	j := s.job(r.PathValue("job"))
	j.browsers[b] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(j.browsers, b)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	if _, err := w.Write([]byte(": subscribed\n\n")); err != nil || flush.Flush() != nil {
		return
	}
	for {
		select {
		case <-b.gone:
			return
		case frame := <-b.frames:
			_, err := w.Write(frame)
			for more := true; more && err == nil; {
				select {
				case frame = <-b.frames:
					_, err = w.Write(frame)
				default:
					more = false
				}
			}
			if err != nil || flush.Flush() != nil {
				return
			}
		}
	}
}

// startFloor starts the floor on a Redis that is given; its process is measured
// with those that are Redis's by name.
func startFloor(ctx context.Context, redisURL string, given []process) (*stack, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &stack{target: target{name: floorName, floor: true}}
	for _, p := range given {
		if strings.Contains(p.name, "redis") {
			s.target.processes = append(s.target.processes, p)
		}
	}
	if s.target.http, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	rpc, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	s.target.grpc = []string{rpc}
	err = s.run(ctx, floorName, self, nil, accepts(s.target.http), FloorCommand,
		"--http-addr="+s.target.http, "--grpc-addr="+rpc, "--redis="+redisURL)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}
