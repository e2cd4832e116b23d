package redistest

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
)

// masterAddrs is what each sentinel that is up answers to clients.
func masterAddrs(t *testing.T, s *Sentinel) []string {
	t.Helper()
	var addrs []string
	for _, sentinel := range s.Sentinels() {
		if !sentinel.Running() {
			continue
		}
		addr := redis.NewStringSliceCmd(t.Context(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
		if err := sentinel.Client().Process(t.Context(), addr); err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, net.JoinHostPort(addr.Val()[0], addr.Val()[1]))
	}
	return addrs
}

func TestSentinel_URLNamesAllSentinelsAndTheMastersName(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 1, 2)
	up := s.Sentinels()
	if want := "redis+sentinel://" + up[0].Addr() + "," + up[1].Addr() + "/mymaster/0"; s.URL() != want {
		t.Errorf("URL = %s, want %s", s.URL(), want)
	}
}

func TestSentinel_IsReadyWhenAQuorumCouldFailOver(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 2, 3)
	for _, sentinel := range s.Sentinels() {
		if got, want := sentinel.CLI(t, "SENTINEL", "CKQUORUM", "mymaster"), "OK 3 usable Sentinels"; !strings.Contains(got, want) {
			t.Errorf("CKQUORUM = %q, want %q", got, want)
		}
	}
	if role := s.Master(t).CLI(t, "ROLE"); !strings.Contains(role, "master") {
		t.Errorf("ROLE of the master = %q", role)
	}
	if got := len(s.Replicas(t)); got != 2 {
		t.Errorf("%d replicas, want 2", got)
	}
}

func TestSentinel_FailoverMovesTheMasterAndItsData(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := NewSentinel(t, 2, 3, WithPassword("pass word"))
	old := s.Master(t)
	if err := old.Client().Set(ctx, "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.WaitSynced(t)
	master := s.Failover(t)
	if master == old {
		t.Fatal("the master has not changed")
	}
	if want := slices.Repeat([]string{master.Addr()}, 3); !cmp.Equal(masterAddrs(t, s), want) {
		t.Error(cmp.Diff(want, masterAddrs(t, s)))
	}
	if got, err := master.Client().Get(ctx, "key").Result(); got != "value" {
		t.Errorf("key on the new master = %q, %v", got, err)
	}
	if err := old.Client().Set(ctx, "key", "other", 0).Err(); !redis.IsReadOnlyError(err) {
		t.Errorf("write on the old master: %v, want READONLY", err)
	}
	if got := s.Replicas(t); !slices.Contains(got, old) || slices.Contains(got, master) {
		t.Error("the old master is not among the replicas, or the new one is")
	}
}

func TestSentinel_KilledMasterIsReplacedAndComesBackAsReplica(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 1, 3)
	old := s.KillMaster(t)
	if old.Running() {
		t.Error("the killed master runs")
	}
	master := s.WaitFailover(t, old)
	if master == old {
		t.Fatal("the master has not changed")
	}
	if err := master.Client().Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Error(err)
	}
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	s.WaitSynced(t)
	if got, err := old.Client().Get(ctx, "key").Result(); got != "value" {
		t.Errorf("key on the old master = %q, %v", got, err)
	}
}

func TestSentinel_PausedMasterIsReplacedWhileItStands(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 1, 3)
	old := s.Master(t)
	if err := old.Pause(); err != nil {
		t.Fatal(err)
	}
	if master := s.WaitFailover(t, old); master == old {
		t.Error("the master has not changed")
	}
	if !old.Running() {
		t.Error("the paused master does not run any more")
	}
	if err := old.Resume(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Error(err)
	}
}

func TestSentinel_KnowsTheMasterWhileOneSentinelIsDown(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 1, 3)
	master := s.Master(t)
	if err := s.Sentinels()[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if got := s.Master(t); got != master {
		t.Errorf("master = %s, want %s", got.Addr(), master.Addr())
	}
	if err := s.Sentinels()[0].Start(); err != nil {
		t.Fatal(err)
	}
	if got := s.Failover(t); got == master {
		t.Error("the master has not changed")
	}
}

func TestSentinel_ServesTLS(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 1, 1, WithTLS(), WithPassword("p"))
	sentinel := s.Sentinels()[0]
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: "mymaster", SentinelAddrs: []string{sentinel.Addr()}, TLSConfig: sentinel.TLSConfig(), Password: "p",
	})
	defer func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}()
	info, err := client.Info(t.Context(), "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.Itoa(s.Master(t).Port()); infoField(info, "tcp_port") != want {
		t.Errorf("connected to port %s, want the master's %s", infoField(info, "tcp_port"), want)
	}
	if s.URL() != "rediss+sentinel://:p@"+sentinel.Addr()+"/mymaster/0" {
		t.Error(s.URL())
	}
}

func TestSentinel_OptionsOfTheMasterWin(t *testing.T) {
	t.Parallel()
	s := NewSentinel(t, 1, 1, WithSentinelConfig("down-after-milliseconds", "777"))
	m := redis.NewMapStringStringCmd(t.Context(), "SENTINEL", "MASTER", "mymaster")
	if err := s.Sentinels()[0].Client().Process(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got := m.Val()["down-after-milliseconds"]; got != "777" {
		t.Errorf("down-after-milliseconds = %s", got)
	}
	if got := m.Val()["failover-timeout"]; got != "3000" {
		t.Errorf("failover-timeout = %s", got)
	}
}
