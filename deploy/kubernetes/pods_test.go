package kubernetes_test

import (
	"maps"
	"testing"

	redisfailoverv1 "github.com/spotahome/redis-operator/api/redisfailover/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// workload is a pod template and how many there are of it.
type workload struct {
	name      string // "router", "streams-redis redis", …
	namespace string
	replicas  int32
	labels    map[string]string
	spec      corev1.PodSpec
}

func (w workload) pod() *corev1.Pod {
	p := &corev1.Pod{Spec: w.spec}
	p.Namespace, p.Labels = w.namespace, w.labels
	return p
}

func deploymentOf(t *testing.T, objects []object, name string) *appsv1.Deployment {
	t.Helper()
	var d appsv1.Deployment
	find(t, objects, "Deployment", name).decode(t, &d)
	return &d
}

func failoverOf(t *testing.T, objects []object, name string) *redisfailoverv1.RedisFailover {
	t.Helper()
	var rf redisfailoverv1.RedisFailover
	find(t, objects, "RedisFailover", name).decode(t, &rf)
	if err := rf.Validate(); err != nil { // the operator's own; it sets defaults, too
		t.Fatal(err)
	}
	return &rf
}

// workloads are all pod templates among the objects, those that the redis-operator makes of
// a RedisFailover included.
func workloads(t *testing.T, objects []object) []workload {
	t.Helper()
	var out []workload
	for _, o := range objects {
		switch o.Kind {
		case "Deployment":
			d := deploymentOf(t, objects, o.Metadata.Name)
			w := workload{d.Name, d.Namespace, 2, d.Spec.Template.Labels, d.Spec.Template.Spec}
			if d.Spec.Replicas != nil {
				w.replicas = *d.Spec.Replicas
			}
			out = append(out, w)
		case "RedisFailover":
			out = append(out, failoverPods(failoverOf(t, objects, o.Metadata.Name))...)
		}
	}
	return out
}

// failoverPods are the pods that redis-operator v1.2.4 makes (operator/redisfailover/service,
// generator.go), in what placement and security depend on.
func failoverPods(rf *redisfailoverv1.RedisFailover) []workload {
	r, s := rf.Spec.Redis, rf.Spec.Sentinel
	redis := corev1.PodSpec{
		Affinity: r.Affinity, Tolerations: r.Tolerations, NodeSelector: r.NodeSelector, SecurityContext: r.SecurityContext,
		TopologySpreadConstraints: r.TopologySpreadConstraints, ServiceAccountName: r.ServiceAccountName, HostNetwork: r.HostNetwork,
		InitContainers: r.InitContainers, Volumes: r.ExtraVolumes,
		TerminationGracePeriodSeconds: &r.TerminationGracePeriodSeconds,
		Containers: append([]corev1.Container{
			{Name: "redis", Image: r.Image, Resources: r.Resources, SecurityContext: r.ContainerSecurityContext},
		}, r.ExtraContainers...),
	}
	if r.Exporter.Enabled {
		redis.Containers = append(redis.Containers, exporterOf(r.Exporter))
	}
	sentinel := corev1.PodSpec{
		Affinity: s.Affinity, Tolerations: s.Tolerations, NodeSelector: s.NodeSelector, SecurityContext: s.SecurityContext,
		TopologySpreadConstraints: s.TopologySpreadConstraints, ServiceAccountName: s.ServiceAccountName, HostNetwork: s.HostNetwork,
		InitContainers: append([]corev1.Container{
			{Name: "sentinel-config-copy", Image: s.Image, Resources: s.Resources, SecurityContext: s.ConfigCopy.ContainerSecurityContext},
		}, s.InitContainers...),
		Containers: append([]corev1.Container{
			{Name: "sentinel", Image: s.Image, Resources: s.Resources, SecurityContext: s.ContainerSecurityContext},
		}, s.ExtraContainers...),
		Volumes: s.ExtraVolumes,
	}
	labels := func(component string) map[string]string {
		l := map[string]string{}
		maps.Copy(l, rf.Labels)
		l["app.kubernetes.io/part-of"] = "redis-failover"
		l["app.kubernetes.io/component"] = component
		l["app.kubernetes.io/name"] = rf.Name
		return l
	}
	master := labels("redis")
	master["redisfailovers-role"] = "master"
	return []workload{
		{rf.Name + " redis", rf.Namespace, r.Replicas, master, redis},
		{rf.Name + " sentinel", rf.Namespace, s.Replicas, labels("sentinel"), sentinel},
	}
}

func exporterOf(e redisfailoverv1.Exporter) corev1.Container {
	c := corev1.Container{Name: "redis-exporter", Image: e.Image, SecurityContext: e.ContainerSecurityContext}
	if e.Resources != nil {
		c.Resources = *e.Resources
	}
	return c
}
