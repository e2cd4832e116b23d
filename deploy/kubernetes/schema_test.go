package kubernetes_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// crdModules are the releases whose CRDs judge our objects, as Go modules: their files are
// not Go, but a module has all of its repository's.
var crdModules = []struct{ module, file string }{
	{"github.com/spotahome/redis-operator@v1.2.4", "manifests/databases.spotahome.com_redisfailovers.yaml"},
	{"github.com/kedacore/keda/v2@v2.20.2", "config/crd/bases/keda.sh_scaledobjects.yaml"},
	{"github.com/kedacore/keda/v2@v2.20.2", "config/crd/bases/keda.sh_triggerauthentications.yaml"},
	{"istio.io/api@v1.31.1", "kubernetes/customresourcedefinitions.gen.yaml"},
	{"sigs.k8s.io/gateway-api@v1.4.1", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"},
	{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"},
	{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"},
	{"github.com/argoproj/argo-cd/v3@v3.5.7", "manifests/crds/application-crd.yaml"},
	{"github.com/argoproj/argo-cd/v3@v3.5.7", "manifests/crds/appproject-crd.yaml"},
}

// coreTypes are the built-in kinds that we use.
func coreTypes() map[string]func() any {
	return map[string]func() any{
		"v1 Namespace":                           func() any { return new(corev1.Namespace) },
		"v1 ServiceAccount":                      func() any { return new(corev1.ServiceAccount) },
		"v1 ConfigMap":                           func() any { return new(corev1.ConfigMap) },
		"v1 Service":                             func() any { return new(corev1.Service) },
		"v1 PersistentVolume":                    func() any { return new(corev1.PersistentVolume) },
		"apps/v1 Deployment":                     func() any { return new(appsv1.Deployment) },
		"policy/v1 PodDisruptionBudget":          func() any { return new(policyv1.PodDisruptionBudget) },
		"autoscaling/v2 HorizontalPodAutoscaler": func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
		"networking.k8s.io/v1 Ingress":           func() any { return new(networkingv1.Ingress) },
		"networking.k8s.io/v1 NetworkPolicy":     func() any { return new(networkingv1.NetworkPolicy) },
		"storage.k8s.io/v1 StorageClass":         func() any { return new(storagev1.StorageClass) },
	}
}

func TestSchema_EveryObjectIsAccepted(t *testing.T) {
	crds := loadCRDs(t)
	core := coreTypes()
	for name, k := range renders() {
		t.Run(name, func(t *testing.T) {
			for _, o := range render(t, k) {
				key := o.APIVersion + " " + o.Kind
				switch {
				case core[key] != nil:
					o.decode(t, core[key]())
				case crds[key] != nil:
					for _, err := range crds[key].check(t, o.yaml) {
						t.Errorf("%s: %s", o, err)
					}
				default:
					t.Errorf("%s: no schema for %s", o, key)
				}
			}
		})
	}
}

// The check above must be able to fail.
func TestSchema_MistakesAreRefused(t *testing.T) {
	crds := loadCRDs(t)
	for name, test := range map[string]struct{ key, yaml, want string }{
		"unknown field": {"databases.spotahome.com/v1 RedisFailover",
			"apiVersion: databases.spotahome.com/v1\nkind: RedisFailover\nmetadata: {name: x}\nspec: {redis: {replica: 3}}", "spec.redis.replica"},
		"wrong type": {"keda.sh/v1alpha1 ScaledObject",
			"apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\nspec: {scaleTargetRef: {name: x}, minReplicaCount: two, triggers: [{type: cpu, metadata: {value: \"1\"}}]}", "minReplicaCount"},
		"rule of the CRD": {"gateway.networking.k8s.io/v1 HTTPRoute",
			"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x}\nspec: {rules: [{timeouts: {request: 1s, backendRequest: 5s}}]}", "backendRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			got := fmt.Sprint(crds[test.key].check(t, []byte(test.yaml)))
			if !strings.Contains(got, test.want) {
				t.Errorf("%q says nothing of %s", got, test.want)
			}
		})
	}
	deployment := object{yaml: []byte("apiVersion: apps/v1\nkind: Deployment\nspec: {replica: 3}")}
	if err := yaml.UnmarshalStrict(deployment.yaml, new(appsv1.Deployment)); err == nil {
		t.Error("an unknown field of a Deployment is taken")
	}
}

// crdSchema judges objects as the API server does with a CRD.
type crdSchema struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
}

func (s *crdSchema) check(t *testing.T, raw []byte) []string {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	var u map[string]any
	if err := utiljson.Unmarshal(asJSON, &u); err != nil { // whole numbers as int64, unlike encoding/json
		t.Fatal(err)
	}
	var out []string
	defaulting.Default(u, s.structural)
	for _, err := range validation.ValidateCustomResource(nil, u, s.validator) {
		out = append(out, err.Error())
	}
	errs, _ := s.rules.Validate(context.Background(), field.NewPath(""), s.structural, u, nil, celconfig.RuntimeCELCostBudget)
	for _, err := range errs {
		out = append(out, err.Error())
	}
	for _, path := range pruning.PruneWithOptions(u, s.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		out = append(out, "unknown field "+path)
	}
	return out
}

// loadCRDs reads the CRDs by "group/version Kind".
func loadCRDs(t *testing.T) map[string]*crdSchema {
	t.Helper()
	out := map[string]*crdSchema{}
	for _, m := range crdModules {
		raw, err := os.ReadFile(filepath.Join(moduleDir(t, m.module), m.file))
		if err != nil {
			t.Fatal(err)
		}
		docs := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 1<<20)
		for {
			var crd apiextensionsv1.CustomResourceDefinition
			err := docs.Decode(&crd)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", m.file, err)
			}
			for _, v := range crd.Spec.Versions {
				out[crd.Spec.Group+"/"+v.Name+" "+crd.Spec.Names.Kind] = newSchema(t, v.Schema)
			}
		}
	}
	return out
}

func newSchema(t *testing.T, v *apiextensionsv1.CustomResourceValidation) *crdSchema {
	t.Helper()
	var internal apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v, &internal, nil); err != nil {
		t.Fatal(err)
	}
	structural, err := structuralschema.NewStructural(internal.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return &crdSchema{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
}

var moduleDirs sync.Map // module@version → func() (string, error)

// moduleDir downloads a module, once, beside this module's requirements.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	f, _ := moduleDirs.LoadOrStore(module, sync.OnceValues(func() (string, error) {
		cmd := exec.Command("go", "mod", "download", "-json", module)
		cmd.Dir = os.TempDir()
		raw, err := cmd.Output()
		var m struct{ Dir, Error string }
		if json.Unmarshal(raw, &m) != nil || m.Dir == "" {
			return "", fmt.Errorf("go mod download %s: %w: %s", module, err, m.Error)
		}
		return m.Dir, nil
	}))
	dir, err := f.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
