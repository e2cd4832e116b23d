package kubernetes_test

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/eco2-team/eventbus/deploy/internal/port"
)

// The hook is an HTTP request that must take as long as it says, with the real binary.
func TestDrain_ThePreStopHookWaits(t *testing.T) {
	objects := render(t, renders()["prod"])
	hook := deploymentOf(t, objects, "edge").Spec.Template.Spec.Containers[0].Lifecycle.PreStop.HTTPGet
	path, _, ok := strings.Cut(hook.Path, "seconds=")
	if !ok {
		t.Fatal(hook.Path)
	}
	admin := port.Addr(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, eventbus(t), "edge", "--router-addr", "127.0.0.1:1", "--http-addr", "127.0.0.1:0", "--admin-addr", admin)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	for status(ctx, "http://"+admin+"/livez") != http.StatusOK {
		if ctx.Err() != nil {
			t.Fatal("the edge does not start")
		}
		time.Sleep(20 * time.Millisecond)
	}
	// An edge without a router lives, and is not ready.
	if got := status(ctx, "http://"+admin+"/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz says %d", got)
	}
	begin := time.Now()
	if got := status(ctx, "http://"+admin+path+"seconds=1"); got != http.StatusOK {
		t.Errorf("the hook says %d", got)
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("the hook took %s", took)
	}
}

func status(ctx context.Context, url string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	return r.StatusCode
}
