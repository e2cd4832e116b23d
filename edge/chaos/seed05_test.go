package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// R5 of what broke before: no test ever opened more than 25 streams, and "1000
// users" was polling.
func TestSeedR05_OneEdgeServesThousandsOfStreamsWithLiveTraffic(t *testing.T) {
	n := *connections
	needFiles(t, uint64(n+500)) // a side; the edge raises its own
	top := &topology{
		name: "standalone", streams: newSingle(t), pubsub: newSingle(t),
	}
	w := newWorld(t, top, 1, 1)
	r := newRun(t, w)
	before := resident(t, w.edges[0])

	const perJob, events, perSecond = 50, 10, 5000
	var ready atomic.Int64
	slots := make(chan struct{}, 64) // connections that are being opened
	for i := range n {
		if i%perJob == 0 {
			r.jobs = append(r.jobs, newJob("scan"))
		}
		j := r.jobs[i/perJob]
		v := newView("connection "+strconv.Itoa(i), j, &r.since)
		r.views = append(r.views, v)
		s := &subscriber{run: r, view: v}
		r.wg.Go(func() {
			slots <- struct{}{}
			var once sync.Once
			opened := func() {
				once.Do(func() { <-slots; ready.Add(1) })
			}
			if err := s.cheap(opened); err != nil {
				v.wrong("%v", err)
			}
			once.Do(func() { <-slots })
		})
	}
	began := time.Now()
	r.await("every stream is open", func() bool { return ready.Load() == int64(n) })
	opened := time.Since(began)
	idle := resident(t, w.edges[0])

	pace := max(50*time.Millisecond, time.Duration(n)*time.Second/perSecond)
	for _, j := range r.jobs {
		p := &publisher{run: r, job: j, pace: pace, n: events, batch: 1, size: 64}
		r.wg.Go(func() { p.publish(r.ctx) })
	}
	began = time.Now()
	r.await("every stream has its job's end", func() bool {
		for _, v := range r.views {
			if !v.ended() {
				return false
			}
		}
		return true
	})
	r.wg.Wait()
	res := r.judge()
	busy := resident(t, w.edges[0])
	mustBeWhole(t, res)
	if want := n * events; res.tally.events != want {
		t.Errorf("%d deliveries, want %d", res.tally.events, want)
	}
	t.Logf("%d streams of %d jobs opened in %v; %d deliveries in %v; edge's memory: %.1f MiB empty, %.1f MiB open (%.1f KiB a stream), %.1f MiB after the traffic (%.1f KiB a stream)",
		n, len(r.jobs), opened.Round(time.Millisecond), res.tally.events, time.Since(began).Round(time.Millisecond),
		before/(1<<20), idle/(1<<20), (idle-before)/(1<<10)/float64(n), busy/(1<<20), (busy-before)/(1<<10)/float64(n))
	if perStream := (max(idle, busy) - before) / float64(n); perStream > 256<<10 {
		t.Errorf("%.0f KiB of memory for each stream", perStream/(1<<10))
	}
}

// needFiles raises the limit of open files where it must.
func needFiles(t testing.TB, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur >= n {
		return
	}
	limit.Cur, limit.Max = n, max(limit.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatalf("%d open files are needed: %v", n, err)
	}
}

// resident is the memory of a process as the kernel counts it, in bytes.
func resident(t testing.TB, n *node) float64 {
	t.Helper()
	return n.metric(t, "process_resident_memory_bytes")
}

// cheap follows the job on one raw connection: a socket, a small buffer and this
// goroutine. HTTP/1.0, so that the body is not chunked.
func (s *subscriber) cheap(opened func()) error {
	conn, err := new(net.Dialer).DialContext(s.run.ctx, "tcp4", s.run.https[0])
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(s.run.ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: edge\r\nAccept: text/event-stream\r\n\r\n", s.view.job.path()); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 1<<10)
	status, err := in.ReadString('\n')
	if err != nil || !strings.Contains(status, strconv.Itoa(http.StatusOK)) {
		return fmt.Errorf("%q: %w", status, err)
	}
	for line := status; strings.TrimSpace(line) != ""; { // the header
		if line, err = in.ReadString('\n'); err != nil {
			return err
		}
	}
	for f := (frames{in: in}); !s.view.ended(); {
		if !f.next() {
			return fmt.Errorf("cut off after %s", s.view.cursor())
		}
		opened() // the first frame is a comment: subscribed
		s.frame(&f)
	}
	return nil
}
