output "event_router_instance_id" {
  description = "Instance ID of the event router's node."
  value       = try(local.nodes["event-router"].instance_id, null)
}

output "event_router_public_ip" {
  description = "Public address of the event router's node."
  value       = try(local.nodes["event-router"].public_ip, null)
}

output "event_router_private_ip" {
  description = "Private address of the event router's node."
  value       = try(local.nodes["event-router"].private_ip, null)
}

output "redis_pubsub_instance_id" {
  description = "Instance ID of the pubsub Redis's node."
  value       = try(local.nodes["redis-pubsub"].instance_id, null)
}

output "redis_pubsub_public_ip" {
  description = "Public address of the pubsub Redis's node."
  value       = try(local.nodes["redis-pubsub"].public_ip, null)
}

output "redis_pubsub_private_ip" {
  description = "Private address of the pubsub Redis's node."
  value       = try(local.nodes["redis-pubsub"].private_ip, null)
}

output "nodes" {
  description = "Every node that runs: name, instance, addresses, type, cores, memory, tags, labels, taints."
  value       = local.nodes
}

output "node_roles" {
  description = "What each node is for, in a line."
  value = {
    for key, node in local.nodes : replace(key, "-", "_") =>
    "${node.labels.role}: ${node.labels.workload} (${node.instance_type}, ${node.memory_gb} GB), phase ${try(node.tags.Phase, "-")}"
  }
}

output "cluster_info" {
  description = "Size of the cluster, counted from its instances; phase is the latest that any of them is tagged with."
  value = {
    total_nodes     = length(local.nodes)
    total_vcpu      = sum(concat([0], values(local.nodes)[*].vcpu))
    total_memory_gb = sum(concat([0], values(local.nodes)[*].memory_gb))
    phase           = max(0, [for node in local.nodes : try(tonumber(node.tags.Phase), 0)]...)
  }
}

output "ansible_inventory" {
  description = "Inventory for deploy/ansible: terraform output -raw ansible_inventory >../../ansible/inventory/hosts.yml"
  value       = yamlencode(local.inventory)
}
