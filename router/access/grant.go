package access

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// anything stands for every name of a segment.
const anything = "*"

// pattern is domain/job. The domain is a name or *; the job is a name, * or the
// beginning of a name followed by *.
type pattern struct {
	domain, job string
	// prefix: job is the beginning of a name.
	prefix bool
}

// parsePattern refuses what it would not match exactly as it reads.
func parsePattern(s string) (pattern, error) {
	domain, job, ok := strings.Cut(s, "/")
	p := pattern{domain: domain, job: job}
	if rest, cut := strings.CutSuffix(job, anything); cut && rest != "" {
		p.job, p.prefix = rest, true
	}
	switch {
	case !ok,
		domain != anything && !event.ValidDomain(domain),
		p.job != anything && !p.prefix && !event.ValidJobID(p.job),
		// "." and ".." are no names, but names may begin so.
		p.prefix && !event.ValidJobID(p.job+"x"):
		return pattern{}, errors.New("must be domain/job, with * for any domain, any job, or any end of a job_id")
	}
	return p, nil
}

func (p pattern) coversDomain(domain string) bool { return p.domain == anything || p.domain == domain }

func (p pattern) covers(domain, job string) bool {
	switch {
	case !p.coversDomain(domain):
		return false
	case p.job == anything:
		return true
	case p.prefix:
		return strings.HasPrefix(job, p.job)
	}
	return job == p.job
}

func parsePatterns(list []string) ([]pattern, error) {
	out := make([]pattern, len(list))
	for i, s := range list {
		var err error
		if out[i], err = parsePattern(s); err != nil {
			return nil, event.Refuse(event.Violate("eventbus", s, err.Error()))
		}
	}
	return out, nil
}

// Identity is who calls and what they may do. It does not change, so it is safe
// for concurrent use.
type Identity struct {
	// Subject names the caller; empty where nothing does.
	Subject string
	// Until is when it ends, and a stream with it; zero where it does not.
	Until time.Time

	subscribe, publish []pattern
}

// MayPublish returns an event.Denied unless events of the job may be published.
func (id *Identity) MayPublish(domain, job string) error {
	return check(id.publish, "publish", domain, job)
}

// MaySubscribe returns an event.Denied unless the job may be read.
func (id *Identity) MaySubscribe(domain, job string) error {
	return check(id.subscribe, "subscribe", domain, job)
}

// MayWatch returns an event.Denied unless each of the jobs may be read; without
// any, all jobs of the domain.
func (id *Identity) MayWatch(domain string, jobs []string) error {
	for _, job := range jobs {
		if err := id.MaySubscribe(domain, job); err != nil {
			return err
		}
	}
	if len(jobs) > 0 {
		return nil
	}
	for _, p := range id.subscribe {
		if p.coversDomain(domain) && p.job == anything {
			return nil
		}
	}
	return denied("subscribe", domain, anything)
}

// MayInspect returns an event.Denied unless everything may be read: what tells of the
// bus as a whole is for operators.
func (id *Identity) MayInspect() error {
	if slices.Contains(id.subscribe, pattern{domain: anything, job: anything}) {
		return nil
	}
	return denied("subscribe", anything, anything)
}

func check(grants []pattern, what, domain, job string) error {
	for _, p := range grants {
		if p.covers(domain, job) {
			return nil
		}
	}
	return denied(what, domain, job)
}

// denied shows the names clipped: they may be anything.
func denied(what, domain, job string) error {
	clip := func(s string) string {
		if len(s) > event.MaxJobIDLen {
			s = s[:event.MaxJobIDLen]
		}
		return s
	}
	return event.Errorf(event.Denied, "no grant to %s %s", what, strconv.Quote(clip(domain)+"/"+clip(job)))
}

// everything is what one may do where access is not required.
func everything(subject string) *Identity {
	all := []pattern{{domain: anything, job: anything}}
	return &Identity{Subject: subject, subscribe: all, publish: all}
}

// reader may read everything and publish nothing.
func reader(subject string) *Identity {
	return &Identity{Subject: subject, subscribe: []pattern{{domain: anything, job: anything}}}
}
