//go:build machines

package ansible_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// site is a control plane and two fresh machines. Each has a loopback address of its own for SSH; they share the
// directory that plays the cluster.
type site struct {
	dir       string // tmpfs: nothing of a run stays
	inventory string
	env       []string
}

// machine is one booted Debian.
type machine struct {
	name, address string
	userData      string            // for cloud-init, as EC2 would hand it over
	files         map[string]string // put there before it boots
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), env: environment(t)}
	if err := syscall.Mount("tmpfs", s.dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(s.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, dir := range []string{"cluster/tokens", "cluster/nodes", "ssh"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.env = append(s.env, "ANSIBLE_SSH_CONTROL_PATH_DIR="+filepath.Join(s.dir, "ssh")) // a short path: sockets need one
	s.command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.key())
	return s
}

func (s *site) key() string { return filepath.Join(s.dir, "ssh", "key") }

func (s *site) command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// boot starts a machine; the playbook is the one to wait for it.
func (s *site) boot(t *testing.T, m machine) {
	t.Helper()
	public, err := os.ReadFile(s.key() + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"etc/ssh/sshd_config.d/listen.conf": "ListenAddress " + m.address + "\n",
		"var/lib/cloud/seed/nocloud/meta-data": fmt.Sprintf("instance-id: i-%s\nlocal-hostname: ip-%s\npublic-keys: [%q]\n",
			m.name, strings.ReplaceAll(m.address, ".", "-"), strings.TrimSpace(string(public))),
		"var/lib/cloud/seed/nocloud/user-data": m.userData,
	}
	maps.Copy(files, m.files)
	home := filepath.Join(s.dir, m.name)
	for name, content := range files {
		path := filepath.Join(home, "upper", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"work", "root"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", os.Getenv(inside), home, home)
	if err := syscall.Mount("overlay", home+"/root", "overlay", 0, layers); err != nil {
		t.Fatalf("mount overlay: %v", err)
	}

	var console bytes.Buffer
	cmd := exec.Command("systemd-nspawn", "--directory="+home+"/root", "--machine="+m.name, "--boot", "--console=read-only",
		"--register=no", "--keep-unit", "--capability=CAP_NET_ADMIN", "--bind="+s.dir+"/cluster:/srv/cluster")
	// The network is the test's own, so its sysctls are too.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // takes the machine with it
		_ = cmd.Wait()
		if t.Failed() {
			lines := strings.Split(strings.TrimSpace(console.String()), "\n")
			t.Logf("console of %s, its end:\n%s", m.name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
		if err := syscall.Unmount(home+"/root", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// writeInventory lays what is true of this site over the example inventory, which brings groups, labels and taints.
func (s *site) writeInventory(t *testing.T, machines ...machine) {
	t.Helper()
	hosts := map[string]any{}
	for _, m := range machines {
		hosts[m.name] = map[string]any{"ansible_host": m.address}
	}
	repository := func(key, dir string) string {
		return "deb [signed-by=/etc/apt/keyrings/" + key + "] file:/srv/" + dir + " ./"
	}
	text, err := yaml.Marshal(map[string]any{"all": map[string]any{
		"hosts": hosts,
		"vars": map[string]any{
			"ansible_user":                 "debian",
			"ansible_ssh_private_key_file": s.key(),
			"ansible_ssh_extra_args":       "-o UserKnownHostsFile=" + s.dir + "/ssh/known_hosts",
			"containerd_package":           "containerd",
			"containerd_repository":        repository("docker.asc", "containerd"),
			"containerd_repository_key":    "file:///srv/containerd/Release.key",
			"kubernetes_repository":        repository("kubernetes.asc", "kubernetes"),
			"kubernetes_repository_key":    "file:///srv/kubernetes/Release.key",
			"join_ready_timeout":           "5s",
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.inventory = filepath.Join(s.dir, "hosts.yml")
	if err := os.WriteFile(s.inventory, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// play runs a playbook and returns what it printed and how many changes it made on each host.
func (s *site) play(t *testing.T, playbook string, args ...string) (out string, changes map[string]string, err error) {
	t.Helper()
	args = append([]string{"--inventory=inventory/example.yml", "--inventory=" + s.inventory, "playbooks/" + playbook}, args...)
	cmd := exec.CommandContext(t.Context(), "ansible-playbook", args...)
	cmd.Env = s.env
	printed, err := cmd.CombinedOutput()
	changes = map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(\S+) +: ok=\d+ +changed=(\d+) .*$`).FindAllSubmatch(printed, -1) {
		changes[string(line[1])] = string(line[2])
	}
	return string(printed), changes, err
}

// mustPlay is play for a run that has to succeed.
func (s *site) mustPlay(t *testing.T, playbook string, args ...string) (out string, changes map[string]string) {
	t.Helper()
	out, changes, err := s.play(t, playbook, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", playbook, args, err, out)
	}
	return out, changes
}

// on runs a command as root on a machine.
func (s *site) on(t *testing.T, m machine, command string) string {
	t.Helper()
	return s.command(t, "ssh", "-q", "-i", s.key(), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "debian@"+m.address, "sudo", command)
}

// clusterNode is a node as the cluster has it.
type clusterNode struct {
	Labels map[string]string `json:"labels"`
	Taints []string          `json:"taints"`
	Ready  bool              `json:"ready"`
}

func (s *site) node(t *testing.T, name string) clusterNode {
	t.Helper()
	var node clusterNode
	text, err := os.ReadFile(filepath.Join(s.dir, "cluster/nodes", name))
	if err == nil {
		err = json.Unmarshal(text, &node)
	}
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// edit changes a node behind Ansible's back.
func (s *site) edit(t *testing.T, name string, change func(*clusterNode)) {
	t.Helper()
	node := s.node(t, name)
	change(&node)
	text, err := json.Marshal(node)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, "cluster/nodes", name), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// names returns what is in a directory of the cluster.
func (s *site) names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "cluster", dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func routerNode() clusterNode {
	return clusterNode{
		Labels: map[string]string{
			"role": "event-router", "domain": "event-router", "service": "event-router", "workload": "event-router",
			"tier": "integration", "phase": "5", "kubernetes.io/hostname": "k8s-event-router",
		},
		Taints: []string{"domain=event-router:NoSchedule"},
		Ready:  true,
	}
}

func pubsubNode() clusterNode {
	return clusterNode{
		Labels: map[string]string{
			"role": "infrastructure", "domain": "data", "infra-type": "redis-pubsub", "redis-cluster": "pubsub", "workload": "cache",
			"tier": "data", "phase": "1", "kubernetes.io/hostname": "k8s-redis-pubsub",
		},
		Taints: []string{"domain=data:NoSchedule"},
		Ready:  true,
	}
}

// userData is what Terraform's module writes for the event router's node.
func userData(t *testing.T) string {
	t.Helper()
	script, err := os.ReadFile("../terraform/modules/event-nodes/user-data/common.sh")
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("${hostname}", "k8s-event-router", "${kubelet_extra_args}",
		"--node-labels=domain=event-router,phase=5,role=event-router,service=event-router,tier=integration,workload=event-router"+
			" --register-with-taints=domain=event-router:NoSchedule").Replace(string(script))
}

// standIn returns a program from testdata.
func standIn(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/packages/" + name + "/usr/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPlaybooks_OnMachines(t *testing.T) {
	s := newSite(t)
	master := machine{name: "k8s-master", address: "127.0.0.10", userData: "#cloud-config\n", files: map[string]string{
		"usr/bin/kubeadm": standIn(t, "kubeadm"), "usr/bin/kubectl": standIn(t, "kubectl"), "etc/kubernetes/admin.conf": "",
	}}
	router := machine{name: "k8s-event-router", address: "127.0.0.11", userData: userData(t)}
	pubsub := machine{name: "k8s-redis-pubsub", address: "127.0.0.12", userData: "#cloud-config\n"} // not made by Terraform
	s.writeInventory(t, master, router, pubsub)
	for _, m := range []machine{master, router, pubsub} {
		s.boot(t, m)
	}

	// Each rule stands on what the one before it left behind.
	for _, rule := range []struct {
		name string
		test func(*testing.T)
	}{
		{"setup makes fresh machines ready", func(t *testing.T) { s.checkSetup(t, router, pubsub) }},
		{"setup changes nothing the second time", func(t *testing.T) { s.checkUnchanged(t, "setup-new-nodes.yml") }},
		{"setup leaves held packages where they are", func(t *testing.T) { s.checkHeld(t, router) }},
		{"join takes the nodes of --limit only", s.checkLimit},
		{"join registers the rest, and shows no token", s.checkJoin},
		{"join changes nothing the second time", func(t *testing.T) { s.checkUnchanged(t, "join.yml") }},
		{"join repairs labels and taints and leaves those of others", s.checkRepair},
		{"join waits for Ready and says who is not", s.checkNotReady},
	} {
		if !t.Run(rule.name, rule.test) {
			return
		}
	}
}

func (s *site) checkSetup(t *testing.T, router, pubsub machine) {
	s.mustPlay(t, "setup-new-nodes.yml")
	for m, args := range map[machineKey]string{
		{router.name, router.address}: "KUBELET_EXTRA_ARGS=\"--node-labels=domain=event-router,phase=5,role=event-router,service=event-router,tier=integration,workload=event-router --register-with-taints=domain=event-router:NoSchedule\"",
		{pubsub.name, pubsub.address}: "KUBELET_EXTRA_ARGS=\"--node-labels=domain=data,infra-type=redis-pubsub,phase=1,redis-cluster=pubsub,role=infrastructure,tier=data,workload=cache --register-with-taints=domain=data:NoSchedule\"",
	} {
		for command, want := range map[string]string{
			"hostname":                             m.name,
			"cat /etc/default/kubelet":             args,
			"kubelet --version":                    "Kubernetes v1.28.4",
			"kubeadm version":                      "v1.28.4",
			"apt-mark showhold":                    "kubeadm\nkubectl\nkubelet",
			"systemctl is-active containerd":       "active",
			"systemctl is-enabled kubelet":         "enabled",
			"grep -c '^[^#].*swap' /etc/fstab ||:": "0",
			"sysctl -n net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables": "1\n1",
			"sh -c 'containerd config dump | grep -o SystemdCgroup.*'":         "SystemdCgroup = true",
		} {
			if got := s.on(t, machine{name: m.name, address: m.address}, command); got != want {
				t.Errorf("%s: %s: %q, want %q", m.name, command, got, want)
			}
		}
	}
}

// machineKey is a machine in a map.
type machineKey struct{ name, address string }

func (s *site) checkUnchanged(t *testing.T, playbook string) {
	out, changes := s.mustPlay(t, playbook)
	if diff := cmp.Diff(map[string]string{"k8s-event-router": "0", "k8s-redis-pubsub": "0"}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s\n%s", diff, out)
	}
	// What would change, without changing it.
	s.mustPlay(t, playbook, "--check")
}

func (s *site) checkHeld(t *testing.T, router machine) {
	if out, _, err := s.play(t, "setup-new-nodes.yml", "--limit=event_router", "--extra-vars=kubernetes_version=1.28.15"); err == nil {
		t.Errorf("another version was taken for a held package:\n%s", out)
	}
	if got := s.on(t, router, "kubelet --version"); got != "Kubernetes v1.28.4" {
		t.Error(got)
	}
}

func (s *site) checkLimit(t *testing.T) {
	_, changes := s.mustPlay(t, "join.yml", "--limit=event_router")
	if _, ok := changes["k8s-redis-pubsub"]; ok || len(changes) != 1 {
		t.Errorf("played on %v", changes)
	}
	if diff := cmp.Diff([]string{"k8s-event-router"}, s.names(t, "nodes")); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(routerNode(), s.node(t, "k8s-event-router")); diff != "" {
		t.Errorf("registered (-want +got):\n%s", diff)
	}
}

func (s *site) checkJoin(t *testing.T) {
	out, _ := s.mustPlay(t, "join.yml", "-vvv")
	if diff := cmp.Diff(pubsubNode(), s.node(t, "k8s-redis-pubsub")); diff != "" {
		t.Errorf("registered (-want +got):\n%s", diff)
	}
	tokens := s.names(t, "tokens")
	if len(tokens) != 2 {
		t.Errorf("%d tokens for two nodes: each node needs a fresh one, and only before it joins", len(tokens))
	}
	for _, token := range tokens {
		if strings.Contains(out, token) {
			t.Errorf("the token %s was printed", token)
		}
	}
}

func (s *site) checkRepair(t *testing.T) {
	s.edit(t, "k8s-event-router", func(n *clusterNode) {
		n.Labels["domain"] = "wrong"
		delete(n.Labels, "service")
		n.Labels["example.com/other"] = "kept"
		n.Taints = []string{"node.kubernetes.io/unschedulable=:NoSchedule"}
	})
	s.edit(t, "k8s-redis-pubsub", func(n *clusterNode) {
		n.Taints = []string{"domain=other:NoSchedule", "domain=data:NoExecute"}
	})
	_, changes := s.mustPlay(t, "join.yml")
	if diff := cmp.Diff(map[string]string{"k8s-event-router": "2", "k8s-redis-pubsub": "1"}, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	want := routerNode()
	want.Labels["example.com/other"] = "kept"
	want.Taints = append(want.Taints, "node.kubernetes.io/unschedulable=:NoSchedule")
	got := s.node(t, "k8s-event-router")
	slices.Sort(got.Taints)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event router (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(pubsubNode(), s.node(t, "k8s-redis-pubsub")); diff != "" {
		t.Errorf("pubsub (-want +got):\n%s", diff)
	}
	s.checkUnchanged(t, "join.yml")
}

func (s *site) checkNotReady(t *testing.T) {
	s.edit(t, "k8s-redis-pubsub", func(n *clusterNode) { n.Ready = false })
	out, _, err := s.play(t, "join.yml")
	if err == nil || !strings.Contains(out, "timed out waiting for the condition on nodes/k8s-redis-pubsub") {
		t.Errorf("a node that is not Ready was taken for joined: %v\n%s", err, out)
	}
}
