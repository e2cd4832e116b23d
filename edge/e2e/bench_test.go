package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/eco2-team/eventbus/server/bustest"
)

// benchReport is what of `eventbus bench --json` others may build on.
type benchReport struct {
	Targets []struct {
		Name    string
		Results []struct {
			Key      string
			Error    string
			Faults   map[string]int
			Measures []struct {
				Key   string
				Value float64
				Parts map[string]float64
			}
		}
	}
}

// small makes every row end within a second or so.
var small = []string{
	"--duration=1s", "--warmup=100ms", "--fanout-browsers=20", "--fanout-rate=20", "--in-flight=4", "--jobs-count=10", "--jobs-rate=50",
	"--publish-callers=4", "--batch-callers=2", "--batch-size=10", "--batch-burst=100", "--idle-browsers=20", "--idle-jobs=2",
	"--resume-browsers=20", "--resume-missed=5", "--resume-rounds=2",
}

func runBench(t *testing.T, args ...string) (r benchReport, said string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bench.json")
	p := run(t, "bench", nil, slices.Concat([]string{"bench", "--json=" + path}, small, args)...)
	within(t, 4*patience, "the load test ends", func() bool { return !p.Running() })
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.Log())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r, p.Log()
}

// The load test of a bus that runs, each row of it.
func TestBench_MeasuresARunningBus(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	r, said := runBench(t, "--http="+b.http, "--grpc="+b.grpc,
		fmt.Sprintf("--pid=router=%d,edge=%d,redis=%d,redis=%d", b.router.PID(), b.edge.PID(), b.streams.Pid(), b.pubsub.Pid()))
	if len(r.Targets) != 1 || r.Targets[0].Name != "bus" {
		t.Fatalf("%+v", r)
	}
	want := map[string][]string{
		"idle": {"memory", "idle-cpu"}, "idle-jobs": {"memory", "idle-cpu"},
		"fanout": {"deliveries/s", "cpu", "p50", "p99"}, "fanout-closed": {"deliveries/s", "cpu", "p50", "p99"},
		"jobs": {"events/s", "cpu", "p50", "p99"}, "publish": {"events/s", "cpu", "p50", "p99"},
		"publish-batch": {"accepted/s", "delivered/s", "cpu"}, "resume": {"median", "worst"},
	}
	for _, row := range r.Targets[0].Results {
		for name, n := range row.Faults {
			if n != 0 {
				t.Errorf("%s: %d %s", row.Key, n, name)
			}
		}
		got := map[string]float64{}
		for _, m := range row.Measures {
			got[m.Key] = m.Value
			if m.Key == "cpu" || m.Key == "memory" {
				for _, process := range []string{"router", "edge", "redis"} {
					if _, ok := m.Parts[process]; !ok {
						t.Errorf("%s: %s has no part %s", row.Key, m.Key, process)
					}
				}
			} else if m.Value <= 0 && m.Key != "idle-cpu" {
				t.Errorf("%s: %s is %v", row.Key, m.Key, m.Value)
			}
		}
		for _, key := range want[row.Key] {
			if _, ok := got[key]; !ok {
				t.Errorf("%s lacks %s: %v", row.Key, key, got)
			}
		}
		delete(want, row.Key)
	}
	if len(want) > 0 {
		t.Errorf("rows are missing: %v", want)
	}
	if !strings.Contains(said, "1 job, 20 browsers, 20 events/s") {
		t.Errorf("no table: %s", said)
	}
}

// `make bench`, in small: it starts the bus in both shapes, and the floor, and writes
// the page.
func TestBench_StartsAllItselfAndWritesThePage(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "performance.md")
	r, _ := runBench(t, "--self=serve,router+edge", "--floor", "--fanout", "--publish", "--page="+page)
	var names []string
	for _, target := range r.Targets {
		names = append(names, target.Name)
		if len(target.Results) != 3 {
			t.Errorf("%s: %d rows", target.Name, len(target.Results))
		}
	}
	same(t, "targets", names, []string{"serve", "router+edge", "floor"})
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"serve / floor", "router+edge / floor", "| 1 job, 20 browsers, 20 events/s | events/s |", "CPU µs per delivery", "cores"} {
		if !strings.Contains(string(text), s) {
			t.Errorf("the page lacks %q:\n%s", s, text)
		}
	}
}

// `make growth`, in small: fresh processes for each point, and several routers that one
// edge finds by a name.
func TestBench_GrowsOnProcessesOfItsOwn(t *testing.T) {
	t.Parallel()
	path, page := filepath.Join(t.TempDir(), "growth.json"), filepath.Join(t.TempDir(), "performance.md")
	p := run(t, "bench", nil, "bench", "--self=router+edge", "--grow=jobs,routers", "--grow-browsers=10", "--grow-jobs=5,20", "--grow-routers=1,2",
		"--grow-duration=1s", "--grow-warmup=100ms", "--json="+path, "--page="+page)
	within(t, 4*patience, "the sweeps end", func() bool { return !p.Running() })
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d: %s", code, p.Log())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Sweeps []struct {
			Key         string
			Points      []benchPoint
			CPUExponent *struct{ All float64 } `json:"cpu_exponent"`
		}
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	want := map[string][]int{"jobs": {5, 20}, "routers": {1, 2}}
	for _, s := range r.Sweeps {
		var ns []int
		for _, p := range s.Points {
			ns = append(ns, p.N)
			p.check(t, s.Key)
		}
		same(t, s.Key, ns, want[s.Key])
		if s.CPUExponent == nil {
			t.Errorf("%s: no exponent", s.Key)
		}
		delete(want, s.Key)
	}
	if len(want) > 0 {
		t.Errorf("sweeps are missing: %v", want)
	}
	if text, err = os.ReadFile(page); err != nil || strings.Count(string(text), "xychart-beta") < 4 || !strings.Contains(string(text), "### By routers") {
		t.Errorf("%v:\n%s", err, text)
	}
}

// benchPoint is one measurement of a sweep.
type benchPoint struct {
	N        int
	Error    string
	Faults   map[string]int
	Measures []struct {
		Key   string
		Value float64
		Parts map[string]float64
	}
}

func (p *benchPoint) check(t *testing.T, sweep string) {
	t.Helper()
	if p.Error != "" {
		t.Errorf("%s %d: %s", sweep, p.N, p.Error)
	}
	for name, n := range p.Faults {
		if n != 0 {
			t.Errorf("%s %d: %d %s", sweep, p.N, n, name)
		}
	}
	for _, m := range p.Measures {
		if m.Key == "cpu" && (m.Parts["router"] <= 0 || m.Parts["edge"] <= 0 || m.Parts["redis"] <= 0) {
			t.Errorf("%s %d: CPU by parts: %v", sweep, p.N, m.Parts)
		}
	}
	if len(p.Measures) < 5 {
		t.Errorf("%s %d: %+v", sweep, p.N, p.Measures)
	}
}

// Nothing there to measure: it says so, and fails.
func TestBench_FailsWhereThereIsNoBus(t *testing.T) {
	t.Parallel()
	p := run(t, "bench", nil, "bench", "--http="+bustest.Address(t), "--grpc="+bustest.Address(t), "--fanout")
	if code := p.exit(); code == 0 || !strings.Contains(p.Log(), "connection refused") {
		t.Errorf("exit code %d: %s", code, p.Log())
	}
}
