package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// All ports lie below the ephemeral range (32768 on Linux), so no outgoing connection ever sits on one.
const (
	firstClusterPort = 20000 // the cluster bus listens on port + 10000
	firstPort        = 22000
	endPort          = 30000
	busOffset        = 10000
)

// portTries bounds the search: with that many misses the machine has no room left.
const portTries = 200

// portLease holds a port for one server from its first start to its Close, also while its process is down.
//
// The lock is the UDP port of the same number: redis does not use it, the kernel gives it to one process of the machine
// only, and takes it back when that process dies. So test binaries that run at the same time never share a port, and
// nobody takes the port of a server that is being restarted.
type portLease struct {
	port int
	lock net.PacketConn
}

func (l *portLease) release() error { return l.lock.Close() }

// leasePort finds a free port, for a cluster node one whose bus port is free too.
func leasePort(ctx context.Context, r role) (*portLease, error) {
	first, end := firstPort, endPort
	if r == roleCluster {
		first, end = firstClusterPort, firstPort
	}
	var err error
	for range portTries {
		var lease *portLease
		if lease, err = tryPort(ctx, first+rand.IntN(end-first), r); err == nil {
			return lease, nil
		}
	}
	return nil, fmt.Errorf("no free port in %d–%d after %d tries: %w", first, end-1, portTries, err)
}

// tryPort leases this port, or fails if anybody has it.
func tryPort(ctx context.Context, port int, r role) (*portLease, error) {
	lock, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	err = probe(ctx, port)
	if err == nil && r == roleCluster {
		err = probe(ctx, port+busOffset)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &portLease{port: port, lock: lock}, nil
}

// probe finds ports that processes without a lease hold, e.g. servers that somebody started by hand.
func probe(ctx context.Context, port int) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	return l.Close()
}
