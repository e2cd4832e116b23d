package redistest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Exec runs redis-cli against this server and returns its output without the last newline. An error reply is an error.
func (s *Server) Exec(ctx context.Context, args ...string) (string, error) {
	return s.redisCLI(ctx, append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(s.Port()), "-e"}, args...)...)
}

// CLI is Exec that fails tb.
func (s *Server) CLI(tb testing.TB, args ...string) string {
	tb.Helper()
	var out string
	do(tb, "run redis-cli", func(ctx context.Context) (err error) {
		out, err = s.Exec(ctx, args...)
		return err
	})
	return out
}

// redisCLI runs redis-cli with the server's credentials; the address is up to the arguments.
func (s *Server) redisCLI(ctx context.Context, args ...string) (string, error) {
	path, err := lookPath("redis-cli")
	if err != nil {
		return "", err
	}
	var all []string
	if s.settings.tls != nil {
		all = append(all, "--tls", "--cacert", s.CAFile())
	}
	cmd := exec.CommandContext(ctx, path, append(all, args...)...)
	cmd.Env = os.Environ()
	if s.settings.password != "" && s.settings.role != roleSentinel {
		cmd.Env = append(cmd.Env, "REDISCLI_AUTH="+s.settings.password)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("redis-cli %s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// FlushAll deletes all data of this server.
func (s *Server) FlushAll(tb testing.TB) {
	tb.Helper()
	do(tb, "FLUSHALL on "+s.Addr(), func(ctx context.Context) error { return s.client.FlushAll(ctx).Err() })
}

// KillClients closes the connections of all clients of a type ("normal", "pubsub", "replica", "master") and returns how
// many. "normal" includes idle connections of Client, which reconnects.
func (s *Server) KillClients(tb testing.TB, typ string) int {
	tb.Helper()
	var n int64
	do(tb, "CLIENT KILL TYPE "+typ+" on "+s.Addr(), func(ctx context.Context) (err error) {
		n, err = s.client.ClientKillByFilter(ctx, "TYPE", typ).Result()
		return err
	})
	return int(n)
}
