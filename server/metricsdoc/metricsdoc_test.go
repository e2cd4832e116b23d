package metricsdoc_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/eco2-team/eventbus/server/bustest"
	"github.com/eco2-team/eventbus/server/metricsdoc"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// reference is what the program says of its metrics.
func reference(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bustest.Program(), append([]string{"metrics"}, args...)...)
	cmd.Env = bustest.Environment(nil)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func metrics(t *testing.T) []*metricsdoc.Metric {
	t.Helper()
	var all []*metricsdoc.Metric
	for in := json.NewDecoder(bytes.NewReader(reference(t, "--json"))); in.More(); {
		m := new(metricsdoc.Metric)
		if err := in.Decode(m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	if len(all) < 50 {
		t.Fatalf("only %d metrics", len(all))
	}
	return all
}

func TestReference_IsThatOfTheProgram(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, reference(t)) {
		t.Error("docs/metrics.md is not what the program says: run make generate")
	}
}

// complaints are those of Prometheus' own linter.
func complaints(t *testing.T, all []*metricsdoc.Metric) []string {
	t.Helper()
	var families []*dto.MetricFamily
	for _, m := range all {
		one := new(dto.Metric)
		for _, l := range m.Labels {
			one.Label = append(one.Label, &dto.LabelPair{Name: new(l), Value: new("x")})
		}
		families = append(families, &dto.MetricFamily{Name: &m.Name, Help: &m.Help, Type: &m.Type, Metric: []*dto.Metric{one}})
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range problems {
		out = append(out, p.Metric+": "+p.Text)
	}
	return out
}

func TestReference_NamesKeepPrometheusRules(t *testing.T) {
	for _, text := range complaints(t, metrics(t)) {
		t.Error(text)
	}
	bad := []*metricsdoc.Metric{{Name: "eventbus_waitMilliseconds", Type: dto.MetricType_COUNTER}}
	if found := complaints(t, bad); len(found) < 2 {
		t.Errorf("the linter finds %q only", found)
	}
}

// Each label has a bounded number of values; one of a job, an event, a caller or an
// address would make a time series for each.
func TestReference_LabelsHaveFewValues(t *testing.T) {
	known := []string{
		"domain", "shard", // DOMAINS × SHARD_COUNT
		"group",                                               // of a shard log: the bus's and those of its other readers
		"reason", "kind", "transport", "limit", "rpc", "code", // the code's own
		"version", "commit", // one each
		"grpc_type", "grpc_service", "grpc_method", "grpc_code",
	}
	for _, m := range metrics(t) {
		for _, l := range m.Labels {
			if !slices.Contains(known, l) {
				t.Errorf("%s has the label %s: is the number of its values bounded?", m.Name, l)
			}
		}
	}
}

func TestReference_EachMetricHasTypeHelpAndProcess(t *testing.T) {
	for _, m := range metrics(t) {
		if m.Type == dto.MetricType_UNTYPED || !strings.HasSuffix(strings.TrimSpace(m.Help), ".") || len(m.Processes) == 0 {
			t.Errorf("%+v", m)
		}
	}
}

// What is registered is remembered with its type and labels, and registered.
func TestMetrics_RememberWhatProcessesRegister(t *testing.T) {
	set := metricsdoc.New()
	for _, name := range []string{"a", "b"} {
		reg := set.Process(name)
		reg.MustRegister(
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "x", Help: `a "b" | c`, ConstLabels: prometheus.Labels{"k": "v"}}, func() float64 { return 1 }),
			prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "y", Help: "y"}, []string{"l", "m"}), prometheus.NewCounter(prometheus.CounterOpts{Name: "z_total", Help: "z"}))
		if err := reg.Register(prometheus.NewCounter(prometheus.CounterOpts{Name: "z_total", Help: "z"})); err == nil {
			t.Error("a metric was registered twice")
		}
	}
	var page strings.Builder
	if err := set.Write(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| `x` | gauge | `k` | a, b | a \"b\" \\| c |\n", "| `y` | histogram | `l` `m` | a, b | y |\n", "| `z_total` | counter |  | a, b | z |\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, page.String())
		}
	}
}
