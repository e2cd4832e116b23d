// Package doctor examines the Redis under a bus, and says what is wrong and how to
// mend it: `eventbus check`.
//
// It looks as an operator would, from outside: it owns no part of an event's way,
// changes nothing that a bus uses, and works whether or not a router runs. What it
// writes are keys of its own, router:check:…, that live for a minute at most.
//
//	server.go (each Redis: role, version, persistence, memory, latency, clock)
//	abilities.go (may we do what a router does?)   delivery.go (does Pub/Sub deliver?)
//	bus.go (what is in it: routers, leases, groups, lag, dead letters)
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/event"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Note Level = "note" // worth knowing
	Warn Level = "warn" // works now, and may lose or delay events
	Fail Level = "fail" // does not work
)

// Finding is one thing that was looked at.
type Finding struct {
	Level Level `json:"level"`
	// Subject is what was looked at, "streams 127.0.0.1:6379".
	Subject string `json:"subject"`
	// Text is what was found.
	Text string `json:"text"`
	// Mend is what to do about it; empty where nothing is to be done.
	Mend string `json:"mend,omitempty"`
}

// tooLong bounds the examination of one thing: a Redis that hangs is a finding.
const tooLong = 10 * time.Second

// Examine looks at everything and reports each finding as it comes. It returns when
// it is through, or ctx ends.
func Examine(ctx context.Context, cfg router.Config, report func(Finding)) {
	e := &examiner{cfg: cfg, report: report}
	if !e.settings() {
		return
	}
	stores, err := router.OpenStores(cfg)
	if err != nil {
		e.say(Fail, "settings", "write the URL as `eventbus router --help` says", "%v", err)
		return
	}
	defer func() { _ = stores.Close() }() // nothing is left to be done with them
	if e.nodes(ctx, "streams", stores.Streams, e.streamsNode) {
		e.abilities(ctx, stores.Streams)
		e.bus(ctx, stores.Streams)
	}
	if cfg.PubSubURL == "" {
		e.say(Note, "pubsub", "", "the streams Redis carries the announcements, too")
	}
	for i, c := range stores.PubSub {
		name := "pubsub"
		if len(stores.PubSub) > 1 {
			name = fmt.Sprintf("pubsub %d", i)
		}
		if cfg.PubSubURL == "" || e.nodes(ctx, name, c, e.pubsubNode) {
			e.delivery(ctx, name, c)
		}
	}
}

type examiner struct {
	cfg    router.Config
	report func(Finding)
}

func (e *examiner) say(l Level, subject, mend, format string, args ...any) {
	e.report(Finding{Level: l, Subject: subject, Text: fmt.Sprintf(format, args...), Mend: mend})
}

// settings tells whether they can be used.
func (e *examiner) settings() bool {
	err := e.cfg.Check()
	if err == nil {
		e.say(OK, "settings", "", "domains %s, %d shards each, events are kept for %v",
			strings.Join(e.cfg.Domains, ", "), e.cfg.ShardCount, e.cfg.Retention)
		return true
	}
	if bad, ok := errors.AsType[*event.Error](err); ok && len(bad.Violations) > 0 {
		for _, v := range bad.Violations {
			e.say(Fail, "settings", v.Field+" "+v.Rule, "%s", v)
		}
		return false
	}
	e.say(Fail, "settings", "see `eventbus router --help`", "%v", err)
	return false
}

// nodes examines each server that is written to; false where one does not answer.
func (e *examiner) nodes(ctx context.Context, name string, c redis.UniversalClient, look func(context.Context, string, *redis.Client, router.Info)) bool {
	ctx, cancel := context.WithTimeout(ctx, tooLong)
	defer cancel()
	one := func(ctx context.Context, node *redis.Client) bool {
		subject := name + " " + router.Address(ctx, node)
		i, ok := e.server(ctx, subject, node)
		if ok {
			look(ctx, subject, node, i)
		}
		return ok
	}
	switch c := c.(type) {
	case *redis.ClusterClient:
		return e.cluster(ctx, name, c, one)
	case *redis.Client:
		return one(ctx, c)
	}
	return false
}
