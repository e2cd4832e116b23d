package docker_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/eco2-team/eventbus/deploy/internal/port"
)

func project(t *testing.T) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{"compose.yaml"}, cli.WithInterpolation(true), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose_EveryServiceIsConfined(t *testing.T) {
	p := project(t)
	if len(p.Services) != 4 {
		t.Fatalf("%d services", len(p.Services))
	}
	for name, s := range p.Services {
		if !s.ReadOnly || s.User == "" || strings.HasPrefix(s.User, "0") || !slices.Equal(s.CapDrop, []string{"ALL"}) ||
			!slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged {
			t.Errorf("%s is not confined", name)
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, port.Published)
			}
		}
	}
}

func TestCompose_OnlyTheRouterReachesRedis(t *testing.T) {
	p := project(t)
	for name, s := range p.Services {
		_, in := s.Networks["redis"]
		if want := name != "edge"; in != want {
			t.Errorf("%s: in Redis's network %t, want %t", name, in, want)
		}
	}
	if !p.Networks["redis"].Internal {
		t.Error("Redis reaches the world")
	}
}

func TestCompose_TheBinaryKnowsEverySetting(t *testing.T) {
	root := buildRoot(t)
	for _, name := range []string{"router", "edge"} {
		s := project(t).Services[name]
		if !slices.Equal(s.Command, types.ShellCommand{name}) {
			t.Errorf("%s runs %v", name, s.Command)
		}
		help, err := exec.Command(filepath.Join(root, "eventbus"), name, "--help").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		for k := range s.Environment {
			if !regexp.MustCompile(`\$` + k + `\b`).Match(help) {
				t.Errorf("%s: eventbus does not know %s", name, k)
			}
		}
		drain, err := time.ParseDuration(*s.Environment["DRAIN_TIMEOUT"])
		if err != nil {
			t.Fatal(err)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < drain+10*time.Second {
			t.Errorf("%s is killed before it has drained", name)
		}
		if s.Build == nil || s.Build.Dockerfile != "deploy/docker/Dockerfile" {
			t.Errorf("%s is not built here", name)
		}
	}
}

// A real Redis takes the command lines, and keeps what it must.
func TestCompose_RedisTakesItsArguments(t *testing.T) {
	for name, want := range map[string]map[string]string{
		"streams-redis": {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"},
		"pubsub-redis":  {"appendonly": "no", "save": ""},
	} {
		command := project(t).Services[name].Command
		port := strconv.Itoa(port.Reserve(t))
		cmd := exec.Command(command[0], append(slices.Clone(command[1:]), "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir())...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cli := func(args ...string) string {
			out, _ := exec.Command("redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
			return strings.TrimSpace(string(out))
		}
		for deadline := time.Now().Add(time.Minute); cli("ping") != "PONG"; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not answer at %s", name, port)
			}
		}
		for k, v := range want {
			if got := strings.TrimSpace(strings.TrimPrefix(cli("config", "get", k), k)); got != v {
				t.Errorf("%s: %s is %q, want %q", name, k, got, v)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}
