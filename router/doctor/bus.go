package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/event"
)

// bus examines what a bus keeps in Redis.
func (e *examiner) bus(ctx context.Context, c redis.UniversalClient) {
	ctx, cancel := context.WithTimeout(ctx, tooLong)
	defer cancel()
	routers, err := e.routers(ctx, c)
	if err != nil {
		e.away("bus", err)
		return
	}
	for _, d := range e.cfg.Domains {
		if err := e.domain(ctx, c, d, len(routers) > 0); err != nil {
			e.away("bus", fmt.Errorf("domain %s: %w", d, err))
		}
	}
}

// routers are those that live.
func (e *examiner) routers(ctx context.Context, c redis.UniversalClient) ([]string, error) {
	now, err := c.Time(ctx).Result()
	if err != nil {
		return nil, err
	}
	tokens, err := c.ZRangeByScore(ctx, router.MembersKey(e.cfg.ConsumerGroup), &redis.ZRangeBy{
		Min: "(" + strconv.FormatInt(now.UnixMilli(), 10), Max: "+inf",
	}).Result()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(tokens))
	for i, t := range tokens {
		names[i] = router.PodOf(t)
	}
	slices.Sort(names)
	switch {
	case len(names) == 0:
		e.say(Warn, "bus", "start `eventbus router` (or serve) with this Redis and CONSUMER_GROUP "+e.cfg.ConsumerGroup, "no router runs on this Redis")
	case len(slices.Compact(slices.Clone(names))) < len(names):
		e.say(Warn, "bus", "give each router a POD_NAME of its own", "routers share a name: %s", strings.Join(names, ", "))
	case len(names) == 1:
		e.say(Note, "bus", "", "one router runs: %s; with two, one may fail", names[0])
	default:
		e.say(OK, "bus", "", "%d routers run: %s", len(names), strings.Join(names, ", "))
	}
	return names, nil
}

func (e *examiner) domain(ctx context.Context, c redis.UniversalClient, domain string, running bool) error {
	subject := "bus " + domain
	owners := map[string]int{}
	healthy := true
	for shard := range e.cfg.ShardCount {
		ok, err := e.shard(ctx, c, router.ShardKey(domain, shard), owners, running)
		if err != nil {
			return err
		}
		healthy = healthy && ok
	}
	if healthy && running {
		var by []string
		for pod, n := range owners {
			by = append(by, fmt.Sprintf("%s %d", pod, n))
		}
		slices.Sort(by)
		e.say(OK, subject, "", "each of the %d shards is read: %s", e.cfg.ShardCount, strings.Join(by, ", "))
	}
	// Producers with another number of shards write where nobody reads.
	for shard := e.cfg.ShardCount; shard < 4*e.cfg.ShardCount; shard++ {
		n, err := c.Exists(ctx, router.ShardKey(domain, shard)).Result()
		if err != nil {
			return err
		}
		if n > 0 {
			e.say(Fail, subject, "set SHARD_COUNT to that of all producers; change it only while nothing runs",
				"there is a shard log %s, which nobody reads: SHARD_COUNT is %d", router.ShardKey(domain, shard), e.cfg.ShardCount)
			break
		}
	}
	return e.dead(ctx, c, subject, domain)
}

// shard examines one shard log; false where something was wrong.
func (e *examiner) shard(ctx context.Context, c redis.UniversalClient, key string, owners map[string]int, running bool) (bool, error) {
	subject := "bus " + key
	kind, err := c.Type(ctx, key).Result()
	if err != nil {
		return false, err
	}
	if kind != "stream" && kind != "none" {
		e.say(Fail, subject, "move it: the bus needs that key", "is a %s, not a stream", kind)
		return false, nil
	}
	ok := true
	owner, err := c.Get(ctx, router.LeaseKey(key)).Result()
	switch {
	case errors.Is(err, redis.Nil):
		if ok = !running; running {
			e.say(Fail, subject, "wait for LEASE_TTL and look again; then at DOMAINS and SHARD_COUNT of the routers, and their logs", "no router has the lease, though routers run: nobody reads it")
		}
	case err != nil:
		return false, err
	default:
		owners[router.PodOf(owner)]++
	}
	if kind == "none" {
		return ok, nil
	}
	fine, err := e.groups(ctx, c, subject, key)
	return ok && fine, err
}

// groups examines those that read a shard log.
func (e *examiner) groups(ctx context.Context, c redis.UniversalClient, subject, key string) (bool, error) {
	groups, err := c.XInfoGroups(ctx, key).Result()
	if err != nil {
		return false, err
	}
	ok, found := true, false
	for _, g := range groups {
		if g.Name == e.cfg.ConsumerGroup {
			found = true
			if g.Lag > int64(e.cfg.MaxLag) {
				ok = false
				e.say(Fail, subject, "start more routers, and look at their logs and at Redis's speed", "%d events are unread, more than MAX_LAG %d: publishing is refused", g.Lag, e.cfg.MaxLag)
			}
			continue
		}
		if last, err := event.ParseID(g.LastDeliveredID); err == nil && g.Lag > 0 && time.Since(last.Time()) > e.cfg.Retention {
			ok = false
			e.say(Warn, subject, "start its consumers, or XGROUP DESTROY "+key+" "+g.Name, "the group %s is behind for longer than RETENTION; what it has not read is trimmed", g.Name)
		}
	}
	if !found {
		ok = false
		e.say(Warn, subject, "start a router: it makes the group. Else set CONSUMER_GROUP to theirs", "has events, but no group %s reads it", e.cfg.ConsumerGroup)
	}
	return ok, nil
}

// dead examines the dead letters.
func (e *examiner) dead(ctx context.Context, c redis.UniversalClient, subject, domain string) error {
	key := router.DeadKey(domain)
	last, err := c.XRevRangeN(ctx, key, "+", "-", 1).Result()
	if err != nil || len(last) == 0 {
		return err
	}
	n, err := c.XLen(ctx, key).Result()
	if err != nil {
		return err
	}
	e.say(Warn, subject, "mend the producer; read them by XRANGE "+key+" - +, and DEL "+key, "%d entries were no events; the last one: %v", n, last[0].Values["reason"])
	return nil
}
