# The inventory names each node's group after its key (event_router, redis_pubsub, …), so that
# `-l event_router` works, and hands labels and taints on: Ansible checks what Terraform set.
locals {
  hosts = {
    for key, node in local.nodes : node.name => {
      ansible_host = var.ansible_address == "public" ? node.public_ip : node.private_ip
      private_ip   = node.private_ip
      node_labels  = node.labels
      node_taints  = node.taints
    }
  }

  control_plane = merge(
    {
      for node in values(module.cluster_nodes.nodes) : node.name => local.hosts[node.name]
      if try(node.labels.role, "") == "control-plane"
    },
    var.control_plane == null ? {} : { (var.control_plane.name) = { ansible_host = var.control_plane.address } },
  )

  inventory = {
    all = {
      vars = { ansible_user = var.ssh_user }
      children = {
        masters = { hosts = local.control_plane }
        # The playbooks touch these only.
        new_nodes = {
          children = {
            for key, node in module.event_nodes.nodes : replace(key, "-", "_") => {
              hosts = { (node.name) = local.hosts[node.name] }
            }
          }
        }
        cluster_nodes = {
          children = {
            for key, node in module.cluster_nodes.nodes : replace(key, "-", "_") => {
              hosts = { (node.name) = local.hosts[node.name] }
            } if !contains(keys(local.control_plane), node.name)
          }
        }
      }
    }
  }
}
