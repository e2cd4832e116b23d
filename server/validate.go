package server

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	relayv1 "github.com/eco2-team/eventbus/gen/eventbus/relay/v1"
	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/router/event"
)

// Limits of requests beyond those of router/event; MAX_EVENT_BYTES is a setting.
const (
	// MaxBatchRequests and MaxBatchBytes bound a PublishBatch: it is one script
	// per shard, and Redis does nothing else meanwhile.
	MaxBatchRequests = 1000
	MaxBatchBytes    = 8 << 20
	// MaxAttributes and MaxAttributeKeyBytes bound Event.attributes; the values
	// are bounded by MAX_EVENT_BYTES.
	MaxAttributes        = 64
	MaxAttributeKeyBytes = 128
	// MaxResultNesting is how deep lists and objects of a result may nest. The
	// protobuf of C++, Java and Python reads messages 100 deep, and an object is
	// three: a deeper event would stop such a subscriber for ever.
	MaxResultNesting = 32
	// MaxWatchStages and MaxWatchStageBytes bound the filter of a Watch. Its
	// stages need not keep event.StageRule, as those of legacy workers do not.
	MaxWatchStages     = 256
	MaxWatchStageBytes = 256
)

// validator knows the rules of every request. All that are broken are reported
// at once.
type validator struct {
	domains       []string
	maxEventBytes int
	keyRequired   bool
}

// violations collects broken rules.
type violations []event.Violation

func (vs *violations) check(ok bool, field string, value any, rule string) {
	if !ok {
		*vs = append(*vs, event.Violate(field, value, rule))
	}
}

// err is nil where no rule is broken.
func (vs violations) err() error {
	if len(vs) == 0 {
		return nil
	}
	return event.Refuse(vs...)
}

func (v *validator) publish(r *eventbusv1.PublishRequest) error {
	var vs violations
	v.request(&vs, "", r)
	return vs.err()
}

func (v *validator) batch(r *eventbusv1.PublishBatchRequest) error {
	var vs violations
	n := len(r.GetRequests())
	vs.check(n >= 1 && n <= MaxBatchRequests, "requests", count(n), fmt.Sprintf("must be 1-%d", MaxBatchRequests))
	vs.size("requests", r, MaxBatchBytes)
	if err := vs.err(); err != nil {
		return err
	}
	for i, req := range r.GetRequests() {
		v.request(&vs, "requests["+strconv.Itoa(i)+"].", req)
	}
	return vs.err()
}

// job is the rule of a domain and a job_id.
func (v *validator) job(vs *violations, prefix, domain, jobID string) {
	v.domain(vs, prefix+"domain", domain)
	vs.check(event.ValidJobID(jobID), prefix+"job_id", jobID, event.JobIDRule)
}

func (v *validator) domain(vs *violations, field, domain string) {
	if !event.ValidDomain(domain) {
		vs.check(false, field, domain, event.DomainRule)
		return
	}
	if !slices.Contains(v.domains, domain) {
		vs.check(false, field, domain, "must be one of "+strings.Join(v.domains, ", "))
	}
}

func (v *validator) getState(r *eventbusv1.GetStateRequest) error {
	var vs violations
	v.job(&vs, "", r.GetDomain(), r.GetJobId())
	return vs.err()
}

// subscribe returns the cursor; ok is false where there is none.
func (v *validator) subscribe(r *eventbusv1.SubscribeRequest) (after event.ID, ok bool, err error) {
	var vs violations
	v.job(&vs, "", r.GetDomain(), r.GetJobId())
	after, ok = vs.cursor(r.GetAfterId())
	_, known := eventbusv1.Replay_name[int32(r.GetReplay())]
	vs.check(known, "replay", int32(r.GetReplay()), "must be REPLAY_UNSPECIFIED, REPLAY_STATE or REPLAY_NONE")
	return after, ok, vs.err()
}

// add returns the cursor, zero where there is none.
func (v *validator) add(a *relayv1.Add) (after event.ID, err error) {
	var vs violations
	v.job(&vs, "", a.GetDomain(), a.GetJobId())
	after, _ = vs.cursor(a.GetAfterId())
	return after, vs.err()
}

// list returns the cursor, zero where there is none, and the page's size.
func (v *validator) list(r *eventbusv1.ListEventsRequest) (after event.ID, size int, err error) {
	var vs violations
	v.job(&vs, "", r.GetDomain(), r.GetJobId())
	after, _ = vs.cursor(r.GetAfterId())
	size = int(r.GetPageSize())
	vs.check(size >= 0 && size <= event.MaxPageSize, "page_size", size,
		fmt.Sprintf("must be 0-%d; 0 is %d", event.MaxPageSize, event.DefaultPageSize))
	if size == 0 {
		size = event.DefaultPageSize
	}
	return after, size, vs.err()
}

func (v *validator) watch(r *eventbusv1.WatchRequest) error {
	var vs violations
	v.domain(&vs, "domain", r.GetDomain())
	jobs, stages := r.GetJobIds(), r.GetStages()
	vs.check(len(jobs) <= event.MaxWatchJobs, "job_ids", count(len(jobs)), fmt.Sprintf("must be at most %d", event.MaxWatchJobs))
	vs.check(len(stages) <= MaxWatchStages, "stages", count(len(stages)), fmt.Sprintf("must be at most %d", MaxWatchStages))
	if err := vs.err(); err != nil {
		return err
	}
	for i, id := range jobs {
		vs.check(event.ValidJobID(id), "job_ids["+strconv.Itoa(i)+"]", id, event.JobIDRule)
	}
	for i, s := range stages {
		vs.check(s != "" && len(s) <= MaxWatchStageBytes, "stages["+strconv.Itoa(i)+"]", s,
			fmt.Sprintf("must be 1-%d bytes", MaxWatchStageBytes))
	}
	if r.GetCursor() != "" {
		for id := range strings.SplitSeq(r.GetCursor(), ",") {
			if _, err := event.ParseID(id); err != nil {
				vs.check(false, "cursor", r.GetCursor(), "must be the cursor of a WatchResponse: ids [0-9]+-[0-9]+ joined by commas")
				break
			}
		}
	}
	return vs.err()
}

// cursor reads an after_id; ok is false where there is none.
func (vs *violations) cursor(s string) (id event.ID, ok bool) {
	if s == "" {
		return event.ID{}, false
	}
	id, err := event.ParseID(s)
	vs.check(err == nil, "after_id", s, "must be an id of the form [0-9]+-[0-9]+")
	return id, err == nil
}

// size is the rule of an encoded message's length.
func (vs *violations) size(field string, m proto.Message, most int) {
	if n := proto.Size(m); n > most {
		vs.check(false, field, given(fmt.Sprintf("is %d bytes", n)), fmt.Sprintf("must be at most %d", most))
	}
}

// request is the rule of one event to publish; prefix is where it stands.
func (v *validator) request(vs *violations, prefix string, r *eventbusv1.PublishRequest) {
	key := r.GetIdempotencyKey()
	vs.check(event.ValidKey(key), prefix+"idempotency_key", key, event.KeyRule)
	vs.check(key != "" || !v.keyRequired, prefix+"idempotency_key", nil,
		"must be set, because PUBLISH_MIN_REPLICAS is above 0")
	e := r.GetEvent()
	if e == nil {
		vs.check(false, prefix+"event", nil, "must be set")
		return
	}
	field := prefix + "event"
	vs.size(field, e, v.maxEventBytes)
	prefix = field + "."
	v.job(vs, prefix, e.GetDomain(), e.GetJobId())
	vs.check(e.GetId() == "", prefix+"id", e.GetId(), "must be empty: the bus sets it")
	vs.check(e.GetSeq() == 0, prefix+"seq", e.GetSeq(), "must be 0: the bus sets it")
	vs.check(e.GetPublishTime() == nil, prefix+"publish_time", nil, "must be unset: the bus sets it")
	vs.check(event.ValidStage(e.GetStage()), prefix+"stage", e.GetStage(), event.StageRule)
	if p := e.GetProgress(); p < 0 || p > 100 {
		vs.check(false, prefix+"progress", p, "must be 0-100")
	}
	vs.attributes(prefix+"attributes", e.GetAttributes())
	if e.GetResult() != nil {
		vs.result(prefix+"result", e.GetResult(), MaxResultNesting)
	}
}

func (vs *violations) attributes(field string, m map[string]string) {
	vs.check(len(m) <= MaxAttributes, field, count(len(m)), fmt.Sprintf("must be at most %d", MaxAttributes))
	for k := range m {
		vs.check(k != "" && len(k) <= MaxAttributeKeyBytes, field, k,
			fmt.Sprintf("keys must be 1-%d bytes", MaxAttributeKeyBytes))
	}
}

// result is the rule of a value that must be expressible in JSON. It reports the
// first broken one and tells whether there was none.
func (vs *violations) result(field string, v *structpb.Value, levels int) bool {
	switch k := v.GetKind().(type) {
	case nil:
		vs.check(false, field, nil, "must have a kind: for null set null_value")
		return false
	case *structpb.Value_NumberValue:
		if math.IsNaN(k.NumberValue) || math.IsInf(k.NumberValue, 0) {
			vs.check(false, field, k.NumberValue, "must be a finite number: JSON has no other")
			return false
		}
	case *structpb.Value_ListValue:
		if !vs.nesting(field, levels) {
			return false
		}
		for _, item := range k.ListValue.GetValues() {
			if !vs.result(field, item, levels-1) {
				return false
			}
		}
	case *structpb.Value_StructValue:
		if !vs.nesting(field, levels) {
			return false
		}
		for _, item := range k.StructValue.GetFields() {
			if !vs.result(field, item, levels-1) {
				return false
			}
		}
	}
	return true
}

func (vs *violations) nesting(field string, levels int) bool {
	vs.check(levels > 0, field, nil, fmt.Sprintf("must nest at most %d levels", MaxResultNesting))
	return levels > 0
}

// given is a value that an error shows as it is; strings are quoted.
type given string

func count(n int) given { return given("has " + strconv.Itoa(n)) }
