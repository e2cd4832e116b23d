# What the module makes of its nodes, and what it refuses. The provider is a mock: nothing is
# asked of AWS.
mock_provider "aws" {}

variables {
  ami_id             = "ami-0123456789abcdef0"
  security_group_ids = ["sg-0123456789abcdef0"]
  key_name           = "cluster"
  nodes = {
    event-router = { subnet_id = "subnet-0000000c" }
    redis-pubsub = { subnet_id = "subnet-0000000a" }
  }
}

run "labels_and_taints_are_in_the_user_data" {
  command = plan

  variables {
    nodes = {
      event-router  = { subnet_id = "subnet-0000000c" }
      redis-pubsub  = { subnet_id = "subnet-0000000a" }
      redis-streams = { subnet_id = "subnet-0000000b" }
      sse-gateway   = { subnet_id = "subnet-0000000b" }
    }
  }

  assert {
    condition     = strcontains(local.user_data["event-router"], "KUBELET_EXTRA_ARGS=\"--node-labels=domain=event-router,phase=5,role=event-router,service=event-router,tier=integration,workload=event-router --register-with-taints=domain=event-router:NoSchedule\"")
    error_message = local.user_data["event-router"]
  }
  assert {
    condition     = strcontains(local.user_data["redis-pubsub"], "KUBELET_EXTRA_ARGS=\"--node-labels=domain=data,infra-type=redis-pubsub,phase=1,redis-cluster=pubsub,role=infrastructure,tier=data,workload=cache --register-with-taints=domain=data:NoSchedule\"")
    error_message = local.user_data["redis-pubsub"]
  }
  assert {
    condition     = strcontains(local.user_data["redis-streams"], "KUBELET_EXTRA_ARGS=\"--node-labels=domain=data,infra-type=redis-streams,phase=1,redis-cluster=streams,role=infrastructure,tier=data,workload=cache --register-with-taints=domain=data:NoSchedule\"")
    error_message = local.user_data["redis-streams"]
  }
  assert {
    condition     = strcontains(local.user_data["sse-gateway"], "KUBELET_EXTRA_ARGS=\"--node-labels=domain=sse,phase=5,role=sse-gateway,service=sse-gateway,tier=integration,workload=sse --register-with-taints=domain=sse:NoSchedule\"")
    error_message = local.user_data["sse-gateway"]
  }
  assert {
    condition     = alltrue([for key, script in local.user_data : strcontains(script, "hostnamectl set-hostname 'k8s-${key}'")])
    error_message = "A node's host name is not k8s-KEY."
  }
}

run "profiles_bring_disks_and_tags" {
  command = plan

  assert {
    condition     = local.nodes["event-router"].root_volume_size == 20 && local.nodes["redis-pubsub"].root_volume_size == 10
    error_message = "Disks differ from the profiles'."
  }
  assert {
    condition     = tomap(local.nodes["event-router"].tags) == tomap({ Role = "worker", Workload = "event-router", Domain = "event-router", Phase = "6" })
    error_message = "Tags of event-router differ."
  }
  assert {
    condition     = tomap(local.nodes["redis-pubsub"].tags) == tomap({ Role = "worker", Workload = "cache", RedisCluster = "pubsub", Phase = "6" })
    error_message = "Tags of redis-pubsub differ."
  }
}

run "outputs_tell_size_and_place" {
  assert {
    condition     = output.nodes["event-router"].vcpu == 2 && output.nodes["event-router"].memory_gb == 2
    error_message = "A t3.small has 2 cores and 2 GB."
  }
  assert {
    condition     = alltrue([for node in output.nodes : startswith(node.name, "k8s-") && node.instance_id != null && node.private_ip != null])
    error_message = "An output lacks name, instance or address."
  }
}

run "a_node_may_say_more_than_its_profile" {
  command = plan

  variables {
    nodes = {
      redis-pubsub = {
        subnet_id        = "subnet-0000000a"
        name             = "k8s-redis-pubsub-2"
        instance_type    = "t3.medium"
        root_volume_size = 30
        labels           = { zone = "a" }
        taints           = []
        tags             = { Phase = "7" }
      }
      db = { subnet_id = "subnet-0000000b", labels = { role = "db" } }
    }
  }

  assert {
    condition     = output.kubelet_extra_args["redis-pubsub"] == "--node-labels=domain=data,infra-type=redis-pubsub,phase=1,redis-cluster=pubsub,role=infrastructure,tier=data,workload=cache,zone=a"
    error_message = output.kubelet_extra_args["redis-pubsub"]
  }
  assert {
    condition     = output.kubelet_extra_args["db"] == "--node-labels=role=db"
    error_message = output.kubelet_extra_args["db"]
  }
  assert {
    condition     = strcontains(local.user_data["redis-pubsub"], "set-hostname 'k8s-redis-pubsub-2'") && local.nodes["redis-pubsub"].tags.Phase == "7"
    error_message = "Name or tag of the node was not taken."
  }
}

run "an_unknown_instance_type_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", instance_type = "t3.smal" } }
  }

  expect_failures = [var.nodes]
}

run "a_taint_without_effect_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", taints = ["domain=event-router"] } }
  }

  expect_failures = [var.nodes]
}

run "a_taint_with_an_unknown_effect_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", taints = ["domain=event-router:NoSchedul"] } }
  }

  expect_failures = [var.nodes]
}

run "a_taint_without_key_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", taints = ["=event-router:NoSchedule"] } }
  }

  expect_failures = [var.nodes]
}

run "an_empty_subnet_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "" } }
  }

  expect_failures = [var.nodes]
}

run "a_missing_subnet_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = null } }
  }

  expect_failures = [var.nodes]
}

run "a_node_without_profile_and_labels_is_refused" {
  command = plan

  variables {
    nodes = { event-ruoter = { subnet_id = "subnet-0000000c" } }
  }

  expect_failures = [var.nodes]
}

run "a_label_that_kubelet_may_not_set_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", labels = { "node-role.kubernetes.io/worker" = "" } } }
  }

  expect_failures = [var.nodes]
}

run "a_label_that_breaks_out_of_the_script_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", labels = { role = "x\"; reboot; \"" } } }
  }

  expect_failures = [var.nodes]
}

run "a_name_that_is_no_host_name_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", name = "K8S_Router" } }
  }

  expect_failures = [var.nodes]
}

run "two_nodes_of_one_name_is_refused" {
  command = plan

  variables {
    nodes = { event-router = { subnet_id = "subnet-0000000c", name = "a" }, redis-pubsub = { subnet_id = "subnet-0000000c", name = "a" } }
  }

  expect_failures = [var.nodes]
}

run "an_image_by_name_is_refused" {
  command = plan

  variables {
    ami_id = "ubuntu-22.04"
  }

  expect_failures = [var.ami_id]
}

run "no_security_group_is_refused" {
  command = plan

  variables {
    security_group_ids = []
  }

  expect_failures = [var.security_group_ids]
}

run "no_key_is_refused" {
  command = plan

  variables {
    key_name = ""
  }

  expect_failures = [var.key_name]
}
