package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
	"github.com/eco2-team/eventbus/server/client"
)

// Tail shows events as they come.
type Tail struct {
	Connection

	What   []string `arg:"" name:"domain/job" help:"A domain, or jobs of one domain."`
	Replay string   `default:"all" enum:"all,state,none" help:"Where one job begins: all retained events, its state, or live. Domains and several jobs are live."`
	After  string   `placeholder:"CURSOR" help:"Resume after this id, or this cursor of --json."`
	Stage  []string `short:"s" help:"Only these stages."`
	Show
}

// Help is the command's manual.
func (*Tail) Help() string {
	return `Shows events as they come, and ends after the final event of the jobs; of a domain, with Ctrl-C.

  eventbus tail scan                       all jobs of the domain, live
  eventbus tail scan/my-job                one job, from its first event
  eventbus tail scan/a scan/b -s done      two jobs, their ends only
  eventbus tail --json scan | jq .stage    for programs

Where the network or a router fails it says so on standard error, and goes on after the last event: none is lost, none is shown
twice. A gap means that events are no longer there: they are older than RETENTION, or Redis lost them.

Each line has time, domain/job, seq, stage, status, progress, then text. With --json it is the event in JSON, with a "cursor" that
--after takes, and a gap is {"gap":{…},"cursor":…}.`
}

// Run follows until the end.
func (c *Tail) Run(std Streams) error {
	ctx, stop := untilSignal()
	defer stop()
	domain, jobs, err := c.read()
	if err != nil {
		return err
	}
	bus, err := c.dial(std)
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	p := c.printer(std.Out, len(jobs) != 1)
	for m, err := range c.messages(ctx, bus, domain, jobs) {
		switch {
		case err != nil && ctx.Err() != nil:
			return nil // Ctrl-C is how a domain's tail ends
		case err != nil:
			return plain(err)
		case m.Gap != nil:
			err = p.gap(m)
		case len(c.Stage) == 0 || slices.Contains(c.Stage, m.Event.GetStage()):
			err = p.event(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Tail) messages(ctx context.Context, bus *client.Client, domain string, jobs []string) func(func(client.Message, error) bool) {
	if len(jobs) == 1 {
		replay := map[string]eventbusv1.Replay{"state": eventbusv1.Replay_REPLAY_STATE, "none": eventbusv1.Replay_REPLAY_NONE}
		return bus.Subscribe(ctx, domain, jobs[0], client.SubscribeOptions{After: c.After, Replay: replay[c.Replay]})
	}
	return bus.Watch(ctx, domain, client.WatchOptions{Jobs: jobs, Stages: c.Stage, Cursor: c.After})
}

// read is the domain and its jobs; none is all.
func (c *Tail) read() (domain string, jobs []string, err error) {
	for i, w := range c.What {
		d, job, isJob := strings.Cut(w, "/")
		switch {
		case d == "" || isJob && job == "":
			return "", nil, fmt.Errorf("%q: must be DOMAIN or DOMAIN/JOB", w)
		case !isJob && len(c.What) > 1:
			return "", nil, fmt.Errorf("%q: a domain must be alone", w)
		case i > 0 && d != domain:
			return "", nil, fmt.Errorf("%q: all jobs must be of one domain, as %s", w, domain)
		}
		domain = d
		if isJob {
			jobs = append(jobs, job)
		}
	}
	return domain, jobs, nil
}

// State shows a job's state.
type State struct {
	Connection

	Job string `arg:"" name:"domain/job" help:"The job."`
	Show
}

// Help is the command's manual.
func (*State) Help() string {
	return `Shows the latest event of a job that is final or whose status is not "streaming". The exit code is 1 where there is none: no
such job, or one that is over for longer than RETENTION.

  eventbus state scan/my-job
  eventbus state --json scan/my-job | jq .result`
}

// Run shows it.
func (c *State) Run(std Streams) error {
	ctx, stop := untilSignal()
	defer stop()
	domain, job, err := jobRef(c.Job)
	if err != nil {
		return err
	}
	bus, err := c.dial(std)
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	e, err := bus.State(ctx, domain, job)
	if err != nil {
		return plain(err)
	}
	return c.printer(std.Out, true).event(client.Message{Event: e})
}
