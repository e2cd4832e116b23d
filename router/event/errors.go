package event

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind is what went wrong, in the one vocabulary of the bus. server/errors.go
// turns it into a gRPC code.
type Kind int

// The kinds. An error of no kind is Internal.
const (
	// Internal is a fault of the bus; its text is for the log only.
	Internal Kind = iota
	// Invalid: the caller's input breaks a rule; see Error.Violations.
	Invalid
	// NotFound: there is no such thing now.
	NotFound
	// Over: the job had its final event.
	Over
	// OutOfRange: nothing will ever follow the cursor.
	OutOfRange
	// Exhausted: a limit is reached; wait Error.RetryAfter.
	Exhausted
	// Unavailable: Redis is away, has too few replicas, or the bus is stopping.
	Unavailable
	// Unauthenticated: it is not known who calls; repeating needs another token.
	Unauthenticated
	// Denied: the caller is known and may not.
	Denied
)

// Error is an error with a Kind. Its text is fit for the caller, save where the
// kind is Internal.
type Error struct {
	Kind Kind
	Text string
	// Violations lists each broken rule of an Invalid error.
	Violations []Violation
	// RetryAfter is when an Exhausted call is worth repeating.
	RetryAfter time.Duration
	// Err is the cause, for the log.
	Err error
}

// Violation is one broken rule.
type Violation struct {
	// Field is the path within the request, "event.job_id".
	Field string
	// Value is what was given, quoted and clipped.
	Value string
	// Rule is what it must be.
	Rule string
}

// String is "field: value: rule".
func (v Violation) String() string {
	if v.Value == "" {
		return v.Field + ": " + v.Rule
	}
	return v.Field + ": " + v.Value + ": " + v.Rule
}

// Violate describes a broken rule; value is printed quoted and clipped.
func Violate(field string, value any, rule string) Violation {
	if s, ok := value.(string); ok {
		return Violation{field, fmt.Sprintf("%q", clip(s)), rule}
	}
	if value == nil {
		return Violation{Field: field, Rule: rule}
	}
	return Violation{field, fmt.Sprint(value), rule}
}

// Refuse is the Invalid error of one or more broken rules.
func Refuse(vs ...Violation) *Error {
	texts := make([]string, len(vs))
	for i, v := range vs {
		texts[i] = v.String()
	}
	return &Error{Kind: Invalid, Text: strings.Join(texts, "; "), Violations: vs}
}

// Errorf makes an error of a kind; %w, at most one, keeps the cause for the log.
func Errorf(k Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: k, Text: err.Error(), Err: errors.Unwrap(err)}
}

func (e *Error) Error() string { return e.Text }

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the first *Error in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
