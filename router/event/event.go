// Package event is the vocabulary of the bus: what an event is, how it is named
// and what may go wrong. It knows neither Redis nor gRPC nor HTTP; every other
// package speaks it.
package event

import (
	"regexp"
	"strconv"
	"time"
)

// Limits of the contract, in bytes or counts.
const (
	MaxJobIDLen          = 128
	MaxStageLen          = 64
	MaxIdempotencyKeyLen = 128
	MaxWatchJobs         = 256
	MaxPageSize          = 1000
	DefaultPageSize      = 100
)

// Event is one step of a job. Once it was handed to a hub it is shared by all
// subscribers and must not be changed.
type Event struct {
	ID     ID
	Domain string
	JobID  string
	// Seq is 1, 2, 3 … within the job's log.
	Seq    uint32
	Stage  string
	Status string
	// Progress is in per cent; it means something only where HasProgress.
	Progress    int32
	HasProgress bool
	Message     string
	Content     string
	// Result is JSON text; empty where unset.
	Result      string
	Attributes  map[string]string
	Final       bool
	Traceparent string
	// PublishMs is when the bus took the event, milliseconds since 1970. It is
	// the time of ID, save for a late entry, whose ID is younger.
	PublishMs uint64
}

// PublishTime is PublishMs in UTC.
func (e *Event) PublishTime() time.Time { return timeOf(e.PublishMs) }

// Streaming tells whether the event is one of many small ones, such as a token:
// such an event does not become the job's state, unless it is the last.
func (e *Event) Streaming() bool { return e.Status == "streaming" && !e.Final }

// Size is roughly what the event takes in memory, in bytes.
func (e *Event) Size() int {
	n := 160 + len(e.Domain) + len(e.JobID) + len(e.Stage) + len(e.Status) + len(e.Message) +
		len(e.Content) + len(e.Result) + len(e.Traceparent)
	for k, v := range e.Attributes {
		n += 32 + len(k) + len(v)
	}
	return n
}

// Reason says why events are lost to a subscriber.
type Reason int

// The reasons, numbered as in the protocol.
const (
	// HistoryExpired: what followed the cursor is no longer retained.
	HistoryExpired Reason = 1
	// LogReset: the log was lost and has begun anew.
	LogReset Reason = 2
)

// String is the reason's name in the protocol and in metrics.
func (r Reason) String() string {
	switch r {
	case HistoryExpired:
		return "REASON_HISTORY_EXPIRED"
	case LogReset:
		return "REASON_LOG_RESET"
	}
	return "REASON_UNSPECIFIED"
}

// Gap tells a subscriber that events before the next one are lost to it.
type Gap struct {
	Reason Reason
	// Oldest is the oldest ID still retained; zero where there is none.
	Oldest ID
}

var (
	domainRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	nameRE   = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)
)

// The rules of names, as error texts state them.
const (
	DomainRule = "must match [a-z][a-z0-9-]{0,31}"
	JobIDRule  = `must be 1-128 characters of [A-Za-z0-9._:-], not "." or ".."`
	StageRule  = `must be 1-64 characters of [A-Za-z0-9._:-], not "gap", "error", "open" or "message"`
	KeyRule    = "must be at most 128 printable ASCII characters"
)

// ValidDomain tells whether s keeps DomainRule.
func ValidDomain(s string) bool { return domainRE.MatchString(s) }

// ValidJobID tells whether s keeps JobIDRule. "." and ".." are out because
// clients normalise them in URLs.
func ValidJobID(s string) bool {
	return len(s) <= MaxJobIDLen && s != "." && s != ".." && nameRE.MatchString(s)
}

// ValidStage tells whether s keeps StageRule. The reserved names would fire a
// browser's own handlers.
func ValidStage(s string) bool {
	switch s {
	case "gap", "error", "open", "message":
		return false
	}
	return len(s) <= MaxStageLen && nameRE.MatchString(s)
}

// ValidKey tells whether s keeps KeyRule; the empty key is none.
func ValidKey(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= MaxIdempotencyKeyLen
}

// clip keeps a value short enough for an error text.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "… (" + strconv.Itoa(len(s)) + " bytes)"
}
