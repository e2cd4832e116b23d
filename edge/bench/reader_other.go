//go:build !linux

package bench

import "syscall"

func newReader(s site, f *faults) (reader, error) { return newGoroutines(s, f), nil }

// allowFiles does nothing: Go itself raises the limit as far as it may.
func allowFiles(int) error { return nil }

func dieWithParent() *syscall.SysProcAttr { return nil }
