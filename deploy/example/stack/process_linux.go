package stack

import "syscall"

// childAttributes: a child dies with this process however that ends, and Ctrl-C reaches
// this process only, which ends them in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
