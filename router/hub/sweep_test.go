package hub

import "testing"

func TestSweeper_IsDueOnceAfterManyCame(t *testing.T) {
	var s Sweeper
	for i, step := range []struct {
		came uint64
		due  bool
	}{
		{0, false}, {sweepAfter - 1, false}, {sweepAfter - 1, false}, {sweepAfter, false}, {sweepAfter, true}, {sweepAfter, false},
		{5 * sweepAfter, false}, {5*sweepAfter + 1, false}, {5*sweepAfter + 1, true}, {5*sweepAfter + 1, false},
	} {
		if got := s.Due(step.came); got != step.due {
			t.Errorf("step %d: %d came, due is %v", i, step.came, got)
		}
	}
}
