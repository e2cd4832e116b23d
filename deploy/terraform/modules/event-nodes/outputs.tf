output "nodes" {
  description = "The instances that are there, by the keys of var.nodes, with what they are for and how large."
  value = {
    for key, node in module.node : key => {
      name        = local.nodes[key].name
      instance_id = node.instance_id
      public_ip   = node.public_ip
      private_ip  = node.private_ip

      instance_type = node.instance_type
      vcpu          = local.instance_types[node.instance_type].vcpu
      memory_gb     = local.instance_types[node.instance_type].memory_gb
      tags          = node.tags

      labels = local.nodes[key].labels
      taints = local.nodes[key].taints
    } if node.exists
  }
}

output "kubelet_extra_args" {
  description = "kubelet's arguments by node, as the user data writes them."
  value       = local.kubelet_extra_args
}
