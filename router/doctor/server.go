package doctor

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router"
)

const (
	minMajor = 7 // Redis 7: flags of scripts, XAUTOCLAIM that tells of deleted entries
	pings    = 20
	// A publish is a round trip, and an event's way is five of them.
	slowPing = 5 * time.Millisecond
	// Ages of entries are told by Redis's clock and judged by the router's.
	maxSkew = time.Second
	percent = 100
)

// cluster examines the masters of a Cluster.
func (e *examiner) cluster(ctx context.Context, name string, c *redis.ClusterClient, one func(context.Context, *redis.Client) bool) bool {
	text, err := c.ClusterInfo(ctx).Result()
	if err != nil {
		e.away(name, err)
		return false
	}
	if strings.Contains(text, "cluster_state:ok") {
		e.say(OK, name, "", "the Cluster serves all slots")
	} else {
		e.say(Fail, name, "look at `redis-cli --cluster check`: masters are down or slots have no owner", "the Cluster does not serve all slots")
	}
	// They answer side by side, and are reported one after the other.
	var mu sync.Mutex
	ok := true
	err = c.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		ok = one(ctx, node) && ok
		return nil
	})
	if err != nil {
		e.away(name, err)
	}
	return ok && err == nil
}

func (e *examiner) away(subject string, err error) {
	mend := "start it, or correct the URL; look at networks and firewalls between"
	switch text := err.Error(); {
	case strings.Contains(text, "NOAUTH"), strings.Contains(text, "WRONGPASS"):
		mend = "put the right user and password into the URL, percent-encoded"
	case strings.Contains(text, "NOPERM"):
		mend = "give the user of the URL more rights: ACL SETUSER <user> ~* &* +@all is the simplest"
	case strings.Contains(text, "x509"), strings.Contains(text, "tls:"):
		mend = "use rediss:// for TLS, and SSL_CERT_FILE for a CA of your own"
	case strings.Contains(text, "master"), strings.Contains(text, "sentinel"):
		mend = "look at the sentinels: is the master's name in the URL theirs, and have they a quorum?"
	}
	e.say(Fail, subject, mend, "does not answer: %v", err)
}

// server is what is true for any Redis; false where it does not answer.
func (e *examiner) server(ctx context.Context, subject string, c *redis.Client) (router.Info, bool) {
	took, skew, err := measure(ctx, c)
	if err != nil {
		e.away(subject, err)
		return nil, false
	}
	i, err := router.ReadInfo(ctx, c)
	if err != nil {
		e.away(subject, err)
		return nil, false
	}
	e.version(subject, i)
	e.role(subject, i)
	if took > slowPing {
		e.say(Warn, subject, "put routers and Redis into one zone; look for a busy CPU, swapping, or slow commands (SLOWLOG GET)",
			"a round trip takes %v", took.Round(time.Microsecond))
	} else {
		e.say(OK, subject, "", "a round trip takes %v", took.Round(time.Microsecond))
	}
	if skew.Abs() > maxSkew {
		e.say(Warn, subject, "let NTP set both clocks", "its clock is %v off this machine's: retention and trimming are judged by both", skew.Round(time.Millisecond))
	} else {
		e.say(OK, subject, "", "its clock is this machine's, within %v", max(skew.Abs().Round(time.Millisecond), time.Millisecond))
	}
	return i, true
}

// measure is the median of some round trips, and how far the clock is off.
func measure(ctx context.Context, c *redis.Client) (took, skew time.Duration, err error) {
	if err := c.Ping(ctx).Err(); err != nil { // the connection
		return 0, 0, err
	}
	var all []time.Duration
	for range pings {
		began := time.Now()
		theirs, err := c.Time(ctx).Result()
		if err != nil {
			return 0, 0, err
		}
		trip := time.Since(began)
		if len(all) == 0 || trip < slices.Min(all) { // the quickest tells the time best
			skew = theirs.Sub(began.Add(trip / 2))
		}
		all = append(all, trip)
	}
	slices.Sort(all)
	return all[len(all)/2], skew, nil
}

func (e *examiner) version(subject string, i router.Info) {
	v := i["redis_version"]
	major, err := strconv.Atoi(strings.SplitN(v, ".", 2)[0])
	if err != nil || major < minMajor {
		e.say(Fail, subject, "use Redis 7 or later, or Valkey", "version %s is too old: the scripts of a router need 7", v)
		return
	}
	e.say(OK, subject, "", "version %s", v)
}

func (e *examiner) role(subject string, i router.Info) {
	if i["role"] != "master" {
		e.say(Fail, subject, "name the master; with Sentinel use redis+sentinel://, and not the name of a headless service, which is all of them",
			"is a replica of %s:%s: it cannot be written, and what is announced on it reaches nobody else", i["master_host"], i["master_port"])
		return
	}
	e.say(OK, subject, "", "is a master with %s replicas", i["connected_slaves"])
}

// streamsNode is what the log needs.
func (e *examiner) streamsNode(ctx context.Context, subject string, c *redis.Client, i router.Info) {
	if i["aof_enabled"] == "1" {
		e.say(OK, subject, "", "keeps an append-only file")
	} else {
		e.say(Warn, subject, "CONFIG SET appendonly yes, and the same in redis.conf", "has no append-only file: a restart loses the events since the last snapshot, or all")
	}
	if i["aof_last_write_status"] == "err" || i["rdb_last_bgsave_status"] == "err" {
		e.say(Fail, subject, "look at its disk and its log: full, or read-only", "cannot write to its disk; Redis refuses writes because of that")
	}
	if i["loading"] == "1" {
		e.say(Fail, subject, "wait", "is loading its data")
	}
	e.memory(subject, i)
	e.durability(ctx, subject, c, i)
}

func (e *examiner) memory(subject string, i router.Info) {
	limit, policy := i.Number("maxmemory"), i["maxmemory_policy"]
	switch {
	case limit > 0 && policy != "noeviction":
		e.say(Fail, subject, "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf", "may evict events and marks: maxmemory-policy is %s", policy)
	case policy != "noeviction":
		e.say(Warn, subject, "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf", "would evict events and marks if it had a maxmemory: maxmemory-policy is %s", policy)
	default:
		e.say(OK, subject, "", "evicts nothing")
	}
	if limit == 0 {
		e.say(Warn, subject, "CONFIG SET maxmemory to about 70 % of the machine's: a router then refuses events in time", "has no maxmemory: the kernel may kill it when it grows")
		return
	}
	switch ratio := i.MemoryRatio(); {
	case ratio > router.FullRatio:
		e.say(Fail, subject, "raise maxmemory, shorten RETENTION, or look for keys of others", "uses %.0f %% of its memory: a router refuses events above %.0f %%", ratio*percent, router.FullRatio*percent)
	case ratio > router.WarnRatio:
		e.say(Warn, subject, "raise maxmemory, or shorten RETENTION", "uses %.0f %% of its memory", ratio*percent)
	default:
		e.say(OK, subject, "", "uses %.0f %% of its memory", ratio*percent)
	}
}

// durability compares PUBLISH_MIN_REPLICAS with what is there.
func (e *examiner) durability(ctx context.Context, subject string, c *redis.Client, i router.Info) {
	replicas, want := int(i.Number("connected_slaves")), e.cfg.MinReplicas
	switch {
	case replicas < want:
		e.say(Fail, subject, "start replicas, or lower PUBLISH_MIN_REPLICAS", "has %d replicas, and PUBLISH_MIN_REPLICAS is %d: nothing can be acknowledged", replicas, want)
		return
	case replicas == 0:
		e.say(Note, subject, "", "has no replica: its loss is the loss of the log")
		return
	case want < replicas:
		e.say(Note, subject, "", "a failover can lose the last moment: PUBLISH_MIN_REPLICAS is %d of %d replicas", want, replicas)
	default:
		e.say(OK, subject, "", "an event is acknowledged when all %d replicas have it", replicas)
	}
	if want == 0 {
		return
	}
	set, err := c.ConfigGet(ctx, "min-replicas-to-write").Result()
	switch n, _ := strconv.Atoi(set["min-replicas-to-write"]); {
	case errors.Is(err, redis.Nil) || err != nil:
		e.say(Note, subject, "", "min-replicas-to-write is not known: %v", err)
	case n == 0:
		e.say(Warn, subject, "CONFIG SET min-replicas-to-write 1, and the same in redis.conf", "min-replicas-to-write is 0: a master that lost its network goes on taking events that are then lost")
	}
}

// pubsubNode is what announcements need.
func (e *examiner) pubsubNode(_ context.Context, subject string, _ *redis.Client, i router.Info) {
	if i["aof_enabled"] == "1" {
		e.say(Note, subject, "", "keeps an append-only file, which announcements do not need")
	}
}
