//go:build !linux

package redistest

import "syscall"

// dieWithParent: only Linux kills a child with its parent. Elsewhere a crashed test binary leaves its servers behind.
func dieWithParent() *syscall.SysProcAttr { return nil }

// stopped believes the signal where there is no /proc to look into.
func (p *process) stopped() (bool, error) { return true, nil }
