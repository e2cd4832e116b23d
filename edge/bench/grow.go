package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// sweep is one kind of work in growing amounts. All its points have the same events,
// so that what it costs more is what the amount costs.
type sweep struct {
	key  string
	work string
	// of is what there is more of.
	of     string
	points []int
	// perDelivery: CPU time is told for a delivery, of which each browser makes one an
	// event; else for an event.
	perDelivery bool
	// at is the work of a point; it sets what of the settings differs.
	at func(c *Config, n int) growLoad
}

// growLoad is the size of a point.
type growLoad struct {
	jobs, browsers, rate int
	weigh                string
}

// The loads of the sweeps: what two cores can bear at every point.
const (
	growFanoutRate = 10
	growJobsRate   = 1000
	growJobs       = 1000
	growSizeRate   = 200
	growSizeJobs   = 100
)

// pointLimit is how long one point may take, all included.
const pointLimit = 2 * time.Minute

// The sweeps' names.
const (
	growBrowsers = "browsers"
	growJobCount = "jobs"
	growSize     = "size"
	growRouters  = "routers"
	growShards   = "shards"
)

// sweeps are those that the settings ask for: with --growth, all that the target
// can have.
func (c *Config) sweeps() []sweep {
	most := slices.Max(c.GrowBrowsers)
	spread := growLoad{jobs: growJobs, browsers: growJobs, rate: growJobsRate}
	all := []sweep{
		{
			key: growBrowsers, of: "browsers", work: fmt.Sprintf("1 job, %d events/s", growFanoutRate), points: c.GrowBrowsers, perDelivery: true,
			at: func(_ *Config, n int) growLoad {
				return growLoad{jobs: 1, browsers: n, rate: growFanoutRate, weigh: "browser"}
			},
		},
		{
			key: growJobCount, of: "jobs", points: c.GrowJobs,
			work: fmt.Sprintf("%d events/s together; a browser watches each job, up to %s of them", growJobsRate, format(float64(most), 0)),
			at: func(_ *Config, n int) growLoad {
				return growLoad{jobs: n, browsers: min(n, most), rate: growJobsRate, weigh: "job"}
			},
		},
		{
			key: growSize, of: "bytes", work: fmt.Sprintf("%d jobs, 1 browser each, %d events/s", growSizeJobs, growSizeRate), points: c.GrowSize,
			at: func(p *Config, n int) growLoad {
				p.Payload = n
				return growLoad{jobs: growSizeJobs, browsers: growSizeJobs, rate: growSizeRate}
			},
		},
		{
			key: growRouters, of: "routers", work: fmt.Sprintf("%d jobs, 1 browser each, %d events/s, one edge", growJobs, growJobsRate), points: c.GrowRouters,
			at: func(p *Config, n int) growLoad { p.Routers = n; return spread },
		},
		{
			key: growShards, of: "shards", work: fmt.Sprintf("%d jobs, 1 browser each, %d events/s", growJobs, growJobsRate), points: c.GrowShards,
			at: func(p *Config, n int) growLoad { p.Shards = n; return spread },
		},
	}
	return slices.DeleteFunc(all, func(s sweep) bool { return !slices.Contains(c.grown(), s.key) })
}

// grown are the names of the sweeps that are wanted.
func (c *Config) grown() []string {
	switch {
	case len(c.Grow) > 0:
		return c.Grow
	case !c.Growth:
		return nil
	case len(c.Self) == 0:
		return []string{growBrowsers, growJobCount, growSize}
	case c.Self[0] != splitName:
		return []string{growBrowsers, growJobCount, growSize, growShards}
	}
	return []string{growBrowsers, growJobCount, growSize, growRouters, growShards}
}

// row is the point's row.
func (s *sweep) row(c *Config, n int) row {
	g := s.at(c, n)
	unit := "event"
	if s.perDelivery {
		unit = "delivery"
	}
	return row{
		key: fmt.Sprintf("%s %d", s.key, n), work: fmt.Sprintf("%d %s: %s", n, s.of, s.work), browsers: g.browsers, asked: g.rate,
		run: func(ctx context.Context, t *test) ([]Measure, error) {
			return t.openLoop(ctx, load{
				jobs: t.jobs(g.jobs), browsers: g.browsers, rate: g.rate, callers: t.cfg.JobsCallers, unit: unit, weigh: g.weigh,
			})
		},
	}
}

// grow runs all sweeps. A point that fails ends nothing but itself.
func (r *run) grow(ctx context.Context, version string) (*Growth, error) {
	g := &Growth{
		Date: r.began.UTC(), Machine: machine(), Version: version, Target: r.targets()[0], Seconds: r.cfg.GrowDuration.Seconds(), Load: loadAverage(),
	}
	var err error
	for _, s := range r.cfg.sweeps() {
		out := Sweep{Key: s.key, Work: s.work, Of: s.of, PerDelivery: s.perDelivery}
		for _, n := range s.points {
			if ctx.Err() != nil {
				break
			}
			p, failed := r.point(ctx, &s, n)
			out.Points = append(out.Points, p)
			err = errors.Join(err, failed)
		}
		out.measure()
		g.Sweeps = append(g.Sweeps, out)
	}
	return g, errors.Join(err, ctx.Err())
}

// point is one of a sweep, on processes of its own where they are ours to start.
func (r *run) point(ctx context.Context, s *sweep, n int) (Point, error) {
	cfg, one := *r.cfg, *r
	cfg.Duration, cfg.Warmup = r.cfg.GrowDuration, r.cfg.GrowWarmup
	one.cfg = &cfg
	w := s.row(&cfg, n)
	p := Point{N: n, Browsers: w.browsers, Asked: w.asked, Result: Result{Key: w.key, Work: w.work}}
	ctx, cancel := context.WithTimeoutCause(ctx, pointLimit, fmt.Errorf("not done after %v", pointLimit))
	defer cancel()
	target := r.targets()[0]
	if err := allowFiles(w.browsers); err != nil {
		p.Error = err.Error()
	} else {
		p.Result = one.row(ctx, target, w)
	}
	if p.Error == "" {
		return p, nil
	}
	r.tell(target, w, "FAILED: %s", p.Error)
	return p, fmt.Errorf("%s, %s: %s", target, w.work, p.Error)
}

// Growth is all sweeps.
type Growth struct {
	Date    time.Time `json:"date"`
	Machine string    `json:"machine"`
	Version string    `json:"version"`
	Target  string    `json:"target"`
	Seconds float64   `json:"seconds_per_point"`
	// Load is the machine's load average, of one minute, before.
	Load   float64 `json:"load"`
	Sweeps []Sweep `json:"sweeps"`
}

// Sweep is one of them.
type Sweep struct {
	Key  string `json:"key"`
	Work string `json:"work"`
	Of   string `json:"of"`
	// PerDelivery: the measure cpu is of a delivery, else of an event.
	PerDelivery bool    `json:"per_delivery"`
	Points      []Point `json:"points"`
	// CPU and Memory tell how the total cost grows; nil where too few points tell.
	CPU    *Exponent `json:"cpu_exponent,omitempty"`
	Memory *Exponent `json:"memory_exponent,omitempty"`
}

// Point is one measurement.
type Point struct {
	N        int `json:"n"`
	Browsers int `json:"browsers"`
	// Asked are the events a second that were to be published.
	Asked int `json:"asked_events_per_second"`
	Result
}

// Exponent tells that a total cost grows as the amount to this power: 1 is in
// proportion, more is faster than the work.
type Exponent struct {
	// All is the slope of a line through the logarithms of all points, Last that
	// between the two largest.
	All  float64 `json:"all"`
	Last float64 `json:"last_step"`
}

// measure finds the exponents. The CPU time of the same events at each point is that
// of one event: deliveries grow with the browsers. What memory there is of it is
// that of each, times how many there are.
func (s *Sweep) measure() {
	s.CPU = s.exponent("cpu", s.PerDelivery)
	s.Memory = s.exponent("memory", true)
}

func (s *Sweep) exponent(key string, each bool) *Exponent {
	var xs, ys []float64
	for _, p := range s.Points {
		m := p.byKey(key)
		if p.Error != "" || m == nil || m.Value <= 0 {
			continue
		}
		total := m.Value
		if each {
			total *= float64(p.N)
		}
		xs, ys = append(xs, math.Log(float64(p.N))), append(ys, math.Log(total))
	}
	n := len(xs)
	if n < 2 {
		return nil
	}
	return &Exponent{All: slope(xs, ys), Last: slope(xs[n-2:], ys[n-2:])}
}

// slope is that of the straight line that is nearest to the points by least squares;
// the xs differ.
func slope(xs, ys []float64) float64 {
	mx, my := mean(xs), mean(ys)
	var xy, xx float64
	for i := range xs {
		xy += (xs[i] - mx) * (ys[i] - my)
		xx += (xs[i] - mx) * (xs[i] - mx)
	}
	return xy / xx
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
