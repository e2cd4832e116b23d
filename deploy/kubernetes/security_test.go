package kubernetes_test

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// mayBeRoot is the one container that is root: it hands a directory of the node to Redis.
const mayBeRoot = "own-data"

func TestSecurity_EveryContainerIsConfined(t *testing.T) {
	for name, k := range renders() {
		for _, w := range workloads(t, render(t, k)) {
			t.Run(name+"/"+w.name, func(t *testing.T) {
				pod := w.spec.SecurityContext
				if pod == nil {
					t.Fatal("no security context")
				}
				if pod.RunAsNonRoot == nil || !*pod.RunAsNonRoot || pod.RunAsUser == nil || *pod.RunAsUser == 0 {
					t.Error("may be root")
				}
				if pod.SeccompProfile == nil || pod.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
					t.Error("no seccomp profile")
				}
				if w.spec.HostNetwork || w.spec.HostPID || w.spec.HostIPC {
					t.Error("shares the host's namespaces")
				}
				for _, v := range w.spec.Volumes {
					if v.HostPath != nil {
						t.Errorf("volume %s is the host's", v.Name)
					}
				}
				for _, c := range slices.Concat(w.spec.InitContainers, w.spec.Containers) {
					checkContainer(t, c)
				}
			})
		}
	}
}

func checkContainer(t *testing.T, c corev1.Container) {
	t.Helper()
	s := c.SecurityContext
	if s == nil {
		t.Fatalf("%s: no security context", c.Name)
	}
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		t.Errorf("%s: may gain privileges", c.Name)
	}
	if s.Privileged != nil && *s.Privileged {
		t.Errorf("%s: privileged", c.Name)
	}
	if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Errorf("%s: writable root", c.Name)
	}
	if s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("%s: keeps capabilities", c.Name)
	}
	if s.RunAsNonRoot != nil && !*s.RunAsNonRoot && c.Name != mayBeRoot {
		t.Errorf("%s: may be root", c.Name)
	}
	if s.Capabilities != nil && len(s.Capabilities.Add) > 0 &&
		!(c.Name == mayBeRoot && slices.Equal(s.Capabilities.Add, []corev1.Capability{"CHOWN"})) {
		t.Errorf("%s: adds %v", c.Name, s.Capabilities.Add)
	}
	for _, r := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if request, limit := c.Resources.Requests[r], c.Resources.Limits[r]; request.IsZero() || limit.IsZero() {
			t.Errorf("%s: no request or no limit of %s", c.Name, r)
		}
	}
	if tag := c.Image[strings.LastIndex(c.Image, ":")+1:]; tag == c.Image || tag == "latest" {
		t.Errorf("%s: image %s has no fixed tag", c.Name, c.Image)
	}
}

func TestSecurity_NoPodHasATokenOfTheAPI(t *testing.T) {
	objects := render(t, renders()["everything"])
	closed := map[string]bool{}
	for _, o := range objects {
		if o.Kind == "ServiceAccount" {
			var sa corev1.ServiceAccount
			o.decode(t, &sa)
			closed[sa.Namespace+"/"+sa.Name] = sa.AutomountServiceAccountToken != nil && !*sa.AutomountServiceAccountToken
		}
	}
	for _, w := range workloads(t, objects) {
		if !closed[w.namespace+"/"+w.spec.ServiceAccountName] {
			t.Errorf("%s: service account %q mounts its token, or is not there", w.name, w.spec.ServiceAccountName)
		}
	}
}

func TestSecurity_NamespacesEnforceIt(t *testing.T) {
	objects := render(t, renders()["prod"])
	for name, want := range map[string]string{"event-router": "restricted", "sse-gateway": "restricted", "redis": "baseline"} {
		if got := find(t, objects, "Namespace", name).Metadata.Labels["pod-security.kubernetes.io/enforce"]; got != want {
			t.Errorf("%s enforces %q, want %q", name, got, want)
		}
	}
}

// A pod must outlive what it waits for before it is killed: preStop, then the drain.
func TestDrain_FitsTheGracePeriod(t *testing.T) {
	for _, overlay := range []string{"dev", "prod", "ha"} {
		objects := render(t, renders()[overlay])
		for name, config := range map[string]string{"router": "event-router", "edge": "sse-gateway"} {
			d := deploymentOf(t, objects, name)
			c := d.Spec.Template.Spec.Containers[0]
			wait := preStop(t, c)
			if wait < 5*time.Second {
				t.Errorf("%s waits only %s for others to notice", name, wait)
			}
			drain, err := time.ParseDuration(settingsOf(t, objects, config, d)["DRAIN_TIMEOUT"])
			if err != nil {
				t.Fatal(err)
			}
			grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
			if rest := grace - wait - drain; rest < 5*time.Second {
				t.Errorf("%s/%s: %s of preStop and %s of drain leave %s of %s", overlay, name, wait, drain, rest, grace)
			}
		}
	}
}

// preStop is how long the hook takes: a profile of that many seconds.
func preStop(t *testing.T, c corev1.Container) time.Duration {
	t.Helper()
	if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.HTTPGet == nil {
		t.Fatalf("%s: no preStop", c.Name)
	}
	u, err := url.Parse(c.Lifecycle.PreStop.HTTPGet.Path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Query().Get("seconds"))
	if err != nil || u.Path != "/debug/pprof/profile" {
		t.Fatalf("%s: preStop %s", c.Name, u)
	}
	return time.Duration(n) * time.Second
}

func TestProbes_AskTheAdminPort(t *testing.T) {
	objects := render(t, renders()["prod"])
	for name, port := range map[string]int32{"router": 9091, "edge": 8001} {
		c := deploymentOf(t, objects, name).Spec.Template.Spec.Containers[0]
		for what, probe := range map[string]*corev1.Probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != what {
				t.Fatalf("%s: no probe of %s", name, what)
			}
			for _, p := range c.Ports {
				if p.Name == probe.HTTPGet.Port.StrVal && p.ContainerPort != port {
					t.Errorf("%s: %s is asked at %d", name, what, p.ContainerPort)
				}
			}
		}
	}
}

func TestDisruption_OneAtATimeAndNeverAllDuringAnUpdate(t *testing.T) {
	for _, overlay := range []string{"prod", "ha"} {
		objects := render(t, renders()[overlay])
		for _, name := range []string{"router", "edge"} {
			d := deploymentOf(t, objects, name)
			var pdb policyv1.PodDisruptionBudget
			find(t, objects, "PodDisruptionBudget", name).decode(t, &pdb)
			if pdb.Namespace != d.Namespace || !selects(t, pdb.Spec.Selector, d.Spec.Template.Labels) || pdb.Spec.MaxUnavailable.IntValue() != 1 {
				t.Errorf("%s/%s: the budget does not hold for it", overlay, name)
			}
			if r := d.Spec.Strategy.RollingUpdate; r == nil || r.MaxUnavailable.IntValue() != 0 {
				t.Errorf("%s/%s: an update takes one away before there is another", overlay, name)
			}
		}
		if d := deploymentOf(t, objects, "router"); *d.Spec.Replicas < 2 {
			t.Errorf("%s: %d routers", overlay, *d.Spec.Replicas)
		}
		// Not in the Deployment: each apply would undo the autoscaler's number.
		if d := deploymentOf(t, objects, "edge"); d.Spec.Replicas != nil {
			t.Errorf("%s: the edge has replicas of its own", overlay)
		}
		var hpa autoscalingv2.HorizontalPodAutoscaler
		find(t, objects, "HorizontalPodAutoscaler", "edge").decode(t, &hpa)
		if *hpa.Spec.MinReplicas < 2 {
			t.Errorf("%s: %d edges", overlay, *hpa.Spec.MinReplicas)
		}
	}
}
