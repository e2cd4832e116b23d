package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// settings of a process, by the names of their environment variables.
type settings map[string]string

// quick makes what a test waits for come soon.
func quick() settings {
	return settings{
		"HEARTBEAT_INTERVAL": "1s", "HEAD_CHECK_INTERVAL": "1s", "LEASE_TTL": "1s", "PROBE_INTERVAL": "1s", "DRAIN_TIMEOUT": "5s",
	}
}

// node is a process that can be ended and started again where it was.
type node struct {
	*process
	t     testing.TB
	args  []string
	env   settings
	admin string
}

// newNode starts a process and waits until it is ready.
func newNode(t testing.TB, env settings, args ...string) *node {
	t.Helper()
	n := &node{t: t, args: args, env: env, admin: bustest.Address(t)}
	n.env["ADMIN_ADDR"] = n.admin
	n.start()
	n.waitReady()
	return n
}

func (n *node) start() {
	n.t.Helper()
	name := "dev" // the default command
	if len(n.args) > 0 {
		name = n.args[0]
	}
	n.process = run(n.t, name, n.env, n.args...)
}

func (n *node) waitReady() {
	n.t.Helper()
	eventually(n.t, n.name+" is ready", func() bool {
		if !n.Running() {
			n.t.Fatalf("%s has ended, exit code %d", n.name, n.Wait())
		}
		code, _ := n.readyz()
		return code == http.StatusOK
	})
}

// readyz is what the probe says; status 0 where nothing answers.
func (n *node) readyz() (code int, text string) { return get(n.t, n.admin, "/readyz") }

// metric is the sum of a metric's samples whose line holds all of the labels.
func (n *node) metric(name string, labels ...string) float64 {
	n.t.Helper()
	code, text := get(n.t, n.admin, "/metrics")
	if code != http.StatusOK {
		n.t.Fatalf("/metrics of %s: %d", n.name, code)
	}
	sum, found := 0.0, false
lines:
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		if err != nil {
			n.t.Fatal(err)
		}
		sum, found = sum+v, true
	}
	if !found {
		n.t.Fatalf("%s has no metric %s%v", n.name, name, labels)
	}
	return sum
}

// get asks an admin port; status 0 where nothing answers.
func get(t testing.TB, addr, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// bus is a router and an edge on a Redis for the logs and one for announcements.
type bus struct {
	t               testing.TB
	streams, pubsub *redistest.Server // nil where a test brings its own
	router, edge    *node
	grpc, http      string
	calls           rpc
}

// newBus starts all of it; change is applied to the settings of both processes.
func newBus(t testing.TB, change ...settings) *bus {
	t.Helper()
	streams, pubsub := redistest.New(t), redistest.New(t)
	b := newBusOn(t, append([]settings{{"REDIS_STREAMS_URL": streams.URL(), "REDIS_PUBSUB_URL": pubsub.URL()}}, change...)...)
	b.streams, b.pubsub = streams, pubsub
	return b
}

// newBusOn starts a bus on Redis that is there.
func newBusOn(t testing.TB, change ...settings) *bus {
	t.Helper()
	b := &bus{t: t, grpc: bustest.Address(t), http: bustest.Address(t)}
	env := quick()
	for _, c := range change {
		maps.Copy(env, c)
	}
	router := maps.Clone(env)
	maps.Copy(router, settings{"GRPC_ADDR": b.grpc, "POD_NAME": "router-0"})
	b.router = newNode(t, router, "router")
	edge := maps.Clone(env)
	maps.Copy(edge, settings{"HTTP_ADDR": b.http, "ROUTER_ADDR": b.grpc, "HTTP_PUBLISH": "true", "CONSOLE": "true"})
	b.edge = newNode(t, edge, "edge")
	b.calls = newRPC(t, b.grpc)
	return b
}

// in is the bus for a subtest: what fails, fails that, and its connections end with
// it.
func (b *bus) in(t testing.TB) *bus {
	t.Helper()
	sub := *b
	sub.t, sub.calls.t = t, t
	return &sub
}

// url is a page of the edge.
func (b *bus) url(path string) string { return "http://" + b.http + path }

// events is the path of a job's events.
func events(domain, job string) string { return fmt.Sprintf("/api/v1/%s/%s/events", domain, job) }
