package edge

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller tells which browsers have closed their connections, all by one epoll. A
// half-closed one counts: net/http sees it so, too. What browsers send wakes
// nobody and stays with the kernel.
type poller struct {
	epoll int
	// file lets the runtime wait for epoll, so that no thread does.
	file *os.File
	raw  syscall.RawConn
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("epoll: %w", errors.Join(err, unix.Close(fd)))
	}
	p := &poller{epoll: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("epoll: %w", errors.Join(err, p.file.Close()))
	}
	return p, nil
}

// add watches a connection until its last descriptor is closed; its end is told once.
// Where that fails, the next write finds it.
func (p *poller) add(fd int, id uint64) {
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(id >> 32),
	})
}

// wait tells of ends until close.
func (p *poller) wait(gone func(id uint64)) {
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		err := p.raw.Read(func(uintptr) bool {
			var err error
			if n, err = unix.EpollWait(p.epoll, events, 0); err != nil {
				n = 0 // EINTR
				return errors.Is(err, unix.EINTR)
			}
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:n] {
			gone(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
		}
	}
}

func (p *poller) close() { _ = p.file.Close() }

// duplicate is another descriptor of the connection; -1 where it is closed or there
// is none left.
func duplicate(c syscall.Conn) int {
	fd := -1
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(f uintptr) {
			if d, err := unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0); err == nil {
				fd = d
			}
		})
	}
	return fd
}

func closeNow(fd int) { _ = unix.Close(fd) }

// writeNow writes what the connection takes at once.
func writeNow(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Write(fd, b[n:])
		switch {
		case err == nil:
			n += m
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case errors.Is(err, unix.EINTR):
		default:
			return n, err
		}
	}
	return n, nil
}

// discard reads what a browser sent after its request: closing a connection with
// unread data would take from the browser what it has not read.
func discard(fd int) {
	var b [4096]byte
	for range 16 {
		if n, err := unix.Read(fd, b[:]); n <= 0 || err != nil {
			return
		}
	}
}
