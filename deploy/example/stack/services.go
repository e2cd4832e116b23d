package stack

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

// startRedis starts a Redis of our own: with an append-only file, and never evicting, as
// the bus wants it.
func (s *Stack) startRedis(ctx context.Context) error {
	if s.RedisURL != "" {
		return nil
	}
	port, err := s.ports.next(ctx, 0)
	if err != nil {
		return err
	}
	path, err := find("redis-server")
	if err != nil {
		return err
	}
	dir := filepath.Join(s.o.Dir, "redis")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s.RedisURL = fmt.Sprintf("redis://127.0.0.1:%d/0", port)
	err = s.start(command{name: "redis", path: path, env: environment(), args: []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir,
		"--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction",
	}})
	if err != nil {
		return err
	}
	return s.wait(ctx, "Redis", func(ctx context.Context) error { return reach(ctx, port) })
}

// rabbitmqScript is Debian's. The one in PATH asks for root or the user rabbitmq.
const rabbitmqScript = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// startRabbitMQ starts a RabbitMQ of our own. What it would share with another one on this
// machine (the port mapper, the cookie, its directories) is its own, too.
func (s *Stack) startRabbitMQ(ctx context.Context) error {
	if s.AMQPURL != "" {
		return nil
	}
	mapper, err := s.startPortMapper(ctx)
	if err != nil {
		return err
	}
	port, err := s.ports.next(ctx, 0)
	if err != nil {
		return err
	}
	peers, err := s.ports.next(ctx, 0)
	if err != nil {
		return err
	}
	script, err := find(rabbitmqScript, "rabbitmq-server")
	if err != nil {
		return err
	}
	dir := filepath.Join(s.o.Dir, "rabbitmq")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := map[string]string{
		"rabbitmq.conf":   fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\n", port),
		"enabled_plugins": "[].\n", "env.conf": "",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	s.AMQPURL = (&url.URL{Scheme: "amqp", User: url.UserPassword("guest", "guest"), Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "/"}).String()
	err = s.start(command{name: "rabbitmq", path: script, env: environment(map[string]string{
		"HOME": dir, "ERL_EPMD_PORT": strconv.Itoa(mapper), "ERL_EPMD_ADDRESS": "127.0.0.1",
		"RABBITMQ_NODENAME": "eventbus-example@localhost", "RABBITMQ_DIST_PORT": strconv.Itoa(peers),
		"RABBITMQ_CONFIG_FILE": filepath.Join(dir, "rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE": filepath.Join(dir, "env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE": filepath.Join(dir, "enabled_plugins"),
		"RABBITMQ_MNESIA_BASE":          dir, "RABBITMQ_LOG_BASE": dir, "RABBITMQ_SCHEMA_DIR": dir,
		"RABBITMQ_GENERATED_CONFIG_DIR": dir, "RABBITMQ_LOGS": "-",
		// The script then becomes Erlang instead of watching it: signals reach it.
		"RABBITMQ_ALLOW_INPUT":                "1",
		"RABBITMQ_SERVER_START_ARGS":          "-noinput",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
	})})
	if err != nil {
		return err
	}
	return s.wait(ctx, "RabbitMQ", func(ctx context.Context) error {
		if err := reach(ctx, port); err != nil {
			return err
		}
		conn, err := amqp.Dial(s.AMQPURL)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// startPortMapper starts Erlang's epmd in the foreground: RabbitMQ would start one that
// outlives it.
func (s *Stack) startPortMapper(ctx context.Context) (port int, err error) {
	port, err = s.ports.next(ctx, 0)
	if err != nil {
		return 0, err
	}
	path, err := find("epmd")
	if err != nil {
		return 0, err
	}
	err = s.start(command{name: "epmd", path: path, kill: true, args: []string{"-port", strconv.Itoa(port)},
		env: environment(map[string]string{"ERL_EPMD_ADDRESS": "127.0.0.1"})})
	if err != nil {
		return 0, err
	}
	return port, s.wait(ctx, "epmd", func(ctx context.Context) error { return reach(ctx, port) })
}

// generate makes Python's stubs of the bus's API.
func generate(ctx context.Context, repo, dir string) error {
	protoc, err := find("protoc")
	if err != nil {
		return err
	}
	plugin, err := find("grpc_python_plugin")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, protoc, "-I", filepath.Join(repo, "proto"), "--python_out="+dir, //nolint:gosec // found above
		"--plugin=protoc-gen-grpc_python="+plugin, "--grpc_python_out="+dir, "eventbus/v1/eventbus.proto")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("generate Python's stubs: %w: %s", err, out)
	}
	return nil
}

// python is Debian's where it is there: only that sees Debian's packages.
func python() string {
	const debian = "/usr/bin/python3"
	if _, err := os.Stat(debian); err == nil {
		return debian
	}
	return "python3"
}

// find looks for the first of some programs that is there.
func find(programs ...string) (string, error) {
	for _, p := range programs {
		if path, err := exec.LookPath(p); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed (.ci/deps example installs all that this needs, on Debian)", programs[0])
}

func reach(ctx context.Context, port int) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	return conn.Close()
}
