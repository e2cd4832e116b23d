# The cluster grows from 19 nodes to 21. Runs that apply share a state, as an operator's runs
# do. What a plan may touch no assertion can say: the Go test (mock_test.go) counts it.
mock_provider "aws" {
  mock_resource "aws_instance" {
    defaults = {
      id         = "i-0123456789abcdef0"
      public_ip  = "198.51.100.10"
      private_ip = "10.0.1.10"
    }
  }
}

variables {
  public_subnet_ids  = ["subnet-0000000a", "subnet-0000000b", "subnet-0000000c"]
  security_group_ids = ["sg-0123456789abcdef0"]
  key_name           = "cluster"
  ami_id             = "ami-0123456789abcdef0"
}

run "the_cluster_before" {
  plan_options {
    target = [module.cluster_nodes]
  }
}

run "the_plan_adds_two_nodes" {
  command = plan

  plan_options {
    target = [module.event_nodes]
  }

  assert {
    condition     = toset(keys(module.event_nodes.nodes)) == toset(["event-router", "redis-pubsub"])
    error_message = join(", ", keys(module.event_nodes.nodes))
  }
  assert {
    condition     = output.cluster_info.total_nodes == 21 && output.cluster_info.total_vcpu == 46
    error_message = "The plan's outputs do not show what will be: ${jsonencode(output.cluster_info)}"
  }
}

run "one_node_alone" {
  plan_options {
    target = [module.event_nodes.module.node["event-router"]]
  }

  assert {
    condition     = output.cluster_info == { total_nodes = 20, total_vcpu = 44, total_memory_gb = 94, phase = 6 }
    error_message = jsonencode(output.cluster_info)
  }
  assert {
    condition     = output.event_router_instance_id == "i-0123456789abcdef0" && output.redis_pubsub_instance_id == null
    error_message = "The outputs do not tell the node that is there from the one that is not."
  }
  assert {
    condition     = keys(yamldecode(output.ansible_inventory).all.children.new_nodes.children) == ["event_router"]
    error_message = output.ansible_inventory
  }
}

run "the_targeted_apply" {
  plan_options {
    target = [module.event_nodes]
  }

  assert {
    condition     = output.cluster_info == { total_nodes = 21, total_vcpu = 46, total_memory_gb = 96, phase = 6 }
    error_message = jsonencode(output.cluster_info)
  }
  assert {
    condition = alltrue([
      output.event_router_instance_id == "i-0123456789abcdef0", output.redis_pubsub_instance_id == "i-0123456789abcdef0",
      output.event_router_public_ip == "198.51.100.10", output.redis_pubsub_public_ip == "198.51.100.10",
      output.event_router_private_ip == "10.0.1.10", output.redis_pubsub_private_ip == "10.0.1.10",
    ])
    error_message = jsonencode(output.nodes)
  }
  assert {
    condition     = length(output.node_roles) == 21 && output.node_roles.redis_pubsub == "infrastructure: cache (t3.small, 2 GB), phase 6"
    error_message = jsonencode(output.node_roles)
  }
}

run "nothing_is_left_to_do" {
  command = plan

  assert {
    condition     = output.cluster_info.total_nodes == 21
    error_message = jsonencode(output.cluster_info)
  }
}

# A new pin and other labels are for new nodes.
run "a_new_image_touches_no_running_node" {
  command = plan

  variables {
    ami_id = "ami-0fedcba9876543210"
    event_nodes = {
      event-router = { subnet = 2, labels = { extra = "1" } }
      redis-pubsub = { subnet = 0 }
    }
  }

  assert {
    condition     = output.nodes["event-router"].labels.extra == "1"
    error_message = "Ansible is not told of the new label."
  }
}

run "the_inventory_names_groups_addresses_and_labels" {
  command = plan

  assert {
    condition = yamldecode(output.ansible_inventory).all.children.new_nodes.children.event_router.hosts.k8s-event-router == {
      ansible_host = "198.51.100.10"
      private_ip   = "10.0.1.10"
      node_labels = {
        role = "event-router", domain = "event-router", service = "event-router", workload = "event-router", tier = "integration", phase = "5"
      }
      node_taints = ["domain=event-router:NoSchedule"]
    }
    error_message = output.ansible_inventory
  }
  assert {
    condition     = keys(yamldecode(output.ansible_inventory).all.children.masters.hosts) == ["k8s-master"]
    error_message = output.ansible_inventory
  }
  assert {
    condition     = length(yamldecode(output.ansible_inventory).all.children.cluster_nodes.children) == 18
    error_message = output.ansible_inventory
  }
}

run "a_subnet_that_is_not_there_is_refused" {
  command = plan

  variables {
    public_subnet_ids = ["subnet-0000000a", "subnet-0000000b"]
    cluster_nodes     = {}
  }

  expect_failures = [var.event_nodes]
}

run "a_subnet_that_is_not_there_is_refused_for_the_cluster_too" {
  command = plan

  variables {
    public_subnet_ids = ["subnet-0000000a", "subnet-0000000b"]
    event_nodes       = {}
  }

  expect_failures = [var.cluster_nodes]
}

run "a_node_in_both_maps_is_refused" {
  command = plan

  variables {
    event_nodes = { sse-gateway = { subnet = 1 } }
  }

  expect_failures = [var.cluster_nodes]
}
