// Package bench is the load test of a running bus: `eventbus bench`.
//
// It stands at both ends of an event's way: callers publish by gRPC, browsers read
// SSE from real connections, and every event is checked for loss, order and
// duplicates while it is measured; one fault fails the row.
//
//	publisher.go → bus → wire.go (HTTP, SSE, checks) ← reader_linux.go (many connections, one goroutine)
//
// rows.go and rows_publish.go are the kinds of work, grow.go the same in growing
// amounts, report.go and grow_report.go what comes out, process.go
// the cost of processes as /proc tells it. self.go and child.go start a bus to
// measure (--self). floor.go is what the bus is compared with: a process that does no more
// than Redis (router/floor) and sockets must.
//
// It shares the machine with what it measures, so it reads of each frame only what
// the checks need. It talks to the addresses that it is given, and to nobody else.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Run runs the load test; the settings were checked. The table goes to out, progress
// to progress. Faults of the bus are an error, after the table. It ends with ctx.
func Run(ctx context.Context, cfg Config, version string, out, progress io.Writer) error {
	r := &run{cfg: &cfg, progress: progress, began: time.Now()}
	if len(cfg.grown()) > 0 {
		g, err := r.grow(ctx, version)
		return errors.Join(r.write(g, out), err)
	}
	if err := allowFiles(cfg.browsers()); err != nil {
		return err
	}
	rows := &Report{
		Date: r.began.UTC(), Machine: machine(), Version: version, Payload: cfg.Payload, Seconds: cfg.Duration.Seconds(),
	}
	var err error
	for _, name := range r.targets() {
		results, failed := r.target(ctx, name)
		rows.Targets = append(rows.Targets, TargetReport{Name: name, Results: results})
		err = errors.Join(err, failed)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(r.write(rows, out), err)
}

// run is one whole load test.
type run struct {
	cfg      *Config
	progress io.Writer
	began    time.Time
}

// targets are the columns of the table; the floor is the last.
func (r *run) targets() []string {
	names := r.cfg.Self
	if len(names) == 0 {
		names = []string{busName}
	}
	if r.cfg.Floor {
		names = append(slices.Clip(names), floorName)
	}
	return names
}

// target runs all rows on one target. A row that fails does not end the others.
func (r *run) target(ctx context.Context, name string) (out []Result, err error) {
	for _, w := range r.cfg.rows() {
		if ctx.Err() != nil {
			break
		}
		if name == floorName && w.needsLog {
			continue
		}
		res := r.row(ctx, name, w)
		if res.Error != "" {
			r.tell(name, w, "FAILED: %s", res.Error)
			err = errors.Join(err, fmt.Errorf("%s, %s: %s", name, w.work, res.Error))
		}
		out = append(out, res)
	}
	return out, errors.Join(err, ctx.Err())
}

func (r *run) row(ctx context.Context, name string, w row) (res Result) {
	res = Result{Key: w.key, Work: w.work, Load: loadAverage()}
	r.tell(name, w, "begins; load average %.1f", res.Load)
	fail := func(err error) {
		if err != nil && res.Error != "" {
			res.Error += "; " + err.Error()
		} else if err != nil {
			res.Error = err.Error()
		}
	}
	at, stop, err := r.open(ctx, name)
	if err != nil {
		fail(err)
		return res
	}
	defer func() { fail(stop()) }()
	t, err := newTest(ctx, r.cfg, at, func(format string, args ...any) { r.tell(name, w, format, args...) })
	if err != nil {
		fail(err)
		return res
	}
	defer func() { fail(t.close()) }()
	start, cpu := time.Now(), ownCPU()
	res.Measures, err = w.run(ctx, t)
	res.Generator = (ownCPU() - cpu).Seconds() / time.Since(start).Seconds()
	fail(err)
	for _, f := range t.faults {
		res.Faults.plus(f.total())
	}
	res.Refused = t.pub.refused.Load()
	r.tell(name, w, "%s", summary(&res))
	return res
}

func summary(res *Result) string {
	var b strings.Builder
	b.WriteString("done: ")
	for _, m := range res.Measures {
		fmt.Fprintf(&b, "%s %s, ", format(m.Value, m.Digits), m.Name)
	}
	fmt.Fprintf(&b, "%d calls refused, the load itself took %.2f cores", res.Refused, res.Generator)
	return b.String()
}

// open is where a row runs: on processes of its own, or on those that are given.
func (r *run) open(ctx context.Context, name string) (*target, func() error, error) {
	if len(r.cfg.Self) > 0 {
		s, err := startSelf(ctx, r.cfg, name)
		if err != nil {
			return nil, nil, err
		}
		return &s.target, s.stop, nil
	}
	all, err := parseProcesses(r.cfg.PID)
	if err != nil {
		return nil, nil, err
	}
	if name != floorName {
		return &target{name: name, http: r.cfg.HTTP, grpc: r.cfg.GRPC, processes: all}, func() error { return nil }, nil
	}
	s, err := startFloor(ctx, r.cfg.FloorRedis, all)
	if err != nil {
		return nil, nil, err
	}
	return &s.target, s.stop, nil
}

// tell shows progress.
func (r *run) tell(target string, w row, format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, "%4.0fs  %s  %s: %s\n", time.Since(r.began).Seconds(), target, w.key, fmt.Sprintf(format, args...))
}

// report is what a run hands out: a Report or a Growth.
type report interface {
	writeTable(w io.Writer) error
	writePage(path string) error
}

// write hands it out.
func (r *run) write(done report, out io.Writer) error {
	var err error
	toJSON := func(w io.Writer) error { return writeJSON(w, done) }
	switch r.cfg.JSON {
	case "":
		err = done.writeTable(out)
	case "-":
		err = toJSON(out)
	default:
		err = errors.Join(done.writeTable(out), toFile(r.cfg.JSON, toJSON))
	}
	if r.cfg.Page != "" {
		err = errors.Join(err, done.writePage(r.cfg.Page))
	}
	return err
}

func toFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
