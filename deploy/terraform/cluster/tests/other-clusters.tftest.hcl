# A cluster whose nodes another configuration owns: the new nodes alone, and an inventory
# that knows the control plane from a variable.
mock_provider "aws" {
  mock_resource "aws_instance" {
    defaults = {
      public_ip  = "198.51.100.10"
      private_ip = "10.0.1.10"
    }
  }
}

variables {
  public_subnet_ids  = ["subnet-0000000a"]
  security_group_ids = ["sg-0123456789abcdef0"]
  key_name           = "cluster"
  ami_id             = "ami-0123456789abcdef0"
  cluster_nodes      = {}
  control_plane      = { name = "cp-1", address = "10.0.1.21" }
  ansible_address    = "private"
  event_nodes = {
    event-router = { subnet = 0 }
    redis-pubsub = { subnet = 0, instance_type = "t3.medium" }
  }
}

run "two_nodes_and_nothing_else" {
  assert {
    condition     = output.cluster_info == { total_nodes = 2, total_vcpu = 4, total_memory_gb = 6, phase = 6 }
    error_message = jsonencode(output.cluster_info)
  }
  assert {
    condition     = yamldecode(output.ansible_inventory).all.children.masters.hosts == { cp-1 = { ansible_host = "10.0.1.21" } }
    error_message = output.ansible_inventory
  }
  assert {
    condition     = yamldecode(output.ansible_inventory).all.children.new_nodes.children.redis_pubsub.hosts.k8s-redis-pubsub.ansible_host == "10.0.1.10"
    error_message = output.ansible_inventory
  }
}
