package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eco2-team/eventbus/edge"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// heap is what a process has reserved and uses, after a collection.
func heap(t testing.TB, n *node) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const collected = "/debug/pprof/heap?gc=1&debug=1"
	get(ctx, n.admin, collected) // what a pool holds is freed by the second
	_, text := get(ctx, n.admin, collected)
	m := regexp.MustCompile(`# HeapAlloc = (\d+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s tells no heap", n.name)
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// perStream is what a gRPC stream whose client does not read may hold: a batch of
// 1 MiB, as events, as a message, and encoded. ring is what a job's topic has.
const perStream, ring = 5 << 20, 1 << 20

// large is a job whose events fill every buffer on their way: 32 KiB each.
const large, largeEvents = 32 << 10, 400

func (r *run) publishLarge(j *job) {
	r.t.Helper()
	p := &publisher{run: r, job: j, pace: time.Millisecond, n: largeEvents, batch: 10, size: large}
	p.publish(r.ctx)
	if j.final.Load() != largeEvents {
		r.t.Fatal("the job was not published")
	}
}

// wantEnd waits until the views have their job's end.
func (r *run) wantEnd(views ...*view) {
	r.t.Helper()
	r.await("subscribers have their job's end", func() bool {
		for _, v := range views {
			if !v.ended() {
				return false
			}
		}
		return true
	})
}

// A Pub/Sub Redis that is slow, or that cuts off its subscribers because they are,
// costs time: the head check delivers. The probe tells, and nobody has to act.
func TestBackpressure_SlowPubSubIsADelayThatEndsByItself(t *testing.T) {
	t.Parallel()
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 1, 1)
	r := newRun(t, w)
	r.padding = strings.Repeat("x", large)
	r.start(usual())
	n := w.routers[0]

	top.pubsub.each("CLIENT", "PAUSE", 10_000, "ALL") // time for the probe, and to see what it says
	r.await("the probe tells", func() bool {
		_, text := n.readyz(r.ctx)
		return strings.HasPrefix(text, "degraded") && n.metric(t, "eventbus_degraded") == 1
	})
	r.flows() // without it
	r.answersReady("ok")
	if n.metric(t, "eventbus_probe_failures_total") == 0 || n.metric(t, "eventbus_head_repairs_total") == 0 {
		t.Error("neither a failed probe nor a repair was counted")
	}

	// Now each announcement of a large event is more than a subscriber may have
	// waiting, and Redis cuts it off.
	repairs := n.metric(t, "eventbus_head_repairs_total")
	top.pubsub.each("CONFIG", "SET", "client-output-buffer-limit", "pubsub 2048 1024 1")
	j := newJob("scan")
	r.jobs = append(r.jobs, j)
	views := []*view{r.watch(j, "gRPC of a large job", false, byGRPC), r.watch(j, "SSE of a large job", false, bySSE)}
	r.publishLarge(j)
	r.wantEnd(views...)
	if n.metric(t, "eventbus_head_repairs_total") == repairs {
		t.Error("nothing was repaired: was nobody cut off?")
	}
	top.pubsub.each("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")
	r.answersReady("ok")
	mustBeWhole(t, r.end(true))
}

// Subscribers that stop reading lose nothing when they go on. Those that never do are
// cut: SSE by the time that a write may take, gRPC with its connection's age. Until
// then they cost a bounded amount of memory, and nobody else anything.
func TestBackpressure_SlowSubscribersLoseNothingAndCostLittle(t *testing.T) {
	t.Parallel()
	const stuck = 10
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 1, 1, settings{"MAX_CONNECTION_AGE": "4s"})
	router, edgeNode := w.routers[0], w.edges[0]
	r := newRun(t, w)
	r.padding = strings.Repeat("x", large)
	j := newJob("scan")
	r.jobs = append(r.jobs, j)
	good := []*view{r.watch(j, "gRPC", false, byGRPC), r.watch(j, "SSE", false, bySSE)}

	// gRPC, on a connection of their own: they read the first message and no more.
	conn, err := edge.Dial("127.0.0.11:" + w.port)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t, conn)
	for range stuck {
		s, err := eventbusv1.NewEventBusServiceClient(conn).Subscribe(r.ctx, &eventbusv1.SubscribeRequest{Domain: j.domain, JobId: j.id})
		if err == nil {
			_, err = s.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// SSE: they read nothing.
	socks := make([]net.Conn, stuck)
	for i := range socks {
		c, err := new(net.Dialer).DialContext(r.ctx, "tcp4", w.https[0])
		if err == nil {
			_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: edge\r\nAccept: text/event-stream\r\n\r\n", j.path())
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		socks[i] = c
	}
	r.await("all streams are open", func() bool { return edgeNode.metric(t, "eventbus_edge_streams") >= stuck+1 })
	routerHeap, edgeHeap := heap(t, router), heap(t, edgeNode)
	// These two read nothing while all is published, and then go on.
	goOn := make(chan struct{})
	later := []*view{r.watch(j, "gRPC that rests", false, restingGRPC(goOn)), r.watch(j, "SSE that rests", false, restingSSE(goOn))}

	r.publishLarge(j)
	r.wantEnd(good...)
	if grown := heap(t, router) - routerHeap; grown > stuck*perStream {
		t.Errorf("%d gRPC subscribers that do not read hold %.0f KiB in the router", stuck, grown/1024)
	} else {
		t.Logf("%d gRPC subscribers that do not read hold %.0f KiB in the router", stuck, grown/1024)
	}
	if grown := heap(t, edgeNode) - edgeHeap; grown > stuck*perStream/4 {
		t.Errorf("%d browsers that do not read hold %.0f KiB in the edge", stuck, grown/1024)
	} else {
		t.Logf("%d browsers that do not read hold %.0f KiB in the edge", stuck, grown/1024)
	}
	close(goOn)
	r.wantEnd(later...)
	r.await("browsers that do not read are cut", func() bool {
		return edgeNode.metric(t, "eventbus_edge_write_timeouts_total") >= stuck && edgeNode.metric(t, "eventbus_edge_streams") == 0
	})
	r.await("gRPC streams that do not read are cut", func() bool { return router.metric(t, "eventbus_grpc_streams", `rpc="Subscribe"`) == 0 })
	r.drain()
	mustBeWhole(t, r.judge())
}

// restingGRPC joins by gRPC, reads nothing until goOn, and then the rest.
func restingGRPC(goOn <-chan struct{}) func(context.Context, *subscriber) bool {
	first := true
	return func(ctx context.Context, s *subscriber) bool {
		if !first {
			return byGRPC(ctx, s)
		}
		first = false
		stream, err := s.run.client.Subscribe(ctx, &eventbusv1.SubscribeRequest{Domain: s.view.job.domain, JobId: s.view.job.id})
		if err != nil {
			return false
		}
		<-goOn
		for {
			m, err := stream.Recv()
			if err != nil {
				return s.view.ended() // it may have been cut meanwhile: it comes back
			}
			for _, e := range m.GetEvents() {
				n, _ := strconv.Atoi(e.GetContent())
				s.view.event(received{id: e.GetId(), n: n, seq: int(e.GetSeq()), final: e.GetFinal()})
			}
		}
	}
}

// restingSSE is the same by SSE.
func restingSSE(goOn <-chan struct{}) func(context.Context, *subscriber) bool {
	first := true
	return func(ctx context.Context, s *subscriber) bool {
		if !first {
			return bySSE(ctx, s)
		}
		first = false
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", s.run.https[0])
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		defer context.AfterFunc(ctx, func() { _ = c.Close() })()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: edge\r\nAccept: text/event-stream\r\n\r\n", s.view.job.path()); err != nil {
			return false
		}
		<-goOn
		in := bufio.NewReader(c)
		for line := "status"; strings.TrimSpace(line) != ""; {
			if line, err = in.ReadString('\n'); err != nil {
				return false
			}
		}
		for f := (frames{in: in}); f.next(); {
			s.frame(&f)
		}
		return false
	}
}

// An edge that stands still costs its router a bounded amount of memory, and when it
// goes on, its browsers get everything.
func TestBackpressure_SlowEdgeCostsARouterLittle(t *testing.T) {
	t.Parallel()
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 1, 1)
	r := newRun(t, w)
	r.padding = strings.Repeat("x", large)
	jobs := []*job{newJob("scan"), newJob("chat"), newJob("scan")}
	var views []*view
	for _, j := range jobs {
		r.jobs = append(r.jobs, j)
		views = append(views, r.watch(j, "SSE", false, bySSE))
	}
	r.await("all streams are open", func() bool { return w.edges[0].metric(t, "eventbus_edge_streams") == float64(len(jobs)) })
	before := heap(t, w.routers[0])
	w.check(w.edges[0].signal(sigStop))
	for _, j := range jobs {
		r.publishLarge(j)
	}
	grown := heap(t, w.routers[0]) - before
	w.check(w.edges[0].signal(sigCont))
	t.Logf("%d MiB for an edge that stands still: the router's heap has grown by %.1f MiB", len(jobs)*large*largeEvents>>20, grown/(1<<20))
	if grown > float64(len(jobs)*(perStream+ring)) {
		t.Errorf("%d streams to an edge that stands still hold %.0f KiB", len(jobs), grown/1024)
	}
	r.wantEnd(views...)
	r.drain()
	mustBeWhole(t, r.judge())
}

// Publishers are sent away while a shard's owner is behind, told when to come back,
// and taken again once it is not. Nothing that was acknowledged before is lost.
func TestBackpressure_LagOverTheLimitSendsPublishersAwayForAWhile(t *testing.T) {
	t.Parallel()
	const maxLag = 20
	top := &topology{name: "standalone", streams: newSingle(t), pubsub: newSingle(t)}
	w := newWorld(t, top, 2, 1, settings{"MAX_LAG": strconv.Itoa(maxLag), "LEASE_TTL": "30s"})
	r := newRun(t, w)
	r.padding = strings.Repeat("x", large)
	j := newJob("scan")
	r.jobs = append(r.jobs, j)
	key := shardKey(j)
	label := `shard="` + key[strings.LastIndexByte(key, ':')+1:] + `"`
	owner := -1
	r.await("each router has its share, one of them the shard", func() bool {
		shares := true
		for i, n := range w.routers {
			shares = shares && n.metric(t, "eventbus_shard_owned") == 4
			if n.metric(t, "eventbus_shard_owned", `domain="scan"`, label) == 1 {
				owner = i
			}
		}
		return shares && owner >= 0
	})
	conn, err := edge.Dial(fmt.Sprintf("127.0.0.%d:%s", 12-owner, w.port)) // the other
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t, conn)
	other, client := w.routers[1-owner], eventbusv1.NewEventBusServiceClient(conn)
	v := r.watch(j, "SSE", false, bySSE)
	publish := func(n int, final bool) error {
		p := &publisher{run: r, job: j, size: 8}
		if final {
			p.n = n
		}
		j.sent.Store(int64(n))
		ctx, cancel := context.WithTimeout(r.ctx, patience)
		defer cancel()
		_, err := client.Publish(ctx, p.request(n))
		return err
	}
	w.check(w.routers[owner].signal(sigStop))
	defer func() { w.check(w.routers[owner].signal(sigCont)) }()
	next := 1
	var refused error
	r.await("publishers are sent away", func() bool {
		if refused = publish(next, false); refused == nil {
			j.acked.Store(int64(next))
			next++
		}
		return refused != nil && status.Code(refused) != codes.Unavailable // before it is connected
	})
	st := status.Convert(refused)
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			retry = info
		}
	}
	if st.Code() != codes.ResourceExhausted || retry.GetRetryDelay().AsDuration() <= 0 {
		t.Fatalf("event %d: %v, %v; want RESOURCE_EXHAUSTED and when to come back", next, refused, retry)
	}
	if next <= maxLag {
		t.Errorf("sent away after %d events, MAX_LAG is %d", next-1, maxLag)
	}
	if lag := other.metric(t, "eventbus_shard_lag", `domain="scan"`, label); lag <= maxLag {
		t.Errorf("eventbus_shard_lag is %v", lag)
	}
	w.check(w.routers[owner].signal(sigCont))
	r.await("they are taken again", func() bool { return publish(next, true) == nil })
	j.acked.Store(int64(next))
	j.final.Store(int64(next))
	r.wantEnd(v)
	r.drain()
	mustBeWhole(t, r.judge())
	t.Logf("%d events were taken with MAX_LAG %d", next, maxLag)
}
