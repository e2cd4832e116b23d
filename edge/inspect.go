package edge

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/count"
)

// inspectPath is what the console reads beside the API. It is there only where the
// console is: an edge that browsers of anybody reach tells nothing of the cluster.
//
//	GET /api/inspect/v1/cluster
//	GET /api/inspect/v1/jobs/{domain}/{job_id}
const inspectPath = "/api/inspect/v1/"

// inspector gives operators what routers say of the bus, and what this edge says of
// itself.
type inspector struct {
	api     inspectv1.InspectServiceClient
	cfg     *Config
	auth    bool
	metrics *metrics
	name    string
}

func newInspector(s *Server) *inspector {
	name, err := os.Hostname()
	if err != nil {
		name = "edge"
	}
	return &inspector{inspectv1.NewInspectServiceClient(s.router), &s.cfg, s.guard.Required(), s.metrics, name}
}

func (s *Server) serveInspect(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	c := &call{}
	m, err := s.inspected(r, c)
	defer c.left()
	if err != nil {
		writeError(w, c, err)
		return
	}
	// Numbers that are 0 are told: the page need not know the message.
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		writeError(w, c, status.Error(codes.Internal, "the answer could not be encoded"))
		return
	}
	h.Set("Content-Type", contentJSON)
	_, _ = w.Write(text)
}

// inspected is what a request asks for. Grants are checked here: the router only
// knows this edge.
func (s *Server) inspected(r *http.Request, c *call) (proto.Message, error) {
	if r.Method != http.MethodGet {
		return nil, refuseMethod(r.Method, http.MethodGet)
	}
	var err error
	if c.leave, err = s.gate.enter(r); err != nil {
		return nil, err
	}
	if c.identity, err = s.authenticate(r); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, inspectPath), "/")
	switch {
	case len(parts) == 1 && parts[0] == "cluster":
		return s.inspector.cluster(ctx, c.identity)
	case len(parts) == 3 && parts[0] == "jobs":
		rt := route{domain: parts[1], jobID: parts[2]}
		if err := checkNames(rt); err != nil {
			return nil, err
		}
		if err := c.identity.MayWatch(rt.domain, nil); err != nil {
			return nil, accessStatus(err)
		}
		return s.inspector.api.DiagnoseJob(ctx, &inspectv1.DiagnoseJobRequest{Domain: rt.domain, JobId: rt.jobID})
	}
	return nil, refuse(http.StatusNotFound, codes.NotFound, "no such path")
}

func (i *inspector) cluster(ctx context.Context, id *access.Identity) (proto.Message, error) {
	if err := id.MayInspect(); err != nil {
		return nil, accessStatus(err)
	}
	m, err := i.api.GetCluster(ctx, &inspectv1.GetClusterRequest{})
	if err != nil {
		return nil, err
	}
	m.Edge = &inspectv1.Edge{
		Name:       i.name,
		JobStreams: i.metrics.open(kindJob), WatchStreams: i.metrics.open(kindWatch),
		Topics: count.Total(i.metrics.topics), Delivered: count.Total(i.metrics.framesSent), Encoded: count.Total(i.metrics.framesEncoded),
		Gaps: count.Total(i.metrics.gaps), Slow: count.Total(i.metrics.writeTimeouts), Refused: count.Total(i.metrics.refused),
		Settings: []*inspectv1.Setting{
			{Name: "AUTH_REQUIRED", Value: strconv.FormatBool(i.auth)}, {Name: "HTTP_PUBLISH", Value: strconv.FormatBool(i.cfg.HTTPPublish)},
			{Name: "CORS_ORIGINS", Value: cmp.Or(strings.Join(i.cfg.CORSOrigins, ","), "none")}, {Name: "MAX_CONNECTIONS", Value: strconv.Itoa(i.cfg.MaxConnections)},
			{Name: "ROUTER_ADDR", Value: i.cfg.RouterAddr},
		},
	}
	return m, nil
}

// open is how many streams of a kind are open, whatever their transport. (A curried
// vector collects all that the whole one has.)
func (m *metrics) open(kind string) float64 {
	sum := 0.0
	for _, transport := range []string{transportLine, transportHTTP1, transportHTTP2} {
		if kind == kindJob || transport != transportLine { // no Watch is taken over
			sum += count.Total(m.streams.WithLabelValues(kind, transport))
		}
	}
	return sum
}
