package bench

import (
	"time"

	"golang.org/x/sys/unix"
)

// clock is the process's CPU clock, which counts nanoseconds.
func (p process) clock() (time.Duration, bool) {
	const (
		scheduled = 2       // CPUCLOCK_SCHED; see clock_getcpuclockid(3)
		maxPID    = 1 << 22 // of Linux; the clock of a larger one would be another's
	)
	var ts unix.Timespec
	if p.pid > maxPID || unix.ClockGettime(int32(^p.pid<<3|scheduled), &ts) != nil {
		return 0, false
	}
	return time.Duration(ts.Nano()), true
}
