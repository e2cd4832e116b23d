package redistest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// otherMaster is a master that does not own the key's slot.
func otherMaster(t *testing.T, c *Cluster, key string) *Server {
	t.Helper()
	owner := c.MasterFor(t, key)
	for slot := 0; slot < slotCount; slot += slotCount / 16 {
		if s, err := c.ownerOf(t.Context(), slot); err != nil {
			t.Fatal(err)
		} else if s != owner {
			return s
		}
	}
	t.Fatal("one master owns all slots")
	return nil
}

func TestCluster_ServesAllSlotsAtItsURL(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, 3, 1)
	if want := "redis+cluster://" + strings.Join(addrs(c.Servers()), ","); c.URL() != want {
		t.Errorf("URL = %s, want %s", c.URL(), want)
	}
	out, err := c.Servers()[0].redisCLI(t.Context(), "--cluster", "check", c.Servers()[0].Addr())
	if err != nil || !strings.Contains(out, "[OK] All 16384 slots covered") {
		t.Errorf("check: %v\n%s", err, out)
	}
	masters := map[*Server]bool{}
	for i := range 50 {
		key := fmt.Sprint("key", i)
		if err := c.Client().Set(t.Context(), key, i, 0).Err(); err != nil {
			t.Fatal(err)
		}
		master := c.MasterFor(t, key)
		if got, err := master.Client().Get(t.Context(), key).Int(); err != nil || got != i {
			t.Errorf("%s on %s = %d, %v", key, master.Addr(), got, err)
		}
		masters[master] = true
	}
	for master := range masters {
		if got := len(c.ReplicasOf(t, master)); got != 1 {
			t.Errorf("%s has %d replicas, want 1", master.Addr(), got)
		}
	}
	if len(masters) != 3 {
		t.Errorf("%d masters have keys, want 3", len(masters))
	}
}

func TestCluster_MigrateSlotMovesItsKeys(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, 3, 0, WithPassword("secret"), WithTLS())
	const keys = 2*migrateKeys + 50 // more than one MIGRATE
	for i := range keys {
		if err := c.Client().Set(t.Context(), fmt.Sprintf("{job}%d", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	from, to := c.MasterFor(t, "{job}"), otherMaster(t, c, "{job}")
	c.MigrateSlot(t, c.Slot(t, "{job}"), to)
	if got := c.MasterFor(t, "{job}"); got != to {
		t.Errorf("owner = %s, want %s", got.Addr(), to.Addr())
	}
	for i := range keys {
		key := fmt.Sprintf("{job}%d", i)
		if got, err := to.Client().Get(t.Context(), key).Int(); err != nil || got != i {
			t.Fatalf("%s = %d, %v", key, got, err)
		}
	}
	moved := fmt.Sprintf("MOVED %d %s", c.Slot(t, "{job}"), to.Addr())
	if err := from.Client().Get(t.Context(), "{job}0").Err(); err == nil || err.Error() != moved {
		t.Errorf("the old owner says %v, want %s", err, moved)
	}
	if got, err := c.Client().Get(t.Context(), "{job}0").Result(); got != "0" {
		t.Errorf("through the cluster: %q, %v", got, err)
	}
}

func TestCluster_FailoverPromotesAReplicaWithItsData(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, 3, 1)
	if err := c.Client().Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	old := c.MasterFor(t, "key")
	replicas := c.ReplicasOf(t, old)
	master := c.Failover(t, "key")
	if !slices.Contains(replicas, master) || c.MasterFor(t, "key") != master {
		t.Errorf("%s was followed by %s, its replicas were %v", old.Addr(), master.Addr(), addrs(replicas))
	}
	if !slices.Contains(c.ReplicasOf(t, master), old) {
		t.Errorf("%s does not follow %s", old.Addr(), master.Addr())
	}
	if got, err := master.Client().Get(t.Context(), "key").Result(); got != "value" {
		t.Errorf("key = %q, %v", got, err)
	}
}

func TestCluster_KilledMasterIsReplacedAndComesBackAsReplica(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, 3, 1)
	if err := c.Client().Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c.WaitSynced(t)
	old := c.KillMaster(t, "key")
	if old.Running() {
		t.Error("the killed master runs")
	}
	c.WaitFailover(t, old)
	master := c.MasterFor(t, "key")
	if got, err := master.Client().Get(t.Context(), "key").Result(); got != "value" {
		t.Errorf("key on the new master = %q, %v", got, err)
	}
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(c.ReplicasOf(t, master), old) {
		t.Errorf("%s does not follow %s", old.Addr(), master.Addr())
	}
}

func TestCluster_RefusesShapesThatRedisDoesNotMake(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func() error{
		"two masters": func() error { _, err := StartCluster(t.Context(), t.TempDir(), 2, 0); return err },
		"fixed port":  func() error { _, err := StartCluster(t.Context(), t.TempDir(), 3, 0, WithPort(25000)); return err },
		"no replica":  func() error { _, err := StartSentinel(t.Context(), t.TempDir(), 0, 1); return err },
		"no sentinel": func() error { _, err := StartSentinel(t.Context(), t.TempDir(), 1, 0); return err },
	} {
		if err := start(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
