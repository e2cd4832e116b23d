package terraform_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// settings make the cluster small: what the counts need is in the tests with mocks.
const settings = `
public_subnet_ids    = ["subnet-0000000a", "subnet-0000000b", "subnet-0000000c"]
security_group_ids   = ["sg-0123456789abcdef0"]
key_name             = "cluster"
iam_instance_profile = "node"
ami_id               = "ami-0123456789abcdef0"
cluster_nodes = {
  master = {
    subnet        = 0
    instance_type = "t3.xlarge"
    labels        = { role = "control-plane", workload = "control-plane" }
    tags          = { Phase = "0" }
  }
  sse-gateway = { subnet = 1 }
}
`

// loopback is laid over the provider's block: another address, and no question to other services of AWS.
const loopback = `
provider "aws" {
  access_key                  = "loopback"
  secret_key                  = "loopback"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  endpoints {
    ec2 = "ENDPOINT"
  }
}
`

// EVENTBUS_EC2_ENDPOINT names another EC2 to run this against, which has to know the IDs in settings.
func TestTerraform_AddsTwoNodesToARunningClusterAndTakesThemAway(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t, "deploy/terraform: plan, targeted apply, refresh and destroy against an EC2 on loopback")
	if tf == nil {
		return
	}
	endpoint := os.Getenv("EVENTBUS_EC2_ENDPOINT")
	var ec2 *fakeEC2
	if endpoint == "" {
		ec2, endpoint = newEC2(t)
	}
	for name, text := range map[string]string{"terraform.tfvars": settings, "override.tf": strings.ReplaceAll(loopback, "ENDPOINT", endpoint)} {
		if err := os.WriteFile(filepath.Join(tf.root, "cluster", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tf.run(t, "cluster", "init", "-no-color", "-input=false")

	out := tf.run(t, "cluster", "apply", "-no-color", "-auto-approve", "-target=module.cluster_nodes")
	contains(t, out, "Apply complete! Resources: 2 added, 0 changed, 0 destroyed.")

	out = tf.run(t, "cluster", "plan", "-no-color", "-target=module.event_nodes", "-out=event-nodes.tfplan")
	contains(t, out, "Plan: 2 to add, 0 to change, 0 to destroy.")

	out = tf.run(t, "cluster", "apply", "-no-color", "event-nodes.tfplan")
	contains(t, out, "Apply complete! Resources: 2 added, 0 changed, 0 destroyed.")
	before := readOutputs(t, tf)
	if diff := cmp.Diff(clusterInfo{Nodes: 4, Cores: 10, Memory: 22, Phase: 6}, before.Info.Value); diff != "" {
		t.Errorf("cluster_info right after the targeted apply (-want +got):\n%s", diff)
	}
	if ec2 != nil {
		checkInstances(t, ec2, before)
	}

	out = tf.run(t, "cluster", "apply", "-no-color", "-auto-approve", "-refresh-only")
	contains(t, out, "Apply complete! Resources: 0 added, 0 changed, 0 destroyed.")
	if diff := cmp.Diff(before, readOutputs(t, tf)); diff != "" {
		t.Errorf("a refresh changed outputs, so they were wrong (-before +after):\n%s", diff)
	}

	// A plan of everything, with a newer image: what made -target necessary once.
	out = tf.run(t, "cluster", "plan", "-no-color", "-var=ami_id=ami-0fedcba9876543210")
	contains(t, out, "No changes. Your infrastructure matches the configuration.")

	out = tf.run(t, "cluster", "destroy", "-no-color", "-auto-approve")
	contains(t, out, "Destroy complete! Resources: 4 destroyed.")
	if ec2 != nil {
		if left := ec2.running(); len(left) > 0 {
			t.Errorf("still running: %v", left)
		}
	}
}

func contains(t *testing.T, out, want string) {
	t.Helper()
	if !strings.Contains(out, want) {
		t.Fatalf("no %q in:\n%s", want, out)
	}
}

type clusterInfo struct {
	Nodes  int `json:"total_nodes"`
	Cores  int `json:"total_vcpu"`
	Memory int `json:"total_memory_gb"`
	Phase  int `json:"phase"`
}

type text struct{ Value string }

type outputs struct {
	Info struct {
		Value clusterInfo
	} `json:"cluster_info"`
	RouterID      text `json:"event_router_instance_id"`
	RouterPublic  text `json:"event_router_public_ip"`
	RouterPrivate text `json:"event_router_private_ip"`
	PubsubID      text `json:"redis_pubsub_instance_id"`
	PubsubPublic  text `json:"redis_pubsub_public_ip"`
	PubsubPrivate text `json:"redis_pubsub_private_ip"`
	Inventory     text `json:"ansible_inventory"`
}

func readOutputs(t *testing.T, tf *terraform) outputs {
	t.Helper()
	var all outputs
	if err := json.Unmarshal([]byte(tf.run(t, "cluster", "output", "-json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// checkInstances compares what EC2 was asked for with profiles and outputs.
func checkInstances(t *testing.T, ec2 *fakeEC2, out outputs) {
	t.Helper()
	asked := map[string]instance{}
	for _, instance := range ec2.running() {
		asked[instance.Tags["Name"]] = instance
	}
	for key, test := range map[string]struct {
		subnet              string
		id, public, private text
	}{
		"event-router": {"subnet-0000000c", out.RouterID, out.RouterPublic, out.RouterPrivate},
		"redis-pubsub": {"subnet-0000000a", out.PubsubID, out.PubsubPublic, out.PubsubPrivate},
	} {
		got, want := asked["k8s-"+key], profiles()[key]
		if diff := cmp.Diff([]string{test.id.Value, test.public.Value, test.private.Value}, []string{got.ID, got.PublicIP(), got.PrivateIP}); diff != "" {
			t.Errorf("%s: outputs (-) and EC2 (+) differ:\n%s", key, diff)
		}
		if diff := cmp.Diff([]string{sorted(want.Labels), want.Taints}, kubeletArguments(t, got.UserData(t))); diff != "" {
			t.Errorf("%s: labels and taints in the user data (-want +got):\n%s", key, diff)
		}
		tags := map[string]string{"Name": "k8s-" + key, "Project": "eventbus", "ManagedBy": "Terraform"}
		for name, value := range want.Tags {
			tags[name] = value
		}
		if diff := cmp.Diff(tags, got.Tags); diff != "" {
			t.Errorf("%s: tags (-want +got):\n%s", key, diff)
		}
		for parameter, want := range map[string]string{
			"InstanceType":               "t3.small",
			"SubnetId":                   test.subnet,
			"SecurityGroupId.1":          "sg-0123456789abcdef0",
			"ImageId":                    "ami-0123456789abcdef0",
			"KeyName":                    "cluster",
			"IamInstanceProfile.Name":    "node",
			"MetadataOptions.HttpTokens": "required",
			"MetadataOptions.HttpPutResponseHopLimit": "1",
			"BlockDeviceMapping.1.Ebs.Encrypted":      "true",
			"BlockDeviceMapping.1.Ebs.VolumeType":     "gp3",
			"BlockDeviceMapping.1.Ebs.VolumeSize":     map[bool]string{true: "20", false: "10"}[want.Disk == 20],
		} {
			if value := got.Request.Get(parameter); value != want {
				t.Errorf("%s: asked for %s=%q, want %q", key, parameter, value, want)
			}
		}
	}

	var inventory struct {
		All struct {
			Children map[string]struct {
				Children map[string]struct {
					Hosts map[string]struct {
						Address string `json:"ansible_host"`
					}
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(out.Inventory.Value), &inventory); err != nil {
		t.Fatal(err)
	}
	group := inventory.All.Children["new_nodes"].Children["redis_pubsub"]
	if got := group.Hosts["k8s-redis-pubsub"].Address; got != out.PubsubPublic.Value {
		t.Errorf("inventory has %q for k8s-redis-pubsub, want %q", got, out.PubsubPublic.Value)
	}
}
