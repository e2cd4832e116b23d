package edge

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// fakeRouter speaks the contract's gRPC from memory, on a real port, and fails
// as told.
type fakeRouter struct {
	eventbusv1.UnimplementedEventBusServiceServer
	t    testing.TB
	addr string

	// subscribes, watches, lists, states and relays count calls, subscribes also the
	// jobs of relays; open those that are open now.
	subscribes, watches, lists, states, relays, open atomic.Int64
	// lastSubscribe and lastPublish are the newest requests.
	lastSubscribe atomic.Pointer[eventbusv1.SubscribeRequest]
	lastPublish   atomic.Pointer[eventbusv1.PublishRequest]
	lastWatch     atomic.Pointer[eventbusv1.WatchRequest]

	mu      sync.Mutex
	server  *grpc.Server
	served  chan struct{}
	jobs    map[string][]*eventbusv1.Event
	next    int
	changed chan struct{}
	// fault is asked before each call of the method.
	fault func(method string) error
	// refuseCaller is asked before each call, with its authorization.
	refuseCaller func(method, authorization string) error
	// silent: streams say nothing at all.
	silent bool
	// watch is what a Watch stream sends, in order, before heartbeats; a nil ends it.
	watch []*eventbusv1.WatchResponse
}

const fakeHeartbeat = 50 * time.Millisecond

func newFakeRouter(tb testing.TB) *fakeRouter {
	tb.Helper()
	f := &fakeRouter{t: tb, addr: "127.0.0.1:0", jobs: map[string][]*eventbusv1.Event{}, changed: make(chan struct{})}
	f.start()
	tb.Cleanup(f.stop)
	return f
}

// start serves on the address of before.
func (f *fakeRouter) start() {
	f.t.Helper()
	var l net.Listener
	var err error
	for deadline := time.Now().Add(10 * time.Second); ; {
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", f.addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			f.t.Fatal(err)
		}
	}
	f.addr = l.Addr().String()
	s := grpc.NewServer(grpc.UnaryInterceptor(f.unary), grpc.StreamInterceptor(f.stream), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	eventbusv1.RegisterEventBusServiceServer(s, f)
	relayv1.RegisterRelayServiceServer(s, &fakeRelay{f: f})
	inspectv1.RegisterInspectServiceServer(s, fakeInspect{})
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	f.mu.Lock()
	f.server, f.served = s, served
	f.mu.Unlock()
}

func (f *fakeRouter) unary(ctx context.Context, r any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := f.judge(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return h(ctx, r)
}

func (f *fakeRouter) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := f.judge(s.Context(), info.FullMethod); err != nil {
		return err
	}
	return h(srv, s)
}

func (f *fakeRouter) judge(ctx context.Context, method string) error {
	f.mu.Lock()
	refuse := f.refuseCaller
	f.mu.Unlock()
	service, rpc, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if refuse == nil || service != eventbusv1.EventBusService_ServiceDesc.ServiceName && service != relayv1.RelayService_ServiceDesc.ServiceName {
		return nil
	}
	return refuse(rpc, strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ", "))
}

// stop cuts all connections.
func (f *fakeRouter) stop() {
	f.mu.Lock()
	s, served := f.server, f.served
	f.mu.Unlock()
	s.Stop()
	<-served
}

func (f *fakeRouter) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeRouter) failWith(method string, c codes.Code) {
	f.set(func() {
		f.fault = func(m string) error {
			if m == method {
				return status.Error(c, "as the test wants")
			}
			return nil
		}
	})
}

func (f *fakeRouter) heal() { f.set(func() { f.fault, f.silent = nil, false }) }

func key(domain, job string) string { return domain + "/" + job }

// publish appends events to a job of domain scan; it fills in what the bus sets.
func (f *fakeRouter) publish(job string, events ...*eventbusv1.Event) []string {
	ids := make([]string, 0, len(events))
	f.set(func() {
		for _, e := range events {
			f.next++
			k := key("scan", job)
			e.Id, e.Domain, e.JobId = strconv.Itoa(1_700_000_000_000+f.next)+"-0", "scan", job
			if e.GetSeq() == 0 {
				e.Seq = 1
				if n := len(f.jobs[k]); n > 0 {
					e.Seq = f.jobs[k][n-1].GetSeq() + 1
				}
			}
			e.PublishTime = &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: int32(f.next%1000) * 1_000_000}
			f.jobs[k] = append(f.jobs[k], e)
			ids = append(ids, e.GetId())
		}
	})
	return ids
}

// steps publishes n streaming events and returns their ids.
func (f *fakeRouter) steps(job string, n int) []string {
	events := make([]*eventbusv1.Event, n)
	for i := range events {
		events[i] = &eventbusv1.Event{Stage: "token", Status: "streaming", Content: "t" + strconv.Itoa(i)}
	}
	return f.publish(job, events...)
}

func (f *fakeRouter) finish(job string) string {
	return f.publish(job, &eventbusv1.Event{Stage: "done", Status: "completed", Final: true})[0]
}

// trim drops a job's oldest events; all of them is a lost log.
func (f *fakeRouter) trim(job string, n int) {
	f.set(func() { f.jobs[key("scan", job)] = f.jobs[key("scan", job)][n:] })
}

// page is what follows after, and the gap before it.
func (f *fakeRouter) page(job, after string) (*eventbusv1.Gap, []*eventbusv1.Event, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.jobs[job]
	for i, e := range log {
		if e.GetId() == after {
			return nil, log[i+1:], f.changed
		}
	}
	gap := &eventbusv1.Gap{Reason: eventbusv1.Gap_REASON_LOG_RESET}
	if len(log) > 0 {
		gap.OldestId = log[0].GetId()
		if log[0].GetSeq() > 1 {
			gap.Reason = eventbusv1.Gap_REASON_HISTORY_EXPIRED
		} else if after == "" {
			gap = nil
		}
	} else if after == "" {
		gap = nil
	}
	return gap, log, f.changed
}

func (f *fakeRouter) refuse(method string) error {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault != nil {
		return fault(method)
	}
	return nil
}

// where finds the start of a subscription: after, the first message, and the
// state to send.
func (f *fakeRouter) where(r *eventbusv1.SubscribeRequest) (after string, first *eventbusv1.SubscribeResponse, err error) {
	_, log, _ := f.page(key(r.GetDomain(), r.GetJobId()), "")
	first = &eventbusv1.SubscribeResponse{}
	over := status.Error(codes.OutOfRange, "over")
	if r.GetAfterId() != "" {
		if n := len(log); n > 0 && log[n-1].GetFinal() && log[n-1].GetId() == r.GetAfterId() {
			return "", nil, over
		}
		return r.GetAfterId(), first, nil
	}
	switch r.GetReplay() {
	case eventbusv1.Replay_REPLAY_NONE:
		if n := len(log); n > 0 {
			if log[n-1].GetFinal() {
				return "", nil, over
			}
			first.Cursor = log[n-1].GetId()
		}
	case eventbusv1.Replay_REPLAY_STATE:
		for i := len(log) - 1; i > 0; i-- {
			if log[i].GetStatus() != "streaming" || log[i].GetFinal() {
				first.Cursor = log[i-1].GetId()
				break
			}
		}
	default:
	}
	after = first.GetCursor()
	return after, first, nil
}

// Subscribe implements the contract.
func (f *fakeRouter) Subscribe(r *eventbusv1.SubscribeRequest, s grpc.ServerStreamingServer[eventbusv1.SubscribeResponse]) error {
	f.subscribes.Add(1)
	f.open.Add(1)
	defer f.open.Add(-1)
	f.lastSubscribe.Store(r)
	if err := f.refuse("Subscribe"); err != nil {
		return err
	}
	if r.GetDomain() != "scan" && r.GetDomain() != "chat" {
		return status.Errorf(codes.InvalidArgument, "domain: %q: must be one of DOMAINS", r.GetDomain())
	}
	after, first, err := f.where(r)
	if err != nil {
		return err
	}
	if err := f.speaks(s.Context()); err != nil {
		return err
	}
	if err := s.Send(first); err != nil {
		return err
	}
	beat := time.NewTicker(fakeHeartbeat)
	defer beat.Stop()
	for told := false; ; {
		if err := f.refuse("stream"); err != nil {
			return err
		}
		gap, events, changed := f.page(key(r.GetDomain(), r.GetJobId()), after)
		if told && len(events) == 0 {
			gap = nil
		}
		if gap != nil || len(events) > 0 {
			if err := s.Send(&eventbusv1.SubscribeResponse{Gap: gap, Events: events}); err != nil {
				return err
			}
			told, after = gap != nil, ""
			if n := len(events); n > 0 {
				told, after = false, events[n-1].GetId()
				if events[n-1].GetFinal() {
					return nil
				}
			}
			continue
		}
		select {
		case <-changed:
		case <-beat.C:
			if !f.isSilent() {
				if err := s.Send(&eventbusv1.SubscribeResponse{}); err != nil {
					return err
				}
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// speaks waits for the end of silence.
func (f *fakeRouter) speaks(ctx context.Context) error {
	for {
		f.mu.Lock()
		silent, changed := f.silent, f.changed
		f.mu.Unlock()
		if !silent {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fakeRouter) isSilent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.silent
}

// ListEvents implements the contract.
func (f *fakeRouter) ListEvents(_ context.Context, r *eventbusv1.ListEventsRequest) (*eventbusv1.ListEventsResponse, error) {
	f.lists.Add(1)
	if err := f.refuse("ListEvents"); err != nil {
		return nil, err
	}
	gap, events, _ := f.page(key(r.GetDomain(), r.GetJobId()), r.GetAfterId())
	return &eventbusv1.ListEventsResponse{Gap: gap, Events: events[:min(len(events), int(r.GetPageSize()))]}, nil
}

// Watch implements the contract: it sends the script from its cursor on.
func (f *fakeRouter) Watch(r *eventbusv1.WatchRequest, s grpc.ServerStreamingServer[eventbusv1.WatchResponse]) error {
	f.watches.Add(1)
	f.lastWatch.Store(r)
	if err := f.refuse("Watch"); err != nil {
		return err
	}
	if r.GetCursor() == "1-0,1-0" {
		return status.Error(codes.InvalidArgument, "cursor: must have 4 ids")
	}
	if err := s.Send(&eventbusv1.WatchResponse{Cursor: r.GetCursor()}); err != nil {
		return err
	}
	sent := 0
	f.mu.Lock()
	for i, m := range f.watch {
		if r.GetCursor() != "" && m.GetCursor() == r.GetCursor() {
			sent = i + 1
		}
	}
	f.mu.Unlock()
	beat := time.NewTicker(fakeHeartbeat)
	defer beat.Stop()
	for {
		if err := f.refuse("stream"); err != nil {
			return err
		}
		f.mu.Lock()
		script, changed := f.watch, f.changed
		f.mu.Unlock()
		for ; sent < len(script); sent++ {
			if script[sent] == nil {
				return nil
			}
			if err := s.Send(script[sent]); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-beat.C:
			if err := s.Send(&eventbusv1.WatchResponse{}); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// GetState implements the contract.
func (f *fakeRouter) GetState(_ context.Context, r *eventbusv1.GetStateRequest) (*eventbusv1.GetStateResponse, error) {
	f.states.Add(1)
	if err := f.refuse("GetState"); err != nil {
		return nil, err
	}
	_, log, _ := f.page(key(r.GetDomain(), r.GetJobId()), "")
	for _, e := range slices.Backward(log) {
		if e.GetStatus() != "streaming" || e.GetFinal() {
			return &eventbusv1.GetStateResponse{Event: e}, nil
		}
	}
	return nil, status.Error(codes.NotFound, fmt.Sprintf("job %q has no state", r.GetJobId()))
}

// Publish implements the contract.
func (f *fakeRouter) Publish(_ context.Context, r *eventbusv1.PublishRequest) (*eventbusv1.PublishResponse, error) {
	f.lastPublish.Store(r)
	if err := f.refuse("Publish"); err != nil {
		return nil, err
	}
	return &eventbusv1.PublishResponse{Id: f.publish(r.GetEvent().GetJobId(), r.GetEvent())[0]}, nil
}
