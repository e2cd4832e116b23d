package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Completion prints what lets a shell complete our command line: a script that asks
// `eventbus complete` at each Tab. (The completion libraries for kong are without
// releases since 2023, and bring more code than this is.)
type Completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"Shell: ${enum}."`
}

// Help is the command's manual.
func (*Completion) Help() string {
	return `Prints a script that completes commands, flags and their values:

  bash   source <(eventbus completion bash)      in ~/.bashrc
  zsh    source <(eventbus completion zsh)       in ~/.zshrc, after compinit
  fish   eventbus completion fish | source       in ~/.config/fish/config.fish`
}

const (
	bashScript = `_eventbus() {
	local IFS=$'\n'
	COMPREPLY=($("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _eventbus eventbus
`
	zshScript = `_eventbus() {
	local -a found
	found=("${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _eventbus eventbus
`
	fishScript = `function __eventbus_complete
	set -l words (commandline -opc) (commandline -ct)
	$words[1] complete -- $words[2..-1] 2>/dev/null
end
complete -c eventbus -a '(__eventbus_complete)'
`
)

// Run prints the script.
func (c *Completion) Run(std Streams) error {
	script := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	_, err := fmt.Fprint(std.Out, script)
	return err
}

// Complete prints the words that may stand in the place of the last of Words.
type Complete struct {
	Words []string `arg:"" optional:"" passthrough:"" help:"The command line so far."`
}

// Run prints them, one a line.
func (c *Complete) Run(std Streams, app *kong.Kong) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	var err error
	for _, w := range complete(app.Model.Node, words) {
		_, printed := fmt.Fprintln(std.Out, w)
		err = errors.Join(err, printed)
	}
	return err
}

// complete walks the words before the last one, and returns what may follow that
// begins with it.
func complete(node *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	var open *kong.Flag // waits for its value
	for _, w := range words[:len(words)-1] {
		switch {
		case open != nil:
			open = nil
		case strings.HasPrefix(w, "-"):
			name, _, hasValue := strings.Cut(w, "=")
			if f := flagOf(node, name); f != nil && !f.IsBool() && !hasValue {
				open = f
			}
		default:
			if child := childOf(node, w); child != nil {
				node = child
			}
		}
	}
	var all []string
	name, _, isValue := strings.Cut(last, "=")
	switch {
	case open != nil:
		all = enum(open.Value)
	case isValue && strings.HasPrefix(last, "-"):
		if f := flagOf(node, name); f != nil {
			for _, v := range enum(f.Value) {
				all = append(all, name+"="+v)
			}
		}
	case strings.HasPrefix(last, "-"):
		all = flags(node)
	default:
		for _, c := range node.Children {
			if !c.Hidden {
				all = append(all, c.Name)
			}
		}
		for _, p := range node.Positional {
			all = append(all, enum(p)...)
		}
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, last) })
	slices.Sort(all)
	return all
}

func childOf(node *kong.Node, name string) *kong.Node {
	for _, c := range node.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func flagOf(node *kong.Node, name string) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

func flags(node *kong.Node) []string {
	var out []string
	for _, group := range node.AllFlags(true) {
		for _, f := range group {
			out = append(out, "--"+f.Name)
			if f.Tag.Negatable != "" {
				out = append(out, "--no-"+f.Name)
			}
		}
	}
	return out
}

func enum(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	return v.EnumSlice()
}
