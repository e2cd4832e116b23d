//go:build !linux

package edge

import (
	"errors"
	"syscall"
)

// poller is there where epoll is; elsewhere streams stay with net/http.
type poller struct{}

func newPoller() (*poller, error) { return nil, errors.ErrUnsupported }

func (*poller) add(int, uint64)         {}
func (*poller) wait(func(uint64))       {}
func (*poller) close()                  {}
func duplicate(syscall.Conn) int        { return -1 }
func closeNow(int)                      {}
func writeNow(int, []byte) (int, error) { return 0, errors.ErrUnsupported }
func discard(int)                       {}
