package server

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/access"
)

// relayService is eventbus.relay.v1.RelayService: an edge's jobs on one stream. The
// call's goroutine sends, another one receives; what a job says goes on as the text
// that its announcement had.
type relayService struct {
	relayv1.UnimplementedRelayServiceServer
	bus       *router.Bus
	rules     *validator
	errs      *errorMapper
	heartbeat time.Duration
	metrics   streamMetrics
	// receivers are the goroutines that receive; each ends with its stream, which is
	// after its call. Server.Stop waits for them.
	receivers sync.WaitGroup
}

// relayStream is what Relay needs of a stream; inside.go has another one.
type relayStream = grpc.BidiStreamingServer[relayv1.RelayRequest, relayv1.RelayResponse]

// Relay streams what the edge adds.
func (s *relayService) Relay(stream relayStream) error {
	s.metrics.open.Inc()
	defer s.metrics.open.Dec()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	r := s.bus.Relay()
	defer r.Close()
	// With the headers the edge knows that this router speaks relay.
	if err := stream.Send(&relayv1.RelayResponse{}); err != nil {
		return err
	}
	s.receivers.Go(func() { cancel(s.receive(ctx, stream, r)) })
	for {
		words, err := r.Next(ctx, s.heartbeat)
		if err != nil {
			return endOf(err)
		}
		if err := stream.Send(s.response(ctx, words)); err != nil {
			return err
		}
	}
}

// receive takes what the edge asks for, until it is gone: io.EOF.
func (s *relayService) receive(ctx context.Context, stream relayStream, r *router.Relay) error {
	id := identityOf(ctx)
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, a := range m.GetAdds() {
			if err := s.add(id, r, a); err != nil {
				return err
			}
		}
		for _, handle := range m.GetDrops() {
			r.Drop(handle)
		}
	}
}

// add opens a job. What is wrong with one is its own end.
func (s *relayService) add(id *access.Identity, r *router.Relay, a *relayv1.Add) error {
	after, err := s.rules.add(a)
	if err == nil {
		err = id.MaySubscribe(a.GetDomain(), a.GetJobId())
	}
	if err != nil {
		return r.Refuse(a.GetHandle(), err)
	}
	return r.Add(a.GetHandle(), a.GetDomain(), a.GetJobId(), after)
}

// response is the words as a message. They share the texts with the bus, and are
// not to be changed.
func (s *relayService) response(ctx context.Context, words []router.Word) *relayv1.RelayResponse {
	m := &relayv1.RelayResponse{Words: make([]*relayv1.Word, len(words))}
	block := make([]relayv1.Word, len(words))
	total := 0
	for i := range words {
		w, out := &words[i], &block[i]
		m.Words[i] = out
		out.Handle, out.Opened, out.Gap = w.Handle, w.Opened, gapToProto(w.Gap)
		if len(w.Items) > 0 {
			out.Events = relayTexts(w)
			total += len(w.Items)
		}
		if w.Gap != nil {
			s.metrics.gaps.WithLabelValues(w.Gap.Reason.String()).Inc()
		}
		if w.Err != nil {
			out.End = s.end(ctx, w.Err)
		}
	}
	s.metrics.sent.Add(float64(total))
	return m
}

func relayTexts(w *router.Word) []*relayv1.Text {
	out := make([]*relayv1.Text, len(w.Items))
	block := make([]relayv1.Text, len(w.Items))
	for i, it := range w.Items {
		t := it.Value.Text()
		o := &block[i]
		o.IdMs, o.IdSeq, o.Seq, o.Final = t.ID.Ms, t.ID.Seq, t.Seq, t.Final
		o.Json, o.StageStart, o.StageEnd = t.JSON, t.StageStart, t.StageEnd
		out[i] = o
	}
	return out
}

// end is a job's last word; errors are as those of Subscribe.
func (s *relayService) end(ctx context.Context, err error) *relayv1.End {
	if errors.Is(err, io.EOF) {
		return &relayv1.End{}
	}
	st := status.Convert(s.errs.status(ctx, relayv1.RelayService_Relay_FullMethodName, err))
	text, err := proto.Marshal(st.Proto())
	if err != nil { // a status always encodes
		text = nil
	}
	return &relayv1.End{Status: text}
}
