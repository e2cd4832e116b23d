// Package port finds ports for the servers that tests start.
package port

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Reserve is a port of 127.0.0.1 for the time of a test. It is below the ephemeral range,
// so that no outgoing connection gets it before its server does, and locked by the UDP port
// of the same number, so that no other test takes it.
func Reserve(tb testing.TB) int {
	tb.Helper()
	const first, end, tries = 22000, 30000, 200
	for range tries {
		port := first + rand.IntN(end-first)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		lock, err := net.ListenPacket("udp4", addr)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			_ = lock.Close()
			continue
		}
		_ = l.Close()
		tb.Cleanup(func() { _ = lock.Close() })
		return port
	}
	tb.Fatalf("no free port after %d tries", tries)
	return 0
}

// Addr is Reserve as host:port.
func Addr(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf("127.0.0.1:%d", Reserve(tb))
}
