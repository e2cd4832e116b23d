package server

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
	"github.com/eco2-team/eventbus/router"
	"github.com/eco2-team/eventbus/router/event"
)

// inspectService is eventbus.inspect.v1.InspectService: it checks names and converts
// what the bus says of itself.
type inspectService struct {
	inspectv1.UnimplementedInspectServiceServer
	bus   *router.Bus
	rules *validator
}

// GetCluster tells how the bus is.
func (s *inspectService) GetCluster(ctx context.Context, _ *inspectv1.GetClusterRequest) (*inspectv1.GetClusterResponse, error) {
	c, err := s.bus.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	m := &inspectv1.GetClusterResponse{
		Time: timestamppb.New(c.Time),
		Router: &inspectv1.Router{
			Name: validUTF8(c.Router.Name), Published: c.Router.Published, Projected: c.Router.Projected, Announced: c.Router.Announced,
			Topics: c.Router.Topics, Subscribers: c.Router.Subscribers, Gaps: c.Router.Gaps, Repairs: c.Router.Repairs,
			Degraded: validUTF8(c.Router.Degraded),
		},
		Findings: findingsToProto(c.Findings),
	}
	for _, one := range c.Members {
		m.Members = append(m.Members, &inspectv1.Member{
			Name: validUTF8(one.Name), Shards: uint32(one.Shards), Answers: one.Answers, Lives: durationpb.New(one.Lives),
		})
	}
	for i := range c.Shards {
		m.Shards = append(m.Shards, shardToProto(&c.Shards[i]))
	}
	for i := range c.Redis {
		m.Redis = append(m.Redis, nodeToProto(&c.Redis[i]))
	}
	for _, d := range c.Domains {
		m.Domains = append(m.Domains, &inspectv1.Domain{
			Name: d.Name, DeadLetters: float64(d.DeadLetters), DeadReason: validUTF8(d.DeadReason), DeadTime: moment(d.DeadTime),
		})
	}
	for _, v := range c.Settings {
		m.Settings = append(m.Settings, &inspectv1.Setting{Name: v.Name, Value: validUTF8(v.Value)})
	}
	return m, nil
}

// DiagnoseJob tells why a job says nothing more.
func (s *inspectService) DiagnoseJob(ctx context.Context, r *inspectv1.DiagnoseJobRequest) (*inspectv1.DiagnoseJobResponse, error) {
	var vs violations
	s.rules.job(&vs, "", r.GetDomain(), r.GetJobId())
	if err := vs.err(); err != nil {
		return nil, err
	}
	d, err := s.bus.Diagnose(ctx, r.GetDomain(), r.GetJobId())
	if err != nil {
		return nil, err
	}
	m := &inspectv1.DiagnoseJobResponse{
		Time: timestamppb.New(d.Time), Verdict: string(d.Verdict), Findings: findingsToProto(d.Findings),
		Backlog: &inspectv1.Backlog{
			Entries: uint32(d.Backlog.Entries), FirstId: idText(d.Backlog.First), Scanned: uint32(d.Backlog.Scanned), More: d.Backlog.More,
		},
		DeadLetters: &inspectv1.DeadLetters{Count: uint32(d.Dead.Count), Scanned: uint32(d.Dead.Scanned), More: d.Dead.More},
		Shard:       shardToProto(&d.Shard), FinalMark: d.FinalMark, Retention: durationpb.New(d.Retention),
	}
	for _, l := range d.Dead.Letters {
		m.DeadLetters.Letters = append(m.DeadLetters.Letters, &inspectv1.DeadLetter{
			Id: idText(l.ID), Reason: validUTF8(l.Reason), Time: moment(l.Time),
		})
	}
	if d.Log.Length > 0 {
		m.Log = &inspectv1.JobLog{
			Length: float64(d.Log.Length), First: entryToProto(d.Log.First), Last: entryToProto(d.Log.Last), Expires: durationpb.New(d.Log.Expires),
		}
	}
	return m, nil
}

func findingsToProto(all []router.Finding) []*inspectv1.Finding {
	out := make([]*inspectv1.Finding, len(all))
	for i, f := range all {
		out[i] = &inspectv1.Finding{Level: inspectv1.Level(f.Level), Hop: f.Hop, Text: validUTF8(f.Text), Mend: f.Mend}
	}
	return out
}

func shardToProto(s *router.ShardState) *inspectv1.Shard {
	m := &inspectv1.Shard{
		Domain: s.Domain, Shard: uint32(s.Shard), Owner: validUTF8(s.Owner), Length: float64(s.Length),
		Lag: float64(s.Lag), Pending: float64(s.Pending),
	}
	if s.AddedKnown {
		m.Added, m.Done = float64(s.Added), float64(max(s.Added-s.Lag-s.Pending, 0))
	}
	if s.HasBacklog {
		m.Oldest = durationpb.New(s.Oldest)
	}
	return m
}

func nodeToProto(n *router.Node) *inspectv1.Redis {
	m := &inspectv1.Redis{
		Use: n.Use, Address: validUTF8(n.Address), Role: n.Info["role"], Version: n.Info["redis_version"],
		UsedMemory: n.Info.Number("used_memory"), MaxMemory: n.Info.Number("maxmemory"), Policy: n.Info["maxmemory_policy"],
		AppendOnly: n.Info["aof_enabled"] == "1", Replicas: uint32(n.Info.Number("connected_slaves")), Ping: durationpb.New(n.Ping),
		Error: validUTF8(cmp.Or(n.Err, n.Unknown)), Trouble: validUTF8(n.Trouble), Embedded: n.Embedded, Probed: moment(n.Probed),
	}
	if n.Embedded {
		m.Error = "" // it knows no INFO
	}
	if !n.Probed.IsZero() {
		m.Probe = durationpb.New(n.Probe)
	}
	return m
}

func entryToProto(e *event.Event) *inspectv1.Entry {
	if e == nil {
		return nil
	}
	return &inspectv1.Entry{
		Id: e.ID.String(), Seq: e.Seq, Stage: validUTF8(e.Stage), Status: validUTF8(e.Status), Final: e.Final,
		Time: timestamppb.New(e.PublishTime()), Message: validUTF8(e.Message),
	}
}

// moment is unset where there is none.
func moment(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
