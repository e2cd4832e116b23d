package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Measure is one number of a row.
type Measure struct {
	Key  string `json:"key"`
	Name string `json:"name"`
	// Value is the number; Parts are its shares by process, where it has them.
	Value float64            `json:"value"`
	Parts map[string]float64 `json:"parts,omitempty"`
	// Digits are worth printing. Less of it is better, else more.
	Digits int  `json:"-"`
	Less   bool `json:"less_is_better"`
}

// Result is one row on one target.
type Result struct {
	Key      string    `json:"key"`
	Work     string    `json:"work"`
	Measures []Measure `json:"measures"`
	Faults   Faults    `json:"faults"`
	// Refused are calls that the bus told to wait.
	Refused int64 `json:"refused"`
	// Generator is the CPU time of the load test itself while the row ran, in cores.
	Generator float64 `json:"generator_cores"`
	// Load is the machine's load average, of one minute, before the row.
	Load float64 `json:"load"`
	// Error is why there are no measures, or why they are not to be trusted.
	Error string `json:"error,omitempty"`
}

// TargetReport is all rows on one target.
type TargetReport struct {
	Name    string   `json:"name"`
	Results []Result `json:"results"`
}

// Report is a whole run.
type Report struct {
	Date    time.Time      `json:"date"`
	Machine string         `json:"machine"`
	Version string         `json:"version"`
	Payload int            `json:"payload"`
	Seconds float64        `json:"seconds_per_row"`
	Targets []TargetReport `json:"targets"`
}

// machine says what it ran on.
func machine() string {
	model := ""
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value) + ", "
				break
			}
		}
	}
	return fmt.Sprintf("%s%d cores, %s/%s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// loadBefore is the load average before the first row: what else the machine did.
func (r *Report) loadBefore() float64 {
	if len(r.Targets) == 0 || len(r.Targets[0].Results) == 0 {
		return 0
	}
	return r.Targets[0].Results[0].Load
}

// loadAverage is that of one minute; 0 where it is not known.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}

// line is one measure of all targets.
type line struct {
	work, name string
	cells      []string
}

// lines lay the report out: a column for each target, then the ratio of each to the
// last, where that is the floor.
func (r *Report) lines() (head []string, lines []line) {
	head = []string{"work", "measure"}
	floor := -1
	for i, t := range r.Targets {
		head = append(head, t.Name)
		if t.Name == floorName {
			floor = i
		}
	}
	if floor > 0 {
		for _, t := range r.Targets[:floor] {
			head = append(head, t.Name+" / floor")
		}
	}
	for _, first := range r.Targets[0].Results {
		for at, name := range r.names(first.Key) {
			work := ""
			if at == 0 {
				work = first.Work
			}
			lines = append(lines, line{work, name, r.cells(first.Key, name, floor)})
		}
	}
	return head, lines
}

// names are the measures of a row, in their order.
func (r *Report) names(key string) []string {
	var names []string
	for _, t := range r.Targets {
		if res := t.result(key); res != nil && len(res.Measures) > len(names) {
			names = names[:0]
			for _, m := range res.Measures {
				names = append(names, m.Name)
			}
		}
	}
	if len(names) == 0 {
		names = []string{"–"}
	}
	return names
}

func (t *TargetReport) result(key string) *Result {
	for i := range t.Results {
		if t.Results[i].Key == key {
			return &t.Results[i]
		}
	}
	return nil
}

func (res *Result) measure(name string) *Measure {
	if res == nil {
		return nil
	}
	for i := range res.Measures {
		if res.Measures[i].Name == name {
			return &res.Measures[i]
		}
	}
	return nil
}

func (res *Result) byKey(key string) *Measure {
	for i := range res.Measures {
		if res.Measures[i].Key == key {
			return &res.Measures[i]
		}
	}
	return nil
}

func (r *Report) cells(key, name string, floor int) []string {
	var cells []string
	for _, t := range r.Targets {
		res := t.result(key)
		m := res.measure(name)
		switch {
		case m != nil && res.Error != "":
			cells = append(cells, format(m.Value, m.Digits)+" (failed)")
		case m != nil:
			cells = append(cells, format(m.Value, m.Digits))
		case res != nil && res.Error != "":
			cells = append(cells, "failed")
		default:
			cells = append(cells, "–")
		}
	}
	if floor <= 0 {
		return cells
	}
	base := r.Targets[floor].result(key).measure(name)
	for _, t := range r.Targets[:floor] {
		m := t.result(key).measure(name)
		if m == nil || base == nil || base.Value == 0 {
			cells = append(cells, "–")
			continue
		}
		cells = append(cells, format(m.Value/base.Value, 2))
	}
	return cells
}

// format groups thousands, so that large numbers can be read.
func format(v float64, digits int) string {
	s := strconv.FormatFloat(v, 'f', digits, 64)
	whole, rest, _ := strings.Cut(s, ".")
	for at := len(whole) - 3; at > 0 && whole[at-1] != '-'; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}

// writeTable is for people at a terminal.
func (r *Report) writeTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head, lines := r.lines()
	_, _ = fmt.Fprintf(tw, "%s; load average before: %.1f\n", r.Machine, r.loadBefore()) // Flush tells of errors
	_, _ = fmt.Fprintln(tw, strings.Join(head, "\t"))
	for _, l := range lines {
		_, _ = fmt.Fprintln(tw, strings.Join(append([]string{l.work, l.name}, l.cells...), "\t"))
	}
	for _, t := range r.Targets {
		for _, res := range t.Results {
			if res.Error != "" {
				_, _ = fmt.Fprintf(tw, "FAILED %s, %s: %s\n", t.Name, res.Work, res.Error)
			}
		}
	}
	return tw.Flush()
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// benchMark names the marks between which a page has the rows.
const benchMark = "bench"

func (r *Report) writePage(path string) error { return intoPage(path, benchMark, r.markdown()) }

// intoPage replaces what is between the marks <!-- mark --> and <!-- /mark --> of a
// page, or makes the page.
func intoPage(path, mark, text string) error {
	begin, end := "<!-- "+mark+" -->", "<!-- /"+mark+" -->"
	before, after := "# Performance\n\n", "\n"
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if b, rest, ok := strings.Cut(string(old), begin); ok {
		_, a, ok := strings.Cut(rest, end)
		if !ok {
			return fmt.Errorf("%s has %s and no %s", path, begin, end)
		}
		before, after = b, a
	} else if len(old) > 0 {
		return fmt.Errorf("%s has no %s to write to", path, begin)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+end+after), 0o644) //nolint:gosec // a page to be read
}

func (r *Report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s by `eventbus bench` %s: %s.\n%d-byte payloads, %.0f s a row, real SSE over HTTP/1.1 and gRPC; bus, Redis and load on the same machine,\nwhose load average was %.1f before.\n\n",
		r.Date.Format(time.DateOnly), r.Version, r.Machine, r.Payload, r.Seconds, r.loadBefore())
	head, lines := r.lines()
	tableRow(&b, head)
	b.WriteString("|---|---|" + strings.Repeat("--:|", len(head)-2) + "\n")
	for _, l := range lines {
		tableRow(&b, append([]string{l.work, l.name}, l.cells...))
	}
	b.WriteByte('\n')
	return b.String()
}
