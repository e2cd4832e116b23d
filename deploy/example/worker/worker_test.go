package worker

import (
	"strconv"
	"testing"
)

// A scan that failed must not fail again only because it has failed.
func TestFails_EachAttemptIsDrawnAnew(t *testing.T) {
	c := Config{FailRate: 0.1, FailSeed: 1}
	const n = 20_000
	failed, twice := 0, 0
	for i := range n {
		job := "job-" + strconv.Itoa(i)
		if c.fails(job, "answer", 1) {
			failed++
			if c.fails(job, "answer", 2) {
				twice++
			}
			if !c.fails(job, "answer", 1) {
				t.Fatal("the same draw says something else")
			}
		}
	}
	if failed < n/10*8/10 || failed > n/10*12/10 || twice < failed/20 || twice > failed/5 {
		t.Errorf("%d of %d fail, %d of them again; want a tenth each time", failed, n, twice)
	}
	c.FailRate = 0
	if c.fails("j", "answer", 1) {
		t.Error("a rate of 0 fails")
	}
	if c.FailRate = 1; !c.fails("j", "answer", 1) {
		t.Error("a rate of 1 does not fail")
	}
}
