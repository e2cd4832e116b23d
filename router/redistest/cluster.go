package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Cluster is a Redis Cluster with all slots covered. Which nodes are masters changes with each failover; nodes that were
// killed or paused by a test are left out of every wait below.
//
// Without [WithAppendOnly] a killed node comes back empty. If that is a master that comes back before its replica was
// promoted (2 s), its data is gone from the replica too, as in production.
type Cluster struct {
	settings settings
	nodes    []*Server
	client   *redis.ClusterClient // nil if the nodes did not start

	closeClient sync.Once
}

// NewCluster starts masters (at least 3: redis-cli asks for that) with replicas and waits until every node sees every
// other, all slots are served and replicas are in sync. It fails tb where that is impossible, and cleans up like [New].
func NewCluster(tb testing.TB, masters, replicasPerMaster int, opts ...Option) *Cluster {
	tb.Helper()
	ctx, cancel := withTimeout()
	defer cancel()
	c, err := StartCluster(ctx, tb.TempDir(), masters, replicasPerMaster, opts...)
	if err != nil {
		tb.Fatalf("start a cluster: %v", err)
	}
	own(tb, c.Close, c.nodes...)
	return c
}

// StartCluster is NewCluster without a test: files go below dir, the caller closes it.
func StartCluster(ctx context.Context, dir string, masters, replicasPerMaster int, opts ...Option) (*Cluster, error) {
	set := newSettings(opts)
	if set.port != 0 || masters < 3 || replicasPerMaster < 0 {
		return nil, fmt.Errorf("%d masters with %d replicas, port %d: at least 3 masters, and no fixed port",
			masters, replicasPerMaster, set.port)
	}
	if err := set.makeTLS(dir); err != nil {
		return nil, err
	}
	nodes, err := startMany(ctx, dir, "node", masters*(1+replicasPerMaster), func(int) settings {
		return set.with(roleCluster,
			directive{"cluster-node-timeout", []string{"2000"}},
			directive{"cluster-announce-ip", []string{"127.0.0.1"}},
			// Replicas stay with their master, whatever slots it has.
			directive{"cluster-allow-replica-migration", []string{"no"}})
	})
	c := &Cluster{settings: set, nodes: nodes}
	if err == nil {
		c.client = c.newClient()
		err = c.create(ctx, replicasPerMaster)
	}
	if err == nil {
		err = c.WaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) create(ctx context.Context, replicasPerMaster int) error {
	args := append([]string{"--cluster", "create"}, addrs(c.nodes)...)
	args = append(args, "--cluster-replicas", strconv.Itoa(replicasPerMaster), "--cluster-yes")
	_, err := c.nodes[0].redisCLI(ctx, args...)
	return err
}

func (c *Cluster) newClient() *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:                    addrs(c.nodes),
		Password:                 c.settings.password,
		TLSConfig:                c.nodes[0].TLSConfig(),
		DialerRetries:            1,
		DisableIdentity:          true,
		ContextTimeoutEnabled:    true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// URL is "redis+cluster://[:password@]127.0.0.1:p1,127.0.0.1:p2,…" with all nodes' addresses. With TLS the scheme is
// "rediss+cluster".
func (c *Cluster) URL() string { return c.settings.url("redis+cluster", c.nodes, "") }

// Servers are all nodes, whatever their role now.
func (c *Cluster) Servers() []*Server { return slices.Clone(c.nodes) }

// Client is a go-redis client of the cluster for assertions, always the same one. It follows redirections, so it may send
// a command more than once, and is closed with the cluster.
func (c *Cluster) Client() *redis.ClusterClient { return c.client }

// Close kills all nodes, as [Server.Close] does, and closes Client.
func (c *Cluster) Close() error {
	err := closeMany(c.nodes)
	c.closeClient.Do(func() {
		if c.client != nil {
			_ = c.client.Close() // as in Server.Close
		}
	})
	return err
}

// Slot is the slot of a key.
func (c *Cluster) Slot(tb testing.TB, key string) int {
	tb.Helper()
	var slot int
	do(tb, "find the slot of "+key, func(ctx context.Context) error {
		return c.ask(func(node *Server) error {
			n, err := node.client.ClusterKeySlot(ctx, key).Result()
			slot = int(n)
			return err
		})
	})
	return slot
}

// MasterFor is the master of a key's slot, as the first node that answers sees it. It may be down.
func (c *Cluster) MasterFor(tb testing.TB, key string) *Server {
	tb.Helper()
	slot := c.Slot(tb, key)
	var master *Server
	do(tb, "find the master of "+key, func(ctx context.Context) (err error) {
		master, err = c.ownerOf(ctx, slot)
		return err
	})
	return master
}

// ReplicasOf are the replicas of a master, as the first node that answers sees it. They may be down.
func (c *Cluster) ReplicasOf(tb testing.TB, master *Server) []*Server {
	tb.Helper()
	var replicas []*Server
	do(tb, "find the replicas of "+master.Addr(), func(ctx context.Context) (err error) {
		replicas, err = c.replicasOf(ctx, master)
		return err
	})
	return replicas
}

// KillMaster kills the master of a key's slot and returns it, without waiting for what the others make of it.
func (c *Cluster) KillMaster(tb testing.TB, key string) *Server {
	tb.Helper()
	master := c.MasterFor(tb, key)
	if err := master.Kill(); err != nil {
		tb.Fatal(err)
	}
	return master
}

// WaitFailover blocks until old owns no slot any more for any node and all slots are served. What old does does not
// matter. It fails tb after a minute.
func (c *Cluster) WaitFailover(tb testing.TB, old *Server) {
	tb.Helper()
	do(tb, "fail over from "+old.Addr(), func(ctx context.Context) error {
		return poll(ctx, "others own its slots", func(ctx context.Context) error {
			owners, err := c.settled(ctx, old)
			if err == nil && slices.Contains(owners, old) {
				err = errors.New("it is still a master with slots")
			}
			return err
		})
	})
}

// Failover promotes a replica of the master of a key's slot (CLUSTER FAILOVER, nothing is lost), blocks until all nodes,
// the old master included, have followed, and returns the new master. It fails tb after a minute, or without a replica.
func (c *Cluster) Failover(tb testing.TB, key string) *Server {
	tb.Helper()
	old := c.MasterFor(tb, key)
	replicas := responsive(c.ReplicasOf(tb, old))
	if len(replicas) == 0 {
		tb.Fatalf("redistest: %s has no replica that is up", old.Addr())
	}
	replica := replicas[0]
	do(tb, "fail over from "+old.Addr(), func(ctx context.Context) (err error) {
		for ctx.Err() == nil {
			// Again after its time is up: a replica gives up after 5 s, which a loaded machine may need.
			sent := replica.client.ClusterFailover(ctx).Err()
			if err = c.waitOwner(ctx, replica); err == nil {
				return nil
			}
			err = errors.Join(err, sent)
		}
		return err
	})
	return replica
}

// waitOwner waits a moment until s has slots and all nodes know that.
func (c *Cluster) waitOwner(ctx context.Context, s *Server) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return poll(ctx, s.Addr()+" owns slots", func(ctx context.Context) error {
		owners, err := c.settled(ctx, nil)
		if err == nil && !slices.Contains(owners, s) {
			err = errors.New("it has no slots")
		}
		return err
	})
}

// WaitReady blocks until all nodes see each other, agree on the owners of all slots and replicas are in sync, or until ctx
// ends.
func (c *Cluster) WaitReady(ctx context.Context) error {
	return poll(ctx, "the cluster is settled", func(ctx context.Context) error {
		_, err := c.settled(ctx, nil)
		return err
	})
}

// WaitSynced blocks until all replicas have what their masters have now. It fails tb after a minute.
func (c *Cluster) WaitSynced(tb testing.TB) {
	tb.Helper()
	do(tb, "sync the replicas", func(ctx context.Context) error {
		owners, err := c.settled(ctx, nil)
		if err != nil {
			return err
		}
		slices.SortFunc(owners, func(a, b *Server) int { return a.Port() - b.Port() })
		for _, master := range slices.Compact(owners) {
			replicas, err := c.replicasOf(ctx, master)
			if err != nil {
				return err
			}
			if err := waitSynced(ctx, master, replicas); err != nil {
				return err
			}
		}
		return nil
	})
}
