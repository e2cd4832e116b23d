package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// turn settles the last batches and claims the next, of all shards, in one
// transaction: the jobs that ended are marked, the entries acknowledged, the next
// entries taken. It returns how many.
//
// The transaction is the fence. Its connection watches the leases (WATCH), and saw
// after it began to that they are this router's; whoever takes a lease over changes
// it, and the transaction does nothing. A frozen owner could otherwise still take
// entries after another took over. Renewing a lease changes it, too: then the turn is
// tried again.
//
// The connection also tells a failover. The new master has the entries, and perhaps
// not their projection, which went to the old one; so nothing may be settled there
// that was projected elsewhere. What this connection projected, it settles; a new one
// takes it again as pending, and projects it again. A master that became a replica and
// copied its data from another has lost what it watched, and does nothing either.
func (c *carrier) turn(ctx context.Context) (n int, err error) {
	if c.full {
		c.doubt() // the script does not see what happened between two turns
	}
	for range turnTries {
		var again bool
		if n, again, err = c.tryTurn(ctx); err != nil || n > 0 || !again {
			return n, err
		}
	}
	return 0, nil
}

// turnTries: each but the first is after a lease that changed, a look at pending
// entries that found none, or a group that was not there.
const turnTries = 5

func (c *carrier) tryTurn(ctx context.Context) (n int, again bool, err error) {
	if err := c.watch(ctx); err != nil || len(c.bridges) == 0 {
		return 0, false, err
	}
	if c.hasDone() {
		if err := c.at("settle"); err != nil {
			return 0, false, err
		}
	}
	var commands []command
	settles := make([]int, len(c.bridges)) // commands before each claim
	for i, b := range c.bridges {
		before := len(commands)
		commands = append(commands, b.settle()...)
		settles[i] = len(commands) - before
		if claim := b.claim(); claim != nil {
			commands = append(commands, claim)
		}
	}
	answers, leases, err := c.transact(ctx, commands)
	aborted := errors.Is(err, redis.Nil)
	if err != nil && !aborted {
		return 0, false, fmt.Errorf("settle and claim: %w", err)
	}
	if aborted {
		c.doubt()
	} else {
		if n, again, err = c.settledAndClaimed(ctx, answers, settles); err != nil {
			return 0, false, err
		}
	}
	return n, again || aborted, c.checkLeases(leases)
}

// command is a command with its arguments.
type command = []any

// transact runs commands in the transaction, watches the leases for the next, and
// returns the answers, and whose the leases are then. The error is redis.Nil where a
// lease changed before.
func (c *carrier) transact(ctx context.Context, commands []command) (answers []any, leases *redis.Cmd, err error) {
	pipe := c.conn.Pipeline()
	pipe.Do(ctx, "MULTI")
	for _, args := range commands {
		pipe.Do(ctx, args...)
	}
	exec := pipe.Do(ctx, "EXEC")
	if c.cfg.MinReplicas > 0 {
		// The replicas get the time to have what was claimed: an entry that only a dying
		// master has is published anew at its successor, and must not be projected there as
		// well. Where replicas are missing it goes on after waitTimeout, because readers
		// are not to wait for them.
		pipe.Do(ctx, "WAIT", c.cfg.MinReplicas, waitTimeout.Milliseconds())
	}
	leases = c.queueWatch(ctx, pipe)
	cmds, _ := pipe.Exec(ctx) // each command has its own error
	c.full = slices.ContainsFunc(cmds[1:1+len(commands)], func(cmd redis.Cmder) bool { return redis.HasErrorPrefix(cmd.Err(), "OOM") })
	if c.full {
		exec = c.transactFull(ctx, commands)
	}
	answers, err = exec.Slice()
	return answers, leases, err
}

// transactFull does it where Redis is full: what was acknowledged must get out, and
// what is settled makes room.
func (c *carrier) transactFull(ctx context.Context, commands []command) *redis.Cmd {
	keys := make([]string, len(c.bridges))
	for i, b := range c.bridges {
		keys[i] = leaseKey(b.key)
	}
	exec, _, _ := runAndWait(ctx, c.conn, c.cfg.MinReplicas, c.scripts.fence(keys, c.token, commands)) // it has its own error
	return exec
}

// doubt is for a lease that changed: it may have been another's for a while, who left
// something.
func (c *carrier) doubt() {
	for _, b := range c.bridges {
		b.pending = true
	}
}

func (c *carrier) hasDone() bool {
	return slices.ContainsFunc(c.bridges, func(b *bridge) bool { return b.done != nil })
}

// settle are the commands that settle the bridge's last batch.
func (b *bridge) settle() (commands []command) {
	if b.done == nil {
		return nil
	}
	for _, job := range b.done.jobs {
		for _, e := range job.shown {
			if e.Final {
				commands = append(commands, command{"SET", finalKey(b.key, job.jobID), e.ID.String(), "PX", b.cfg.IdempotencyWindow.Milliseconds()})
			}
		}
	}
	ack := append(make(command, 0, 3+len(b.done.ids)), "XACK", b.key, b.cfg.ConsumerGroup)
	for _, id := range b.done.ids {
		ack = append(ack, id)
	}
	return append(commands, ack)
}

// claim is the command that claims its next batch; nil where it stops or rests.
func (b *bridge) claim() command {
	if time.Since(b.cleaned) >= cleanInterval {
		b.pending, b.cleaned = true, time.Now()
	}
	b.claims = !b.ending && !b.rests()
	switch {
	case !b.claims:
		return nil
	case b.pending:
		return command{"XAUTOCLAIM", b.key, b.cfg.ConsumerGroup, b.cfg.PodName, 0, "0-0", "COUNT", b.size}
	default:
		return command{"XREADGROUP", "GROUP", b.cfg.ConsumerGroup, b.cfg.PodName, "COUNT", b.size, "STREAMS", b.key, ">"}
	}
}

// settledAndClaimed reads what the transaction answered.
func (c *carrier) settledAndClaimed(ctx context.Context, answers []any, settles []int) (n int, again bool, err error) {
	var settled []*bridge
	for i, b := range c.bridges {
		claims := 0
		if b.claims {
			claims = 1
		}
		if len(answers) < settles[i]+claims {
			return 0, false, fmt.Errorf("settle and claim: %d answers are missing", settles[i]+claims-len(answers))
		}
		if err := firstError(answers[:settles[i]]); err != nil {
			b.fail(fmt.Errorf("settle: %w", err))
		} else if b.done != nil {
			settled = append(settled, b)
		}
		if claims == 1 {
			wasPending := b.pending
			took, err := c.readClaim(ctx, b, answers[settles[i]])
			if err != nil {
				b.fail(fmt.Errorf("claim: %w", err))
			}
			n += took
			again = again || took == 0 && (wasPending || b.seen == "")
		}
		answers = answers[settles[i]+claims:]
	}
	c.announceShards(ctx, settled)
	for _, b := range settled {
		b.announced, b.done = b.done.last, nil
	}
	return n, again, nil
}

func firstError(answers []any) error {
	for _, a := range answers {
		if err, bad := a.(error); bad {
			return err
		}
	}
	return nil
}

// readClaim reads the answer to XAUTOCLAIM or XREADGROUP.
func (c *carrier) readClaim(ctx context.Context, b *bridge, answer any) (n int, err error) {
	var list any = []any{}
	gone := 0
	switch a := answer.(type) {
	case error:
		if strings.Contains(a.Error(), "NOGROUP") { // miniredis has a text before it
			c.watching = false // the end of the log is looked for anew
			return 0, b.createGroup(ctx)
		}
		return 0, a
	case nil: // nothing new
	case map[any]any: // XREADGROUP in RESP3
		list = a[b.key]
	case []any:
		if !b.pending && len(a) == 1 { // XREADGROUP in RESP2
			pair, _ := a[0].([]any)
			if len(pair) == 2 {
				list = pair[1]
			}
		}
		if b.pending && len(a) >= 2 {
			list = a[1]
			if len(a) > 2 {
				ids, _ := a[2].([]any)
				gone = len(ids)
			}
		}
	}
	entries, err := parseEntries(list)
	if err != nil {
		return 0, err
	}
	b.claimed(entries, gone, len(c.bridges))
	if gone > 0 {
		return 0, b.noteLoss(ctx, int64(gone))
	}
	return len(entries), nil
}

// watch makes the connection, where there is none, and has it watch the leases, where
// it does not. Shards whose lease is not this router's are let go.
func (c *carrier) watch(ctx context.Context) error {
	if c.conn == nil {
		client, err := nodeOf(ctx, c.own, c.bridges[0].key)
		if err != nil {
			return err
		}
		node, ok := client.(*redis.Client)
		if !ok {
			return fmt.Errorf("redis: a node's client is %T", client)
		}
		c.conn, c.watching = node.EphemeralConn(), false
		for _, b := range c.bridges {
			b.forget()
		}
	}
	if c.watching {
		return nil
	}
	pipe := c.conn.Pipeline()
	tails := make(map[*bridge]*redis.Cmd)
	for _, b := range c.bridges {
		if b.seen == "" {
			tails[b] = pipe.Do(ctx, "XREVRANGE", b.key, "+", "-", "COUNT", 1)
		}
	}
	leases := c.queueWatch(ctx, pipe)
	_, _ = pipe.Exec(ctx) // each command has its own error
	for b, cmd := range tails {
		// The log's end, before the first claim, is the place to wake up after, so that
		// nothing falls in between. Where the log is no stream, the claim will say so.
		b.seen = "0-0"
		if last, err := parseEntries(cmd.Val()); err == nil && len(last) == 1 {
			b.seen = last[0].id.String()
		}
	}
	if err := c.checkLeases(leases); err != nil {
		return err
	}
	c.watching = true
	return nil
}

func (c *carrier) queueWatch(ctx context.Context, pipe redis.Pipeliner) (leases *redis.Cmd) {
	watch, mget := []any{"WATCH"}, []any{"MGET"}
	for _, b := range c.bridges {
		key := leaseKey(b.key)
		watch, mget = append(watch, key), append(mget, key)
	}
	pipe.Do(ctx, watch...)
	return pipe.Do(ctx, mget...)
}

// checkLeases lets go of the shards whose lease another has, or nobody.
func (c *carrier) checkLeases(leases *redis.Cmd) error {
	owners, err := leases.Slice()
	if err == nil && len(owners) != len(c.bridges) {
		err = fmt.Errorf("%d owners of %d leases", len(owners), len(c.bridges))
	}
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	for i, b := range slices.Clone(c.bridges) {
		if owners[i] != c.token {
			b.log.Info("shard lost", "domain", b.domain, "shard", b.shard)
			c.letGo(b)
		}
	}
	return nil
}

// roundTimeout bounds a round against a Redis that hangs, beside the time that an
// announcement may take.
const roundTimeout = 10 * time.Second
