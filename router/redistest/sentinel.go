package redistest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// masterName is what the sentinels call the master.
const masterName = "mymaster"

var errNoSentinel = errors.New("no sentinel is up")

// Sentinel is one master with replicas, watched by sentinels. Which server is the master changes with each failover;
// servers that were killed or paused by a test are left out of every wait below.
type Sentinel struct {
	settings  settings
	data      []*Server // data[0] was the first master
	sentinels []*Server
}

// NewSentinel starts a master, replicas and sentinels and waits until all of them see each other. It fails tb where
// that is impossible, and cleans up like [New].
func NewSentinel(tb testing.TB, replicas, sentinels int, opts ...Option) *Sentinel {
	tb.Helper()
	ctx, cancel := withTimeout()
	defer cancel()
	s, err := StartSentinel(ctx, tb.TempDir(), replicas, sentinels, opts...)
	if err != nil {
		tb.Fatalf("start sentinels: %v", err)
	}
	own(tb, s.Close, append(s.Servers(), s.sentinels...)...)
	return s
}

// StartSentinel is NewSentinel without a test: files go below dir, the caller closes it.
func StartSentinel(ctx context.Context, dir string, replicas, sentinels int, opts ...Option) (*Sentinel, error) {
	set := newSettings(opts)
	if set.port != 0 || replicas < 1 || sentinels < 1 {
		return nil, fmt.Errorf("%d replicas, %d sentinels, port %d: at least one of each, and no fixed port",
			replicas, sentinels, set.port)
	}
	if err := set.makeTLS(dir); err != nil {
		return nil, err
	}
	s := &Sentinel{settings: set}
	err := s.startAll(ctx, dir, replicas, sentinels)
	if err == nil {
		err = s.WaitReady(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sentinel) startAll(ctx context.Context, dir string, replicas, sentinels int) error {
	announce := directive{"replica-announce-ip", []string{"127.0.0.1"}}
	master, err := startMany(ctx, dir, "master", 1, func(int) settings { return s.settings.with(roleData, announce) })
	if s.data = master; err != nil {
		return err
	}
	port := strconv.Itoa(master[0].Port())
	followers, err := startMany(ctx, dir, "replica", replicas, func(int) settings {
		return s.settings.with(roleData, announce, directive{"replicaof", []string{"127.0.0.1", port}})
	})
	if s.data = append(s.data, followers...); err != nil {
		return err
	}
	s.sentinels, err = startMany(ctx, dir, "sentinel", sentinels, func(i int) settings {
		return s.settings.watching(port, sentinels/2+1, i)
	})
	return err
}

// voteSpacing keeps sentinels apart. If they notice in the same moment that the master is down, each votes for itself and
// they try again only after twice the failover-timeout.
const voteSpacing = 150 // ms

// watching is s for sentinel number i of the master on port.
func (s settings) watching(port string, quorum, i int) settings {
	line := func(values ...string) directive { return directive{"sentinel", values} }
	downAfter := 1000
	conf := []directive{
		line("announce-ip", "127.0.0.1"),
		line("monitor", masterName, "127.0.0.1", port, strconv.Itoa(quorum)),
		line("failover-timeout", masterName, "3000"),
		line("parallel-syncs", masterName, "1"),
	}
	if s.password != "" {
		conf = append(conf, line("auth-pass", masterName, s.password))
	}
	for _, d := range s.sentinel {
		if ms, err := strconv.Atoi(strings.Join(d.values, " ")); err == nil && d.name == "down-after-milliseconds" {
			downAfter = ms
			continue
		}
		conf = append(conf, line(append([]string{d.name, masterName}, d.values...)...))
	}
	conf = append(conf, line("down-after-milliseconds", masterName, strconv.Itoa(downAfter+i*voteSpacing)))
	s.role, s.config = roleSentinel, conf
	return s
}

// tuneSentinel shortens periods that have no place in the configuration file, at each start. With the built-in ones
// sentinels need 2 s to find each other, notice a changed role after 10 s, and after a stall of 2 s (a loaded machine is
// enough) do nothing at all for 30 s.
func (s *Server) tuneSentinel(ctx context.Context) error {
	return s.client.Do(ctx, "SENTINEL", "DEBUG", "ping-period", "200", "publish-period", "250", "info-period", "500",
		"tilt-trigger", "10000", "tilt-period", "1000").Err()
}

// startMany starts n servers at once in dir/name-0, dir/name-1 … If one fails it returns those that run.
func startMany(ctx context.Context, dir, name string, n int, set func(i int) settings) ([]*Server, error) {
	servers := make([]*Server, n)
	var group errgroup.Group
	for i := range servers {
		group.Go(func() error {
			own := filepath.Join(dir, fmt.Sprintf("%s-%d", name, i))
			if err := os.Mkdir(own, 0o700); err != nil {
				return err
			}
			var err error
			servers[i], err = startServer(ctx, own, set(i))
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(servers, func(s *Server) bool { return s == nil }), err
}

func closeMany(servers []*Server) error {
	var group errgroup.Group
	for _, s := range servers {
		group.Go(s.Close)
	}
	return group.Wait()
}

// URL is "redis+sentinel://[:password@]127.0.0.1:p1,127.0.0.1:p2/mymaster/0" with all sentinels' addresses; the password
// is the master's. With TLS the scheme is "rediss+sentinel".
func (s *Sentinel) URL() string {
	return s.settings.url("redis+sentinel", s.sentinels, "/"+masterName+"/0")
}

// Servers are the master and the replicas, in the order of their start, whatever their role now.
func (s *Sentinel) Servers() []*Server { return slices.Clone(s.data) }

// Sentinels are the sentinels.
func (s *Sentinel) Sentinels() []*Server { return slices.Clone(s.sentinels) }

// Close kills everything, as [Server.Close] does.
func (s *Sentinel) Close() error {
	return errors.Join(closeMany(s.sentinels), closeMany(s.data))
}

// Master is the present master as the first sentinel that answers tells it. It may be down.
func (s *Sentinel) Master(tb testing.TB) *Server {
	tb.Helper()
	var master *Server
	do(tb, "find the master", func(ctx context.Context) (err error) {
		master, err = s.master(ctx)
		return err
	})
	return master
}

// Replicas are all servers but the present master, also those that are down.
func (s *Sentinel) Replicas(tb testing.TB) []*Server {
	tb.Helper()
	master := s.Master(tb)
	return slices.DeleteFunc(s.Servers(), func(r *Server) bool { return r == master })
}

// KillMaster kills the present master and returns it, without waiting for what the sentinels make of it.
func (s *Sentinel) KillMaster(tb testing.TB) *Server {
	tb.Helper()
	master := s.Master(tb)
	if err := master.Kill(); err != nil {
		tb.Fatal(err)
	}
	return master
}

// WaitFailover blocks until a server other than old is master for all sentinels and replicas, and returns it. What old
// does does not matter. It fails tb after a minute.
func (s *Sentinel) WaitFailover(tb testing.TB, old *Server) *Server {
	tb.Helper()
	var master *Server
	do(tb, "fail over from "+old.Addr(), func(ctx context.Context) error {
		return poll(ctx, "another master is agreed on", func(ctx context.Context) (err error) {
			if master, err = s.settled(ctx, old); err == nil && master == old {
				err = errors.New("the master is still " + old.Addr())
			}
			return err
		})
	})
	return master
}

// Failover makes a sentinel move the master's role to a replica (SENTINEL FAILOVER), blocks until all sentinels and all
// servers, the old master included, have followed, and returns the new master. It fails tb after a minute.
func (s *Sentinel) Failover(tb testing.TB) *Server {
	tb.Helper()
	old := s.Master(tb)
	var master *Server
	do(tb, "fail over from "+old.Addr(), func(ctx context.Context) error {
		up := responsive(s.sentinels)
		if len(up) == 0 {
			return errNoSentinel
		}
		return poll(ctx, "all follow a new master", func(ctx context.Context) (err error) {
			// Always the same sentinel: a second one would start a failover of its own.
			if master, err = s.masterBy(ctx, up[0]); err != nil {
				return err
			}
			if master != old {
				master, err = s.settled(ctx, nil)
				return err
			}
			// Again, as a failover may be given up half-way. INPROG says that one is under way.
			err = up[0].client.Do(ctx, "SENTINEL", "FAILOVER", masterName).Err()
			return errors.Join(errors.New("no new master"), err)
		})
	})
	return master
}

// WaitReady blocks until all sentinels agree on a master that all servers follow, and see all servers and each other,
// or until ctx ends.
func (s *Sentinel) WaitReady(ctx context.Context) error {
	return poll(ctx, "all agree on a master", func(ctx context.Context) error {
		_, err := s.settled(ctx, nil)
		return err
	})
}

// WaitSynced blocks until all replicas have what the master has now. It fails tb after a minute.
func (s *Sentinel) WaitSynced(tb testing.TB) {
	tb.Helper()
	do(tb, "sync the replicas", func(ctx context.Context) error {
		master, err := s.master(ctx)
		if err != nil {
			return err
		}
		return waitSynced(ctx, master, s.Replicas(tb))
	})
}

// master asks one sentinel after the other until one answers.
func (s *Sentinel) master(ctx context.Context) (*Server, error) {
	err := errNoSentinel
	for _, sentinel := range responsive(s.sentinels) {
		var master *Server
		if master, err = s.masterBy(ctx, sentinel); err == nil {
			return master, nil
		}
	}
	return nil, err
}

// masterBy is the master that this sentinel sends clients to.
func (s *Sentinel) masterBy(ctx context.Context, sentinel *Server) (*Server, error) {
	addr := redis.NewStringSliceCmd(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
	if err := sentinel.client.Process(ctx, addr); err != nil {
		return nil, err
	}
	if len(addr.Val()) != 2 {
		return nil, fmt.Errorf("sentinel %s names the master %q", sentinel.Addr(), addr.Val())
	}
	return byPort(s.data, addr.Val()[1])
}

// byPort is the server on a port that redis told.
func byPort(servers []*Server, port string) (*Server, error) {
	for _, s := range servers {
		if strconv.Itoa(s.Port()) == port {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no server has port %s", port)
}
