package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tmaxmax/go-sse"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/redistest"
)

// recording is a job in testdata: what its workers write, and what its subscribers
// must get.
type recording struct {
	domain, job string
	commands    string
	want        []map[string]any
}

func load(t testing.TB, domain string) recording {
	t.Helper()
	commands, err := os.ReadFile("testdata/" + domain + ".redis")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/" + domain + ".ndjson")
	if err != nil {
		t.Fatal(err)
	}
	r := recording{domain: domain, commands: string(commands)}
	for line := range bytes.Lines(golden) {
		r.want = append(r.want, object(t, line))
	}
	r.job, _ = r.want[0]["job_id"].(string)
	return r
}

func object(t testing.TB, text []byte) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
}

// xadd writes commands with redis-cli, one after the other, and returns what Redis
// answered: the entries' ids.
func xadd(ctx context.Context, s *redistest.Server, commands string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "redis-cli", "-h", "127.0.0.1", "-p", strconv.Itoa(s.Port()))
	cmd.Stdin = strings.NewReader(commands)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("redis-cli (Debian package redis-tools): %w\n%s", err, out)
	}
	return strings.Fields(string(out)), nil
}

// received is what one subscriber got: ids, and the events without what Redis
// decides.
type received struct {
	ids    []string
	events []map[string]any
	err    error
}

func (r *received) add(text []byte) {
	var o map[string]any
	if err := json.Unmarshal(text, &o); err != nil {
		r.err = fmt.Errorf("%s: %w", text, err)
		return
	}
	id, _ := o["id"].(string)
	if _, ok := o["publish_time"]; !ok {
		r.err = fmt.Errorf("no publish_time: %s", text)
	}
	delete(o, "id")
	delete(o, "publish_time")
	r.ids, r.events = append(r.ids, id), append(r.events, o)
}

// bySSE follows a job with a client that reconnects as EventSource does, from the
// edge's answer on, until the edge tells it to stop.
func bySSE(b *bus, path string) <-chan received {
	b.t.Helper()
	out, opened := make(chan received, 1), make(chan struct{})
	req, err := http.NewRequestWithContext(testContext(b.t), http.MethodGet, b.url(path), http.NoBody)
	if err != nil {
		b.t.Fatal(err)
	}
	var connections atomic.Int32
	client := sse.Client{
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		ResponseValidator: func(r *http.Response) error {
			if connections.Add(1) == 1 {
				close(opened)
			}
			return sse.DefaultValidator(r)
		},
	}
	go func() {
		var r received
		conn := client.NewConnection(req)
		conn.SubscribeToAll(func(e sse.Event) {
			if e.Data == "" {
				return
			}
			r.add([]byte(e.Data))
			if n := len(r.ids); n == 0 || r.ids[n-1] != e.LastEventID || r.events[n-1]["stage"] != e.Type {
				r.err = fmt.Errorf("not an event of a job: %+v", e)
			}
		})
		err := conn.Connect()
		if n := connections.Load(); n != 2 || !strings.Contains(fmt.Sprint(err), "received 204") {
			r.err = fmt.Errorf("after %d connections: %w", n, err)
		}
		out <- r
	}()
	<-opened
	return out
}

// byGRPC follows a job with Subscribe until the stream ends by itself.
func byGRPC(b *bus, domain, job string) <-chan received {
	out := make(chan received, 1)
	s := b.calls.follow(&eventbusv1.SubscribeRequest{Domain: domain, JobId: job})
	go func() {
		var r received
		for _, e := range s.rest() {
			text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
			if err != nil {
				r.err = err
			}
			r.add(text)
		}
		out <- r
	}()
	return out
}

// The seed's path: jobs as the legacy workers write them, by a client that is not
// ours, reach everyone who watches, while they run and afterwards.
func TestSeed_RecordedJobsReachSSEAndGRPCOnceInOrder(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	type watcher struct {
		name string
		got  <-chan received
	}
	jobs := []recording{load(t, "scan"), load(t, "chat")}
	watchers := make([][]watcher, len(jobs))
	paths := [][]string{
		{events("scan", jobs[0].job), "/api/v1/stream?job_id=" + jobs[0].job},
		{events("chat", jobs[1].job)},
	}
	for i, j := range jobs {
		for _, path := range paths[i] {
			watchers[i] = append(watchers[i], watcher{"live " + path, bySSE(b, path)})
		}
		watchers[i] = append(watchers[i], watcher{"live gRPC " + j.domain, byGRPC(b, j.domain, j.job)})
	}
	written := make([][]string, len(jobs))
	ctx := testContext(t)
	var workers errgroup.Group // both at once, as in production
	for i, j := range jobs {
		workers.Go(func() (err error) {
			written[i], err = xadd(ctx, b.streams, j.commands)
			return err
		})
	}
	if err := workers.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, j := range jobs { // once more, when all is over
		for _, path := range paths[i] {
			watchers[i] = append(watchers[i], watcher{"late " + path, bySSE(b, path)})
		}
		watchers[i] = append(watchers[i], watcher{"late gRPC " + j.domain, byGRPC(b, j.domain, j.job)})
	}
	for i, j := range jobs {
		for _, w := range watchers[i] {
			wantRecorded(t, w.name, <-w.got, j, written[i])
		}
		state := object(t, []byte(b.ask(http.MethodGet, "/api/v1/"+j.domain+"/"+j.job+"/state", "").body))
		delete(state, "id")
		delete(state, "publish_time")
		if diff := cmp.Diff(j.want[len(j.want)-1], state); diff != "" {
			t.Errorf("state of %s (-want +got):\n%s", j.domain, diff)
		}
	}
}

// wantRecorded checks what one subscriber got of a job with those ids.
func wantRecorded(t *testing.T, name string, r received, j recording, ids []string) {
	t.Helper()
	if len(ids) != len(j.want) {
		t.Fatalf("redis-cli wrote %d entries of %d: %q", len(ids), len(j.want), ids)
	}
	if r.err != nil {
		t.Errorf("%s: %v", name, r.err)
	}
	if diff := cmp.Diff(ids, r.ids); diff != "" {
		t.Errorf("%s: ids (-written +got):\n%s", name, diff)
	}
	if diff := cmp.Diff(j.want, r.events); diff != "" {
		t.Errorf("%s: events (-want +got):\n%s", name, diff)
	}
}
