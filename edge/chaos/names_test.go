package chaos

import (
	"net"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a DNS server that knows one name: the routers. gRPC's dns:///
// resolver then balances over several of them on one machine.
type nameServer struct {
	conn net.PacketConn
	done chan struct{}

	mu    sync.Mutex
	addrs [][4]byte // guarded by mu
}

// routersName is what stands before the port in ROUTER_ADDR.
const routersName = "routers.chaos.test"

func newNameServer(t testing.TB) *nameServer {
	t.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn, done: make(chan struct{})}
	go s.serve()
	t.Cleanup(func() {
		_ = conn.Close()
		<-s.done
	})
	return s
}

// add makes one more router known to who asks from now on.
func (s *nameServer) add(addr [4]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = append(s.addrs, addr)
}

// target is a gRPC target of all routers.
func (s *nameServer) target(port string) string {
	return "dns://" + s.conn.LocalAddr().String() + "/" + routersName + ":" + port
}

func (s *nameServer) serve() {
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

func (s *nameServer) answer(q dnsmessage.Message) ([]byte, error) {
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
