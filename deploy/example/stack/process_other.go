//go:build !linux

package stack

import "syscall"

// childAttributes: Ctrl-C reaches this process only, which ends its children in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
