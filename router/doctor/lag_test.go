package doctor_test

import (
	"testing"

	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/doctor"
	"github.com/eco2-team/eventbus/router/redistest"
)

// What a router that hangs leaves: it is a member, and its leases and reads are gone.
func TestExamine_ARouterThatDoesNotRead(t *testing.T) {
	t.Parallel()
	redis := redistest.New(t, good()...)
	cfg := config(redis.URL(), "")
	cfg.MaxLag = 2
	redis.CLI(t, "ZADD", router.MembersKey(cfg.ConsumerGroup), "99999999999999", "router-7/token")
	redis.CLI(t, "ZADD", router.MembersKey(cfg.ConsumerGroup), "99999999999999", "router-7/other")
	key := router.ShardKey("scan", 0)
	redis.CLI(t, "XGROUP", "CREATE", key, cfg.ConsumerGroup, "$", "MKSTREAM")
	for range 3 {
		redis.CLI(t, "XADD", key, "*", "job_id", "j", "stage", "s")
	}
	got := examine(t, cfg)
	got.want(t, doctor.Warn, "bus", "routers share a name: router-7, router-7", "POD_NAME of its own")
	got.want(t, doctor.Fail, "bus "+key, "no router has the lease", "wait for LEASE_TTL")
	got.want(t, doctor.Fail, "bus "+key, "3 events are unread, more than MAX_LAG 2", "start more routers")
}
