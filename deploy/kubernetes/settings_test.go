package kubernetes_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var binary = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	path := filepath.Join(tempDir, "eventbus")
	// As make build does it: what is compiled is compiled once.
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), err
	}
	return path, nil
})

// eventbus builds the product, once, and returns its path.
func eventbus(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, path)
	}
	return path
}

var envInHelp = regexp.MustCompile(`\$([A-Z][A-Z_]+)`)

// knownSettings are the environment variables that `eventbus COMMAND --help` names.
func knownSettings(t *testing.T, command string) map[string]bool {
	t.Helper()
	out, err := exec.Command(eventbus(t), command, "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	known := map[string]bool{}
	for _, m := range envInHelp.FindAllStringSubmatch(string(out), -1) {
		known[m[1]] = true
	}
	if len(known) < 5 {
		t.Fatalf("%s --help names only %v", command, known)
	}
	return known
}

// settingsOf are the settings of a deployment's first container, from its config map.
func settingsOf(t *testing.T, objects []object, namespace string, d *appsv1.Deployment) map[string]string {
	t.Helper()
	out := map[string]string{}
	c := d.Spec.Template.Spec.Containers[0]
	for _, from := range c.EnvFrom {
		if from.ConfigMapRef == nil {
			continue
		}
		var cm corev1.ConfigMap
		find(t, objects, "ConfigMap", from.ConfigMapRef.Name).decode(t, &cm)
		if cm.Namespace != namespace {
			t.Errorf("%s is in %s", cm.Name, cm.Namespace)
		}
		for k, v := range cm.Data {
			out[k] = v
		}
	}
	for _, e := range c.Env {
		out[e.Name] = e.Value
	}
	return out
}

func TestSettings_TheBinaryKnowsAll(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha", "tls", "access", "client-limits", "tracing", "migration", "everything"} {
		objects := render(t, renders()[overlay])
		for name, namespace := range map[string]string{"router": "event-router", "edge": "sse-gateway"} {
			d := deploymentOf(t, objects, name)
			if args := d.Spec.Template.Spec.Containers[0].Args; len(args) != 1 || args[0] != name {
				t.Errorf("%s runs %v", name, args)
			}
			known := knownSettings(t, name)
			for k := range settingsOf(t, objects, namespace, d) {
				if !known[k] && k != "GOMEMLIMIT" {
					t.Errorf("%s/%s: eventbus does not know %s", overlay, name, k)
				}
			}
		}
	}
}

// An edge with all the streams that it may have must fit its memory, at 24 MiB and 37 KiB a
// stream (docs/reliability.md), and the scaler must act before.
func TestSettings_StreamsFitAnEdgesMemory(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha", "keda"} {
		objects := render(t, renders()[overlay])
		d := deploymentOf(t, objects, "edge")
		settings := settingsOf(t, objects, "sse-gateway", d)
		most, err := strconv.ParseInt(settings["MAX_CONNECTIONS"], 10, 64)
		if err != nil || most == 0 {
			t.Fatalf("%s: MAX_CONNECTIONS=%q", overlay, settings["MAX_CONNECTIONS"])
		}
		goal := resource.MustParse(strings.TrimSuffix(settings["GOMEMLIMIT"], "B"))
		limit := d.Spec.Template.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]
		if need := most*37<<10 + 24<<20; need > goal.Value()*3/4 || goal.Cmp(limit) >= 0 {
			t.Errorf("%s: %d streams need %d MiB; GOMEMLIMIT %s, limit %s", overlay, most, need>>20, goal.String(), limit.String())
		}
		if overlay != "keda" {
			continue
		}
		var so struct {
			Spec struct {
				Triggers []struct {
					Type, Name string
					Metadata   map[string]string
				}
			}
		}
		for _, o := range objects {
			if o.Kind == "ScaledObject" && o.Metadata.Name == "edge" {
				lenient(t, o, &so)
			}
		}
		if threshold, err := strconv.ParseInt(so.Spec.Triggers[0].Metadata["threshold"], 10, 64); err != nil || threshold*2 > most {
			t.Errorf("KEDA adds an edge at %d streams each, of at most %d (%v)", threshold, most, err)
		}
	}
}

// What the settings point at must be there, on that port.
func TestSettings_AddressesAreThoseOfOurServices(t *testing.T) {
	objects := render(t, renders()["prod"])
	router := settingsOf(t, objects, "event-router", deploymentOf(t, objects, "router"))
	for key, failover := range map[string]string{"REDIS_STREAMS_URL": "streams-redis", "REDIS_PUBSUB_URL": "pubsub-redis"} {
		u, err := url.Parse(router[key])
		if err != nil {
			t.Fatal(err)
		}
		find(t, objects, "RedisFailover", failover)
		// The operator names the sentinels' service rfs-<failover>, and every master mymaster.
		if u.Scheme != "redis+sentinel" || u.Host != "rfs-"+failover+".redis.svc:26379" || u.Path != "/mymaster/0" {
			t.Errorf("%s is %s", key, u)
		}
	}
	edge := settingsOf(t, objects, "sse-gateway", deploymentOf(t, objects, "edge"))
	if edge["ROUTER_ADDR"] != "dns:///router.event-router.svc:9090" {
		t.Errorf("ROUTER_ADDR is %s", edge["ROUTER_ADDR"])
	}
}

// Selectors and named ports are strings: nothing else checks that they meet.
func TestServices_SelectTheirPods(t *testing.T) {
	objects := render(t, renders()["everything"])
	all := workloads(t, objects)
	want := map[string]string{
		"event-router/router": "router", "event-router/router-admin": "router", "sse-gateway/edge": "edge", "sse-gateway/edge-admin": "edge",
		"redis/streams-redis-master": "streams-redis redis", "redis/pubsub-redis-master": "pubsub-redis redis",
	}
	for _, o := range objects {
		if o.Kind != "Service" {
			continue
		}
		var s corev1.Service
		o.decode(t, &s)
		var selected []string
		for _, w := range all {
			if w.namespace == s.Namespace && subset(s.Spec.Selector, w.labels) {
				selected = append(selected, w.name)
				if w.namespace != "redis" {
					checkTargets(t, s, w)
				}
			}
		}
		if got := strings.Join(selected, ", "); got != want[s.Namespace+"/"+s.Name] {
			t.Errorf("%s selects %q, want %q", o, got, want[s.Namespace+"/"+s.Name])
		}
	}
	for _, name := range []string{"streams-redis-master", "pubsub-redis-master"} {
		var s corev1.Service
		find(t, objects, "Service", name).decode(t, &s)
		if s.Spec.Selector["redisfailovers-role"] != "master" {
			t.Errorf("%s selects replicas, too", name)
		}
	}
	var router corev1.Service
	find(t, objects, "Service", "router").decode(t, &router)
	if router.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Error("the routers' service is not headless: gRPC would stay with one router")
	}
}

func subset(selector, set map[string]string) bool {
	for k, v := range selector {
		if set[k] != v {
			return false
		}
	}
	return true
}

func checkTargets(t *testing.T, s corev1.Service, w workload) {
	t.Helper()
	for _, p := range s.Spec.Ports {
		found := false
		for _, c := range w.spec.Containers {
			for _, cp := range c.Ports {
				found = found || p.TargetPort == intstr.FromString(cp.Name)
			}
		}
		if !found {
			t.Errorf("service %s: %s has no port %s", s.Name, w.name, p.TargetPort.String())
		}
	}
}

// Browsers: nothing may collect their frames, or end their streams.
func TestIngress_NeitherBuffersNorEndsStreams(t *testing.T) {
	var ingress networkingv1.Ingress
	find(t, render(t, renders()["prod"]), "Ingress", "edge").decode(t, &ingress)
	for k, want := range map[string]string{"proxy-buffering": "off", "proxy-http-version": "1.1", "proxy-read-timeout": "3600", "proxy-send-timeout": "3600"} {
		if got := ingress.Annotations["nginx.ingress.kubernetes.io/"+k]; got != want {
			t.Errorf("%s is %q, want %q", k, got, want)
		}
	}
	if len(ingress.Spec.TLS) == 0 {
		t.Error("no TLS: browsers speak HTTP/2 over TLS only")
	}
	istio := render(t, renders()["istio"])
	for _, o := range istio {
		if o.Kind != "DestinationRule" {
			continue
		}
		var rule struct {
			Spec struct {
				TrafficPolicy struct {
					ConnectionPool struct {
						TCP  struct{ MaxConnections int32 } `json:"tcp"`
						HTTP struct {
							HTTP1MaxPendingRequests int32 `json:"http1MaxPendingRequests"`
							HTTP2MaxRequests        int32 `json:"http2MaxRequests"`
						} `json:"http"`
					} `json:"connectionPool"`
				} `json:"trafficPolicy"`
			} `json:"spec"`
		}
		lenient(t, o, &rule)
		pool := rule.Spec.TrafficPolicy.ConnectionPool
		for name, n := range map[string]int32{"maxConnections": pool.TCP.MaxConnections, "http1MaxPendingRequests": pool.HTTP.HTTP1MaxPendingRequests, "http2MaxRequests": pool.HTTP.HTTP2MaxRequests} {
			if n < 1<<30 {
				t.Errorf("%s: %s is %d: a limit of browsers", o, name, n)
			}
		}
	}
}
