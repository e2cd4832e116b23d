package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/eco2-team/eventbus/router/redistest"
	"github.com/eco2-team/eventbus/server/bustest"
)

// settings are those of a command line.
func settings(t *testing.T, args ...string) Config {
	t.Helper()
	var c Config
	p, err := kong.New(&c)
	if err == nil {
		_, err = p.Parse(args)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveFloor runs the floor in this process, as a bus to measure.
func serveFloor(t *testing.T) FloorConfig {
	t.Helper()
	cfg := FloorConfig{Redis: redistest.New(t).URL(), HTTPAddr: bustest.Address(t), GRPCAddr: bustest.Address(t)}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeFloor(ctx, cfg) }()
	t.Cleanup(func() {
		stop()
		<-ended // what it says at its end is that its listeners are closed
	})
	limit := time.After(patience)
	for !accepts(cfg.HTTPAddr)(t.Context()) || !accepts(cfg.GRPCAddr)(t.Context()) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-limit:
			t.Fatal("the floor does not listen")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return cfg
}

// tiny is a load that any machine can bear.
func tiny(t *testing.T, at FloorConfig, more ...string) Config {
	t.Helper()
	c := settings(t, append([]string{
		"--http=" + at.HTTPAddr, "--grpc=" + at.GRPCAddr, "--duration=1s", "--warmup=100ms", "--json=-",
		"--fanout-browsers=20", "--jobs-count=12", "--jobs-rate=60", "--jobs-callers=3", "--fanout-rate=20", "--in-flight=4",
	}, more...)...)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	return c
}

func runTiny(t *testing.T, c Config) (Report, error) {
	t.Helper()
	var out bytes.Buffer
	var r Report
	err := Run(t.Context(), c, "test", &out, t.Output())
	if e := json.Unmarshal(out.Bytes(), &r); e != nil {
		t.Fatal(e, out.String())
	}
	return r, err
}

func TestRun_MeasuresWithEachKindOfReader(t *testing.T) {
	at := serveFloor(t)
	for _, readers := range []int{0, 1, 3} {
		t.Run(strconv.Itoa(readers), func(t *testing.T) {
			r, err := runTiny(t, tiny(t, at, "--fanout", "--fanout-closed", "--jobs", "--readers="+strconv.Itoa(readers), fmt.Sprintf("--pid=me=%d", os.Getpid())))
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"fanout", "fanout-closed", "jobs"} {
				res := r.Targets[0].result(key)
				if res == nil || res.Faults != (Faults{}) || res.Error != "" {
					t.Fatalf("%s: %+v", key, res)
				}
				if n := res.byKey("deliveries/s").Value; n <= 0 {
					t.Errorf("%s: %v deliveries/s", key, n)
				}
				p50, p99 := res.byKey("p50").Value, res.byKey("p99").Value
				if p50 <= 0 || p99 < p50 {
					t.Errorf("%s: p50 %v ms, p99 %v ms", key, p50, p99)
				}
				if _, ok := res.byKey("cpu").Parts["me"]; !ok {
					t.Errorf("%s: no CPU: %+v", key, res)
				}
			}
		})
	}
}

// tamper stands between browsers and the bus and spoils the stream of one of them:
// change gets its frames, and writes what it likes.
func tamper(t *testing.T, at *FloorConfig, change func(n int, frame string, write func(string))) {
	t.Helper()
	first := make(chan struct{}, 1)
	first <- struct{}{}
	from := "http://" + at.HTTPAddr
	client := &http.Client{Transport: &http.Transport{}}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, from+r.URL.Path, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			return
		}
		defer func() { _ = resp.Body.Close() }()
		spoil := func(_ int, f string, write func(string)) { write(f) }
		select {
		case <-first:
			spoil = change
		default:
		}
		frames := bufio.NewScanner(resp.Body)
		frames.Split(func(data []byte, _ bool) (int, []byte, error) {
			if at := bytes.Index(data, []byte("\n\n")); at >= 0 {
				return at + 2, data[:at+2], nil
			}
			return 0, nil, nil
		})
		for n := 0; frames.Scan(); n++ { // frame 0 is the opening
			spoil(n, frames.Text(), func(f string) {
				_, _ = io.WriteString(w, f)
				_ = http.NewResponseController(w).Flush()
			})
		}
	}))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
		client.CloseIdleConnections()
	})
	at.HTTPAddr = proxy.Listener.Addr().String()
}

// What the test is for: one event in one of many streams that is not as it should
// be fails it.
func TestRun_FailsForOneFaultInOneStream(t *testing.T) {
	floor := serveFloor(t)
	for name, c := range map[string]struct {
		change func(n int, frame string, write func(string))
		says   string
	}{
		"nothing": {func(_ int, f string, write func(string)) { write(f) }, ""},
		"lost": {func(n int, f string, write func(string)) {
			if n != 2 {
				write(f)
			}
		}, "1 lost, 0 duplicates, 0 reordered"},
		"twice": {func(n int, f string, write func(string)) {
			if write(f); n == 2 {
				write(f)
			}
		}, "0 lost, 1 duplicates, 0 reordered"},
		"late": {func() func(int, string, func(string)) {
			held := ""
			return func(n int, f string, write func(string)) {
				if n == 2 {
					held = f
					return
				}
				write(f + held) // in one piece: nobody looks between
				held = ""
			}
		}(), "0 lost, 0 duplicates, 1 reordered"},
	} {
		t.Run(name, func(t *testing.T) {
			at := floor
			tamper(t, &at, c.change)
			r, err := runTiny(t, tiny(t, at, "--fanout", "--warmup=500ms"))
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %s", err, c.says)
			}
			if res := r.Targets[0].Results[0]; res.Error == "" || res.Faults == (Faults{}) || len(res.Measures) > 0 {
				t.Errorf("the row has not failed: %+v", res)
			}
		})
	}
}

// A last event that never comes leaves no hole: it is missed where what was
// acknowledged is compared with what is there.
func TestCrowd_VerifyMissesTheTail(t *testing.T) {
	j := &job{domain: "scan", id: "j"}
	c := &crowd{faults: &faults{}, readers: []reader{newGoroutines(site{}, &faults{})}, parts: [][]*browser{{{job: j, seq: 2, sum: 3}}}}
	defer c.close()
	j.acked.Store(2)
	j.sum.Store(3)
	if err := c.verify(); err != nil {
		t.Error(err)
	}
	j.acked.Store(3)
	j.sum.Store(6)
	if err := c.verify(); err == nil {
		t.Error("3 were acknowledged, 2 came: no fault")
	}
	j.acked.Store(2)
	if err := c.verify(); err == nil {
		t.Error("other events came than were published: no fault")
	}
}

func TestRun_ServerThatIsNotThereFailsTheRow(t *testing.T) {
	addr := bustest.Address(t)
	for _, readers := range []string{"0", "1"} {
		_, err := runTiny(t, tiny(t, FloorConfig{HTTPAddr: addr, GRPCAddr: addr}, "--fanout", "--readers="+readers))
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s readers: %v", readers, err)
		}
	}
}

func TestRun_EndsWithItsContext(t *testing.T) {
	at := serveFloor(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := tiny(t, at, "--fanout", "--duration=1h")
	time.AfterFunc(300*time.Millisecond, cancel)
	if err := Run(ctx, c, "test", io.Discard, t.Output()); err == nil {
		t.Error("no error")
	}
}

func TestConfig_BadSettingsAreRefusedByName(t *testing.T) {
	for arg, says := range map[string]string{
		"--fanout-browsers=0":  "--fanout-browsers: 0: must be 1-200000",
		"--payload=10":         "--payload: 10: must be 48-",
		"--in-flight=5000":     "--in-flight: 5000: must be 1-512",
		"--duration=1ms":       "--duration: 1ms: must be 100ms-1h",
		"--domain=A":           `--domain: "A"`,
		"--pid=router":         "--pid: [router]: must be name=pid",
		"--floor":              "--floor: true: needs --floor-redis, or --self",
		"--self=both":          `--self: "both": must be serve, router+edge`,
		"--batch-burst=100":    "--batch-burst: 100: must be 800-",
		"--idle-jobs=1000000":  "--idle-jobs: 1000000: must be 1-5000",
		"--jobs-rate=-3":       "--jobs-rate: -3",
		"--resume-rounds=9999": "--resume-rounds: 9999: must be 1-1000",
		"--routers=2":          "--routers: 2: needs --self=router+edge",
		"--grow=all":           `--grow: "all": must be of browsers, jobs,`,
		"--grow=shards":        `--grow: "shards": needs --self`,
		"--grow=routers":       `--grow: "routers": needs --self=router+edge`,
		"--grow-browsers=9,3":  "--grow-browsers: [9 3]: must be ascending numbers, 1-200000",
		"--grow-jobs=5,5":      "--grow-jobs: [5 5]: must be ascending",
		"--grow-size=10":       "--grow-size: [10]: must be ascending numbers, 48-",
		"--grow-duration=1ms":  "--grow-duration: 1ms: must be 100ms-1h",
	} {
		c := settings(t, arg)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %s", arg, err, says)
		}
	}
	c := settings(t)
	if err := c.Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if n := len(c.rows()); n != 8 {
		t.Errorf("%d rows by default", n)
	}
	if c = settings(t, "--jobs", "--resume"); len(c.rows()) != 2 {
		t.Errorf("%d rows, want 2", len(c.rows()))
	}
}

func TestNameJobs_AreSpreadEvenly(t *testing.T) {
	seen := map[string]bool{}
	for _, j := range nameJobs("scan", "x", 16, 4) {
		seen[j.id] = true
	}
	if len(seen) != 16 {
		t.Errorf("%d different names", len(seen))
	}
}

func TestReport_RatiosAreToTheFloor(t *testing.T) {
	row := func(v float64) []Result {
		return []Result{{Key: "fanout", Work: "much work", Measures: []Measure{{Key: "cpu", Name: "CPU µs", Value: v, Digits: 1}, {Key: "n", Name: "events/s", Value: v * 1e6}}}}
	}
	failed := row(9)
	failed[0].Error = "1 lost"
	r := &Report{Date: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Machine: "a machine", Targets: []TargetReport{{serveName, row(3)}, {splitName, failed}, {floorName, row(2)}}}
	head, lines := r.lines()
	if d := cmp.Diff([]string{"work", "measure", serveName, splitName, floorName, "serve / floor", "router+edge / floor"}, head); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"3.0", "9.0 (failed)", "2.0", "1.50", "4.50"}, lines[0].cells); d != "" {
		t.Error(d)
	}
	if lines[1].work != "" || lines[1].cells[0] != "3,000,000" {
		t.Errorf("%+v", lines[1])
	}
	path := filepath.Join(t.TempDir(), "page.md")
	for range 2 { // made, and then replaced
		if err := r.writePage(path); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(text); strings.Count(s, "much work") != 1 || !strings.Contains(s, "| much work | CPU µs | 3.0 |") || !strings.Contains(s, "2026-01-02") {
		t.Error(s)
	}
	own := "# Mine\n<!-- bench -->\nold\n<!-- /bench -->\nand more\n"
	if err := os.WriteFile(path, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.writePage(path); err != nil {
		t.Fatal(err)
	}
	text, _ = os.ReadFile(path)
	if s := string(text); !strings.HasPrefix(s, "# Mine\n") || !strings.HasSuffix(s, "\nand more\n") || strings.Contains(s, "old") {
		t.Error(s)
	}
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.writePage(path); err == nil {
		t.Error("a page without marks was overwritten")
	}
}
