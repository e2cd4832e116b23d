package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSlope_IsThePowerOfAPower(t *testing.T) {
	for _, power := range []float64{0, 0.5, 1, 2} {
		var xs, ys []float64
		for _, n := range []float64{10, 100, 700, 50_000} {
			xs, ys = append(xs, math.Log(n)), append(ys, math.Log(3*math.Pow(n, power)))
		}
		if got := slope(xs, ys); math.Abs(got-power) > 1e-9 {
			t.Errorf("%v, want %v", got, power)
		}
	}
	// By hand: the mean of the steps is not it, the least squares are.
	if got := slope([]float64{0, 1, 2}, []float64{0, 0, 3}); got != 1.5 {
		t.Errorf("%v, want 1.5", got)
	}
}

// at is a point with costs; those that are 0 it does not have.
func at(n int, rate, cpu, memory float64) Point {
	p := Point{N: n, Browsers: n, Asked: 10, Result: Result{Measures: []Measure{{Key: "events/s", Name: "events/s", Value: rate}}}}
	if cpu != 0 {
		p.Measures = append(p.Measures, Measure{Key: "cpu", Name: "CPU µs per delivery", Value: cpu, Digits: 1, Parts: map[string]float64{"edge": cpu / 2, "router": cpu / 2}})
	}
	if memory != 0 {
		p.Measures = append(p.Measures, Measure{Key: "memory", Name: "KB per browser", Value: memory, Digits: 1, Parts: map[string]float64{"edge": memory}})
	}
	return p
}

func failed(n int, text string) Point {
	p := at(n, 10, 1e9, 1e9) // what a failed point measured counts for nothing
	p.Error = text
	return p
}

func TestSweep_ExponentsAreThoseOfTheTotal(t *testing.T) {
	for name, c := range map[string]struct {
		s           Sweep
		cpu, memory *Exponent
	}{
		// The same for each delivery is in proportion to the browsers.
		"in proportion": {Sweep{PerDelivery: true, Points: []Point{at(10, 10, 7, 5), at(100, 10, 7, 5), at(1000, 10, 7, 5)}}, &Exponent{1, 1}, &Exponent{1, 1}},
		// Twice the CPU of an event for ten times the jobs, and then ten times.
		"of events": {Sweep{Points: []Point{at(1, 10, 1, 0), at(10, 10, 1, 0), at(100, 10, 10, 0)}}, &Exponent{0.5, 1}, nil},
		"failures count for nothing": {
			Sweep{PerDelivery: true, Points: []Point{at(10, 10, 7, 5), failed(20, "x"), at(100, 10, 7, 50), failed(1000, "x")}}, &Exponent{1, 1}, &Exponent{2, 2},
		},
		"what shrinks to nothing has no logarithm": {Sweep{Points: []Point{at(1, 10, 1, -1), at(10, 10, 1, -1)}}, &Exponent{0, 0}, nil},
		"one point": {Sweep{Points: []Point{at(1, 10, 1, 1), failed(2, "x")}}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.s.measure()
			near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
			if d := cmp.Diff(c.cpu, c.s.CPU, near) + cmp.Diff(c.memory, c.s.Memory, near); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestConfig_SweepsAreWhatTheTargetCanHave(t *testing.T) {
	for args, want := range map[string]string{
		"":                                      "",
		"--growth":                              "browsers jobs size",
		"--growth --self=serve":                 "browsers jobs size shards",
		"--growth --self=router+edge":           "browsers jobs size routers shards",
		"--grow=shards,jobs --self=router+edge": "jobs shards",
	} {
		c := settings(t, strings.Fields(args)...)
		if err := c.Check(); err != nil {
			t.Fatal(args, err)
		}
		var keys []string
		for _, s := range c.sweeps() {
			keys = append(keys, s.key)
			if len(s.points) < 3 {
				t.Errorf("%s: only %v", s.key, s.points)
			}
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}

// Each sweep changes one thing.
func TestSweep_PointsDifferByOneAmount(t *testing.T) {
	c := settings(t, "--growth", "--self=router+edge", "--grow-browsers=5,300")
	type size struct{ Jobs, Browsers, Rate, Payload, Routers, Shards int }
	got := map[string][]size{}
	for _, s := range c.sweeps() {
		for _, n := range []int{s.points[0], s.points[len(s.points)-1]} {
			p := c
			g := s.at(&p, n)
			got[s.key] = append(got[s.key], size{g.jobs, g.browsers, g.rate, p.Payload, p.Routers, p.Shards})
			if w := s.row(&p, n); w.browsers != g.browsers || w.asked != g.rate || !strings.HasPrefix(w.work, fmt.Sprint(n, " ")) {
				t.Errorf("%s %d: %+v", s.key, n, w)
			}
		}
	}
	want := map[string][]size{
		"browsers": {{1, 5, 10, 200, 1, 4}, {1, 300, 10, 200, 1, 4}},
		"jobs":     {{10, 10, 1000, 200, 1, 4}, {50_000, 300, 1000, 200, 1, 4}}, // as many are watched as there may be browsers
		"size":     {{100, 100, 200, 100, 1, 4}, {100, 100, 200, 100_000, 1, 4}},
		"routers":  {{1000, 1000, 1000, 200, 1, 4}, {1000, 1000, 1000, 200, 3, 4}},
		"shards":   {{1000, 1000, 1000, 200, 1, 1}, {1000, 1000, 1000, 200, 1, 16}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestGrowth_ThePageShowsEveryPoint(t *testing.T) {
	few := at(5000, 10, 100_000, 4) // not a browser each
	few.Browsers = 1500
	s := Sweep{Key: growBrowsers, Work: "1 job", Of: "browsers", PerDelivery: true, Points: []Point{
		at(100, 10, 9, 4), at(1500, 7.4, 8, 4), few, failed(15_000, "not done | after\n2m"),
	}}
	s.measure()
	g := &Growth{Date: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Machine: "a machine", Target: splitName, Seconds: 3, Sweeps: []Sweep{s}}
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("# Mine\n<!-- bench -->\nrows\n<!-- /bench -->\nbetween\n<!-- growth -->\nold\n<!-- /growth -->\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.writePage(path); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{
		"# Mine\n<!-- bench -->\nrows\n<!-- /bench -->\nbetween\n<!-- growth -->\nMeasured on 2026-01-02",
		"```mermaid\nxychart-beta\n    title \"CPU µs per delivery\"\n    x-axis \"browsers\" [\"100\", \"1,500\", \"5,000\"]\n    y-axis \"CPU µs per delivery\" 0 --> 110000.00\n    line [9.0, 8.0, 100000.0]\n```\n",
		"| browsers | events/s | CPU µs per delivery | KB per browser |  |\n|--:|--:|--:|--:|---|\n",
		"| 100 | 10 | 9.0 | 4.0 |  |\n",
		"| 1,500 | 7 | 8.0 | 4.0 | only 7 of 10 events/s |\n",
		"| failed: not done / after 2m |\n",
		"\nCPU time of the same events grows as browsers to the power ", "; memory grows as browsers to the power 1.00 (last step: 1.00).\n",
		"| memory of edge, by browsers | 4.00 KB | 3.8 GB |\n", // of the largest that is good
		"| CPU of router, µs per delivery | 4.00 | 0.4 cores |\n",
		"<!-- /growth -->\nend\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "old") || strings.Count(text, "a machine") != 1 {
		t.Error(text)
	}
	var out bytes.Buffer
	if err := g.writeTable(&out); err != nil || !strings.Contains(out.String(), "only 7 of 10 events/s") || !strings.Contains(out.String(), "failed: not done") {
		t.Error(err, out.String())
	}
}

// A point that fails is shown and makes the run fail; the others are measured.
func TestGrow_PointsThatFailAreShown(t *testing.T) {
	floor := serveFloor(t)
	spoilt := floor
	tamper(t, &spoilt, func(n int, f string, write func(string)) {
		if n != 2 {
			write(f)
		}
	})
	c := tiny(t, spoilt, "--grow=browsers", "--grow-browsers=3,6", "--grow-duration=500ms", "--grow-warmup=500ms")
	var out bytes.Buffer
	err := Run(t.Context(), c, "test", &out, t.Output())
	if err == nil || !strings.Contains(err.Error(), "3 browsers: 1 job, 10 events/s") || !strings.Contains(err.Error(), "1 lost") {
		t.Errorf("%v, want one lost", err)
	}
	var g Growth
	if err := json.Unmarshal(out.Bytes(), &g); err != nil {
		t.Fatal(err, out.String())
	}
	points := g.Sweeps[0].Points
	if len(points) != 2 || points[0].Error == "" || points[0].N != 3 || points[0].Faults == (Faults{}) {
		t.Fatalf("%+v", points)
	}
	if p := points[1]; p.Error != "" || p.byKey("deliveries/s").Value <= 0 || p.Asked != 10 || p.N != 6 {
		t.Errorf("%+v", p)
	}
}
