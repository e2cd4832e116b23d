package server

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	inspectv1 "github.com/eco2-team/eventbus/gen/eventbus/inspect/v1"
)

func TestInspect_TellsOfTheClusterAndOfAJob(t *testing.T) {
	r := newRig(t)
	api := inspectv1.NewInspectServiceClient(r.conn)
	r.publish(t, scanEvent("j", "queued"), finalEvent("j"))
	r.projected(t, 2)
	var c *inspectv1.GetClusterResponse
	eventually(t, "both are counted", func() bool {
		var err error
		if c, err = api.GetCluster(testContext(t), &inspectv1.GetClusterRequest{}); err != nil {
			t.Fatal(err)
		}
		var added, done float64
		for _, s := range c.GetShards() {
			added, done = added+s.GetAdded(), done+s.GetDone()
		}
		return added == 2 && done == 2 && len(c.GetMembers()) == 1 && c.GetMembers()[0].GetShards() == 8
	})
	if r := c.GetRouter(); r.GetName() != "router-0" || r.GetPublished() != 2 || r.GetProjected() != 2 || c.GetEdge() != nil {
		t.Errorf("router %v, edge %v", r, c.GetEdge())
	}
	if n := c.GetRedis()[0]; n.GetUse() != "streams" || n.GetRole() != "master" || n.GetVersion() == "" || n.GetPing().AsDuration() <= 0 {
		t.Errorf("redis %v", n)
	}
	settings := map[string]string{}
	for _, s := range c.GetSettings() {
		settings[s.GetName()] = s.GetValue()
	}
	if settings["RETENTION"] != "1h0m0s" || settings["DOMAINS"] != "scan,chat" {
		t.Errorf("settings %v", settings)
	}

	d, err := api.DiagnoseJob(testContext(t), &inspectv1.DiagnoseJobRequest{Domain: "scan", JobId: "j"})
	if err != nil || d.GetVerdict() != "finished" || d.GetLog().GetLength() != 2 || d.GetLog().GetLast().GetStage() != "done" ||
		d.GetLog().GetExpires().AsDuration() <= 0 || len(d.GetFindings()) == 0 || d.GetFindings()[0].GetLevel() != inspectv1.Level_LEVEL_OK {
		t.Errorf("%v: %v", d, err)
	}
	d, err = api.DiagnoseJob(testContext(t), &inspectv1.DiagnoseJobRequest{Domain: "scan", JobId: "never"})
	if err != nil || d.GetVerdict() != "unknown" || d.GetLog() != nil {
		t.Errorf("%v: %v", d, err)
	}
	_, err = api.DiagnoseJob(testContext(t), &inspectv1.DiagnoseJobRequest{Domain: "nope", JobId: ".."})
	wantCode(t, err, codes.InvalidArgument)
	if !strings.Contains(err.Error(), "domain") || !strings.Contains(err.Error(), "job_id") {
		t.Errorf("%v names not both fields", err)
	}
}

func TestInspect_NeedsAnOperatorsGrant(t *testing.T) {
	r := newRig(t, guarded(t))
	api := inspectv1.NewInspectServiceClient(r.conn)
	for _, c := range []struct {
		who          string
		ctx          context.Context
		cluster, job codes.Code
	}{
		{"nobody", testContext(t), codes.Unauthenticated, codes.Unauthenticated},
		{"one who reads all", mint(t, hour(), []string{"*/*"}, nil), codes.OK, codes.OK},
		{"one who reads a domain", mint(t, hour(), []string{"scan/*"}, nil), codes.PermissionDenied, codes.OK},
		{"one who reads any beginning", mint(t, hour(), []string{"*/j*"}, nil), codes.PermissionDenied, codes.PermissionDenied},
		{"one who reads the job", mint(t, hour(), []string{"scan/j"}, nil), codes.PermissionDenied, codes.PermissionDenied},
		{"one who publishes all", mint(t, hour(), nil, []string{"*/*"}), codes.PermissionDenied, codes.PermissionDenied},
	} {
		t.Run(c.who, func(t *testing.T) {
			_, err := api.GetCluster(c.ctx, &inspectv1.GetClusterRequest{})
			wantCode(t, err, c.cluster)
			_, err = api.DiagnoseJob(c.ctx, &inspectv1.DiagnoseJobRequest{Domain: "scan", JobId: "j"})
			wantCode(t, err, c.job)
		})
	}
}
