package kubernetes_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// clusterNodes are the 21 nodes of testdata/nodes.tsv: name, address, and the labels and
// taints that the kubelet registered them with.
func clusterNodes(t *testing.T) []*corev1.Node {
	t.Helper()
	raw, err := os.ReadFile("testdata/nodes.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var out []*corev1.Node
	for line := range strings.Lines(string(raw)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) != 4 {
			t.Fatalf("nodes.tsv: %q", line)
		}
		out = append(out, newNode(f[0], f[2], f[3]))
	}
	if len(out) != 21 {
		t.Fatalf("%d nodes, want 21", len(out))
	}
	return out
}

// newNode takes labels and taints as the kubelet's arguments have them.
func newNode(name, nodeLabels, taints string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
	for l := range strings.SplitSeq(nodeLabels, ",") {
		k, v, _ := strings.Cut(l, "=")
		n.Labels[k] = v
	}
	for t := range strings.SplitSeq(taints, ",") {
		if t == "" {
			continue
		}
		kv, effect, _ := strings.Cut(t, ":")
		k, v, _ := strings.Cut(kv, "=")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Value: v, Effect: corev1.TaintEffect(effect)})
	}
	return n
}

// fits are the nodes that the scheduler's filters NodeAffinity and TaintToleration leave.
func fits(t *testing.T, pod *corev1.Pod, nodes []*corev1.Node) []string {
	t.Helper()
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	keepsAway := func(taint *corev1.Taint) bool { return taint.Effect != corev1.TaintEffectPreferNoSchedule }
	out := []string{}
	for _, n := range nodes {
		ok, err := affinity.Match(n)
		if err != nil {
			t.Fatal(err)
		}
		_, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, pod.Spec.Tolerations, keepsAway, false)
		if ok && !untolerated {
			out = append(out, n.Name)
		}
	}
	return out
}

// homes are the nodes that each workload of prod belongs on.
func homes() map[string]string {
	return map[string]string{
		"router": "k8s-event-router", "edge": "k8s-sse-gateway",
		"streams-redis redis": "k8s-redis-streams", "streams-redis sentinel": "k8s-redis-streams",
		"pubsub-redis redis": "k8s-redis-pubsub", "pubsub-redis sentinel": "k8s-redis-pubsub",
		"auth-redis redis": "k8s-redis-auth", "auth-redis sentinel": "k8s-redis-auth",
		"cache-redis redis": "k8s-redis-cache", "cache-redis sentinel": "k8s-redis-cache",
	}
}

func TestPlacement_EachPodHasItsNodeAndNoOther(t *testing.T) {
	nodes := clusterNodes(t)
	for _, overlay := range []string{"prod", "ha", "everything"} {
		all := workloads(t, render(t, renders()[overlay]))
		if len(all) < 6 {
			t.Fatalf("%s: only %d workloads", overlay, len(all))
		}
		for _, w := range all {
			t.Run(overlay+"/"+w.name, func(t *testing.T) {
				if got := fits(t, w.pod(), nodes); !slices.Equal(got, []string{homes()[w.name]}) {
					t.Errorf("fits %v, want %s alone", got, homes()[w.name])
				}
			})
		}
	}
}

func TestPlacement_WithoutTheTolerationNowhere(t *testing.T) {
	nodes := clusterNodes(t)
	for _, w := range workloads(t, render(t, renders()["everything"])) {
		pod := w.pod()
		pod.Spec.Tolerations = nil
		if got := fits(t, pod, nodes); len(got) > 0 {
			t.Errorf("%s fits %v", w.name, got)
		}
	}
}

func TestPlacement_WithAWrongNodeLabelNowhere(t *testing.T) {
	for _, w := range workloads(t, render(t, renders()["everything"])) {
		var nodes []*corev1.Node
		for _, n := range clusterNodes(t) {
			if n.Name == homes()[w.name] {
				n.Labels["domain"], n.Labels["redis-cluster"] = "even-router", "stream"
			}
			nodes = append(nodes, n)
		}
		if got := fits(t, w.pod(), nodes); len(got) > 0 {
			t.Errorf("%s fits %v", w.name, got)
		}
	}
}

func TestPlacement_AWrongTaintValueKeepsAway(t *testing.T) {
	for _, w := range workloads(t, render(t, renders()["everything"])) {
		pod := w.pod()
		tolerations := slices.Clone(pod.Spec.Tolerations)
		for i := range tolerations {
			tolerations[i].Value += "-other"
		}
		pod.Spec.Tolerations = tolerations
		if got := fits(t, pod, clusterNodes(t)); len(got) > 0 {
			t.Errorf("%s fits %v", w.name, got)
		}
	}
}

// dev is for clusters whose nodes have neither labels nor taints.
func TestPlacement_DevFitsAnyNode(t *testing.T) {
	plain := []*corev1.Node{newNode("kind-control-plane", "kubernetes.io/os=linux", "")}
	for _, w := range workloads(t, render(t, renders()["dev"])) {
		if got := fits(t, w.pod(), plain); len(got) != 1 {
			t.Errorf("%s does not fit a plain node", w.name)
		}
	}
}

// The volume of the log must be where its pod is.
func TestPlacement_TheStreamsVolumeIsOnTheStreamsNode(t *testing.T) {
	objects := render(t, renders()["prod"])
	var pv corev1.PersistentVolume
	find(t, objects, "PersistentVolume", "eventbus-streams-0").decode(t, &pv)
	selector, err := nodeaffinity.NewNodeSelector(pv.Spec.NodeAffinity.Required)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range clusterNodes(t) {
		if selector.Match(n) {
			got = append(got, n.Name)
		}
	}
	if !slices.Equal(got, []string{"k8s-redis-streams"}) {
		t.Errorf("on %v", got)
	}
	rf := failoverOf(t, objects, "streams-redis")
	claim := rf.Spec.Redis.Storage.PersistentVolumeClaim
	if *claim.Spec.StorageClassName != pv.Spec.StorageClassName {
		t.Errorf("the claim's class is %s, the volume's %s", *claim.Spec.StorageClassName, pv.Spec.StorageClassName)
	}
	if want := claim.Name + "-rfr-" + rf.Name + "-0"; pv.Spec.ClaimRef.Name != want {
		t.Errorf("the volume is for %s, the claim is %s", pv.Spec.ClaimRef.Name, want)
	}
	wants, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage]
	if wants.Cmp(has) > 0 {
		t.Errorf("the claim wants %s, the volume has %s", wants.String(), has.String())
	}
	if !rf.Spec.Redis.Storage.KeepAfterDeletion {
		t.Error("the volume goes with the RedisFailover")
	}
}

// No two Redis of one failover share a node in ha, and their Sentinels spread as well.
func TestPlacement_HASpreadsRedis(t *testing.T) {
	for _, w := range workloads(t, render(t, renders()["ha"])) {
		if w.namespace != "redis" {
			continue
		}
		if w.replicas != 3 {
			t.Errorf("%s: %d replicas", w.name, w.replicas)
		}
		apart := false
		if a := w.spec.Affinity; a != nil && a.PodAntiAffinity != nil {
			for _, term := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				apart = apart || term.TopologyKey == "kubernetes.io/hostname" && selects(t, term.LabelSelector, w.labels)
			}
		}
		for _, c := range w.spec.TopologySpreadConstraints {
			apart = apart || c.TopologyKey == "kubernetes.io/hostname" && c.WhenUnsatisfiable == corev1.DoNotSchedule &&
				c.MaxSkew == 1 && selects(t, c.LabelSelector, w.labels)
		}
		if !apart {
			t.Errorf("%s may share a node", w.name)
		}
	}
}

func selects(t *testing.T, s *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return sel.Matches(labels.Set(set))
}

// A t3.small has 2 vCPU and 2 GB, of which the kubelet, Calico and the exporters leave
// about this; one pod more than asked for must fit, or no rolling update ends.
func TestPlacement_RequestsFitTheNodes(t *testing.T) {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("1400Mi")}
	asked := map[string]corev1.ResourceList{}
	for _, w := range workloads(t, render(t, renders()["everything"])) {
		sum := asked[homes()[w.name]]
		if sum == nil {
			sum = corev1.ResourceList{}
			asked[homes()[w.name]] = sum
		}
		n := int64(w.replicas)
		if w.namespace != "redis" || strings.HasSuffix(w.name, "sentinel") {
			n++ // a rolling update's extra pod
		}
		for _, c := range w.spec.Containers {
			for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				q := c.Resources.Requests[r]
				if q.IsZero() {
					t.Errorf("%s/%s requests no %s", w.name, c.Name, r)
				}
				total := sum[r]
				total.Add(*resource.NewMilliQuantity(q.MilliValue()*n, q.Format))
				sum[r] = total
			}
		}
	}
	for node, sum := range asked {
		for r, q := range sum {
			if q.Cmp(room[r]) > 0 {
				have := room[r]
				t.Errorf("%s: %s of %s %s", node, q.String(), have.String(), r)
			}
		}
	}
}
