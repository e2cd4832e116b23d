package router

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Level is how bad a finding is; a higher one is worse.
type Level int

// The levels, numbered as in the protocol.
const (
	LevelOK   Level = 1
	LevelNote Level = 2 // worth knowing
	LevelWarn Level = 3 // works, and may lose or delay events
	LevelFail Level = 4 // does not work
)

// Finding is one thing in plain words.
type Finding struct {
	Level Level
	// Hop is where on an event's way: one of the hops, or empty.
	Hop string
	// Text is what was found, Mend what to do about it, if anything is.
	Text, Mend string
}

// Hops of an event's way.
const (
	hopPublish = "publish"
	hopLog     = "log"
	hopBridge  = "bridge"
	hopJobLog  = "joblog"
	hopPubSub  = "pubsub"
	hopHub     = "hub"
)

const (
	// WarnRatio of maxmemory is worth a word before FullRatio.
	WarnRatio = 0.7
	// oldAge of an entry that waits is worth a word: usually it is milliseconds.
	oldAge = 10 * time.Second
	// oldPing is more than a router should wait for a Redis, on average.
	oldPing = 20 * time.Millisecond
)

// findings is what is wrong with the bus, worst first. It only judges.
func findings(c *Cluster, cfg *Config) []Finding {
	var all []Finding
	say := func(l Level, hop, mend, format string, args ...any) {
		all = append(all, Finding{l, hop, fmt.Sprintf(format, args...), mend})
	}
	for i := range c.Redis {
		nodeFindings(&c.Redis[i], cfg, say)
	}
	if len(c.Members) == 1 && !cfg.Embedded {
		say(LevelNote, hopBridge, "", "One router runs, %s; with two, one may fail.", c.Members[0].Name)
	}
	for _, s := range c.Shards {
		shardFindings(s, cfg, say)
	}
	for _, d := range c.Domains {
		if d.DeadLetters > 0 {
			say(LevelWarn, hopBridge, "Mend the producer; read them by XRANGE "+deadKey(d.Name)+" - +, then DEL "+deadKey(d.Name)+".",
				"%s of %s were no events, the last one at %s: %s.", entriesText(d.DeadLetters), d.Name, clock(d.DeadTime), strings.TrimSuffix(d.DeadReason, "."))
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(b.Level, a.Level) })
	return all
}

type sayer func(l Level, hop, mend, format string, args ...any)

// nodeFindings judges one Redis.
func nodeFindings(n *Node, cfg *Config, say sayer) {
	hop, name := hopLog, "Streams Redis "+n.Address
	if n.Use == "pubsub" {
		hop, name = hopPubSub, "Pub/Sub Redis "+n.Address
	}
	name = strings.TrimSpace(name)
	if n.Trouble != "" {
		say(LevelWarn, hopPubSub, "Look at the Pub/Sub Redis and the network to it.",
			"Announcements may not arrive (%s): events reach browsers within HEAD_CHECK_INTERVAL, %s.", n.Trouble, cfg.HeadCheckInterval)
	}
	switch {
	case n.Embedded:
		return
	case n.Err != "" && n.Use == "streams":
		say(LevelFail, hop, "Start it, or look at the network between; eventbus check tells more.", "%s does not answer: nothing can be published. %s", name, n.Err)
		return
	case n.Err != "":
		say(LevelWarn, hop, "Start it, or look at the network between; eventbus check tells more.", "%s does not answer: the head check delivers. %s", name, n.Err)
		return
	case n.Unknown != "":
		say(LevelNote, hop, "Give the user of the URL the right to INFO.", "%s does not tell how it is: %s", name, n.Unknown)
		return
	case n.Info["role"] != "master":
		say(LevelFail, hop, "Name the master in the URL; with Sentinel use redis+sentinel://.", "%s is no master, it cannot be written.", name)
	}
	if n.Ping > oldPing {
		say(LevelNote, hop, "Put routers and Redis into one zone; look for a busy CPU.", "A round trip to %s took %s.", name, n.Ping.Round(time.Millisecond))
	}
	if n.Use == "streams" {
		logFindings(n, cfg, name, say)
	}
}

// logFindings judges a Redis that holds logs.
func logFindings(n *Node, cfg *Config, name string, say sayer) {
	if n.Info["aof_enabled"] == "0" {
		say(LevelWarn, hopLog, "CONFIG SET appendonly yes.", "%s has no append-only file: a restart loses the events since its last snapshot, or all.", name)
	}
	switch ratio := n.Info.MemoryRatio(); {
	case ratio > FullRatio:
		say(LevelFail, hopPublish, "Raise maxmemory, or shorten RETENTION.", "%s uses %.0f %% of its memory: publishing is refused above %.0f %%.", name, ratio*100, FullRatio*100)
	case ratio > WarnRatio:
		say(LevelWarn, hopLog, "Raise maxmemory, or shorten RETENTION.", "%s uses %.0f %% of its memory.", name, ratio*100)
	}
	if p := n.Info["maxmemory_policy"]; p != "" && p != "noeviction" {
		say(LevelWarn, hopLog, "CONFIG SET maxmemory-policy noeviction.", "%s may evict events and marks: maxmemory-policy is %s.", name, p)
	}
	if have := int(n.Info.Number("connected_slaves")); have < cfg.MinReplicas {
		say(LevelFail, hopPublish, "Start replicas, or lower PUBLISH_MIN_REPLICAS.", "%s has %d replicas, and PUBLISH_MIN_REPLICAS is %d: nothing can be acknowledged.", name, have, cfg.MinReplicas)
	}
}

// shardFindings judges one shard log.
func shardFindings(s ShardState, cfg *Config, say sayer) {
	key := shardKey(s.Domain, s.Shard)
	if !s.Known {
		return // its Redis is a finding
	}
	if s.Owner == "" {
		say(LevelFail, hopBridge, "Wait for LEASE_TTL, "+cfg.LeaseTTL.String()+"; then look at the routers and their logs.",
			"No router owns the shard %s: %s in it.", key, waitText(s.Lag+s.Pending))
	}
	switch {
	case s.Lag > int64(cfg.MaxLag):
		say(LevelFail, hopPublish, "Start more routers, and look at their logs and at Redis's speed.", "%s of %s are unread, more than MAX_LAG %s: publishing to it is refused.",
			entriesText(s.Lag), key, thousands(int64(cfg.MaxLag)))
	case s.HasBacklog && s.Oldest > oldAge:
		say(LevelWarn, hopBridge, "Look at the log of "+cmp.Or(s.Owner, "the routers")+".", "%s in %s for %s.", waitText(s.Lag+s.Pending), key, ago(s.Oldest))
	case s.Lag > int64(cfg.MaxLag)/2:
		say(LevelWarn, hopBridge, "Start more routers, or look at Redis's speed.", "%s of %s are unread; above MAX_LAG %s publishing is refused.",
			entriesText(s.Lag), key, thousands(int64(cfg.MaxLag)))
	}
}

func entriesText(n int64) string {
	if n == 1 {
		return "1 entry"
	}
	return thousands(n) + " entries"
}

func waitText(n int64) string {
	switch n {
	case 0:
		return "nothing waits"
	case 1:
		return "1 event waits"
	}
	return thousands(n) + " events wait"
}

// thousands is 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// ago is a duration as people say it.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than a second"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// clock is a moment as people say it, in UTC: routers and operators may be anywhere.
func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }
