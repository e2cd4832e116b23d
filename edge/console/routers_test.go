package console

import (
	"context"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"

	"github.com/eco2-team/eventbus/edge/names"
	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

func TestOverview_AddsUpTheRoutersThatAnswered(t *testing.T) {
	redis := redistest.New(t)
	dns, err := names.Serve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dns.Close() })
	b := &bustest.Bus{Redis: redis, HTTP: bustest.Address(t), Admin: bustest.Address(t)}
	_, port, err := net.SplitHostPort(bustest.Address(t))
	if err != nil {
		t.Fatal(err)
	}
	common := bustest.Settings{"HEARTBEAT_INTERVAL": "1s", "DRAIN_TIMEOUT": "5s"}
	var routers []*bustest.Process
	for i, host := range []string{"127.0.0.1", "127.0.0.2"} { // pods differ by their address, not by their port
		env := bustest.Settings{"REDIS_STREAMS_URL": redis.URL(), "GRPC_ADDR": host + ":" + port, "ADMIN_ADDR": "off", "LEASE_TTL": "1s", "PROBE_INTERVAL": "1s", "POD_NAME": fmt.Sprintf("router-%d", i)}
		maps.Copy(env, common)
		routers = append(routers, bustest.Start(t, env, "router"))
		dns.Add([4]byte{127, 0, 0, byte(i + 1)})
	}
	env := bustest.Settings{"HTTP_ADDR": b.HTTP, "ADMIN_ADDR": b.Admin, "ROUTER_ADDR": dns.Target(port), "CONSOLE": "true", "HTTP_PUBLISH": "true"}
	maps.Copy(env, common)
	b.Process = bustest.Start(t, env, "edge")
	b.WaitReady(t)

	b.GRPC = "127.0.0.1:" + port
	bustest.Eventually(t, "the shards are shared", func() bool {
		return b.Redis.CLI(t, "GET", "router:lease:{scan:events:0}") != b.Redis.CLI(t, "GET", "router:lease:{scan:events:1}")
	})
	w := newWorker(t, b)
	ctx, stop := context.WithCancel(context.Background())
	var working sync.WaitGroup
	for i := range 2 {
		working.Go(func() { w.goOn(ctx, i) })
	}
	t.Cleanup(func() { stop(); working.Wait() })
	p := openConsole(t, b, "")
	for _, hop := range []string{"joblog", "pubsub"} {
		p.says("[data-hop="+hop+"] .quiet", "2 of 2 routers heard")
		// What both count is what Redis counts for both.
		p.until(fmt.Sprintf("(([all, one]) => all > 5 && one > 0.5 * all && one < 2 * all)([%s, %s].map((n) => Number(n.textContent)))", hook("hop-publish-value"), hook("hop-"+hop+"-value")), true)
	}
	p.says("[data-hop=bridge] .quiet", "8 of 8 shards owned")
	p.keys("4")
	p.says("[data-testid=members]", "router-04") // four shards each
	p.says("[data-testid=members]", "router-14")

	routers[1].Kill()
	p.until("document.querySelectorAll('[data-testid=members] tbody tr').length", 1)
	p.says("[data-testid=members]", "router-08")
	p.says("[data-testid=finding]", "One router runs, router-0")
}
