package router

import (
	"context"
	"embed"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// scripts are the Lua scripts of the bus; each file's head is its contract.
type scripts struct {
	publish, clean, fenced, lease, release, members, project, recount *redis.Script
}

// loadScripts reads them. Without flags the first line is left out, which
// miniredis does not know.
func loadScripts(flags bool) (scripts, error) {
	var s scripts
	for name, dst := range map[string]**redis.Script{
		"publish": &s.publish, "clean": &s.clean, "fenced": &s.fenced, "lease": &s.lease, "release": &s.release,
		"members": &s.members, "project": &s.project, "recount": &s.recount,
	} {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			return s, fmt.Errorf("script: %w", err)
		}
		src := string(text)
		if !flags && strings.HasPrefix(src, "#!") {
			_, src, _ = strings.Cut(src, "\n")
		}
		*dst = redis.NewScript(src)
	}
	return s, nil
}

// call is one run of a script.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
}

// fence is a call that runs commands where the leases are the token's, though Redis be
// full.
func (s *scripts) fence(leases []string, token string, commands []command) call {
	args := []any{len(leases), token}
	for _, c := range commands {
		args = append(append(args, len(c)), c...)
	}
	return call{s.fenced, leases, args}
}

// evenFull runs a command of one key, though Redis be full.
func (s *scripts) evenFull(ctx context.Context, c redis.UniversalClient, key string, cmd command) error {
	k := s.fence(nil, "", []command{cmd})
	answers, err := k.script.Run(ctx, c, []string{key}, k.args...).Slice()
	if err != nil {
		return err
	}
	return firstError(answers)
}

// pipeliner is a client or a connection.
type pipeliner interface{ Pipeline() redis.Pipeliner }

// evalAll runs what pipe has, and calls behind it, in one round trip, and returns a
// command for each call. Their order is not kept: the ones whose script Redis does not
// know (a replica that became master never got it) run again after the others. So no
// two calls may depend on each other.
func evalAll(ctx context.Context, c pipeliner, pipe redis.Pipeliner, calls []call) []*redis.Cmd {
	cmds := make([]*redis.Cmd, len(calls))
	for i, k := range calls {
		cmds[i] = k.script.EvalSha(ctx, pipe, k.keys, k.args...)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	again := c.Pipeline()
	for i, k := range calls {
		if redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
			cmds[i] = k.script.Eval(ctx, again, k.keys, k.args...)
		}
	}
	if again.Len() > 0 {
		_, _ = again.Exec(ctx)
	}
	return cmds
}

// runAndWait runs a script and, on the same connection, WAIT: it covers what Redis
// had written when the connection's last command ran. It returns the script's reply
// and how many replicas have what it wrote; an error is the script's or the
// connection's.
func runAndWait(ctx context.Context, node pipeliner, replicas int, c call) (*redis.Cmd, int64, error) {
	run := func(eval func(redis.Pipeliner) *redis.Cmd) (*redis.Cmd, int64, error) {
		pipe := node.Pipeline()
		script := eval(pipe)
		wait := pipe.Do(ctx, "WAIT", replicas, waitTimeout.Milliseconds())
		_, _ = pipe.Exec(ctx) // each command has its own error
		if err := script.Err(); err != nil {
			return script, 0, err
		}
		n, err := wait.Int64()
		return script, n, err
	}
	script, n, err := run(func(p redis.Pipeliner) *redis.Cmd { return c.script.EvalSha(ctx, p, c.keys, c.args...) })
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		script, n, err = run(func(p redis.Pipeliner) *redis.Cmd { return c.script.Eval(ctx, p, c.keys, c.args...) })
	}
	return script, n, err
}
