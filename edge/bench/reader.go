package bench

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// reader reads many browsers' connections. Its tally and its browsers belong to it.
type reader interface {
	// do runs f where nothing else touches the tally, and waits for it.
	do(f func(t *tally))
	// open begins to connect browsers, at most so many at once; counts tell how far
	// it is. A browser that has seen events resumes after them.
	open(all []*browser, atOnce int)
	// cut resets the connections of its browsers and returns when they are gone.
	cut(all []*browser)
	counts() *counts
	// stop cuts what is open and ends the reader.
	stop()
}

// counts may be read at any time.
type counts struct {
	// opened are streams whose first frame is there, delivered events, bytes read.
	opened, delivered, bytes atomic.Int64
}

// site is where browsers connect.
type site struct {
	addr  *net.TCPAddr
	host  string
	token string
}

// resolve looks host:port up once, for all browsers.
func resolve(ctx context.Context, addr, token string) (site, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return site{}, fmt.Errorf("--http: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return site{}, fmt.Errorf("--http: port %q is no number", port)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return site{}, fmt.Errorf("--http: %w", err)
	}
	ip := found[0].Unmap()
	return site{addr: &net.TCPAddr{IP: ip.AsSlice(), Port: int(number)}, host: net.JoinHostPort(host, port), token: token}, nil
}

// perSource is how many connections one loopback address opens to one port: less
// than the usual range of ephemeral ports has.
const perSource = 10_000

// source is the address that a browser connects from; nil lets the system choose.
func (s site) source(from int) net.IP {
	if from < perSource || !s.addr.IP.IsLoopback() || s.addr.IP.To4() == nil {
		return nil
	}
	return net.IPv4(127, 0, 0, byte(1+from/perSource))
}

// goroutines is the reader for systems without epoll: one goroutine a browser.
type goroutines struct {
	site  site
	ctx   context.Context
	end   context.CancelFunc
	count counts

	mu    sync.Mutex // guards the tally, the browsers and conns
	tally tally
	conns map[*browser]*goroutineConn
	all   sync.WaitGroup
}

type goroutineConn struct {
	end  context.CancelFunc
	done chan struct{}
}

func newGoroutines(s site, f *faults) *goroutines {
	ctx, end := context.WithCancel(context.Background())
	return &goroutines{
		site: s, ctx: ctx, end: end, conns: make(map[*browser]*goroutineConn),
		tally: tally{latency: newHistogram(), faults: f},
	}
}

func (g *goroutines) do(f func(*tally)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.tally)
}

func (g *goroutines) counts() *counts { return &g.count }

func (g *goroutines) open(all []*browser, atOnce int) {
	slots := make(chan struct{}, atOnce)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range all {
		ctx, end := context.WithCancel(g.ctx)
		c := &goroutineConn{end: end, done: make(chan struct{})}
		g.conns[b] = c
		b.again()
		g.all.Go(func() {
			defer close(c.done)
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			free := sync.OnceFunc(func() { <-slots })
			defer free()
			if err := g.read(ctx, b, free); err != nil && ctx.Err() == nil {
				g.do(func(t *tally) { t.faults.add(&t.faults.Broken, "job %s: %v", b.job.id, err) })
			}
		})
	}
}

// read is one connection; opened is called at its first frame.
func (g *goroutines) read(ctx context.Context, b *browser, opened func()) error {
	d := net.Dialer{Timeout: connectTimeout}
	if ip := g.site.source(b.from); ip != nil {
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	conn, err := d.DialContext(ctx, "tcp", g.site.addr.String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset leaves no port in TIME_WAIT; where it fails one stays
	}
	if _, err := conn.Write(b.request(g.site.host, g.site.token)); err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	was := false
	defer func() {
		if was {
			g.count.opened.Add(-1)
		}
	}()
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("%w: %w", errEnded, err)
		}
		g.mu.Lock()
		err = b.feed(buf[:n], time.Now().UnixNano(), &g.tally)
		g.count.delivered.Store(g.tally.delivered)
		g.count.bytes.Store(g.tally.bytes)
		now := b.opened
		g.mu.Unlock()
		if now && !was {
			was = true
			g.count.opened.Add(1)
			opened()
		}
		if err != nil {
			return err
		}
	}
}

const connectTimeout = 20 * time.Second

func (g *goroutines) cut(all []*browser) {
	g.mu.Lock()
	cut := make([]*goroutineConn, 0, len(all))
	for _, b := range all {
		if c := g.conns[b]; c != nil {
			c.end()
			cut = append(cut, c)
			delete(g.conns, b)
		}
	}
	g.mu.Unlock()
	for _, c := range cut {
		<-c.done
	}
}

func (g *goroutines) stop() {
	g.end()
	g.all.Wait()
}
