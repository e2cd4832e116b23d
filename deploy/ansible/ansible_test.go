// Package ansible_test holds deploy/ansible against what an operator needs of it.
//
//   - ansible_test.go: the playbooks parse, ansible-lint's production profile has nothing to say, and the example
//     inventory has groups and variables that they read. Always; needs ansible-core and ansible-lint (.ci/deps).
//   - machines_test.go: they run over SSH on booted Debian machines (systemd-nspawn), with a real containerd and stand-ins
//     for kubelet, kubeadm and kubectl. Takes minutes and root: `make testmachines`, or go test -tags machines.
package ansible_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ansible runs one of Ansible's programs in this directory, with its settings alone, and returns what it printed.
func ansible(t *testing.T, name string, args ...string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: .ci/deps installs it", err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = environment(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// environment is this process's own, without a user's settings of Ansible and with its files in a place of their own.
func environment(t *testing.T) []string {
	t.Helper()
	home := t.TempDir()
	env := []string{
		"ANSIBLE_HOME=" + home, "XDG_CACHE_HOME=" + home, "ANSIBLE_LOCAL_TEMP=" + home,
		"ANSIBLE_NOCOLOR=1", "NO_COLOR=1", "LC_ALL=C.UTF-8",
	}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "ANSIBLE_") && !slices.Contains([]string{"XDG_CACHE_HOME", "LC_ALL", "NO_COLOR"}, name) {
			env = append(env, pair)
		}
	}
	return env
}

func playbooks(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("playbooks/*.yml")
	if err != nil || len(found) == 0 {
		t.Fatalf("no playbooks: %v", err)
	}
	return found
}

func TestPlaybooks_HaveNoSyntaxErrors(t *testing.T) {
	for _, playbook := range playbooks(t) {
		ansible(t, "ansible-playbook", "--inventory=inventory/example.yml", "--syntax-check", playbook)
	}
}

func TestPlaybooks_PassTheLintersProductionProfile(t *testing.T) {
	ansible(t, "ansible-lint", "--offline", "--profile=production", "--strict", "--nocolor")
}

func TestPlaybooks_TouchNewNodesOnly(t *testing.T) {
	for _, playbook := range playbooks(t) {
		out := ansible(t, "ansible-playbook", "--inventory=inventory/example.yml", "--list-hosts", playbook)
		if strings.Contains(out, "k8s-master") || !strings.Contains(out, "k8s-event-router") || !strings.Contains(out, "k8s-redis-pubsub") {
			t.Errorf("%s plays on other hosts:\n%s", playbook, out)
		}
		out = ansible(t, "ansible-playbook", "--inventory=inventory/example.yml", "--limit=event_router", "--list-hosts", playbook)
		if strings.Contains(out, "k8s-redis-pubsub") {
			t.Errorf("%s -l event_router plays on other hosts:\n%s", playbook, out)
		}
	}
}

func TestInventory_SaysWhatTheRolesRead(t *testing.T) {
	var inventory struct {
		Meta struct {
			Hosts map[string]struct {
				Address string            `json:"ansible_host"`
				User    string            `json:"ansible_user"`
				Labels  map[string]string `json:"node_labels"`
				Taints  []string          `json:"node_taints"`
			} `json:"hostvars"`
		} `json:"_meta"`
		Masters struct{ Hosts []string } `json:"masters"`
	}
	out := ansible(t, "ansible-inventory", "--inventory=inventory/example.yml", "--list")
	if err := json.Unmarshal([]byte(out), &inventory); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"k8s-master"}, inventory.Masters.Hosts); diff != "" {
		t.Errorf("masters (-want +got):\n%s", diff)
	}
	for name, taint := range map[string]string{"k8s-event-router": "domain=event-router:NoSchedule", "k8s-redis-pubsub": "domain=data:NoSchedule"} {
		host := inventory.Meta.Hosts[name]
		if host.Address == "" || host.User != "ubuntu" || len(host.Labels) < 6 || !slices.Equal(host.Taints, []string{taint}) {
			t.Errorf("%s: %+v", name, host)
		}
	}
}
