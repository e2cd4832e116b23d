package edge

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
)

// fakeInspect tells who asks, and for what.
type fakeInspect struct {
	inspectv1.UnimplementedInspectServiceServer
}

func (fakeInspect) GetCluster(ctx context.Context, _ *inspectv1.GetClusterRequest) (*inspectv1.GetClusterResponse, error) {
	return &inspectv1.GetClusterResponse{Router: &inspectv1.Router{
		Name: strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ", "), Published: 3,
	}}, nil
}

func (fakeInspect) DiagnoseJob(_ context.Context, r *inspectv1.DiagnoseJobRequest) (*inspectv1.DiagnoseJobResponse, error) {
	if r.GetDomain() == "nope" {
		return nil, status.Error(codes.InvalidArgument, `domain: "nope": must be one of scan, chat`)
	}
	return &inspectv1.DiagnoseJobResponse{Verdict: r.GetDomain() + "/" + r.GetJobId()}, nil
}

const clusterPath = "/api/inspect/v1/cluster"

func withConsole(c *Config, o *Options) {
	c.Console = true
	o.Console = http.NotFoundHandler()
}

func TestInspect_GivesWhatRoutersSayAndWhatTheEdgeCounts(t *testing.T) {
	f := newFakeRouter(t)
	e := newEdge(t, f, withConsole)
	f.publish("j")
	b := e.open(jobPath("j"))
	f.steps("j", 3)
	until(t, "they are delivered", func() bool { return counter(e.metrics.framesSent) == 3 })
	a := e.ask(http.MethodGet, clusterPath, "")
	var got struct {
		Router struct{ Published float64 }
		Edge   struct {
			Name         string
			JobStreams   float64 `json:"job_streams"`
			WatchStreams float64 `json:"watch_streams"`
			Delivered    float64
			Settings     []struct{ Name, Value string }
		}
		Findings []any
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK || a.header.Get("Content-Type") != contentJSON || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s: %v", a.status, a.header, a.body, err)
	}
	if got.Router.Published != 3 || got.Edge.Delivered != 3 || got.Edge.JobStreams != 1 || got.Edge.WatchStreams != 0 || got.Edge.Name == "" || len(got.Edge.Settings) == 0 || got.Findings == nil {
		t.Errorf("%s", a.body)
	}
	b.leave()
	if a := e.ask(http.MethodGet, "/api/inspect/v1/jobs/scan/j", ""); a.status != http.StatusOK || !strings.Contains(a.body, `"scan/j"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestInspect_RefusalsNameWhatIsWrong(t *testing.T) {
	e := newEdge(t, newFakeRouter(t), withConsole)
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{http.MethodPost, clusterPath, http.StatusMethodNotAllowed, "POST"},
		{http.MethodGet, "/api/inspect/v1/", http.StatusNotFound, "no such path"},
		{http.MethodGet, "/api/inspect/v1/jobs/scan", http.StatusNotFound, "no such path"},
		{http.MethodGet, "/api/inspect/v1/jobs/Scan/a%20b", http.StatusBadRequest, "job_id"},
		{http.MethodGet, "/api/inspect/v1/jobs/nope/j", http.StatusBadRequest, "must be one of scan, chat"},
	} {
		a := e.ask(c.method, c.path, "")
		if a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s %s: %d %s, want %d with %q", c.method, c.path, a.status, a.body, c.status, c.says)
		}
	}
}

func TestInspect_IsOnlyThereWithTheConsole(t *testing.T) {
	e := newEdge(t, newFakeRouter(t))
	for _, path := range []string{clusterPath, "/api/inspect/v1/jobs/scan/j"} {
		if a := e.ask(http.MethodGet, path, ""); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestInspect_NeedsAnOperatorsGrant(t *testing.T) {
	e := newEdge(t, newFakeRouter(t), withConsole, guarded(t))
	const jobs = "/api/inspect/v1/jobs/scan/j"
	for _, c := range []struct {
		path   string
		header header
		status int
	}{
		{clusterPath, header{"X-Nothing", "at all"}, http.StatusUnauthorized},
		{clusterPath, bearer("no token"), http.StatusUnauthorized},
		{clusterPath, bearer(mint(t, hour(), reads("scan/*", "chat/*"))), http.StatusForbidden},
		{clusterPath, bearer(mint(t, hour(), reads("*/*"))), http.StatusOK},
		{clusterPath, cookie(mint(t, hour(), reads("*/*"))), http.StatusOK},
		{jobs, bearer(mint(t, hour(), reads("scan/j"))), http.StatusForbidden},
		{jobs, bearer(mint(t, hour(), reads("scan/*"))), http.StatusOK},
	} {
		a := e.ask(http.MethodGet, c.path, "", c.header)
		if a.status != c.status {
			t.Errorf("%s with %s: %d %s, want %d", c.path, c.header, a.status, a.body, c.status)
		}
		// The router sees the edge, not the operator.
		if c.path == clusterPath && a.status == http.StatusOK && !strings.Contains(a.body, "Bearer the-edge") {
			t.Errorf("the router saw %s", a.body)
		}
	}
}
