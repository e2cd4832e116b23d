package kubernetes_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// peer is a pod, in what network policies look at.
type peer struct {
	namespace       string
	namespaceLabels map[string]string
	labels          map[string]string
}

func podIn(namespace string, podLabels map[string]string) peer {
	return peer{namespace, map[string]string{"kubernetes.io/metadata.name": namespace}, podLabels}
}

// firewall decides as the API's documentation says: a pod that no policy selects for a
// direction is open in it; one that is selected has what any of its policies allows; a flow
// needs both ends.
type firewall struct {
	t        *testing.T
	policies []networkingv1.NetworkPolicy
}

func (f firewall) allows(from, to peer, protocol corev1.Protocol, port int32) bool {
	return f.open(from, to, networkingv1.PolicyTypeEgress, protocol, port) &&
		f.open(to, from, networkingv1.PolicyTypeIngress, protocol, port)
}

func (f firewall) open(self, other peer, direction networkingv1.PolicyType, protocol corev1.Protocol, port int32) bool {
	selected := false
	for _, p := range f.policies {
		if p.Namespace != self.namespace || !selects(f.t, &p.Spec.PodSelector, self.labels) || !has(p.Spec.PolicyTypes, direction) {
			continue
		}
		selected = true
		if direction == networkingv1.PolicyTypeIngress {
			for _, r := range p.Spec.Ingress {
				if f.peers(r.From, p.Namespace, other) && f.ports(r.Ports, protocol, port) {
					return true
				}
			}
			continue
		}
		for _, r := range p.Spec.Egress {
			if f.peers(r.To, p.Namespace, other) && f.ports(r.Ports, protocol, port) {
				return true
			}
		}
	}
	return !selected
}

func has(types []networkingv1.PolicyType, direction networkingv1.PolicyType) bool {
	for _, t := range types {
		if t == direction {
			return true
		}
	}
	return false
}

func (f firewall) peers(list []networkingv1.NetworkPolicyPeer, own string, other peer) bool {
	for _, p := range list {
		if p.IPBlock != nil {
			f.t.Fatal("IP blocks are not decided here")
		}
		namespace := other.namespace == own
		if p.NamespaceSelector != nil {
			namespace = selects(f.t, p.NamespaceSelector, other.namespaceLabels)
		}
		if namespace && (p.PodSelector == nil || selects(f.t, p.PodSelector, other.labels)) {
			return true
		}
	}
	return len(list) == 0
}

func (f firewall) ports(list []networkingv1.NetworkPolicyPort, protocol corev1.Protocol, port int32) bool {
	for _, p := range list {
		if p.Port == nil || p.Port.StrVal != "" || p.EndPort != nil || p.Protocol == nil {
			f.t.Fatal("only single, numbered ports with their protocol are decided here")
		}
		if *p.Protocol == protocol && p.Port.IntVal == port {
			return true
		}
	}
	return len(list) == 0
}

func newFirewall(t *testing.T, objects []object) firewall {
	t.Helper()
	f := firewall{t: t}
	for _, o := range objects {
		if o.Kind == "NetworkPolicy" {
			var p networkingv1.NetworkPolicy
			o.decode(t, &p)
			f.policies = append(f.policies, p)
		}
	}
	if len(f.policies) == 0 {
		t.Fatal("no policies")
	}
	return f
}

func TestNetwork_OpensWhatIsNeededAndNothingElse(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha", "everything"} {
		t.Run(overlay, func(t *testing.T) {
			objects := render(t, renders()[overlay])
			f := newFirewall(t, objects)
			// The real pods' labels, not the policies' idea of them.
			p := map[string]peer{
				"operator (manifest)":      podIn("default", map[string]string{"app": "redisoperator"}),
				"operator (chart)":         podIn("redis-operator", map[string]string{"app.kubernetes.io/name": "redis-operator"}),
				"prometheus":               podIn("monitoring", map[string]string{"app.kubernetes.io/name": "prometheus"}),
				"grafana":                  podIn("monitoring", map[string]string{"app.kubernetes.io/name": "grafana"}),
				"dns":                      podIn("kube-system", map[string]string{"k8s-app": "kube-dns"}),
				"ingress":                  podIn("ingress-nginx", map[string]string{"app.kubernetes.io/name": "ingress-nginx"}),
				"stranger":                 podIn("default", map[string]string{"app": "stranger"}),
				"stranger in event-router": podIn("event-router", map[string]string{"app": "stranger"}),
				"impostor router":          podIn("default", map[string]string{"app.kubernetes.io/name": "router"}),
				"other redis":              podIn("redis", map[string]string{"app.kubernetes.io/part-of": "redis-failover", "app.kubernetes.io/name": "auth-redis", "app.kubernetes.io/component": "redis"}),
				"outside":                  podIn("nowhere", nil),
				"worker":                   {"jobs", map[string]string{"kubernetes.io/metadata.name": "jobs", "eventbus/client": "true"}, nil},
				"legacy worker":            {"jobs", map[string]string{"kubernetes.io/metadata.name": "jobs", "eventbus/streams-client": "true"}, nil},
			}
			for _, w := range workloads(t, objects) {
				if _, taken := p[w.name]; !taken {
					p[w.name] = peer{w.namespace, map[string]string{"kubernetes.io/metadata.name": w.namespace}, w.labels}
				}
			}
			for _, c := range flows() {
				from, ok := p[c.from]
				to, ok2 := p[c.to]
				if !ok || !ok2 {
					t.Fatalf("who is %s, or %s?", c.from, c.to)
				}
				if got := f.allows(from, to, c.protocol, c.port); got != c.allowed {
					t.Errorf("%s → %s %s/%d: allowed %t, want %t", c.from, c.to, c.protocol, c.port, got, c.allowed)
				}
			}
		})
	}
}

// While both systems run, our default-deny must not stop the one that is there.
func TestNetwork_TheMigrationLeavesThePredecessorAlone(t *testing.T) {
	predecessor := podIn("event-router", map[string]string{"app": "event-router"})
	redis := podIn("redis", map[string]string{"app.kubernetes.io/name": "streams-redis"})
	stranger := podIn("event-router", map[string]string{"app": "stranger"})
	prometheus := podIn("monitoring", map[string]string{"app": "prometheus"})
	objects := render(t, renders()["migration"])
	f := newFirewall(t, objects)
	for _, c := range []struct {
		from, to peer
		port     int32
		want     bool
	}{{predecessor, redis, 6379, true}, {prometheus, predecessor, 8000, true}, {stranger, redis, 6379, false}, {prometheus, stranger, 8000, false}} {
		if got := f.allows(c.from, c.to, corev1.ProtocolTCP, c.port); got != c.want {
			t.Errorf("%v → %v: allowed %t, want %t", c.from, c.to, got, c.want)
		}
	}
	for _, o := range objects {
		if o.Kind == "RedisFailover" || o.Metadata.Namespace == "redis" {
			t.Errorf("%s would change the Redis that is there", o)
		}
	}
	settings := settingsOf(t, objects, "event-router", deploymentOf(t, objects, "router"))
	if settings["CONSUMER_GROUP"] != "eventbus" || settings["REDIS_PUBSUB_URL"] != settings["REDIS_STREAMS_URL"] {
		t.Errorf("a group and a Pub/Sub Redis of its own: %v", settings)
	}
	if got := find(t, objects, "Namespace", "event-router").Metadata.Labels["pod-security.kubernetes.io/enforce"]; got != "baseline" {
		t.Errorf("event-router enforces %q: the predecessor has no seccomp profile", got)
	}
}

type flow struct {
	from, to string
	protocol corev1.Protocol
	port     int32
	allowed  bool
}

// flows are all that must pass, and what must not.
func flows() []flow {
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	var out []flow
	add := func(allowed bool, from, to string, protocol corev1.Protocol, ports ...int32) {
		for _, port := range ports {
			out = append(out, flow{from, to, protocol, port, allowed})
		}
	}
	for _, rf := range []string{"streams-redis", "pubsub-redis"} {
		redis, sentinel := rf+" redis", rf+" sentinel"
		add(true, "router", redis, tcp, 6379)
		add(true, "router", sentinel, tcp, 26379)
		for _, operator := range []string{"operator (manifest)", "operator (chart)"} {
			add(true, operator, redis, tcp, 6379)
			add(true, operator, sentinel, tcp, 26379)
		}
		add(true, redis, redis, tcp, 6379)
		add(true, redis, sentinel, tcp, 26379)
		add(true, sentinel, redis, tcp, 6379)
		add(true, sentinel, sentinel, tcp, 26379)
		add(true, "prometheus", redis, tcp, 9121)
		for _, who := range []string{"edge", "stranger", "stranger in event-router", "impostor router", "ingress", "worker", "prometheus", "other redis", "grafana"} {
			add(false, who, redis, tcp, 6379)
			add(false, who, sentinel, tcp, 26379)
		}
		add(false, "grafana", redis, tcp, 9121)
		for _, self := range []string{redis, sentinel} {
			add(false, self, "router", tcp, 9090, 9091)
			add(false, self, "outside", tcp, 443, 80)
			add(false, self, "other redis", tcp, 6379)
		}
	}
	// All masters are called mymaster: failovers that reach each other grow together when a
	// pod gets an address that the other one remembers.
	for _, from := range []string{"redis", "sentinel"} {
		for _, to := range []string{"redis", "sentinel"} {
			add(false, "streams-redis "+from, "pubsub-redis "+to, tcp, 6379, 26379)
			add(false, "pubsub-redis "+from, "streams-redis "+to, tcp, 6379, 26379)
		}
	}
	// Legacy workers write to the log themselves; the hints are the routers' own.
	add(true, "legacy worker", "streams-redis redis", tcp, 6379)
	add(true, "legacy worker", "streams-redis sentinel", tcp, 26379)
	add(false, "legacy worker", "pubsub-redis redis", tcp, 6379)
	add(false, "legacy worker", "router", tcp, 9090)

	add(true, "edge", "router", tcp, 9090)
	add(true, "worker", "router", tcp, 9090)
	add(false, "edge", "router", tcp, 9091)
	for _, who := range []string{"stranger", "stranger in event-router", "ingress", "prometheus"} {
		add(false, who, "router", tcp, 9090)
	}
	add(true, "ingress", "edge", tcp, 8000)
	add(true, "stranger", "edge", tcp, 8000)
	add(false, "ingress", "edge", tcp, 8001)
	for to, admin := range map[string]int32{"router": 9091, "edge": 8001} {
		add(true, "prometheus", to, tcp, admin)
		add(false, "stranger", to, tcp, admin)
		add(false, "worker", to, tcp, admin)
		add(false, to, "outside", tcp, 443, 80)
	}
	for _, self := range []string{"router", "edge", "streams-redis redis", "streams-redis sentinel", "pubsub-redis redis", "pubsub-redis sentinel"} {
		add(true, self, "dns", udp, 53)
		add(true, self, "dns", tcp, 53)
		add(false, self, "dns", tcp, 9153)
		add(false, self, "outside", udp, 53)
	}
	add(false, "router", "edge", tcp, 8000)
	add(false, "stranger in event-router", "outside", tcp, 443)
	add(false, "stranger in event-router", "dns", udp, 53)
	return out
}

// The evaluator above must be right itself: the rules of the API's documentation.
func TestNetwork_TheEvaluatorFollowsTheAPI(t *testing.T) {
	tcp := corev1.ProtocolTCP
	a, b := podIn("one", map[string]string{"app": "a"}), podIn("two", map[string]string{"app": "b"})
	policy := func(namespace string, types ...networkingv1.PolicyType) networkingv1.NetworkPolicy {
		return networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: types}}
	}
	deny := policy("two", networkingv1.PolicyTypeIngress)
	both := policy("two", networkingv1.PolicyTypeIngress)
	both.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "one"}},
		PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
	}}}}
	here := policy("two", networkingv1.PolicyTypeIngress)
	here.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
	for i, c := range []struct {
		policies []networkingv1.NetworkPolicy
		want     bool
	}{
		{nil, true},
		{[]networkingv1.NetworkPolicy{deny}, false},
		{[]networkingv1.NetworkPolicy{deny, both}, true},
		{[]networkingv1.NetworkPolicy{here}, false}, // a pod selector alone means the own namespace
		{[]networkingv1.NetworkPolicy{both, policy("one", networkingv1.PolicyTypeEgress)}, false},
		{[]networkingv1.NetworkPolicy{policy("one", networkingv1.PolicyTypeIngress)}, true},
	} {
		if got := (firewall{t, c.policies}).allows(a, b, tcp, 80); got != c.want {
			t.Errorf("case %d: allowed %t, want %t", i, got, c.want)
		}
	}
}
