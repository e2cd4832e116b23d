// Package monitoring_test checks the rules, the dashboard and the scalers' queries: promtool
// takes them, their unit tests pass, the binaries have every metric and label that they name,
// and the runbook has an entry for each alert.
package monitoring_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"

	"github.com/eco2-team/eventbus/deploy/internal/port"
)

// scraped are the labels that Prometheus adds to what it scrapes by our ServiceMonitors.
var scraped = []string{"job", "instance", "namespace", "pod", "service", "endpoint", "container"}

// exported are all metrics with their labels: what the program says of itself, and what every
// process has besides (Go, process).
func exported(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{"up": nil}
	add := func(name string, ls []string) {
		out[name] = ls
		// Histograms by their parts; no harm where it is none.
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			out[name+suffix] = append(slices.Clone(ls), "le")
		}
	}
	bin := build(t)
	described, err := exec.Command(bin, "metrics", "--json").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(described))
	for lines.Scan() {
		var m struct {
			Name   string
			Labels []string
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		add(m.Name, m.Labels)
	}
	for name, ls := range ownMetrics(t, bin) {
		if _, ok := out[name]; !ok {
			out[name] = ls
		}
	}
	if len(out) < 60 {
		t.Fatalf("only %d metrics", len(out))
	}
	return out
}

var sample = regexp.MustCompile(`^([a-z_]+)(?:\{([^}]*)\})? `)

// build makes the product as make build does: what is compiled is compiled once.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "eventbus")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, ".")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// ownMetrics are those of a running process; an edge needs nobody to start.
func ownMetrics(t *testing.T, bin string) map[string][]string {
	t.Helper()
	admin := port.Addr(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "edge", "--router-addr", "127.0.0.1:1", "--http-addr", "127.0.0.1:0", "--admin-addr", admin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	for {
		r, err := http.Get("http://" + admin + "/metrics")
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			continue
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string][]string{}
		for line := range strings.Lines(string(body)) {
			if m := sample.FindStringSubmatch(line); m != nil {
				var ls []string
				for kv := range strings.SplitSeq(m[2], ",") {
					k, _, _ := strings.Cut(kv, "=")
					ls = append(ls, k)
				}
				out[m[1]] = ls
			}
		}
		return out
	}
}

// expressions are all queries of the rules, the dashboard and the scalers, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, r := range rules(t) {
		out["rule "+r.Alert] = r.Expr
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$domain", "scan")
	for _, p := range dashboard(t).Panels {
		for _, target := range p.Targets {
			out[fmt.Sprintf("panel %q %s", p.Title, target.RefID)] = variables.Replace(target.Expr)
		}
	}
	raw, err := os.ReadFile("../kubernetes/components/keda/scaledobjects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i, doc := range strings.Split(string(raw), "\n---\n") {
		var so struct {
			Spec struct {
				Triggers []struct{ Metadata map[string]string } `json:"triggers"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal([]byte(doc), &so); err != nil {
			t.Fatal(err)
		}
		for _, trigger := range so.Spec.Triggers {
			if q := trigger.Metadata["query"]; q != "" {
				out[fmt.Sprintf("scaler %d", i)] = q
			}
		}
	}
	return out
}

// A rule on a metric that nobody exports never fires, and nobody sees that.
func TestQueries_NameOnlyMetricsAndLabelsOfTheBinaries(t *testing.T) {
	known := exported(t)
	seen := map[string]bool{}
	all := expressions(t)
	for _, want := range []string{"rule EventbusShardLag", "scaler 0", "scaler 1", `panel "Lag" A`} {
		if all[want] == "" {
			t.Errorf("no %s among the queries", want)
		}
	}
	for where, query := range all {
		for _, complaint := range unknown(t, where, query, known, seen) {
			t.Errorf("%s: %s", where, complaint)
		}
	}
	// The other way round: a metric that no query shows is one that nobody will look at.
	shown := []string{
		"grpc_server_started_total", "grpc_server_handled_total", "grpc_server_msg_received_total", "grpc_server_msg_sent_total",
	}
	for name := range known {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		ours := strings.HasPrefix(name, "eventbus_") || strings.HasPrefix(name, "grpc_server_")
		if ours && base == name && !seen[name] && !seen[name+"_bucket"] && !slices.Contains(shown, name) {
			t.Errorf("no query shows %s", name)
		}
	}
}

// unknown lists the metrics and labels of a query that do not exist, and adds the metrics to
// seen.
func unknown(t *testing.T, where, query string, known map[string][]string, seen map[string]bool) []string {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Fatalf("%s: %v\n%s", where, err, query)
	}
	var out []string
	has := map[string]bool{}
	var grouped []string
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			ls, ok := known[n.Name]
			if !ok {
				out = append(out, "no metric "+n.Name)
				return nil
			}
			seen[n.Name] = true
			for _, l := range slices.Concat(ls, scraped) {
				has[l] = true
			}
			for _, m := range n.LabelMatchers {
				if m.Name != labels.MetricName && !slices.Contains(slices.Concat(ls, scraped), m.Name) {
					out = append(out, n.Name+" has no label "+m.Name)
				}
			}
		case *parser.AggregateExpr:
			grouped = append(grouped, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				grouped = append(grouped, n.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	for _, l := range grouped {
		if !has[l] {
			out = append(out, "no metric of it has the label "+l)
		}
	}
	return out
}

// The check above must be able to fail.
func TestQueries_MistakesAreSeen(t *testing.T) {
	known := map[string][]string{"eventbus_shard_lag": {"domain", "shard"}}
	for query, want := range map[string]string{
		"max(eventbus_shard_lags)":             "no metric eventbus_shard_lags",
		`max(eventbus_shard_lag{topic="x"})`:   "no label topic",
		"max by (stream) (eventbus_shard_lag)": "has the label stream",
	} {
		if got := fmt.Sprint(unknown(t, "test", query, known, map[string]bool{})); !strings.Contains(got, want) {
			t.Errorf("%s: %s says nothing of %q", query, got, want)
		}
	}
}

// Values of labels are in no description: those of the code.
func TestQueries_MatchValuesThatTheCodeHas(t *testing.T) {
	proto, err := os.ReadFile("../../proto/eventbus/v1/eventbus.proto")
	if err != nil {
		t.Fatal(err)
	}
	jobs := []string{"router-admin", "edge-admin"}
	for where, query := range expressions(t) {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			v, ok := n.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			for _, m := range v.LabelMatchers {
				for value := range strings.SplitSeq(m.Value, "|") {
					switch {
					case m.Name == "reason" && !bytes.Contains(proto, []byte(value)), m.Name == "job" && !slices.Contains(jobs, value):
						t.Errorf("%s: no %s %q", where, m.Name, value)
					}
				}
			}
			return nil
		})
	}
}
