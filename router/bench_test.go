package router

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eco2-team/eventbus/router/event"
	"github.com/eco2-team/eventbus/router/redistest"
)

// The benchmarks stand beside what Redis itself takes for the same (…Floor), in
// one run, because machines differ: quote the ratio.

func benchEvent(i int) *event.Event {
	return &event.Event{
		Domain: "scan", JobID: "job-" + strconv.Itoa(i%64), Stage: "token", Status: "streaming",
		Content: "a token of a usual length", Progress: int32(i % 100), HasProgress: true,
	}
}

// cpuMeter reports what an event costs this process, and Redis, in µs of CPU: unlike
// elapsed time it means something on a busy machine, too.
type cpuMeter struct {
	b       *testing.B
	servers []*redistest.Server
	self    time.Duration
	redis   time.Duration
}

func startCPU(b *testing.B, servers ...*redistest.Server) *cpuMeter {
	m := &cpuMeter{b: b, servers: servers}
	m.self, m.redis = m.read()
	return m
}

func (m *cpuMeter) read() (self, server time.Duration) {
	m.b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		m.b.Fatal(err)
	}
	for _, s := range m.servers {
		info, err := s.Client().Info(context.Background(), "cpu").Result()
		if err != nil {
			m.b.Fatal(err)
		}
		for line := range strings.Lines(info) {
			name, v, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_user" || name == "used_cpu_sys" {
				f, _ := strconv.ParseFloat(v, 64)
				server += time.Duration(f * float64(time.Second))
			}
		}
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), server
}

func (m *cpuMeter) report(events int) {
	self, server := m.read()
	m.b.ReportMetric(float64((self-m.self).Microseconds())/float64(events), "go-cpu-µs/event")
	m.b.ReportMetric(float64((server-m.redis).Microseconds())/float64(events), "redis-cpu-µs/event")
}

// idleBus takes events and carries none: that is another benchmark's.
func idleBus(b *testing.B) *testBus {
	streams := redistest.New(b)
	tb := newBus(b, testConfig(streams.URL(), ""))
	tb.streams = streams
	return tb
}

// BenchmarkPublish64 is one event a call from 64 callers.
func BenchmarkPublish64(b *testing.B) {
	tb := idleBus(b)
	var n atomic.Int64
	b.SetParallelism(32) // × GOMAXPROCS 2
	b.ResetTimer()
	cpu := startCPU(b, tb.streams)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			if _, err := tb.Publish(context.Background(), []Request{{Event: benchEvent(i), Key: strconv.Itoa(i)}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	cpu.report(b.N)
}

// BenchmarkPublish64Floor is a bare XADD from 64 callers through AutoPipeline.
func BenchmarkPublish64Floor(b *testing.B) {
	c := redistest.New(b).Client()
	pipe, err := c.AutoPipeline()
	if err != nil {
		b.Fatal(err)
	}
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			err := pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: shardKey("scan", i%4), Values: appendShardFields(nil, benchEvent(i), timestamp(time.Now()))}).Err()
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkPublishBatch100 is 100 events of one job a call.
func BenchmarkPublishBatch100(b *testing.B) {
	tb := idleBus(b)
	reqs := make([]Request, 100)
	for i := range reqs {
		reqs[i].Event = benchEvent(1)
	}
	cpu := startCPU(b, tb.streams)
	for b.Loop() {
		if _, err := tb.Publish(context.Background(), reqs); err != nil {
			b.Fatal(err)
		}
	}
	cpu.report(b.N * len(reqs))
	b.ReportMetric(float64(b.N*len(reqs))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkPublishBatch100Floor is a pipeline of 100 bare XADDs.
func BenchmarkPublishBatch100Floor(b *testing.B) {
	c := redistest.New(b).Client()
	for b.Loop() {
		pipe := c.Pipeline()
		for range 100 {
			pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: "scan:events:0", Values: appendShardFields(nil, benchEvent(1), timestamp(time.Now()))})
		}
		if _, err := pipe.Exec(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkBridge is how fast one shard is carried: from the shard log to job logs
// and announcements, in full batches.
func BenchmarkBridge(b *testing.B) {
	const entries = 20_000
	for _, jobs := range []int{1, 16, 512} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) {
			streams, pubsub := redistest.New(b), redistest.New(b)
			c := streams.Client()
			key := shardKey("scan", 0)
			total := time.Duration(0)
			var self, server time.Duration
			for b.Loop() {
				streams.FlushAll(b)
				fill(b, c, key, jobs, entries)
				began := time.Now()
				cpu := startCPU(b, streams, pubsub)
				tb := newBus(b, testConfig(streams.URL(), pubsub.URL()))
				tb.Start()
				eventually(b, "all is carried", func() bool {
					p, err := c.XPending(context.Background(), key, "eventrouter").Result()
					return err == nil && p.Count == 0 && tb.metric("eventbus_projected_total") == entries
				})
				total += time.Since(began)
				s, r := cpu.read()
				self, server = self+s-cpu.self, server+r-cpu.redis
				tb.halt()
			}
			b.ReportMetric(float64(self.Microseconds())/float64(b.N*entries), "go-cpu-µs/event")
			b.ReportMetric(float64(server.Microseconds())/float64(b.N*entries), "redis-cpu-µs/event")
			b.ReportMetric(float64(b.N*entries)/total.Seconds(), "events/s")
		})
	}
}

func fill(b *testing.B, c redis.UniversalClient, key string, jobs, entries int) {
	b.Helper()
	ids := make([]string, 0, jobs)
	for i := 0; len(ids) < jobs; i++ {
		if id := fmt.Sprintf("job-%d", i); event.ShardOf(id, 4) == 0 {
			ids = append(ids, id)
		}
	}
	for from := 0; from < entries; from += 500 {
		pipe := c.Pipeline()
		for i := range 500 {
			e := benchEvent(i)
			e.JobID = ids[i%jobs]
			pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: key, Values: appendShardFields(nil, e, timestamp(time.Now()))})
		}
		if _, err := pipe.Exec(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBridgeFloor is what Redis takes for XADD and PUBLISH of each event,
// pipelined by 500, without any bus.
func BenchmarkBridgeFloor(b *testing.B) {
	streams, pubsub := redistest.New(b).Client(), redistest.New(b).Client()
	ctx := context.Background()
	for b.Loop() {
		add, publish := streams.Pipeline(), pubsub.Pipeline()
		for i := range 500 {
			e := benchEvent(i)
			add.XAdd(ctx, &redis.XAddArgs{Stream: logKey("scan", e.JobID), MaxLen: 10000, Values: appendLogFields(nil, e)})
			publish.Publish(ctx, liveChannel(e.JobID), e.AppendJSON(nil))
		}
		if _, err := add.Exec(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := publish.Exec(ctx); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*500)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkEndToEnd1000 is the time from Publish to the subscriber at 1,000 events a
// second over 20 jobs.
func BenchmarkEndToEnd1000(b *testing.B) {
	tb := newTestBus(b)
	const jobs = 20
	ctx := b.Context()
	arrived := make(chan time.Duration, 1024)
	for j := range jobs {
		s, err := tb.Subscribe(ctx, "scan", fmt.Sprintf("lat-%d", j), SubscribeOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(s.Close)
		go func() {
			for {
				batch, err := s.Next(ctx, time.Hour)
				if err != nil {
					return
				}
				for _, it := range batch.Items {
					sent, _ := strconv.ParseInt(it.Value.Content, 10, 64)
					arrived <- time.Since(time.Unix(0, sent))
				}
			}
		}()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	go func() {
		for i := range b.N {
			<-tick.C
			e := &event.Event{Domain: "scan", JobID: fmt.Sprintf("lat-%d", i%jobs), Stage: "token", Status: "streaming", Content: strconv.FormatInt(time.Now().UnixNano(), 10)}
			go func() {
				if _, err := tb.Publish(ctx, []Request{{Event: e}}); err != nil {
					b.Error(err)
				}
			}()
		}
	}()
	for range b.N {
		took = append(took, <-arrived)
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
