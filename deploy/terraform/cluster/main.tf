# The nodes of the cluster, in two steps: those it had (cluster_nodes) and those that eventbus
# brings (event_nodes). Network, security group and key are inputs: ../network makes them in
# an empty account.
module "cluster_nodes" {
  source = "../modules/event-nodes"

  nodes = {
    for key, node in var.cluster_nodes : key => merge(node, {
      subnet_id = var.public_subnet_ids[node.subnet]
    })
  }
  ami_id               = var.ami_id
  security_group_ids   = var.security_group_ids
  key_name             = var.key_name
  iam_instance_profile = var.iam_instance_profile
  kms_key_id           = var.kms_key_id
  metadata_hop_limit   = var.metadata_hop_limit
}

module "event_nodes" {
  source = "../modules/event-nodes"

  nodes = {
    for key, node in var.event_nodes : key => merge(node, {
      subnet_id = var.public_subnet_ids[node.subnet]
    })
  }
  ami_id               = var.ami_id
  security_group_ids   = var.security_group_ids
  key_name             = var.key_name
  iam_instance_profile = var.iam_instance_profile
  kms_key_id           = var.kms_key_id
  metadata_hop_limit   = var.metadata_hop_limit

  # There is a cluster before nodes are added to it. It also puts every instance among what
  # `-target=module.event_nodes` looks at, and only so does Terraform bring outputs that
  # count all nodes up to date in a targeted apply.
  depends_on = [module.cluster_nodes]
}

locals {
  nodes = merge(module.cluster_nodes.nodes, module.event_nodes.nodes)
}
