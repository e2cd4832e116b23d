package edge

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
)

// fakeRelay is the fakeRouter's relay: each job is a Subscribe, in one stream with
// the others.
type fakeRelay struct {
	relayv1.UnimplementedRelayServiceServer
	f *fakeRouter
}

// Relay implements relayv1.RelayServiceServer.
func (r *fakeRelay) Relay(s grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]) error {
	r.f.relays.Add(1)
	if err := r.f.refuse("Relay"); err != nil {
		return err
	}
	out := &fakeOut{stream: s}
	if err := out.send(nil); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.Context())
	var jobs sync.WaitGroup
	defer jobs.Wait()
	defer cancel()
	stops := map[uint64]context.CancelFunc{}
	for {
		m, err := s.Recv()
		if err != nil {
			return nil //nolint:nilerr // the edge is gone
		}
		for _, a := range m.GetAdds() {
			ctx, stop := context.WithCancel(ctx)
			stops[a.GetHandle()] = stop
			jobs.Go(func() {
				defer stop()
				err := r.f.Subscribe(&eventbusv1.SubscribeRequest{Domain: a.GetDomain(), JobId: a.GetJobId(), AfterId: a.GetAfterId()},
					&fakeJob{ctx: ctx, out: out, handle: a.GetHandle()})
				end := &relayv1.End{}
				if err != nil {
					end.Status, _ = proto.Marshal(status.Convert(err).Proto())
				}
				_ = out.send(&relayv1.Word{Handle: a.GetHandle(), End: end})
			})
		}
		for _, h := range m.GetDrops() {
			if stop := stops[h]; stop != nil {
				stop()
			}
		}
	}
}

// fakeOut lets jobs take turns.
type fakeOut struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]
}

func (o *fakeOut) send(w *relayv1.Word) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := &relayv1.RelayResponse{}
	if w != nil {
		m.Words = []*relayv1.Word{w}
	}
	return o.stream.Send(m)
}

// fakeJob is what Subscribe sends to, as words.
type fakeJob struct {
	grpc.ServerStream
	ctx    context.Context
	out    *fakeOut
	handle uint64
	opened bool
}

func (j *fakeJob) Context() context.Context { return j.ctx }

func (j *fakeJob) Send(m *eventbusv1.SubscribeResponse) error {
	if j.ctx.Err() != nil {
		return j.ctx.Err()
	}
	w := &relayv1.Word{Handle: j.handle, Opened: !j.opened, Gap: m.GetGap()}
	for _, e := range m.GetEvents() {
		w.Events = append(w.Events, relayText(e))
	}
	if j.opened && w.GetGap() == nil && len(w.GetEvents()) == 0 {
		w = nil // a heartbeat
	}
	j.opened = true
	return j.out.send(w)
}

// relayText is an event as a router relays it.
func relayText(m *eventbusv1.Event) *relayv1.Text {
	e, err := fromProto(m)
	if err != nil {
		panic(err)
	}
	if e.ID == (event.ID{}) {
		panic("an event without id")
	}
	t := e.Text()
	return &relayv1.Text{
		IdMs: t.ID.Ms, IdSeq: t.ID.Seq, Seq: t.Seq, Final: t.Final, Json: t.JSON, StageStart: t.StageStart, StageEnd: t.StageEnd,
	}
}
