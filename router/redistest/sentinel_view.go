package redistest

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// settled is the master if all sentinels agree on it, all servers follow it and everybody sees everybody; else an error
// that says who does not. Only servers that a test has left alone count, and except never does.
func (s *Sentinel) settled(ctx context.Context, except *Server) (*Server, error) {
	var master *Server
	for _, sentinel := range responsive(s.sentinels) {
		seen, err := s.viewOf(ctx, sentinel, except)
		if err != nil {
			return nil, fmt.Errorf("sentinel %s: %w", sentinel.Addr(), err)
		}
		if master != nil && master != seen {
			return nil, fmt.Errorf("sentinels disagree: %s and %s", master.Addr(), seen.Addr())
		}
		master = seen
	}
	if master == nil {
		return nil, errNoSentinel
	}
	if !master.responsive() {
		return nil, fmt.Errorf("the master %s is down", master.Addr())
	}
	if err := hasRole(ctx, master, "master", nil); err != nil {
		return nil, err
	}
	for _, r := range responsive(s.data) {
		if r != master && r != except {
			if err := hasRole(ctx, r, "slave", master); err != nil {
				return nil, err
			}
		}
	}
	return master, nil
}

// viewOf is the master that this sentinel sees, if it sees everybody else too.
func (s *Sentinel) viewOf(ctx context.Context, sentinel, except *Server) (*Server, error) {
	m := redis.NewMapStringStringCmd(ctx, "SENTINEL", "MASTER", masterName)
	replicas := redis.NewMapStringStringSliceCmd(ctx, "SENTINEL", "REPLICAS", masterName)
	others := redis.NewMapStringStringSliceCmd(ctx, "SENTINEL", "SENTINELS", masterName)
	for _, cmd := range []redis.Cmder{m, replicas, others} {
		if err := sentinel.client.Process(ctx, cmd); err != nil {
			return nil, err
		}
	}
	master, err := byPort(s.data, m.Val()["port"])
	if err != nil {
		return nil, err
	}
	// Exactly: any other flag says down, or a failover under way.
	if flags := m.Val()["flags"]; flags != "master" {
		return nil, fmt.Errorf("master %s is %s", master.Addr(), flags)
	}
	for _, r := range responsive(s.data) {
		if r == master || r == except {
			continue
		}
		want := map[string]string{"flags": "slave", "master-link-status": "ok", "master-port": m.Val()["port"]}
		if err := sees(replicas.Val(), r, want); err != nil {
			return nil, err
		}
	}
	for _, o := range responsive(s.sentinels) {
		if o == sentinel {
			continue
		}
		if err := sees(others.Val(), o, map[string]string{"flags": "sentinel"}); err != nil {
			return nil, err
		}
	}
	return master, nil
}

// sees fails unless a sentinel's list has s with the wanted fields.
func sees(list []map[string]string, s *Server, want map[string]string) error {
	for _, entry := range list {
		if entry["port"] != strconv.Itoa(s.Port()) {
			continue
		}
		for field, value := range want {
			// master_down stays for seconds after a failover and is about a master that is no more.
			if got := strings.TrimSuffix(entry[field], ",master_down"); got != value {
				return fmt.Errorf("%s has %s %q, not %q", s.Addr(), field, got, value)
			}
		}
		return nil
	}
	return fmt.Errorf("%s is not known", s.Addr())
}

// responsive are the servers that run and are not paused.
func responsive(servers []*Server) []*Server {
	var up []*Server
	for _, s := range servers {
		if s.responsive() {
			up = append(up, s)
		}
	}
	return up
}

// hasRole asks s itself for its role, and a replica whether it is in sync with master.
func hasRole(ctx context.Context, s *Server, role string, master *Server) error {
	info, err := s.client.Info(ctx, "replication").Result()
	if err != nil {
		return fmt.Errorf("%s: %w", s.Addr(), err)
	}
	if got := infoField(info, "role"); got != role {
		return fmt.Errorf("%s says that it is a %s, not a %s", s.Addr(), got, role)
	}
	if master == nil {
		return nil
	}
	port, link := infoField(info, "master_port"), infoField(info, "master_link_status")
	if port != strconv.Itoa(master.Port()) || link != "up" {
		return fmt.Errorf("%s follows port %s, link %s; the master is %s", s.Addr(), port, link, master.Addr())
	}
	return nil
}

// waitSynced blocks until the replicas of master that a test has left alone have applied what it has written by now.
func waitSynced(ctx context.Context, master *Server, replicas []*Server) error {
	info, err := master.client.Info(ctx, "replication").Result()
	if err != nil {
		return err
	}
	want, err := strconv.ParseInt(infoField(info, "master_repl_offset"), 10, 64)
	if err != nil {
		return err
	}
	return poll(ctx, "all replicas have offset "+strconv.FormatInt(want, 10), func(ctx context.Context) error {
		for _, r := range responsive(replicas) {
			if err := hasRole(ctx, r, "slave", master); err != nil {
				return err
			}
			info, err := r.client.Info(ctx, "replication").Result()
			if err != nil {
				return err
			}
			got, err := strconv.ParseInt(infoField(info, "slave_repl_offset"), 10, 64)
			if err != nil {
				return err
			}
			if got < want {
				return fmt.Errorf("%s has offset %d", r.Addr(), got)
			}
		}
		return nil
	})
}
