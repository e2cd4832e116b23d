package terraform_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// module is one directory of configuration, evaluated without Terraform: variables and locals, no resources.
type module struct {
	dir    string
	blocks hclsyntax.Blocks
	locals map[string]hclsyntax.Expression
}

// loadModule reads all .tf files of dir.
func loadModule(t *testing.T, dir string) *module {
	t.Helper()
	m := &module{dir: dir, locals: map[string]hclsyntax.Expression{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no configuration in %s: %v", dir, err)
	}
	for _, file := range files {
		m.blocks = append(m.blocks, parse(t, file).Blocks...)
	}
	for _, block := range m.of("locals") {
		for name, attribute := range block.Body.Attributes {
			m.locals[name] = attribute.Expr
		}
	}
	return m
}

// parse reads one file in HCL's native syntax.
func parse(t *testing.T, file string) *hclsyntax.Body {
	t.Helper()
	parsed, diags := hclparse.NewParser().ParseHCLFile(file)
	if diags.HasErrors() {
		t.Fatalf("parse %s: %v", file, diags)
	}
	body, ok := parsed.Body.(*hclsyntax.Body)
	if !ok {
		t.Fatalf("parse %s: body is a %T", file, parsed.Body)
	}
	return body
}

// of returns the blocks with this type and these labels; fewer labels match more blocks.
func (m *module) of(kind string, labels ...string) hclsyntax.Blocks {
	var found hclsyntax.Blocks
	for _, block := range m.blocks {
		if block.Type == kind && len(block.Labels) >= len(labels) && slices.Equal(block.Labels[:len(labels)], labels) {
			found = append(found, block)
		}
	}
	return found
}

// variable returns the value that var.name has when the caller gives value (cty.NilVal: nothing), as Terraform converts it.
func (m *module) variable(t *testing.T, name string, value cty.Value) cty.Value {
	t.Helper()
	blocks := m.of("variable", name)
	if len(blocks) != 1 {
		t.Fatalf("%s: %d blocks for variable %s", m.dir, len(blocks), name)
	}
	attributes := blocks[0].Body.Attributes
	wanted, defaults, diags := typeexpr.TypeConstraintWithDefaults(attributes["type"].Expr)
	if diags.HasErrors() {
		t.Fatalf("type of variable %s: %v", name, diags)
	}
	if value == cty.NilVal {
		if value, diags = attributes["default"].Expr.Value(nil); diags.HasErrors() {
			t.Fatalf("default of variable %s: %v", name, diags)
		}
	}
	if defaults != nil {
		value = defaults.Apply(value)
	}
	converted, err := convert.Convert(value, wanted)
	if err != nil {
		t.Fatalf("variable %s: %v", name, err)
	}
	return converted
}

// scope evaluates the locals that wanted names, and those they need, with these variables.
func (m *module) scope(t *testing.T, variables map[string]cty.Value, wanted ...string) *hcl.EvalContext {
	t.Helper()
	values := map[string]cty.Value{}
	ctx := &hcl.EvalContext{Functions: functions()}
	update := func() {
		ctx.Variables = map[string]cty.Value{
			"var":   cty.ObjectVal(variables),
			"local": cty.ObjectVal(values),
			"path":  cty.ObjectVal(map[string]cty.Value{"module": cty.StringVal(m.dir)}),
		}
	}
	update()
	var evaluate func(name string)
	evaluate = func(name string) {
		if _, done := values[name]; done {
			return
		}
		expression, ok := m.locals[name]
		if !ok {
			t.Fatalf("%s has no local %s", m.dir, name)
		}
		for _, traversal := range expression.Variables() {
			if traversal.RootName() == "local" {
				evaluate(traversal[1].(hcl.TraverseAttr).Name)
			}
		}
		value, diags := expression.Value(ctx)
		if diags.HasErrors() {
			t.Fatalf("local %s: %v", name, diags)
		}
		values[name] = value
		update()
	}
	for _, name := range wanted {
		evaluate(name)
	}
	return ctx
}

// refusals returns the messages of all validation blocks of a variable that do not hold in ctx.
func (m *module) refusals(t *testing.T, name string, ctx *hcl.EvalContext) []string {
	t.Helper()
	var messages []string
	for _, block := range m.of("variable", name)[0].Body.Blocks {
		if block.Type != "validation" {
			continue
		}
		holds, diags := block.Body.Attributes["condition"].Expr.Value(ctx)
		if diags.HasErrors() {
			t.Fatalf("validation of %s: %v", name, diags)
		}
		if holds.False() {
			message, diags := block.Body.Attributes["error_message"].Expr.Value(ctx)
			if diags.HasErrors() {
				t.Fatalf("message of a validation of %s: %v", name, diags)
			}
			messages = append(messages, message.AsString())
		}
	}
	return messages
}

// functions returns those of Terraform's functions that this configuration calls. Where cty has one of the same name,
// Terraform uses that one.
func functions() map[string]function.Function {
	all := map[string]function.Function{
		"can":      tryfunc.CanFunc,
		"try":      tryfunc.TryFunc,
		"coalesce": stdlib.CoalesceFunc,
		"compact":  stdlib.CompactFunc,
		"contains": stdlib.ContainsFunc,
		"distinct": stdlib.DistinctFunc,
		"flatten":  stdlib.FlattenFunc,
		"join":     stdlib.JoinFunc,
		"keys":     stdlib.KeysFunc,
		"length":   stdlib.LengthFunc,
		"merge":    stdlib.MergeFunc,
		"regex":    stdlib.RegexFunc,
		"values":   stdlib.ValuesFunc,
		"alltrue":  allTrue(),
	}
	inTemplates := maps.Clone(all)
	all["templatefile"] = templateFile(inTemplates)
	return all
}

func allTrue() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			for _, element := range args[0].AsValueSlice() {
				if element.False() {
					return cty.False, nil
				}
			}
			return cty.True, nil
		},
	})
}

func templateFile(inTemplates map[string]function.Function) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{
			{Name: "path", Type: cty.String},
			{Name: "vars", Type: cty.DynamicPseudoType},
		},
		Type: function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			source, err := os.ReadFile(args[0].AsString())
			if err != nil {
				return cty.NilVal, err
			}
			template, diags := hclsyntax.ParseTemplate(source, args[0].AsString(), hcl.InitialPos)
			if diags.HasErrors() {
				return cty.NilVal, errors.Join(diags.Errs()...)
			}
			text, diags := template.Value(&hcl.EvalContext{Variables: args[1].AsValueMap(), Functions: inTemplates})
			if diags.HasErrors() {
				return cty.NilVal, fmt.Errorf("render %s: %w", args[0].AsString(), diags)
			}
			return text, nil
		},
	})
}
