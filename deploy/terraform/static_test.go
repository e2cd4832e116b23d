package terraform_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/gocty"
)

// profile is what a node of the event bus must have, as the cluster's owners wrote it down.
type profile struct {
	Disk   int
	Labels string // --node-labels
	Taints string // --register-with-taints
	Tags   map[string]string
}

func profiles() map[string]profile {
	return map[string]profile{
		"event-router": {
			20, "role=event-router,domain=event-router,service=event-router,workload=event-router,tier=integration,phase=5",
			"domain=event-router:NoSchedule",
			map[string]string{"Role": "worker", "Workload": "event-router", "Domain": "event-router", "Phase": "6"},
		},
		"redis-pubsub": {
			10, "role=infrastructure,domain=data,infra-type=redis-pubsub,redis-cluster=pubsub,workload=cache,tier=data,phase=1",
			"domain=data:NoSchedule",
			map[string]string{"Role": "worker", "Workload": "cache", "RedisCluster": "pubsub", "Phase": "6"},
		},
		"redis-streams": {
			10, "role=infrastructure,domain=data,infra-type=redis-streams,redis-cluster=streams,workload=cache,tier=data,phase=1",
			"domain=data:NoSchedule",
			map[string]string{"Role": "worker", "Workload": "cache", "RedisCluster": "streams", "Phase": "1"},
		},
		"sse-gateway": {
			20, "role=sse-gateway,domain=sse,service=sse-gateway,workload=sse,tier=integration,phase=5",
			"domain=sse:NoSchedule",
			map[string]string{"Role": "worker", "Workload": "sse-gateway", "Domain": "sse", "Phase": "5"},
		},
	}
}

// configuration returns every file in HCL below this directory.
func configuration(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && entry.Name() == ".terraform" {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".tf") || strings.HasSuffix(path, ".tftest.hcl") {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no configuration: %v", err)
	}
	return files
}

func TestConfiguration_IsFormatted(t *testing.T) {
	for _, file := range configuration(t) {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parse(t, file)
		if formatted := hclwrite.Format(source); !bytes.Equal(source, formatted) {
			t.Errorf("%s (terraform fmt -recursive):\n%s", file, cmp.Diff(string(source), string(formatted)))
		}
	}
}

func TestEventNodes_WriteLabelsAndTaintsIntoTheUserData(t *testing.T) {
	m := loadModule(t, "modules/event-nodes")
	nodes := map[string]cty.Value{}
	for key := range profiles() {
		nodes[key] = node(nil)
	}
	locals := m.scope(t, map[string]cty.Value{"nodes": m.variable(t, "nodes", cty.ObjectVal(nodes))}, "nodes", "user_data").Variables["local"]

	for key, want := range profiles() {
		t.Run(key, func(t *testing.T) {
			script := locals.GetAttr("user_data").GetAttr(key).AsString()
			check := exec.CommandContext(t.Context(), "bash", "-n")
			check.Stdin = strings.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("bash -n: %v\n%s", err, out)
			}
			if want := "hostnamectl set-hostname 'k8s-" + key + "'\n"; !strings.Contains(script, want) {
				t.Errorf("no %q in\n%s", want, script)
			}
			if diff := cmp.Diff([]string{sorted(want.Labels), want.Taints}, kubeletArguments(t, script)); diff != "" {
				t.Errorf("kubelet's labels and taints (-want +got):\n%s", diff)
			}

			made := locals.GetAttr("nodes").GetAttr(key)
			tags := map[string]string{}
			for name, value := range made.GetAttr("tags").AsValueMap() {
				tags[name] = value.AsString()
			}
			if diff := cmp.Diff(want.Tags, tags); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			if disk := number(t, made.GetAttr("root_volume_size")); disk != want.Disk {
				t.Errorf("disk of %d GB, want %d", disk, want.Disk)
			}
			if kind := made.GetAttr("instance_type").AsString(); kind != "t3.small" {
				t.Errorf("instance type %s, want t3.small", kind)
			}
		})
	}
}

// kubeletArguments returns the sorted labels and the taints that the user data hands to kubelet.
func kubeletArguments(t *testing.T, script string) []string {
	t.Helper()
	_, line, ok := strings.Cut(script, `echo 'KUBELET_EXTRA_ARGS="--node-labels=`)
	line, _, closed := strings.Cut(line, `"' >/etc/default/kubelet`)
	labels, taints, both := strings.Cut(line, " --register-with-taints=")
	if !ok || !closed || !both {
		t.Fatalf("no labels and taints for kubelet in\n%s", script)
	}
	return []string{sorted(labels), taints}
}

func sorted(list string) string {
	parts := strings.Split(list, ",")
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// node is a valid node with changes.
func node(changes map[string]cty.Value) cty.Value {
	attributes := map[string]cty.Value{"subnet_id": cty.StringVal("subnet-0000000c")}
	for name, value := range changes {
		attributes[name] = value
	}
	return cty.ObjectVal(attributes)
}

func number(t *testing.T, value cty.Value) int {
	t.Helper()
	var n int
	if err := gocty.FromCtyValue(value, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEventNodes_RefuseBadInput(t *testing.T) {
	m := loadModule(t, "modules/event-nodes")
	text := cty.StringVal
	list := func(value string) cty.Value { return cty.TupleVal([]cty.Value{text(value)}) }
	label := func(key, value string) cty.Value { return cty.ObjectVal(map[string]cty.Value{key: text(value)}) }

	for name, test := range map[string]struct {
		key     string
		changes map[string]cty.Value
		want    string // in the only message; "": accepted
	}{
		"nothing wrong":               {"event-router", nil, ""},
		"a taint of its own":          {"event-router", map[string]cty.Value{"taints": list("example.com/a=b:NoExecute")}, ""},
		"an unknown instance type":    {"event-router", map[string]cty.Value{"instance_type": text("t3.smal")}, "Unknown instance type: t3.smal (event-router)"},
		"a taint without effect":      {"event-router", map[string]cty.Value{"taints": list("domain=data")}, "A taint must read"},
		"a taint with unknown effect": {"event-router", map[string]cty.Value{"taints": list("domain=data:NoSchedul")}, "A taint must read"},
		"a taint with two values":     {"event-router", map[string]cty.Value{"taints": list("domain=a=b:NoSchedule")}, "A taint must read"},
		"an empty subnet":             {"event-router", map[string]cty.Value{"subnet_id": text("")}, "needs the ID of a subnet"},
		"no subnet":                   {"event-router", map[string]cty.Value{"subnet_id": cty.NullVal(cty.String)}, "needs the ID of a subnet"},
		"a subnet by name":            {"event-router", map[string]cty.Value{"subnet_id": text("public-a")}, "needs the ID of a subnet"},
		"neither profile nor labels":  {"event-ruoter", nil, "must bring labels"},
		"a label kubelet may not set": {"event-router", map[string]cty.Value{"labels": label("node-role.kubernetes.io/worker", "")}, "kubelet may set"},
		"a label with a quote":        {"event-router", map[string]cty.Value{"labels": label("role", `x"; reboot; "`)}, "kubelet may set"},
		"a label with a line break":   {"event-router", map[string]cty.Value{"labels": label("role", "x\nreboot")}, "kubelet may set"},
		"a name that is no host name": {"event-router", map[string]cty.Value{"name": text("k8s_router")}, "DNS labels"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := cty.ObjectVal(map[string]cty.Value{test.key: node(test.changes)})
			ctx := m.scope(t, map[string]cty.Value{"nodes": m.variable(t, "nodes", nodes)}, "profiles", "instance_types")
			got := m.refusals(t, "nodes", ctx)
			if test.want == "" && len(got) > 0 {
				t.Errorf("refused: %q", got)
			}
			if test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
				t.Errorf("refused with %q, want one message with %q", got, test.want)
			}
		})
	}
}

func TestInstance_StartsEncryptedPinnedAndWithoutTheOldMetadataService(t *testing.T) {
	m := loadModule(t, "modules/ec2")
	instance := m.of("resource", "aws_instance", "this")
	if len(instance) != 1 {
		t.Fatalf("%d instances in %s", len(instance), m.dir)
	}
	for path, want := range map[string]string{
		"metadata_options.http_endpoint":          `"enabled"`,
		"metadata_options.http_tokens":            `"required"`,
		"root_block_device.encrypted":             `true`,
		"root_block_device.delete_on_termination": `true`,
		"root_block_device.volume_type":           `var.root_volume_type`,
		"ami":                                     `var.ami_id`,
		"lifecycle.ignore_changes":                `[ami, user_data]`,
		"user_data_replace_on_change":             `false`,
	} {
		if got := source(t, instance[0].Body, path); got != want {
			t.Errorf("%s = %s, want %s", path, got, want)
		}
	}
	for _, dir := range []string{"modules/ec2", "modules/event-nodes"} {
		if kind := loadModule(t, dir).variable(t, "root_volume_type", cty.NilVal).AsString(); kind != "gp3" {
			t.Errorf("%s: root volumes are %s, want gp3", dir, kind)
		}
	}
}

// source returns the text of an attribute, such as block.attribute.
func source(t *testing.T, body *hclsyntax.Body, path string) string {
	t.Helper()
	name := path
	if block, attribute, nested := strings.Cut(path, "."); nested {
		name = attribute
		at := slices.IndexFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == block })
		if at < 0 {
			t.Fatalf("no block %s", block)
		}
		body = body.Blocks[at].Body
	}
	attribute, ok := body.Attributes[name]
	if !ok {
		t.Fatalf("no %s", path)
	}
	text, err := os.ReadFile(attribute.SrcRange.Filename)
	if err != nil {
		t.Fatal(err)
	}
	return string(attribute.Expr.Range().SliceBytes(text))
}

func TestConfiguration_NeverLooksImagesUp(t *testing.T) {
	for _, file := range configuration(t) {
		for _, block := range parse(t, file).Blocks {
			if block.Type == "data" {
				t.Errorf("%s: data %v: what AWS answers may differ tomorrow, and with it the plan", file, block.Labels)
			}
		}
	}
}

func TestConfiguration_OpensNothingToTheWorldByItself(t *testing.T) {
	for _, file := range configuration(t) {
		if strings.HasSuffix(file, ".tftest.hcl") {
			continue
		}
		for _, block := range parse(t, file).Blocks {
			if block.Type != "resource" || !strings.Contains(block.Labels[0], "ingress") {
				continue
			}
			for name := range block.Body.Attributes {
				if text := source(t, block.Body, name); strings.Contains(text, "0.0.0.0/") || strings.Contains(text, "::/") {
					t.Errorf("%s: %v: %s = %s", file, block.Labels, name, text)
				}
			}
		}
	}
}

func TestCluster_Has21NodesAnd46Cores(t *testing.T) {
	types := loadModule(t, "modules/event-nodes").scope(t, nil, "instance_types").Variables["local"].GetAttr("instance_types")
	cluster := loadModule(t, "cluster")

	nodes, cores := map[string]bool{}, 0
	for _, variable := range []string{"cluster_nodes", "event_nodes"} {
		for key, node := range cluster.variable(t, variable, cty.NilVal).AsValueMap() {
			nodes[key] = true
			cores += number(t, types.GetAttr(node.GetAttr("instance_type").AsString()).GetAttr("vcpu"))
		}
	}
	if len(nodes) != 21 || cores != 46 {
		t.Errorf("%d nodes with %d cores, want 21 with 46", len(nodes), cores)
	}
	for key := range profiles() {
		if !nodes[key] {
			t.Errorf("%s is missing", key)
		}
	}
	if got := cluster.variable(t, "region", cty.NilVal).AsString(); got != "ap-northeast-2" {
		t.Errorf("region %s", got)
	}
}
