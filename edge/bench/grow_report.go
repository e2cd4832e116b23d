package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// cells lay a sweep out: a row for each point.
func (s *Sweep) cells() (head []string, rows [][]string) {
	names := []string{}
	for _, p := range s.Points {
		for _, m := range p.Measures {
			if !slices.Contains(names, m.Name) {
				names = append(names, m.Name)
			}
		}
	}
	for _, p := range s.Points {
		row := []string{format(float64(p.N), 0)}
		for _, name := range names {
			row = append(row, p.cell(name))
		}
		rows = append(rows, append(row, p.remark()))
	}
	return slices.Concat([]string{s.Of}, names, []string{""}), rows
}

func (p *Point) cell(name string) string {
	if m := p.measure(name); m != nil {
		return format(m.Value, m.Digits)
	}
	return "–"
}

// remark tells what is wrong with a point; empty where nothing is.
func (p *Point) remark() string {
	rate := p.byKey("events/s")
	switch {
	case p.Error != "":
		return "failed: " + oneLine(p.Error)
	case rate != nil && short(rate.Value, p.Asked):
		return fmt.Sprintf("only %s of %s events/s", format(rate.Value, 0), format(float64(p.Asked), 0))
	}
	return ""
}

// maxRemark bounds what a table says of a failure; the JSON has all of it.
const maxRemark = 160

// oneLine is the beginning of a text as a table's cell can have it.
func oneLine(s string) string {
	s = strings.NewReplacer("\n", " ", "\t", " ", "|", "/", "`", "'", "<", "‹", ">", "›").Replace(s)
	if r := []rune(s); len(r) > maxRemark {
		return string(r[:maxRemark]) + "…"
	}
	return s
}

// exponents says how the totals grow.
func (s *Sweep) exponents() string {
	var parts []string
	for _, e := range []struct {
		what string
		of   *Exponent
	}{{"CPU time of the same events", s.CPU}, {"memory", s.Memory}} {
		if e.of != nil {
			parts = append(parts, fmt.Sprintf("%s grows as %s to the power %.2f (last step: %.2f)", e.what, s.Of, e.of.All, e.of.Last))
		}
	}
	return strings.Join(parts, "; ")
}

// writeTable is for people at a terminal.
func (g *Growth) writeTable(w io.Writer) error {
	_, _ = fmt.Fprintf(w, "%s, %s; load average before: %.1f\n", g.Target, g.Machine, g.Load) // Flush tells of errors
	for _, s := range g.Sweeps {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		head, rows := s.cells()
		_, _ = fmt.Fprintf(tw, "\n%s (%s)\n%s\n", s.Key, s.Work, strings.Join(head, "\t"))
		for _, row := range rows {
			_, _ = fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
		_, _ = fmt.Fprintln(tw, s.exponents())
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// growMark names the marks between which a page has the sweeps.
const growMark = "growth"

func (g *Growth) writePage(path string) error { return intoPage(path, growMark, g.markdown()) }

func (g *Growth) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s by `eventbus bench --growth` %s on `%s`: %s.\n%.1f s a point; bus, Redis and load on the same machine, whose load average was %.1f before.\n",
		g.Date.Format(time.DateOnly), g.Version, g.Target, g.Machine, g.Seconds, g.Load)
	for _, s := range g.Sweeps {
		fmt.Fprintf(&b, "\n### By %s\n\n%s.\n\n", s.Key, upper(s.Work))
		for _, key := range []string{"cpu", "p99", "memory"} {
			s.chart(&b, key)
		}
		head, rows := s.cells()
		tableRow(&b, head)
		b.WriteString("|" + strings.Repeat("--:|", len(head)-1) + "---|\n")
		for _, row := range rows {
			tableRow(&b, row)
		}
		if e := s.exponents(); e != "" {
			fmt.Fprintf(&b, "\n%s.\n", e)
		}
	}
	g.million(&b)
	b.WriteByte('\n')
	return b.String()
}

func tableRow(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// chart plots one measure by the points that have it, which stand beside each other at
// equal distances: a logarithmic axis, nearly.
func (s *Sweep) chart(b *strings.Builder, key string) {
	var ns, values []string
	name, top := "", 0.0
	for _, p := range s.Points {
		m := p.byKey(key)
		if m == nil || p.Error != "" {
			continue
		}
		name, top = m.Name, max(top, m.Value)
		ns = append(ns, strconv.Quote(format(float64(p.N), 0)))
		values = append(values, strconv.FormatFloat(m.Value, 'f', m.Digits, 64))
	}
	if len(ns) < 2 {
		return
	}
	if top <= 0 {
		top = 1
	}
	// Mermaid reads no exponents in numbers.
	fmt.Fprintf(b, "```mermaid\nxychart-beta\n    title %q\n    x-axis %q [%s]\n    y-axis %q 0 --> %.2f\n    line [%s]\n```\n\n",
		name, s.Of, strings.Join(ns, ", "), name, top*1.1, strings.Join(values, ", "))
}

// million is what the largest points mean for so many browsers, where they were
// measured: docs/performance.md has the formulas.
func (g *Growth) million(b *strings.Builder) {
	const n = 1_000_000
	var rows [][]string
	add := func(what, each string, total float64, unit string) {
		rows = append(rows, []string{what, each, format(total, 1) + " " + unit})
	}
	for _, s := range g.Sweeps {
		p := s.largest()
		if p == nil || s.Key != growBrowsers && s.Key != growJobCount {
			continue
		}
		if m := p.byKey("memory"); m != nil {
			for _, part := range partNames(m) {
				add(fmt.Sprintf("memory of %s, by %s", part, s.Key), format(m.Parts[part], 2)+" KB", m.Parts[part]*n/(1<<20), "GB")
			}
		}
		if m := p.byKey("cpu"); m != nil {
			for _, part := range partNames(m) {
				// µs times a million a second are seconds a second; each hears of an event
				// in ten seconds.
				add(fmt.Sprintf("CPU of %s, %s", part, strings.TrimPrefix(m.Name, "CPU ")), format(m.Parts[part], 2), m.Parts[part]/10, "cores")
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n### These numbers times 1,000,000\n\nThe largest points where every job has its browser, for 1,000,000 browsers, or jobs, that have an event every 10 s each: 100,000 deliveries, or events, a second.\n\n")
	tableRow(b, []string{"what", "each", "together"})
	b.WriteString("|---|--:|--:|\n")
	for _, r := range rows {
		tableRow(b, r)
	}
}

func partNames(m *Measure) []string {
	var names []string
	for name := range m.Parts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// largest is the last point that is good and has a browser for each of what grows.
func (s *Sweep) largest() *Point {
	for i := range slices.Backward(s.Points) {
		if p := s.Points[i]; p.Error == "" && p.Browsers >= p.N {
			return &s.Points[i]
		}
	}
	return nil
}
