// Package kubernetes_test checks the manifests of this directory with the libraries that
// kubectl, the API server and the scheduler are made of.
//
//	render_test.go     kustomize renders every overlay, with every component
//	schema_test.go     the API types and the CRDs accept the result
//	placement_test.go  the scheduler's rules put each pod on its node, or on none
//	network_test.go    the network policies let exactly the listed flows through
//	security_test.go   no pod may more than it must; drains fit their grace periods
//	settings_test.go   the binary knows every setting
//	access_test.go     router and edge run with the settings of tls and access, and refuse strangers
//	redis_test.go      a real Redis takes every command line and every setting
//	example_test.go    the example around the bus has what it needs
package kubernetes_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// object is one rendered object.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	yaml []byte
}

func (o object) String() string {
	return o.Kind + " " + strings.TrimPrefix(o.Metadata.Namespace+"/"+o.Metadata.Name, "/")
}

// decode decodes the object strictly.
func (o object) decode(t *testing.T, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(o.yaml, into); err != nil {
		t.Fatalf("%s: %v", o, err)
	}
}

// renders are the roots that an operator would apply, and each component on prod.
func renders() map[string]string {
	return map[string]string{
		"dev": on("../overlays/dev"), "prod": on("../overlays/prod"), "ha": on("../overlays/ha"),
		"argocd": on("../components/argocd"), "argocd-apps": on("../components/argocd/apps"),
		"monitoring":    on("../overlays/prod", "../components/monitoring"),
		"keda":          on("../overlays/prod", "../components/keda"),
		"istio":         on("../overlays/prod", "../components/istio"),
		"gateway-api":   on("../overlays/prod", "../components/gateway-api"),
		"seed-redis":    on("../overlays/prod", "../components/seed-redis"),
		"tls":           on("../overlays/prod", "../components/tls"),
		"access":        on("../overlays/prod", "../components/access"),
		"client-limits": on("../overlays/prod", "../components/client-limits"),
		"tracing":       on("../overlays/prod", "../components/tracing"),
		"example":       on("../overlays/prod", "../components/example"),
		"example-keda":  on("../overlays/prod", "../components/example", "../components/example-keda"),
		"example-dev":   on("../overlays/dev", "../components/example"),
		"migration":     "resources: [../overlays/prod/router, ../overlays/prod/edge]\ncomponents: [../components/migration]\n",
		"everything": on("../overlays/prod", "../components/monitoring", "../components/keda", "../components/istio",
			"../components/seed-redis", "../components/access", "../components/client-limits", "../components/tracing"),
		"ha-everything": on("../overlays/ha", "../components/monitoring", "../components/keda", "../components/gateway-api", "../components/tls"),
	}
}

// on is the kustomization of an overlay with components.
func on(overlay string, components ...string) string {
	s := "resources: [" + overlay + "]\n"
	if len(components) > 0 {
		s += "components: [" + strings.Join(components, ", ") + "]\n"
	}
	return s
}

// render runs a kustomization that stands beside overlays/ as kubectl -k does.
func render(t *testing.T, kustomization string) []object {
	t.Helper()
	fs := filesys.MakeFsInMemory()
	copyTree(t, fs, "..")
	if err := fs.MkdirAll("/kubernetes/root"); err != nil {
		t.Fatal(err)
	}
	if err := fs.WriteFile("/kubernetes/root/kustomization.yaml", []byte(kustomization)); err != nil {
		t.Fatal(err)
	}
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy
	options.LoadRestrictions = types.LoadRestrictionsRootOnly
	resources, err := krusty.MakeKustomizer(options).Run(fs, "/kubernetes/root")
	if err != nil {
		t.Fatalf("kustomize:\n%s%v", kustomization, err)
	}
	var out []object
	for _, r := range resources.Resources() {
		raw, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		o := object{yaml: raw}
		if err := yaml.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// copyTree puts kubernetes/ and monitoring/ into fs: a render may then add a file.
func copyTree(t *testing.T, fs filesys.FileSystem, from string) {
	t.Helper()
	for _, dir := range []string{"kubernetes", "monitoring"} {
		err := filepath.WalkDir(filepath.Join(from, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return fs.WriteFile("/"+strings.TrimPrefix(filepath.ToSlash(path), "../"), raw)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func find(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	for _, o := range objects {
		if o.Kind == kind && o.Metadata.Name == name {
			return o
		}
	}
	t.Fatalf("no %s %s among %v", kind, name, objects)
	return object{}
}

func TestRender_EveryOverlayHasItsParts(t *testing.T) {
	want := map[string][]string{
		"dev":  {"Deployment event-router/router", "Deployment sse-gateway/edge", "RedisFailover redis/streams-redis", "RedisFailover redis/pubsub-redis"},
		"prod": {"Deployment event-router/router", "Deployment sse-gateway/edge", "RedisFailover redis/streams-redis", "RedisFailover redis/pubsub-redis", "PersistentVolume eventbus-streams-0", "Ingress sse-gateway/edge", "Service redis/streams-redis-master", "Service redis/pubsub-redis-master"},
		"ha":   {"Deployment event-router/router", "Deployment sse-gateway/edge", "RedisFailover redis/streams-redis", "RedisFailover redis/pubsub-redis"},
		"keda": {"ScaledObject sse-gateway/edge", "ScaledObject event-router/router"},
		"monitoring": {"ServiceMonitor monitoring/eventbus-router", "ServiceMonitor monitoring/eventbus-edge", "ServiceMonitor monitoring/eventbus-redis",
			"PrometheusRule monitoring/eventbus", "ConfigMap monitoring/eventbus-dashboard"},
		"istio":       {"VirtualService sse-gateway/edge", "DestinationRule sse-gateway/edge", "DestinationRule event-router/router"},
		"gateway-api": {"HTTPRoute sse-gateway/edge"},
		"seed-redis":  {"RedisFailover redis/auth-redis", "RedisFailover redis/cache-redis"},
		"example": {"Deployment scan/scan-api", "Deployment scan/scan-worker", "Deployment scan/scan-worker-python", "Deployment scan/scan-worker-legacy",
			"HorizontalPodAutoscaler scan/scan-api", "HorizontalPodAutoscaler scan/scan-worker", "Ingress scan/scan-api"},
		"example-keda": {"ScaledObject scan/scan-worker", "ScaledObject scan/scan-worker-python", "TriggerAuthentication scan/rabbitmq"},
		"argocd":       {"Application argocd/eventbus", "AppProject argocd/eventbus"},
		"argocd-apps":  {"Application argocd/eventbus-redis", "Application argocd/eventbus-router", "Application argocd/eventbus-edge"},
	}
	for name, k := range renders() {
		t.Run(name, func(t *testing.T) {
			got := map[string]bool{}
			for _, o := range render(t, k) {
				if got[o.String()] {
					t.Errorf("%s twice", o)
				}
				got[o.String()] = true
			}
			for _, w := range want[name] {
				if !got[w] {
					t.Errorf("no %s", w)
				}
			}
		})
	}
}

// What a component replaces must be gone: two routes, or two autoscalers, would fight.
func TestRender_ComponentsReplaceWhatTheyOwn(t *testing.T) {
	for component, kind := range map[string]string{"keda": "HorizontalPodAutoscaler", "istio": "Ingress", "gateway-api": "Ingress"} {
		for _, o := range render(t, renders()[component]) {
			if o.Kind == kind {
				t.Errorf("%s leaves %s", component, o)
			}
		}
	}
	deployment := deploymentOf(t, render(t, renders()["keda"]), "router")
	if deployment.Spec.Replicas != nil {
		t.Error("keda: the router still has replicas of its own")
	}
}

// prod must work where nothing is but the redis-operator.
func TestRender_ProdNeedsOnlyTheRedisOperator(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha"} {
		for _, o := range render(t, renders()[overlay]) {
			group, _, _ := strings.Cut(o.APIVersion, "/")
			switch group {
			case "v1", "apps", "autoscaling", "networking.k8s.io", "policy", "storage.k8s.io", "databases.spotahome.com":
			default:
				t.Errorf("%s: %s needs %s", overlay, o, o.APIVersion)
			}
		}
	}
}
