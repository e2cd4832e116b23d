package monitoring_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write prometheusrule.yaml from rules.yaml")

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type ruleGroups struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

func rules(t *testing.T) []rule {
	t.Helper()
	var g ruleGroups
	if err := yaml.UnmarshalStrict(read(t, "rules.yaml"), &g); err != nil {
		t.Fatal(err)
	}
	var out []rule
	for _, group := range g.Groups {
		out = append(out, group.Rules...)
	}
	if len(out) < 15 {
		t.Fatalf("only %d rules", len(out))
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRules_PassPromtool(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
}

func TestRules_FireWhenTheyShould(t *testing.T) {
	promtool(t, "test", "rules", "rules_test.yaml")
}

// Each alert has a unit test that sees it fire.
func TestRules_EachIsSeenFiring(t *testing.T) {
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string           `json:"alertname"`
				ExpAlerts []map[string]any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "rules_test.yaml"), &tests); err != nil {
		t.Fatal(err)
	}
	fires, rests := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, a := range test.AlertRuleTest {
			if len(a.ExpAlerts) > 0 {
				fires[a.Alertname] = true
			} else {
				rests[a.Alertname] = true
			}
		}
	}
	for _, r := range rules(t) {
		if !fires[r.Alert] || !rests[r.Alert] {
			t.Errorf("%s: seen firing %t, seen at rest %t", r.Alert, fires[r.Alert], rests[r.Alert])
		}
	}
}

func TestRules_EachHasItsRunbookEntry(t *testing.T) {
	runbook := string(read(t, "../../docs/runbook.md"))
	const base = "https://github.com/eco2-team/eventbus/blob/main/docs/runbook.md#"
	var alerts []string
	for _, r := range rules(t) {
		alerts = append(alerts, r.Alert)
		if want := base + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if !regexp.MustCompile(`(?m)^### ` + r.Alert + `$`).MatchString(runbook) {
			t.Errorf("the runbook has no entry %s", r.Alert)
		}
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s says nothing", r.Alert)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^### (Eventbus\w+)$`).FindAllStringSubmatch(runbook, -1) {
		if !slices.Contains(alerts, m[1]) {
			t.Errorf("the runbook tells of %s, which is no alert", m[1])
		}
	}
}

const ruleHeader = `# rules.yaml for the Prometheus operator. Written by go test ./monitoring -update; do not edit.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: eventbus
  namespace: monitoring
  labels:
    app.kubernetes.io/part-of: eventbus
spec:
`

func TestPrometheusRule_IsTheRules(t *testing.T) {
	source := string(read(t, "rules.yaml"))
	var want strings.Builder
	want.WriteString(ruleHeader)
	for line := range strings.Lines(source[strings.Index(source, "groups:"):]) {
		if strings.TrimSpace(line) != "" {
			want.WriteString("  ")
		}
		want.WriteString(line)
	}
	if *update {
		if err := os.WriteFile("prometheusrule.yaml", []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if string(read(t, "prometheusrule.yaml")) != want.String() {
		t.Error("prometheusrule.yaml is not rules.yaml: run go test ./monitoring -update")
	}
	var a, b ruleGroups
	if err := yaml.UnmarshalStrict([]byte(source), &a); err != nil {
		t.Fatal(err)
	}
	var cr struct {
		Spec ruleGroups `json:"spec"`
	}
	if err := yaml.Unmarshal(read(t, "prometheusrule.yaml"), &cr); err != nil {
		t.Fatal(err)
	}
	b = cr.Spec
	if x, y := marshal(t, a), marshal(t, b); x != y {
		t.Errorf("%s\nis not\n%s", y, x)
	}
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct {
		RefID string `json:"refId"`
		Expr  string
	}
}

type board struct {
	UID    string
	Title  string
	Panels []panel
}

func dashboard(t *testing.T) board {
	t.Helper()
	var b board
	if err := json.Unmarshal(read(t, "dashboard.json"), &b); err != nil {
		t.Fatal(err)
	}
	if len(b.Panels) < 20 {
		t.Fatalf("only %d panels", len(b.Panels))
	}
	return b
}

// The rows are the steps of an event's way, in order, and no panel hides another.
func TestDashboard_ShowsTheWayOfAnEvent(t *testing.T) {
	b := dashboard(t)
	var rows []string
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range b.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the ID %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			word, _, _ := strings.Cut(p.Title, ":")
			rows = append(rows, word)
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s is wider than the page", p.Title)
		}
	}
	want := []string{"Is it well?", "1 Publish", "2 Project", "3 Announce", "4 Subscribe", "5 Show", "Processes"}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
}
