//go:build !linux

package bench

import (
	"syscall"
	"time"
)

func newReader(s site, f *faults) (reader, error) { return newGoroutines(s, f), nil }

// allowFiles does nothing: Go itself raises the limit as far as it may.
func allowFiles(int) error { return nil }

func dieWithParent() *syscall.SysProcAttr { return nil }

// clock: there is none, and no /proc either.
func (process) clock() (time.Duration, bool) { return 0, false }
