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
	ctx, cancel := withTimeout()
	defer cancel()
	out, err := s.Exec(ctx, args...)
	if err != nil {
		tb.Fatal(err)
	}
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
	ctx, cancel := withTimeout()
	defer cancel()
	if err := s.client.FlushAll(ctx).Err(); err != nil {
		tb.Fatalf("FLUSHALL on %s: %v", s.Addr(), err)
	}
}

// KillClients closes the connections of all clients of a type ("normal", "pubsub", "replica", "master") and returns how
// many. "normal" includes idle connections of Client, which reconnects.
func (s *Server) KillClients(tb testing.TB, typ string) int {
	tb.Helper()
	ctx, cancel := withTimeout()
	defer cancel()
	n, err := s.client.ClientKillByFilter(ctx, "TYPE", typ).Result()
	if err != nil {
		tb.Fatalf("CLIENT KILL TYPE %s on %s: %v", typ, s.Addr(), err)
	}
	return int(n)
}
