package kubernetes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// examplePods are the example's workloads by name, and the node that each has in the seed's
// cluster.
func examplePods() map[string]string {
	return map[string]string{
		"scan-api": "k8s-api-scan", "scan-worker": "k8s-worker-ai", "scan-worker-python": "k8s-worker-ai", "scan-worker-legacy": "k8s-worker-ai",
	}
}

func TestExample_HasTheSeedsNodesOrAny(t *testing.T) {
	plain := newNode("kind-control-plane", "kubernetes.io/os=linux", "")
	found := 0
	for _, w := range workloads(t, render(t, renders()["example"])) {
		home, ok := examplePods()[w.name]
		if !ok {
			continue
		}
		found++
		// All of the seed's nodes are tainted: a toleration is enough to have one node only.
		if got := fits(t, w.pod(), clusterNodes(t)); !slices.Equal(got, []string{home}) {
			t.Errorf("%s fits %v, want %s alone", w.name, got, home)
		}
		if got := fits(t, w.pod(), append(clusterNodes(t), plain)); !slices.Contains(got, plain.Name) {
			t.Errorf("%s does not fit a plain node", w.name)
		}
		preferred := w.spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		if key := preferred[0].Preference.MatchExpressions[0]; key.Key != w.spec.Tolerations[0].Key || key.Values[0] != w.spec.Tolerations[0].Value {
			t.Errorf("%s prefers %v and tolerates %v", w.name, key, w.spec.Tolerations)
		}
	}
	if found != len(examplePods()) {
		t.Errorf("%d workloads of %d", found, len(examplePods()))
	}
}

func TestExample_OpensWhatIsNeededAndNothingElse(t *testing.T) {
	objects := render(t, renders()["example"])
	f := newFirewall(t, objects)
	labels := map[string]map[string]string{}
	for _, o := range objects {
		if o.Kind == "Namespace" {
			labels[o.Metadata.Name] = map[string]string{"kubernetes.io/metadata.name": o.Metadata.Name}
			for k, v := range o.Metadata.Labels {
				labels[o.Metadata.Name][k] = v
			}
		}
	}
	p := map[string]peer{
		"rabbitmq": podIn("rabbitmq", map[string]string{"app.kubernetes.io/name": "rabbitmq"}),
		"dns":      podIn("kube-system", map[string]string{"k8s-app": "kube-dns"}),
		"ingress":  podIn("ingress-nginx", nil), "outside": podIn("nowhere", nil),
	}
	for _, w := range workloads(t, objects) {
		p[w.name] = peer{w.namespace, labels[w.namespace], w.labels}
	}
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	var flows []flow
	add := func(allowed bool, from, to string, protocol corev1.Protocol, port int32) {
		flows = append(flows, flow{from, to, protocol, port, allowed})
	}
	for pod := range examplePods() {
		add(true, pod, "rabbitmq", tcp, 5672)
		add(true, pod, "router", tcp, 9090)
		add(true, pod, "dns", udp, 53)
		add(false, pod, "router", tcp, 9091)
		add(false, pod, "rabbitmq", tcp, 15672)
		add(false, pod, "outside", tcp, 443)
		add(false, pod, "pubsub-redis redis", tcp, 6379)
		add(pod == "scan-worker-legacy", pod, "streams-redis redis", tcp, 6379)
		add(pod == "scan-api", "ingress", pod, tcp, 8080)
	}
	for _, c := range flows {
		if got := f.allows(p[c.from], p[c.to], c.protocol, c.port); got != c.allowed {
			t.Errorf("%s → %s %s/%d: allowed %t, want %t", c.from, c.to, c.protocol, c.port, got, c.allowed)
		}
	}
}

func TestExample_ItsProgramsKnowAllSettings(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "example")
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Dir = "../example"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	objects := render(t, renders()["example"])
	for name := range examplePods() {
		d := deploymentOf(t, objects, name)
		c := d.Spec.Template.Spec.Containers[0]
		known := map[string]bool{"GOMEMLIMIT": len(c.Command) == 0}
		if len(c.Command) == 0 {
			out, err := exec.Command(binary, append(c.Args, "--help")...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %v\n%s", c.Args, err, out)
			}
			for _, m := range envInHelp.FindAllStringSubmatch(string(out), -1) {
				known[m[1]] = true
			}
		} else {
			known = pythonSettings(t)
		}
		settings := settingsOf(t, objects, "scan", d)
		for k := range settings {
			if !known[k] {
				t.Errorf("%s does not know %s", name, k)
			}
		}
		if settings["ROUTER_ADDR"] != "dns:///router.event-router.svc:9090" {
			t.Errorf("%s: ROUTER_ADDR is %s", name, settings["ROUTER_ADDR"])
		}
		if !slices.ContainsFunc(c.EnvFrom, func(f corev1.EnvFromSource) bool { return f.SecretRef != nil && f.SecretRef.Name == "rabbitmq" }) {
			t.Errorf("%s has no AMQP_URL", name)
		}
	}
}

var environ = regexp.MustCompile(`os\.environ(?:\.get\(|\[)"([A-Z_]+)"`)

// pythonSettings are those that any of the programs in Python reads.
func pythonSettings(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../example/python/*.py")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	known := map[string]bool{}
	for _, f := range files {
		for _, m := range environ.FindAllStringSubmatch(read(t, f), -1) {
			known[m[1]] = true
		}
	}
	return known
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// What the scaler counts is what the workers take.
func TestExample_ScalesByItsQueue(t *testing.T) {
	m := regexp.MustCompile(`Jobs = "([^"]+)"`).FindStringSubmatch(read(t, "../example/queue/queue.go"))
	if m == nil {
		t.Fatal("no name of the queue")
	}
	objects := render(t, renders()["example-keda"])
	for _, name := range []string{"scan-worker", "scan-worker-python"} {
		var s struct {
			Spec struct {
				ScaleTargetRef struct{ Name string }
				Triggers       []struct {
					Type              string
					Metadata          map[string]string
					AuthenticationRef struct{ Name string }
				}
			}
		}
		lenient(t, find(t, objects, "ScaledObject", name), &s)
		if len(s.Spec.Triggers) != 1 || s.Spec.ScaleTargetRef.Name != name {
			t.Fatalf("%s: %+v", name, s)
		}
		trigger := s.Spec.Triggers[0]
		if trigger.Type != "rabbitmq" || trigger.Metadata["queueName"] != m[1] || trigger.Metadata["mode"] != "QueueLength" {
			t.Errorf("%s: %+v, want the length of %s", name, trigger, m[1])
		}
		find(t, objects, "TriggerAuthentication", trigger.AuthenticationRef.Name)
		if d := deploymentOf(t, objects, name); d.Spec.Replicas != nil {
			t.Errorf("%s has replicas of its own beside the scaler", name)
		}
	}
	for _, o := range objects {
		if o.Kind == "HorizontalPodAutoscaler" && o.Metadata.Name == "scan-worker" {
			t.Errorf("%s is left beside the ScaledObject", o)
		}
	}
}

// The page is of one origin and its streams of another: the edge must allow that.
func TestExample_TheEdgeAllowsItsPage(t *testing.T) {
	objects := render(t, renders()["example"])
	var ingress networkingv1.Ingress
	find(t, objects, "Ingress", "scan-api").decode(t, &ingress)
	edge := settingsOf(t, objects, "sse-gateway", deploymentOf(t, objects, "edge"))
	if want := "https://" + ingress.Spec.Rules[0].Host; edge["CORS_ORIGINS"] != want {
		t.Errorf("CORS_ORIGINS is %q, want %q", edge["CORS_ORIGINS"], want)
	}
	var public networkingv1.Ingress
	find(t, objects, "Ingress", "edge").decode(t, &public)
	api := settingsOf(t, objects, "scan", deploymentOf(t, objects, "scan-api"))
	if want := "https://" + public.Spec.Rules[0].Host; api["EVENTS_URL"] != want {
		t.Errorf("EVENTS_URL is %q, want %q", api["EVENTS_URL"], want)
	}
	if !strings.HasSuffix(ingress.Annotations["nginx.ingress.kubernetes.io/proxy-body-size"], "m") {
		t.Error("the ingress takes no pictures: its limit is 1 MiB")
	}
}
