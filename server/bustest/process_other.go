//go:build !linux

package bustest

import "syscall"

// dieWithParent has no equivalent elsewhere: what a killed test leaves behind must
// be ended by hand.
func dieWithParent() *syscall.SysProcAttr { return nil }
