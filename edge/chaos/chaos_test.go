package chaos

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
)

// TestChaos lets everything break under load, on every topology, alone and two at
// a time. What was acknowledged must be delivered, once and in order.
func TestChaos_NothingAcknowledgedIsLostDuplicatedOrReordered(t *testing.T) {
	t.Logf("seed %d: go test ./edge/chaos -run TestChaos -chaos.seed=%d", *seedFlag, *seedFlag)
	pattern, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	var all table
	names := []string{"standalone", "sentinel", "cluster"}
	if !*full {
		names = names[:2]
	}
	t.Run("on", func(t *testing.T) {
		for _, name := range names {
			if *topologies == "all" || *topologies == name {
				t.Run(name, func(t *testing.T) {
					if !*full {
						t.Parallel()
					}
					chaosOn(t, name, pattern, &all)
				})
			}
		}
	})
	t.Logf("seed %d, %v\n%s", *seedFlag, verdict(t), all.String())
}

func verdict(t *testing.T) string {
	t.Helper()
	if t.Failed() {
		return "FAILED"
	}
	return "passed"
}

// combinations is how many pairs of faults a full run has on each topology.
const combinations = 4

func chaosOn(t *testing.T, name string, pattern *regexp.Regexp, all *table) {
	t.Helper()
	top := newTopology(t, name)
	w := newWorld(t, top, 3, 2)
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	rnd := rand.New(rand.NewPCG(*seedFlag, h.Sum64()))
	var here []kind
	for _, k := range kinds() {
		if (k.on == nil || k.on(top)) && pattern.MatchString(k.name) && (*full || k.quick) {
			here = append(here, k)
		}
	}
	for _, k := range here {
		t.Run(k.name, func(t *testing.T) { all.add(name, k.name, round(t, w, rnd, k)) })
	}
	for range combinations {
		a, b, ok := pair(here, rnd)
		if !*full || !ok {
			return
		}
		t.Run(a.name+" + "+b.name, func(t *testing.T) { all.add(name, "two at a time", round(t, w, rnd, a, b)) })
	}
}

// pair picks two faults that hit different things. Neither deletes the logs. It is
// false where there are none.
func pair(from []kind, rnd *rand.Rand) (a, b kind, ok bool) {
	var pairs [][2]kind
	for _, a := range from {
		for _, b := range from {
			if a.target != b.target && !a.wipes && !b.wipes {
				pairs = append(pairs, [2]kind{a, b})
			}
		}
	}
	if len(pairs) == 0 {
		return a, b, false
	}
	p := pairs[rnd.IntN(len(pairs))]
	return p[0], p[1], true
}

// round is load, a fault or several, and the judgement.
func round(t *testing.T, w *world, rnd *rand.Rand, ks ...kind) result {
	t.Helper()
	r := newRun(t, w)
	l := usual()
	mayGap, wipes := false, false
	var hold time.Duration
	for _, k := range ks {
		mayGap, wipes, hold = mayGap || k.mayGap, wipes || k.wipes, max(hold, k.hold)
	}
	// Of a job that was over before the logs were deleted nobody can tell.
	l.short = !wipes
	if r.start(l); t.Failed() {
		t.FailNow()
	}
	r.since.Store(time.Now().UnixNano())
	var faults []fault
	for _, k := range ks {
		f := k.make()
		faults = append(faults, f)
		f.Apply(r, rnd)
	}
	r.hold(hold)
	for _, f := range faults {
		f.Heal(r)
	}
	w.heal()
	r.flows()
	res := r.end(!wipes)
	x := res.tally
	if x.lost+x.duplicated+x.reordered+x.broken > 0 {
		t.Errorf("lost %d, duplicated %d, reordered %d, broken %d", x.lost, x.duplicated, x.reordered, x.broken)
	}
	if x.told > 0 && !wipes {
		t.Errorf("%d acknowledged events are lost, though subscribers were told", x.told)
	}
	if x.gaps > 0 && !mayGap {
		t.Errorf("%d gaps without a loss", x.gaps)
	}
	for _, k := range ks {
		if k.expect != codes.OK && !r.answers.has("publish", k.expect) {
			t.Errorf("no publisher was told %v", k.expect)
		}
	}
	return res
}

// table is what is printed. It is safe for concurrent use.
type table struct {
	mu   sync.Mutex
	rows []row
}

type row struct {
	topology, fault string
	result
}

func (x *table) add(topology, fault string, r result) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.rows {
		if have := &x.rows[i]; have.topology == topology && have.fault == fault {
			have.runs += r.runs
			have.acked += r.acked
			have.tally.add(r.tally)
			have.silence = max(have.silence, r.silence)
			return
		}
	}
	x.rows = append(x.rows, row{topology, fault, r})
}

func (x *table) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	head := []string{"topology", "fault", "runs", "events", "deliveries", "lost", "duplicated", "reordered", "gaps", "time to recover"}
	write := func(cells []string) { _, _ = fmt.Fprintln(w, "| "+strings.Join(cells, "\t| ")+"\t|") }
	write(head)
	rule := make([]string, len(head))
	for i := range rule {
		rule[i] = "---"
	}
	write(rule)
	for _, r := range x.rows {
		var cells []string
		for _, c := range []any{
			r.topology, r.fault, r.runs, r.acked, r.tally.events, r.tally.lost, r.tally.duplicated, r.tally.reordered,
			r.tally.gaps, fmt.Sprintf("%.1f s", r.silence.Seconds()),
		} {
			cells = append(cells, fmt.Sprint(c))
		}
		write(cells)
	}
	_ = w.Flush() // into memory
	return b.String()
}
