package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
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
}

// stop ends them, the last first.
func (s *stack) stop() error {
	var err error
	for _, c := range slices.Backward(s.all) {
		err = errors.Join(err, c.stop())
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
	dir, err := os.MkdirTemp("", "eventbus-bench-")
	if err != nil {
		return nil, err
	}
	s := &stack{target: target{name: name, floor: name == floorName}, dir: dir}
	if err := s.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), s.stop())
	}
	return s, nil
}

func (s *stack) start(ctx context.Context, cfg *Config) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var addrs [4]string
	for i := range addrs {
		if addrs[i], err = freeAddr(ctx); err != nil {
			return err
		}
	}
	s.target.http, s.target.grpc = addrs[0], addrs[1]
	streams, err := s.redis(ctx)
	if err != nil {
		return err
	}
	if s.target.floor {
		return s.run(ctx, floorName, self, nil, accepts(s.target.http), FloorCommand,
			"--http-addr="+s.target.http, "--grpc-addr="+s.target.grpc, "--redis="+streams)
	}
	pubsub, err := s.redis(ctx)
	if err != nil {
		return err
	}
	common := []string{"LOG_LEVEL=warn", "DOMAINS=" + cfg.Domain, "SHARD_COUNT=" + strconv.Itoa(cfg.Shards)}
	router := append([]string{"REDIS_STREAMS_URL=" + streams, "REDIS_PUBSUB_URL=" + pubsub, "GRPC_ADDR=" + s.target.grpc, "POD_NAME=bench", "ADMIN_ADDR=" + addrs[2]}, common...)
	edge := []string{"HTTP_ADDR=" + s.target.http, "MAX_CONNECTIONS=0"}
	if s.target.name == serveName {
		return s.run(ctx, serveName, self, append(router, edge...), answers(addrs[2]), "serve")
	}
	if err := s.run(ctx, "router", self, router, answers(addrs[2]), "router"); err != nil {
		return err
	}
	edge = append(edge, "ROUTER_ADDR="+s.target.grpc, "ADMIN_ADDR="+addrs[3])
	return s.run(ctx, "edge", self, append(edge, common...), answers(addrs[3]), "edge")
}

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
