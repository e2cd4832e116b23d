package chaos

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// relay is a name that can lead elsewhere, as that of a headless service: new
// connections go to the new server, open ones stay with the old.
type relay struct {
	addr     string
	upstream atomic.Pointer[string]
	listener net.Listener

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
	wg    sync.WaitGroup
}

func newRelay(t testing.TB, upstream string) *relay {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: l.Addr().String(), listener: l}
	r.lead(upstream)
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *relay) lead(upstream string) { r.upstream.Store(&upstream) }

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp4", *r.upstream.Load()) //nolint:noctx // on this machine
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, server)
		r.mu.Unlock()
		r.wg.Go(func() { pass(client, server) })
		r.wg.Go(func() { pass(server, client) })
	}
}

// pass copies until either side closes, and closes both.
func pass(from, to net.Conn) {
	_, _ = io.Copy(to, from) // how a connection ended is its ends' business
	_ = from.Close()
	_ = to.Close()
}
