package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// life is how long what is left of an examination stays.
const life = time.Minute

// abilities does once what a router does all the time: append, a script with flags, a
// group, a transaction, a blocking read. Missing rights and renamed commands show here.
func (e *examiner) abilities(ctx context.Context, c redis.UniversalClient) {
	ctx, cancel := context.WithTimeout(ctx, tooLong)
	defer cancel()
	const subject = "streams"
	key, group := "router:check:"+rand.Text(), "check"
	defer func() { _ = c.Del(context.WithoutCancel(ctx), key).Err() }() // it expires anyhow
	steps := []struct {
		name string
		do   func() error
	}{
		{"XADD", func() error {
			return c.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []string{"stage", "check"}}).Err()
		}},
		{"EXPIRE", func() error { return c.Expire(ctx, key, life).Err() }},
		{"EVAL of a script with flags", func() error {
			return c.Eval(ctx, "#!lua flags=allow-oom\nreturn redis.call('XLEN', KEYS[1])", []string{key}).Err()
		}},
		{"XGROUP CREATE", func() error { return c.XGroupCreate(ctx, key, group, "0").Err() }},
		{"XREADGROUP", func() error {
			return c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: "check", Streams: []string{key, ">"}, Count: 1}).Err()
		}},
		{"XAUTOCLAIM", func() error {
			return c.XAutoClaim(ctx, &redis.XAutoClaimArgs{Stream: key, Group: group, Consumer: "check", Start: "0-0"}).Err()
		}},
		{"WATCH, MULTI and EXEC", func() error {
			return c.Watch(ctx, func(tx *redis.Tx) error {
				_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { p.XAck(ctx, key, group, "0-1"); return nil })
				return err
			}, key)
		}},
		{"XREAD BLOCK", func() error {
			return c.XRead(ctx, &redis.XReadArgs{Streams: []string{key, "$"}, Block: time.Millisecond}).Err()
		}},
		{"XTRIM", func() error { return c.XTrimMinID(ctx, key, "0").Err() }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil && !errors.Is(err, redis.Nil) {
			e.say(Fail, subject, abilityMend(err), "a router cannot work: %s: %v", s.name, err)
			return
		}
	}
	e.say(OK, subject, "", "takes events, scripts and consumer groups")
}

func abilityMend(err error) string {
	switch {
	case redis.IsOOMError(err):
		return "Redis is full: raise maxmemory"
	case redis.IsReadOnlyError(err):
		return "name the master in the URL"
	case redis.IsPermissionError(err):
		return "give the user of the URL the right to these commands and keys: ACL SETUSER <user> ~* &* +@all is the simplest"
	default:
		return "look whether it is a whole Redis 7: some services leave commands out"
	}
}
