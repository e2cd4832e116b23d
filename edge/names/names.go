// Package names is a DNS server that knows one name, so that gRPC's dns:/// resolver
// balances over several routers on one machine: for the load test (edge/bench) and
// the fault suite (edge/chaos). It is no part of a bus.
package names

import (
	"context"
	"fmt"
	"net"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// Server knows the routers, on a free UDP port of 127.0.0.1. It is safe for
// concurrent use.
type Server struct {
	conn net.PacketConn
	done chan struct{}

	mu    sync.Mutex
	addrs [][4]byte // guarded by mu
}

// routersName is what stands before the port in ROUTER_ADDR.
const routersName = "routers.eventbus.test"

// Serve starts one; the caller closes it.
func Serve(ctx context.Context) (*Server, error) {
	conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("DNS: %w", err)
	}
	s := &Server{conn: conn, done: make(chan struct{})}
	go s.serve()
	return s, nil
}

// Close ends it and waits for its goroutine.
func (s *Server) Close() error {
	err := s.conn.Close()
	<-s.done
	return err
}

// Add makes one more router known to who asks from now on.
func (s *Server) Add(addr [4]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = append(s.addrs, addr)
}

// Target is a gRPC target of all routers.
func (s *Server) Target(port string) string {
	return "dns://" + s.conn.LocalAddr().String() + "/" + routersName + ":" + port
}

func (s *Server) serve() {
	defer close(s.done)
	b := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if err != nil {
			return
		}
		var q dnsmessage.Message
		if q.Unpack(b[:n]) != nil || len(q.Questions) != 1 {
			continue
		}
		if reply, err := s.answer(q); err == nil {
			_, _ = s.conn.WriteTo(reply, from) // the client asks again
		}
	}
}

func (s *Server) answer(q dnsmessage.Message) ([]byte, error) {
	question := q.Questions[0]
	q.Response, q.Authoritative, q.Additionals = true, true, nil
	if question.Name.String() != routersName+"." {
		q.RCode = dnsmessage.RCodeNameError
	} else if question.Type == dnsmessage.TypeA {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, a := range s.addrs {
			q.Answers = append(q.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: question.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: a},
			})
		}
	}
	return q.Pack()
}
