package bustest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Door is a TCP proxy in front of a bus: the network that breaks. Its methods are
// safe for concurrent use.
type Door struct {
	Addr     string
	upstream string
	lis      net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu; both ends
	shut  bool              // guarded by mu
	count int               // guarded by mu
}

// NewDoor opens one that leads to upstream, for the time of the test.
func NewDoor(tb testing.TB, upstream string) *Door {
	tb.Helper()
	d := &Door{Addr: Address(tb), upstream: upstream, conns: map[net.Conn]bool{}}
	var err error
	if d.lis, err = new(net.ListenConfig).Listen(tb.Context(), "tcp", d.Addr); err != nil {
		tb.Fatal(err)
	}
	d.running.Go(d.accept)
	tb.Cleanup(func() {
		_ = d.lis.Close()
		d.Shut()
		d.running.Wait()
	})
	return d
}

func (d *Door) accept() {
	for {
		down, err := d.lis.Accept()
		if err != nil {
			return
		}
		up, err := new(net.Dialer).DialContext(context.Background(), "tcp", d.upstream)
		if err != nil {
			_ = down.Close()
			continue
		}
		d.mu.Lock()
		d.count++
		d.conns[down], d.conns[up] = true, true
		if d.shut {
			d.mu.Unlock()
			d.end(down, up)
			continue
		}
		d.mu.Unlock()
		d.running.Go(func() { d.pass(down, up) })
		d.running.Go(func() { d.pass(up, down) })
	}
}

// pass copies until either side closes, and closes both.
func (d *Door) pass(from, to net.Conn) {
	_, _ = io.Copy(to, from) // how a connection ended is its ends' business
	d.end(from, to)
}

func (d *Door) end(conns ...net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range conns {
		delete(d.conns, c)
		_ = c.Close()
	}
}

// Cut breaks all connections; new ones pass.
func (d *Door) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.Close()
	}
	clear(d.conns)
}

// Shut breaks all connections, and new ones until Open.
func (d *Door) Shut() {
	d.mu.Lock()
	d.shut = true
	d.mu.Unlock()
	d.Cut()
}

// Open lets connections pass again.
func (d *Door) Open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = false
}

// Connections counts those that came so far.
func (d *Door) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}
