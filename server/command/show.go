package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/fatih/color"
	"github.com/mattn/go-isatty"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/client"
)

// Show says how events are shown.
type Show struct {
	JSON  bool   `name:"json" short:"j" help:"A line of JSON for each event."`
	Color string `name:"color" default:"auto" enum:"auto,always,never" help:"Colours: ${enum}. auto is on a terminal, unless NO_COLOR is set."`
}

// coloured tells whether out gets colours.
func (s Show) coloured(out *os.File) bool {
	switch s.Color {
	case "always":
		return true
	case "never":
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isatty.IsTerminal(out.Fd())
}

func (s Show) printer(out *os.File, names bool) *printer {
	return &printer{out: out, json: s.JSON, names: names, paint: newPalette(s.coloured(out))}
}

// palette is what colours mean: good, bad, attention, and what is not looked at
// first.
type palette struct{ good, bad, attention, dim, strong func(string) string }

func newPalette(on bool) palette {
	paint := func(attributes ...color.Attribute) func(string) string {
		c := color.New(attributes...)
		c.DisableColor()
		if on {
			c.EnableColor()
		}
		return func(s string) string { return c.Sprint(s) }
	}
	return palette{
		good: paint(color.FgGreen), bad: paint(color.FgRed, color.Bold), attention: paint(color.FgYellow),
		dim: paint(color.Faint), strong: paint(color.Bold),
	}
}

// printer writes messages.
type printer struct {
	out   io.Writer
	json  bool
	names bool // of jobs: there are several
	paint palette
}

func (p *printer) event(m client.Message) error {
	if p.json {
		return p.object(m.Event, "", m.Cursor)
	}
	_, err := fmt.Fprintln(p.out, p.line(m.Event))
	return err
}

func (p *printer) gap(m client.Message) error {
	if p.json {
		return p.object(m.Gap, "gap", m.Cursor)
	}
	reason := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(m.Gap.GetReason().String(), "REASON_")), "_", " ")
	of := ""
	if id := m.Gap.GetJobId(); id != "" {
		of = " of " + clean(id)
	}
	_, err := fmt.Fprintln(p.out, p.paint.attention("-- gap"+of+": "+reason+"; the oldest retained event follows --"))
	return err
}

// object writes a line of JSON with proto names; under a name, if it has one.
func (p *printer) object(m proto.Message, name, cursor string) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	if name != "" {
		fmt.Fprintf(&line, `{%q:%s}`, name, text)
	} else {
		line.Write(text)
	}
	if cursor != "" {
		line.Truncate(line.Len() - 1) // an event has an id at least
		fmt.Fprintf(&line, `,"cursor":%q}`, cursor)
	}
	var compact bytes.Buffer // protojson's blanks differ from build to build
	if err := json.Compact(&compact, line.Bytes()); err != nil {
		return err
	}
	compact.WriteByte('\n')
	_, err = compact.WriteTo(p.out)
	return err
}

func (p *printer) line(e *eventbusv1.Event) string {
	parts := []string{p.paint.dim(e.GetPublishTime().AsTime().Local().Format("15:04:05.000"))}
	if p.names {
		parts = append(parts, clean(e.GetDomain()+"/"+e.GetJobId()))
	}
	parts = append(parts, p.paint.dim(strconv.FormatUint(uint64(e.GetSeq()), 10)), p.paint.strong(clean(e.GetStage())))
	if s := clean(e.GetStatus()); s != "" {
		switch s {
		case client.Completed:
			s = p.paint.good(s)
		case client.Failed:
			s = p.paint.bad(s)
		case client.Waiting:
			s = p.paint.attention(s)
		}
		parts = append(parts, s)
	}
	if e.Progress != nil {
		parts = append(parts, strconv.Itoa(int(e.GetProgress()))+"%")
	}
	parts = append(parts, p.texts(e)...)
	if e.GetFinal() {
		parts = append(parts, p.paint.dim("(final)"))
	}
	return strings.Join(parts, " ")
}

func (p *printer) texts(e *eventbusv1.Event) []string {
	var out []string
	if e.GetMessage() != "" {
		out = append(out, clean(e.GetMessage()))
	}
	if e.GetContent() != "" {
		out = append(out, strconv.Quote(e.GetContent()))
	}
	if e.GetResult() != nil {
		if text, err := e.GetResult().MarshalJSON(); err == nil {
			var compact bytes.Buffer
			if json.Compact(&compact, text) == nil {
				out = append(out, clean(compact.String()))
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.GetAttributes())) {
		out = append(out, p.paint.dim(clean(k+"="+e.GetAttributes()[k])))
	}
	return out
}

// clean keeps the texts of others from steering the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
