package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/eco2-team/eventbus/router/event"
)

// Config is what a load test can be told. The tags are the reference of
// `eventbus bench --help`.
type Config struct {
	HTTP   string   `name:"http" default:"127.0.0.1:8000" placeholder:"ADDR" help:"Where the edge serves browsers, without TLS."`
	GRPC   []string `name:"grpc" default:"127.0.0.1:9090" placeholder:"ADDR,…" help:"Where the routers take events, without TLS. Several share the callers."`
	Domain string   `default:"scan" help:"The domain of the test's jobs."`
	Shards int      `default:"4" help:"SHARD_COUNT of the bus: jobs are spread evenly over its shards."`
	Token  string   `env:"BENCH_TOKEN" placeholder:"JWT" help:"A token with grants to publish and subscribe to the domain, for a bus that requires one."`

	Fanout       bool `group:"rows" help:"Few jobs with many browsers, at a fixed rate."`
	FanoutClosed bool `group:"rows" help:"The same, as fast as it goes: the next event is published when one is at all browsers."`
	Jobs         bool `group:"rows" help:"Many jobs with one browser each."`
	Publish      bool `group:"rows" help:"Publish as fast as it is accepted, one event a call and in batches."`
	Idle         bool `group:"rows" help:"Memory of browsers that wait: on few jobs, and on a job each."`
	Resume       bool `group:"rows" help:"Cut all browsers, publish, and let them come back. Without any of these: all rows."`

	FanoutBrowsers int `group:"sizes" default:"1000" help:"Browsers of --fanout and --fanout-closed, all on one job."`
	FanoutRate     int `group:"sizes" default:"50" help:"Events a second of --fanout."`
	InFlight       int `group:"sizes" default:"16" help:"Events under way in --fanout-closed."`
	JobsCount      int `group:"sizes" default:"1000" help:"Jobs, and browsers, of --jobs."`
	JobsRate       int `group:"sizes" default:"3000" help:"Events a second of --jobs, together."`
	JobsCallers    int `group:"sizes" default:"32" help:"Callers that publish them."`
	PublishCallers int `group:"sizes" default:"64" help:"Callers of --publish with one event a call and an idempotency key."`
	BatchCallers   int `group:"sizes" default:"8" help:"Callers of --publish with batches."`
	BatchSize      int `group:"sizes" default:"100" help:"Events a batch."`
	BatchBurst     int `group:"sizes" default:"20000" help:"Events that are published as fast as possible, before all must have arrived."`
	IdleBrowsers   int `group:"sizes" default:"5000" help:"Browsers of --idle."`
	IdleJobs       int `group:"sizes" default:"10" help:"Jobs of --idle's first row; in its second each browser has its own."`
	ResumeBrowsers int `group:"sizes" default:"1000" help:"Browsers of --resume, all on one job."`
	ResumeMissed   int `group:"sizes" default:"50" help:"Events that they miss."`
	ResumeRounds   int `group:"sizes" default:"5" help:"How often they are cut."`
	Payload        int `group:"sizes" default:"200" help:"Bytes of content in each event."`

	Growth       bool          `group:"growth" help:"In place of rows: how cost grows with browsers, jobs, the size of events, routers and shards; the last two need --self, routers as router+edge."`
	Grow         []string      `group:"growth" placeholder:"WHAT,…" help:"Only these of browsers, jobs, size, routers, shards."`
	GrowBrowsers []int         `group:"growth" default:"100,400,1500,5000,15000" help:"Browsers of one job. The most of them are also how many jobs have a browser."`
	GrowJobs     []int         `group:"growth" default:"10,100,1000,10000,50000" help:"Jobs."`
	GrowSize     []int         `group:"growth" default:"100,1000,10000,100000" help:"Bytes of content in each event."`
	GrowRouters  []int         `group:"growth" default:"1,2,3" help:"Routers, with one edge."`
	GrowShards   []int         `group:"growth" default:"1,2,4,8,16" help:"SHARD_COUNT."`
	GrowDuration time.Duration `group:"growth" default:"3s" help:"How long each point is measured."`
	GrowWarmup   time.Duration `group:"growth" default:"1s" help:"How long it runs before that."`

	Duration    time.Duration `default:"10s" help:"How long each row is measured."`
	Warmup      time.Duration `default:"2s" help:"How long it runs before that."`
	Connections int           `default:"4" help:"gRPC connections that the callers share."`
	Readers     int           `default:"1" help:"Goroutines that read browsers' connections; 0 is one for each browser, as everywhere but on Linux."`

	PID  []string `name:"pid" placeholder:"NAME=PID" help:"Processes on this machine whose CPU time and memory are measured, as router=123,edge=124,redis=125."`
	JSON string   `name:"json" placeholder:"FILE" help:"Write the results as JSON; - is standard output, instead of the table."`
	Page string   `name:"page" placeholder:"FILE" help:"Write the results into a page of Markdown, between its marks <!-- bench --> and <!-- /bench -->, or <!-- growth --> and <!-- /growth -->."`

	Routers    int      `default:"1" help:"Router processes of --self=router+edge."`
	Self       []string `placeholder:"WHAT,…" help:"Start the bus, too, afresh for each row, as serve, router+edge or both, with Redis (redis-server in PATH) on free ports."`
	Floor      bool     `help:"Measure beside it what Redis and sockets alone cost: one XADD and PUBLISH an event, plain SSE, no guarantee."`
	FloorRedis string   `placeholder:"URL" help:"Redis for the floor, redis://…; with --self it is started."`
}

// Check tells of every setting that is out of bounds, with its value.
func (c *Config) Check() error {
	var bad []event.Violation
	check := func(ok bool, field string, value any, rule string) {
		if !ok {
			bad = append(bad, event.Violate(field, value, rule))
		}
	}
	within := func(field string, value, low, high int) {
		check(low <= value && value <= high, field, value, fmt.Sprintf("must be %d-%d", low, high))
	}
	check(event.ValidDomain(c.Domain), "--domain", c.Domain, event.DomainRule)
	within("--shards", c.Shards, 1, 1024)
	within("--fanout-browsers", c.FanoutBrowsers, 1, maxBrowsers)
	within("--fanout-rate", c.FanoutRate, 1, 100_000)
	within("--in-flight", c.InFlight, 1, lapWindow/2)
	within("--jobs-count", c.JobsCount, 1, maxBrowsers)
	within("--jobs-rate", c.JobsRate, 1, 1_000_000)
	within("--jobs-callers", c.JobsCallers, 1, 10_000)
	within("--publish-callers", c.PublishCallers, 1, 10_000)
	within("--batch-callers", c.BatchCallers, 1, 1000)
	within("--batch-size", c.BatchSize, 1, 1000)
	within("--batch-burst", c.BatchBurst, c.BatchCallers*c.BatchSize, 10_000_000)
	within("--idle-browsers", c.IdleBrowsers, 1, maxBrowsers)
	within("--idle-jobs", c.IdleJobs, 1, c.IdleBrowsers)
	within("--resume-browsers", c.ResumeBrowsers, 1, maxBrowsers)
	within("--resume-missed", c.ResumeMissed, 1, 10_000)
	within("--resume-rounds", c.ResumeRounds, 1, 1000)
	within("--payload", c.Payload, minPayload, 4<<20)
	check(len(c.GRPC) > 0, "--grpc", nil, "must be set")
	within("--connections", c.Connections, 1, 1000)
	within("--readers", c.Readers, 0, 64)
	check(c.Duration >= 100*time.Millisecond && c.Duration <= time.Hour, "--duration", c.Duration, "must be 100ms-1h")
	check(c.Warmup >= 0 && c.Warmup <= time.Hour, "--warmup", c.Warmup, "must be 0-1h")
	check(!c.Floor || c.FloorRedis != "" || len(c.Self) > 0, "--floor", c.Floor, "needs --floor-redis, or --self")
	for _, name := range c.Self {
		check(name == serveName || name == splitName, "--self", name, "must be "+serveName+", "+splitName+" or both")
	}
	check(len(c.Self) == 0 || len(c.PID) == 0, "--pid", c.PID, "is known with --self")
	if _, err := parseProcesses(c.PID); err != nil {
		bad = append(bad, event.Violate("--pid", c.PID, "must be name=pid, as router=123"))
	}
	bad = append(bad, c.checkGrowth()...)
	if len(bad) > 0 {
		return event.Refuse(bad...)
	}
	return nil
}

// checkGrowth is the part of Check for sweeps, and for more routers than one.
func (c *Config) checkGrowth() []event.Violation {
	var bad []event.Violation
	check := func(ok bool, field string, value any, rule string) {
		if !ok {
			bad = append(bad, event.Violate(field, value, rule))
		}
	}
	list := func(field string, v []int, low, high int) {
		ascend := len(v) > 0 && slices.IsSorted(v) && len(slices.Compact(slices.Clone(v))) == len(v)
		check(ascend && v[0] >= low && v[len(v)-1] <= high, field, v, fmt.Sprintf("must be ascending numbers, %d-%d", low, high))
	}
	list("--grow-browsers", c.GrowBrowsers, 1, maxBrowsers)
	list("--grow-jobs", c.GrowJobs, 1, maxBrowsers)
	list("--grow-size", c.GrowSize, minPayload, 4<<20)
	list("--grow-routers", c.GrowRouters, 1, maxRouters)
	list("--grow-shards", c.GrowShards, 1, 1024)
	check(c.GrowDuration >= 100*time.Millisecond && c.GrowDuration <= time.Hour, "--grow-duration", c.GrowDuration, "must be 100ms-1h")
	check(c.GrowWarmup >= 0 && c.GrowWarmup <= time.Hour, "--grow-warmup", c.GrowWarmup, "must be 0-1h")
	split := len(c.Self) > 0 && !slices.ContainsFunc(c.Self, func(name string) bool { return name != splitName })
	check(c.Routers >= 1 && c.Routers <= maxRouters, "--routers", c.Routers, fmt.Sprintf("must be 1-%d", maxRouters))
	check(c.Routers == 1 || split, "--routers", c.Routers, "needs --self="+splitName)
	for _, name := range c.Grow {
		check(slices.Contains([]string{growBrowsers, growJobCount, growSize, growRouters, growShards}, name), "--grow", name,
			"must be of browsers, jobs, size, routers, shards")
		check(name != growShards || len(c.Self) > 0, "--grow", name, "needs --self")
		check(name != growRouters || split, "--grow", name, "needs --self="+splitName)
	}
	grows := c.Growth || len(c.Grow) > 0
	check(!grows || len(c.Self) <= 1, "--self", c.Self, "must be one, to grow")
	check(!grows || !c.Floor, "--floor", c.Floor, "does not grow")
	return bad
}

// maxBrowsers is what one source of load can hold: ports of 250 loopback addresses
// would allow more, its memory and its kernel do not.
const maxBrowsers = 200_000

// browsers is the most that any of the rows opens.
func (c *Config) browsers() int {
	most := 0
	for _, w := range c.rows() {
		most = max(most, w.browsers)
	}
	return most
}
