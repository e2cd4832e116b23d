package server

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/eco2-team/eventbus/router/event"
)

// Both directions are written out because every event with a result pays for
// them, here and for each subscriber: BenchmarkResult shows them beside
// encoding/json and protojson.

// appendJSON appends v as JSON text. v must have passed checkResult: JSON has no
// text for NaN, infinities or a Value of no kind; they become null.
func appendJSON(b []byte, v *structpb.Value) []byte {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return appendJSONString(b, k.StringValue)
	case *structpb.Value_NumberValue:
		return appendJSONNumber(b, k.NumberValue)
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(b, k.BoolValue)
	case *structpb.Value_ListValue:
		b = append(b, '[')
		for i, item := range k.ListValue.GetValues() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, item)
		}
		return append(b, ']')
	case *structpb.Value_StructValue:
		b = append(b, '{')
		first := true
		for name, field := range k.StructValue.GetFields() {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = appendJSONString(b, name)
			b = append(b, ':')
			b = appendJSON(b, field)
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

// appendJSONNumber writes what encoding/json and a browser write.
func appendJSONNumber(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(b, "null"...)
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

func appendJSONString(b []byte, s string) []byte {
	if !plain(s) {
		if text, err := json.Marshal(s); err == nil { // it never fails for a string
			return append(b, text...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// plain tells whether s is its own JSON text, between quotes.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.ValidString(s)
}

// parseJSON is the value of a JSON text as encoding/json reads it: of duplicate
// keys the last counts, a lone surrogate becomes U+FFFD. What it cannot read (no
// JSON, a number beyond a double, too deep) is a string with the text itself.
func parseJSON(text string) *structpb.Value {
	if json.Valid([]byte(text)) {
		p := jsonParser{text: text}
		p.space()
		if v := p.value(event.MaxResultDepth); v != nil {
			return v
		}
	}
	return newString(validUTF8(text))
}

// jsonParser walks a text that json.Valid has accepted, so it checks no syntax
// and never runs past the end. Each method leaves pos after the blanks that
// follow its token.
type jsonParser struct {
	text string
	pos  int
}

// value returns nil where the text cannot be expressed.
func (p *jsonParser) value(levels int) *structpb.Value {
	switch p.text[p.pos] {
	case '{':
		return p.object(levels)
	case '[':
		return p.array(levels)
	case '"':
		return newString(p.str())
	case 't':
		p.skip(len("true"))
		return structpb.NewBoolValue(true)
	case 'f':
		p.skip(len("false"))
		return structpb.NewBoolValue(false)
	case 'n':
		p.skip(len("null"))
		return structpb.NewNullValue()
	}
	return p.number()
}

func (p *jsonParser) object(levels int) *structpb.Value {
	if levels == 0 {
		return nil
	}
	fields := map[string]*structpb.Value{}
	p.skip(len("{"))
	for p.text[p.pos] != '}' {
		name := p.str()
		p.skip(len(":"))
		v := p.value(levels - 1)
		if v == nil {
			return nil
		}
		fields[name] = v
		p.comma()
	}
	p.skip(len("}"))
	return structpb.NewStructValue(&structpb.Struct{Fields: fields})
}

func (p *jsonParser) array(levels int) *structpb.Value {
	if levels == 0 {
		return nil
	}
	var items []*structpb.Value
	p.skip(len("["))
	for p.text[p.pos] != ']' {
		v := p.value(levels - 1)
		if v == nil {
			return nil
		}
		items = append(items, v)
		p.comma()
	}
	p.skip(len("]"))
	return structpb.NewListValue(&structpb.ListValue{Values: items})
}

func (p *jsonParser) number() *structpb.Value {
	start := p.pos
	for p.pos < len(p.text) && strings.IndexByte("+-.eE0123456789", p.text[p.pos]) >= 0 {
		p.pos++
	}
	f, err := strconv.ParseFloat(p.text[start:p.pos], 64)
	if err != nil {
		return nil
	}
	p.space()
	return newNumber(f)
}

// str is a part of the text itself where there is nothing to unescape.
func (p *jsonParser) str() string {
	start := p.pos + 1
	end := start
	escaped := false
	for p.text[end] != '"' {
		if p.text[end] == '\\' {
			escaped = true
			end++
		}
		end++
	}
	s := p.text[start:end]
	p.pos = end
	p.skip(len(`"`))
	if escaped || !utf8.ValidString(s) {
		var out string
		if json.Unmarshal([]byte(p.text[start-1:end+1]), &out) != nil { // it is valid: it cannot fail
			return validUTF8(s)
		}
		return out
	}
	return s
}

func (p *jsonParser) comma() {
	if p.text[p.pos] == ',' {
		p.skip(len(","))
	}
}

func (p *jsonParser) skip(n int) {
	p.pos += n
	p.space()
}

func (p *jsonParser) space() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// newString and newNumber, the most frequent values, take one allocation.
func newString(s string) *structpb.Value {
	n := new(struct {
		v structpb.Value
		k structpb.Value_StringValue
	})
	n.k.StringValue, n.v.Kind = s, &n.k
	return &n.v
}

func newNumber(f float64) *structpb.Value {
	n := new(struct {
		v structpb.Value
		k structpb.Value_NumberValue
	})
	n.k.NumberValue, n.v.Kind = f, &n.k
	return &n.v
}

// validUTF8 makes s fit for a proto string, which must be UTF-8.
func validUTF8(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
