package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"github.com/eco2-team/eventbus/edge/names"
)

// The targets' names.
const (
	serveName = "serve"
	splitName = "router+edge"
	floorName = "floor"
	busName   = "bus"
)

// stack is the processes of --self for one row, started one on the other.
type stack struct {
	target target
	all    []*child
	dir    string
	// program is this one.
	program string
	// names is there with several routers.
	names *names.Server
}

// stop ends them, the last first.
func (s *stack) stop() error {
	var err error
	for _, c := range slices.Backward(s.all) {
		err = errors.Join(err, c.stop())
	}
	if s.names != nil {
		err = errors.Join(err, s.names.Close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// run starts a process and waits for it; its cost is the target's.
func (s *stack) run(ctx context.Context, name, program string, env []string, ready func(context.Context) bool, args ...string) error {
	c, err := start(name, program, env, args...)
	if err != nil {
		return err
	}
	s.all = append(s.all, c)
	s.target.processes = append(s.target.processes, process{name, c.cmd.Process.Pid})
	return c.await(ctx, ready)
}

// startSelf starts a target of its own for one row: with fresh processes no row
// pays for the one before it. The caller stops it.
func startSelf(ctx context.Context, cfg *Config, name string) (*stack, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "eventbus-bench-")
	if err != nil {
		return nil, err
	}
	s := &stack{target: target{name: name, floor: name == floorName}, dir: dir, program: self}
	if err := s.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), s.stop())
	}
	return s, nil
}

func (s *stack) start(ctx context.Context, cfg *Config) error {
	addrs, err := freeAddrs(ctx, 4)
	if err != nil {
		return err
	}
	s.target.http, s.target.grpc = addrs[0], addrs[1:2]
	streams, err := s.redis(ctx)
	if err != nil {
		return err
	}
	if s.target.floor {
		return s.run(ctx, floorName, s.program, nil, accepts(s.target.http), FloorCommand,
			"--http-addr="+s.target.http, "--grpc-addr="+addrs[1], "--redis="+streams)
	}
	pubsub, err := s.redis(ctx)
	if err != nil {
		return err
	}
	common := []string{"LOG_LEVEL=warn", "DOMAINS=" + cfg.Domain, "SHARD_COUNT=" + strconv.Itoa(cfg.Shards)}
	router := append([]string{"REDIS_STREAMS_URL=" + streams, "REDIS_PUBSUB_URL=" + pubsub}, common...)
	edge := append([]string{"HTTP_ADDR=" + s.target.http, "MAX_CONNECTIONS=0"}, common...)
	if s.target.name == serveName {
		all := slices.Concat(router, edge, []string{"GRPC_ADDR=" + addrs[1], "POD_NAME=bench", "ADMIN_ADDR=" + addrs[2]})
		return s.run(ctx, serveName, s.program, all, answers(addrs[2]), "serve")
	}
	found, err := s.routers(ctx, cfg, router, addrs[1])
	if err != nil {
		return err
	}
	return s.run(ctx, "edge", s.program, append(edge, "ROUTER_ADDR="+found, "ADMIN_ADDR="+addrs[3]), answers(addrs[3]), "edge")
}

// routers starts them, and returns what an edge finds them by: the address, or a name
// for several, which differ by their loopback address as pods do by theirs. It
// returns when each has its share of the shards.
func (s *stack) routers(ctx context.Context, cfg *Config, env []string, first string) (found string, err error) {
	addrs := []string{first}
	if found = first; cfg.Routers > 1 {
		_, port, err := net.SplitHostPort(first)
		if err != nil {
			return "", err
		}
		if s.names, err = names.Serve(ctx); err != nil {
			return "", err
		}
		found, addrs = s.names.Target(port), nil
		for i := range cfg.Routers {
			ip := [4]byte{127, 0, 0, byte(firstRouter + i)}
			s.names.Add(ip)
			addrs = append(addrs, net.JoinHostPort(netip.AddrFrom4(ip).String(), port))
		}
	}
	s.target.grpc = addrs
	admins, err := freeAddrs(ctx, len(addrs))
	if err != nil {
		return "", err
	}
	for i, addr := range addrs {
		own := append(slices.Clip(env), "GRPC_ADDR="+addr, "POD_NAME=bench-"+strconv.Itoa(i), "ADMIN_ADDR="+admins[i])
		if err := s.run(ctx, "router", s.program, own, answers(admins[i]), "router"); err != nil {
			return "", err
		}
	}
	started := s.all[len(s.all)-len(addrs):]
	for i, c := range started {
		if err := c.await(ctx, owns(admins[i], cfg.Shards/len(addrs))); err != nil {
			return "", err
		}
	}
	return found, nil
}

// firstRouter is the last byte of the first of several routers' addresses: beyond
// those that browsers connect from (reader.go).
const firstRouter = 1 + 1 + maxBrowsers/perSource

// maxRouters keeps them in one byte.
const maxRouters = 64

// redis starts one without persistence.
func (s *stack) redis(ctx context.Context) (url string, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("--self needs redis-server (Debian: apt-get install redis-server): %w", err)
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	return "redis://" + addr + "/0", s.run(ctx, "redis", program, nil, accepts(addr),
		"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", s.dir, "--daemonize", "no")
}
