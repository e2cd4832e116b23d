package command

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/doctor"
	"github.com/eco2-team/eventbus/server"
)

// Check examines the settings of a router and its Redis.
type Check struct {
	Bus    router.Config `embed:""`
	GRPC   server.Config `embed:""`
	Access access.Config `embed:""`
	Common server.Common `embed:""`
	Strict bool          `help:"Warnings are failures, too."`
	Show
}

// Help is the command's manual.
func (*Check) Help() string {
	return `Examines the settings of a router and both of its Redis, and says what is wrong and how to mend it. Give it the environment of a
router, or the same flags; it needs no router to run, and changes nothing that one uses.

  REDIS_STREAMS_URL=redis://localhost:6379 eventbus check
  kubectl -n event-router exec deploy/router -- /eventbus check

It looks at the settings; at each Redis: does it answer, role, version, persistence, eviction, memory, replicas, latency, clock, rights;
at the bus in it: routers, leases, consumer groups, lag, shard logs that nobody reads, dead letters; and whether an announcement arrives.

The exit code is 0 where the bus works, 1 where something is broken, and, with --strict, where something may lose or delay events.`
}

// Run examines and prints.
func (c *Check) Run(std Streams) error {
	ctx, stop := untilSignal()
	defer stop()
	paint := newPalette(c.coloured(std.Out))
	marks := map[doctor.Level]string{
		doctor.OK: paint.good("ok  "), doctor.Note: paint.dim("note"), doctor.Warn: paint.attention("warn"), doctor.Fail: paint.bad("FAIL"),
	}
	count := map[doctor.Level]int{}
	var failed error
	report := func(f doctor.Finding) {
		count[f.Level]++
		if c.JSON {
			failed = errors.Join(failed, json.NewEncoder(std.Out).Encode(f))
			return
		}
		_, err := fmt.Fprintf(std.Out, "%s  %s: %s\n", marks[f.Level], paint.strong(clean(f.Subject)), clean(f.Text))
		if f.Mend != "" && err == nil {
			_, err = fmt.Fprintf(std.Out, "      %s %s\n", paint.dim("→"), f.Mend)
		}
		failed = errors.Join(failed, err)
	}
	for _, check := range []func() error{c.GRPC.Check, c.Access.Check, c.Common.Check} {
		if err := check(); err != nil {
			report(doctor.Finding{Level: doctor.Fail, Subject: "settings", Text: err.Error(), Mend: "see `eventbus router --help`"})
		}
	}
	doctor.Examine(ctx, c.Bus, report)
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case count[doctor.Fail] > 0:
		return fmt.Errorf("%d things do not work, %d warnings", count[doctor.Fail], count[doctor.Warn])
	case c.Strict && count[doctor.Warn] > 0:
		return fmt.Errorf("%d warnings", count[doctor.Warn])
	}
	return nil
}
