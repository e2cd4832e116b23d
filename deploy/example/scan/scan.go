// Package scan is the work of a scan without what is around it: what a picture shows
// (vision.go), which rule applies, and what is answered and given for it (stages.go).
//
// It computes and does nothing else: no queue, no bus, no clock. The same picture and
// job always give the same result, so that a worker that takes over another one's job
// repeats what that one said. python/scan.py is the same in Python; a test compares
// them.
package scan

import (
	"crypto/md5" //nolint:gosec // spreads, hides nothing
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

// Stages are the stages of a scan in their order; each is started and completed, and
// the final one, Done, comes after them.
func Stages() []string { return []string{"queued", "vision", "rule", "answer", "reward"} }

// Done is the last stage.
const Done = "done"

// Progress is how far a job is when a stage begins and when it is completed, in per
// cent.
func Progress(stage string) (begin, end int32) {
	switch stage {
	case "queued":
		return 0, 5
	case "vision":
		return 5, 40
	case "rule":
		return 40, 50
	case "answer":
		return 50, 90
	case "reward":
		return 90, 95
	}
	return 100, 100
}

// rules is shared with python/scan.py.
//
//go:embed rules.json
var rulesJSON []byte

// Rule is what is to be done with a kind of waste.
type Rule struct {
	Category string   `json:"category"`
	Steps    []string `json:"steps"`
}

// Answer is the text for the user.
type Answer struct {
	Text string `json:"text"`
}

// Reward is what the user gets.
type Reward struct {
	Character string `json:"character"`
	Received  bool   `json:"received"`
}

// Result is the whole result, that of the final event.
type Result struct {
	Vision Vision `json:"vision"`
	Rule   Rule   `json:"rule"`
	Answer Answer `json:"answer"`
	Reward Reward `json:"reward"`
}

type rules struct {
	Rules      map[string]Rule `json:"rules"`
	Characters []string        `json:"characters"`
}

func readRules() rules {
	var r rules
	if err := json.Unmarshal(rulesJSON, &r); err != nil {
		panic(fmt.Sprintf("rules.json: %v", err)) // it is compiled in, and tested
	}
	return r
}

// RuleFor is the rule for what a picture shows.
func RuleFor(v Vision) (Rule, error) {
	r, ok := readRules().Rules[v.Dominant]
	if !ok {
		return Rule{}, fmt.Errorf("no rule for colour %q", v.Dominant)
	}
	return r, nil
}

// AnswerFor is the text about a picture.
func AnswerFor(v Vision, r Rule) Answer {
	return Answer{Text: fmt.Sprintf("The picture of %d × %d pixels is mostly %s, so this is probably %s. %s.",
		v.Width, v.Height, v.Dominant, r.Category, strings.Join(r.Steps, ". "))}
}

// Tokens are the text as a language model streams it; joined they are the text.
func (a Answer) Tokens() []string { return strings.SplitAfter(a.Text, " ") }

// RewardFor draws the reward of a job.
func RewardFor(jobID string) Reward {
	sum := md5.Sum([]byte(jobID)) //nolint:gosec // as above
	characters := readRules().Characters
	return Reward{Character: characters[int(sum[0])%len(characters)], Received: sum[1]%2 == 0}
}
