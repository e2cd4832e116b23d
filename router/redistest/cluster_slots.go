package redistest

import (
	"context"
	"fmt"
	"strconv"
	"testing"
)

// migrateKeys is how many keys one MIGRATE moves, migrateTimeout its limit in milliseconds.
const (
	migrateKeys    = 100
	migrateTimeout = 5000
)

// MigrateSlot moves a slot with its keys to another master, as resharding does: while keys move, clients are sent after
// them by ASK, afterwards by MOVED. It blocks until all nodes know the new owner. It fails tb after a minute.
func (c *Cluster) MigrateSlot(tb testing.TB, slot int, to *Server) {
	tb.Helper()
	do(tb, fmt.Sprintf("migrate slot %d to %s", slot, to.Addr()), func(ctx context.Context) error {
		return c.migrateSlot(ctx, slot, to)
	})
}

func (c *Cluster) migrateSlot(ctx context.Context, slot int, to *Server) error {
	if slot < 0 || slot >= slotCount {
		return fmt.Errorf("slots are 0–%d", slotCount-1)
	}
	v, err := c.anyView(ctx)
	if err != nil {
		return err
	}
	target, err := v.of(to)
	if err != nil {
		return err
	}
	from := v.owners()[slot]
	if from == nil || from == to || target.has("slave") {
		return fmt.Errorf("the target must be a master that does not own the slot; owner %v", from)
	}
	source, err := v.of(from)
	if err != nil {
		return err
	}
	// The order is redis' own: the target must accept before the source sends clients to it.
	if err := to.client.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id).Err(); err != nil {
		return err
	}
	if err := from.client.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id).Err(); err != nil {
		return err
	}
	if err := c.moveKeys(ctx, slot, from, to); err != nil {
		return err
	}
	for _, node := range []*Server{to, from} {
		if err := node.client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", target.id).Err(); err != nil {
			return err
		}
	}
	return poll(ctx, "all nodes know the new owner", func(ctx context.Context) error {
		owners, err := c.settled(ctx, nil)
		if err == nil && owners[slot] != to {
			err = fmt.Errorf("the owner is %s", owners[slot].Addr())
		}
		return err
	})
}

// moveKeys empties the slot. New keys cannot appear in it: the source answers ASK for what it does not have.
func (c *Cluster) moveKeys(ctx context.Context, slot int, from, to *Server) error {
	for {
		keys, err := from.client.ClusterGetKeysInSlot(ctx, slot, migrateKeys).Result()
		if err != nil || len(keys) == 0 {
			return err
		}
		args := []any{"MIGRATE", "127.0.0.1", strconv.Itoa(to.Port()), "", 0, migrateTimeout}
		if c.settings.password != "" {
			args = append(args, "AUTH", c.settings.password)
		}
		args = append(args, "KEYS")
		for _, key := range keys {
			args = append(args, key)
		}
		if err := from.client.Do(ctx, args...).Err(); err != nil {
			return err
		}
	}
}
