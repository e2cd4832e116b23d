package stack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
)

// ports are those that a stack uses. Each is locked by the UDP port of the same number, as
// in router/redistest: neither another stack nor a test takes it while its server is down.
type ports struct{ locks []net.PacketConn }

// Below the ephemeral range: no outgoing connection ever sits on one.
const firstPort, endPort, portTries = 22000, 30000, 200

// next finds a free port of 127.0.0.1, the wanted one where it is free.
func (p *ports) next(ctx context.Context, wanted int) (int, error) {
	for range portTries {
		port := wanted
		if wanted == 0 {
			port = firstPort + rand.IntN(endPort-firstPort)
		}
		wanted = 0
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		lock, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", addr)
		if err != nil {
			continue
		}
		l, err := new(net.ListenConfig).Listen(ctx, "tcp4", addr)
		if err != nil {
			_ = lock.Close() // another one has the port
			continue
		}
		p.locks = append(p.locks, lock)
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port in %d-%d", firstPort, endPort)
}

func (p *ports) release() {
	for _, l := range p.locks {
		_ = l.Close() // it carried nothing
	}
}
