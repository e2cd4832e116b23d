# Kubernetes nodes by kubelet profile: labels and taints are in the user data, so a node
# has them from the moment it registers and nobody labels by hand.
locals {
  # Each node with what its profile gives where the node itself says nothing.
  nodes = {
    for key, node in var.nodes : key => {
      name             = coalesce(node.name, "k8s-${key}")
      instance_type    = node.instance_type
      subnet_id        = node.subnet_id
      root_volume_size = coalesce(node.root_volume_size, try(local.profiles[key].root_volume_size, 20))
      labels           = merge(try(local.profiles[key].labels, {}), node.labels)
      taints           = coalesce(node.taints, try(local.profiles[key].taints, []))
      tags             = merge(try(local.profiles[key].tags, {}), node.tags)
    }
  }

  kubelet_extra_args = {
    for key, node in local.nodes : key => join(" ", compact([
      "--node-labels=${join(",", [for label, value in node.labels : "${label}=${value}"])}",
      length(node.taints) == 0 ? "" : "--register-with-taints=${join(",", node.taints)}",
    ]))
  }

  user_data = {
    for key, node in local.nodes : key => templatefile("${path.module}/user-data/common.sh", {
      hostname           = node.name
      kubelet_extra_args = local.kubelet_extra_args[key]
    })
  }
}

module "node" {
  source   = "../ec2"
  for_each = local.nodes

  instance_name        = each.value.name
  instance_type        = each.value.instance_type
  ami_id               = var.ami_id
  subnet_id            = each.value.subnet_id
  security_group_ids   = var.security_group_ids
  key_name             = var.key_name
  iam_instance_profile = var.iam_instance_profile
  root_volume_size     = each.value.root_volume_size
  root_volume_type     = var.root_volume_type
  kms_key_id           = var.kms_key_id
  metadata_hop_limit   = var.metadata_hop_limit
  user_data            = local.user_data[each.key]
  tags                 = merge(var.tags, each.value.tags)
}
