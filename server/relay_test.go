package server

import (
	"context"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	"github.com/eco2-team/eventbus/router/access"
)

// What is wrong with one job is its own end; events come as text; the drain ends
// the stream. So it is by gRPC and within the process.
func TestRelay_JobsEndAloneAndTheDrainEndsAll(t *testing.T) {
	r := newRig(t)
	ids := r.publish(t, scanEvent("j", "a"), scanEvent("j", "b"), finalEvent("j"))
	r.projected(t, 3)
	for name, client := range map[string]relayv1.RelayServiceClient{"grpc": relayv1.NewRelayServiceClient(r.conn), "inside": r.server.Inside()} {
		s, err := client.Relay(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if m, err := s.Recv(); err != nil || len(m.GetWords()) != 0 {
			t.Fatalf("%s: the first word is %v, %v", name, m, err)
		}
		err = s.Send(&relayv1.RelayRequest{Adds: []*relayv1.Add{
			{Handle: 1, Domain: "scan", JobId: "j"}, {Handle: 2, Domain: "nope", JobId: "j"},
			{Handle: 3, Domain: "scan", JobId: "j", AfterId: ids[2]}, {Handle: 4, Domain: "scan", JobId: "other"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		ends, opened, text := map[uint64]codes.Code{}, map[uint64]bool{}, ""
		for len(ends) < 3 || !opened[4] {
			m, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range m.GetWords() {
				opened[w.GetHandle()] = opened[w.GetHandle()] || w.GetOpened()
				for _, e := range w.GetEvents() {
					text += string(e.GetJson()[e.GetStageStart():e.GetStageEnd()]) + " "
				}
				if w.GetEnd() != nil {
					st := new(spb.Status)
					if err := proto.Unmarshal(w.GetEnd().GetStatus(), st); err != nil {
						t.Fatal(err)
					}
					ends[w.GetHandle()] = codes.Code(st.GetCode())
				}
			}
		}
		if ends[1] != codes.OK || ends[2] != codes.InvalidArgument || ends[3] != codes.OutOfRange || opened[2] || opened[3] || !opened[1] || text != "a b done " {
			t.Errorf("%s: ends %v, opened %v, events %q", name, ends, opened, text)
		}
		defer func() { // after the drain
			for {
				if _, err := s.Recv(); err != nil {
					if status.Code(err) != codes.Unavailable {
						t.Errorf("%s ended with %v", name, err)
					}
					return
				}
			}
		}()
	}
	r.server.Stop(t.Context())
}

// A relay asks for each job whether the edge's token may have it. The one that it may
// not is its own end, the others go on; when the token ends, all end.
func TestRelay_EachJobNeedsAGrantOfTheEdgesToken(t *testing.T) {
	t.Parallel() // it waits
	r := newRig(t, guarded(t))
	client := relayv1.NewRelayServiceClient(r.conn)
	for name, ctx := range map[string]context.Context{"no token": testContext(t), "another's token": bearing(testContext(t), "x.y.z")} {
		s, err := client.Relay(ctx)
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := client.Relay(mint(t, time.Now().Add(-access.Leeway+6*time.Second), []string{"scan/mine"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&relayv1.RelayRequest{Adds: []*relayv1.Add{
		{Handle: 1, Domain: "scan", JobId: "mine"}, {Handle: 2, Domain: "scan", JobId: "other"}, {Handle: 3, Domain: "chat", JobId: "mine"},
	}}); err != nil {
		t.Fatal(err)
	}
	opened, ends := map[uint64]bool{}, map[uint64]codes.Code{}
	for err == nil {
		var m *relayv1.RelayResponse
		if m, err = s.Recv(); err != nil {
			break
		}
		for _, w := range m.GetWords() {
			opened[w.GetHandle()] = opened[w.GetHandle()] || w.GetOpened()
			if w.GetEnd() != nil {
				st := new(spb.Status)
				if err := proto.Unmarshal(w.GetEnd().GetStatus(), st); err != nil {
					t.Fatal(err)
				}
				ends[w.GetHandle()] = codes.Code(st.GetCode())
			}
		}
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("with its token the stream ended with %v", err)
	}
	if !opened[1] || opened[2] || opened[3] || ends[1] != codes.OK || ends[2] != codes.PermissionDenied || ends[3] != codes.PermissionDenied {
		t.Errorf("opened %v, ends %v", opened, ends)
	}
}
