package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// newReader is the reader of this system.
func newReader(s site, f *faults) (reader, error) { return newEpoll(s, f) }

// epoll reads many connections in one goroutine. Its epoll descriptor is itself
// watched by Go's poller, so that waiting holds no thread.
type epoll struct {
	site  site
	to    unix.Sockaddr
	file  *os.File // the epoll descriptor
	fd    int
	wake  int // an eventfd: there is something to do
	count counts
	ended chan struct{}

	mu   sync.Mutex // guards todo
	todo []func()

	// What follows belongs to the goroutine.
	tally tally
	slots []*browser // by their place in the epoll events; 0 is the eventfd
	free  []int32
	// waiting are to be connected, while fewer than atOnce are under way.
	waiting            []*browser
	connecting, atOnce int
	opened             int64
	stopping           bool
	buf                []byte
}

// readSize is one read: what a socket usually has in a burst.
const readSize = 256 << 10

func newEpoll(s site, f *faults) (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os.File would block on it
		return nil, errors.Join(err, unix.Close(fd))
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(fd))
	}
	e := &epoll{
		site: s, to: sockaddr(s.addr), fd: fd, wake: wake, file: os.NewFile(uintptr(fd), "epoll"), ended: make(chan struct{}),
		tally: tally{latency: newHistogram(), faults: f}, slots: make([]*browser, 1), buf: make([]byte, readSize),
	}
	raw, err := e.file.SyscallConn()
	if err == nil {
		err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), e.file.Close(), unix.Close(wake))
	}
	go func() {
		defer close(e.ended)
		// It ends by stop; another error would be the descriptor's, which is open.
		if err := raw.Read(e.run); err != nil {
			e.tally.faults.add(&e.tally.faults.Broken, "epoll: %v", err)
		}
	}()
	return e, nil
}

func sockaddr(a *net.TCPAddr) unix.Sockaddr {
	if ip := a.IP.To4(); ip != nil {
		return &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
	}
	return &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}
}

func (e *epoll) counts() *counts { return &e.count }

func (e *epoll) do(f func(*tally)) { e.run1(func() { f(&e.tally) }) }

func (e *epoll) open(all []*browser, atOnce int) {
	e.run1(func() {
		e.atOnce = atOnce
		for _, b := range all {
			b.again()
		}
		e.waiting = append(e.waiting, all...)
		e.connect()
	})
}

func (e *epoll) cut(all []*browser) {
	e.run1(func() {
		for _, b := range all {
			e.close(b)
		}
	})
}

func (e *epoll) stop() {
	e.run1(func() { e.stopping = true })
	<-e.ended
	for _, b := range e.slots[1:] {
		if b != nil {
			e.close(b)
		}
	}
	_ = unix.Close(e.wake)
	_ = e.file.Close()
}

// run1 has the goroutine run f, and waits.
func (e *epoll) run1(f func()) {
	done := make(chan struct{})
	e.mu.Lock()
	e.todo = append(e.todo, func() { f(); close(done) })
	e.mu.Unlock()
	one := [8]byte{1} // any number but 0, in any byte order
	_, _ = unix.Write(e.wake, one[:])
	<-done
}

// run handles what is ready until nothing is, or the reader is stopped. Level
// triggered: what one read leaves comes again.
func (e *epoll) run(uintptr) (stop bool) {
	events := make([]unix.EpollEvent, 512)
	for !e.stopping {
		n, err := unix.EpollWait(e.fd, events, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			e.tally.faults.add(&e.tally.faults.Broken, "epoll: %v", err)
			return true
		}
		if n == 0 {
			return false // the poller wakes it
		}
		for _, ev := range events[:n] {
			if ev.Fd == 0 {
				e.work()
			} else if b := e.slots[ev.Fd]; b != nil { // nil: cut meanwhile
				e.handle(b, ev.Events)
			}
		}
		e.count.delivered.Store(e.tally.delivered)
		e.count.bytes.Store(e.tally.bytes)
		e.count.opened.Store(e.opened)
	}
	return true
}

func (e *epoll) work() {
	var n [8]byte
	_, _ = unix.Read(e.wake, n[:])
	e.mu.Lock()
	todo := e.todo
	e.todo = nil
	e.mu.Unlock()
	for _, f := range todo {
		f()
	}
	e.count.opened.Store(e.opened)
}

// connect starts connections while there may be more.
func (e *epoll) connect() {
	for len(e.waiting) > 0 && e.connecting < e.atOnce {
		b := e.waiting[0]
		e.waiting = e.waiting[1:]
		e.connecting++
		if err := e.dial(b); err != nil {
			e.fail(b, err)
		}
	}
}

func (e *epoll) dial(b *browser) error {
	family := unix.AF_INET
	if _, six := e.to.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	b.fd = fd
	if n := len(e.free); n > 0 {
		b.slot, e.free = int(e.free[n-1]), e.free[:n-1]
		e.slots[b.slot] = b
	} else {
		b.slot = len(e.slots)
		e.slots = append(e.slots, b)
	}
	// A reset leaves no port in TIME_WAIT.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return fmt.Errorf("SO_LINGER: %w", err)
	}
	if ip := e.site.source(b.from); ip != nil {
		if err := bindTo(fd, ip); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, e.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(b.slot)})
}

// bindTo chooses the source address; the port is chosen at connect, when the whole
// connection is known, so that each address has all ports.
func bindTo(fd int, ip net.IP) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(ip.To4())}); err != nil {
		return fmt.Errorf("bind to %v: %w", ip, err)
	}
	return nil
}

func (e *epoll) handle(b *browser, ready uint32) {
	if ready&unix.EPOLLOUT != 0 {
		if err := e.greet(b); err != nil {
			e.fail(b, err)
		}
		return
	}
	n, err := unix.Read(b.fd, e.buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		e.fail(b, fmt.Errorf("read: %w", err))
		return
	case n == 0:
		e.fail(b, errEnded)
		return
	}
	was := b.opened
	err = b.feed(e.buf[:n], time.Now().UnixNano(), &e.tally)
	if b.opened && !was {
		e.opened++
		e.connecting--
		e.connect()
	}
	if err != nil {
		e.fail(b, err)
	}
}

// greet sends the request once the connection stands, and then only reads.
func (e *epoll) greet(b *browser) error {
	code, err := unix.GetsockoptInt(b.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("connect: %w", syscall.Errno(code))
	}
	request := b.request(e.site.host, e.site.token)
	// The socket's buffer is empty: it takes all of it.
	if n, err := unix.Write(b.fd, request); err != nil || n < len(request) {
		return fmt.Errorf("send the request: %d of %d bytes, %w", n, len(request), errors.Join(err, errEnded))
	}
	return unix.EpollCtl(e.fd, unix.EPOLL_CTL_MOD, b.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(b.slot)})
}

// fail ends a browser that should have stayed.
func (e *epoll) fail(b *browser, err error) {
	e.tally.faults.add(&e.tally.faults.Broken, "job %s: %v", b.job.id, err)
	e.close(b)
	e.connect()
}

// close resets a connection; harmless where there is none.
func (e *epoll) close(b *browser) {
	if b.fd < 0 {
		return
	}
	if b.opened {
		e.opened--
	} else {
		e.connecting--
	}
	_ = unix.Close(b.fd) // that takes it out of the epoll, too
	e.slots[b.slot] = nil
	e.free = append(e.free, int32(b.slot))
	b.fd, b.slot = -1, 0
}

// spareFiles are the files of the test beside its connections.
const spareFiles = 200

// allowFiles lets this process, and those that it starts, open n connections.
func allowFiles(n int) error {
	need := uint64(n + spareFiles)
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	if have.Cur >= need {
		return nil
	}
	want := unix.Rlimit{Cur: need, Max: max(have.Max, need)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("%d connections need %d open files, more than `ulimit -Hn` %d: %w", n, need, have.Max, err)
	}
	return nil
}

func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
