variable "nodes" {
  description = <<-EOT
    The nodes to create. A key that names a profile (event-router, redis-pubsub, redis-streams,
    sse-gateway) brings its labels, taints, tags and disk; any other key has to bring labels.

    - subnet_id: where the node stands, and by it the availability zone
    - name: host name and Name tag; default k8s-KEY
    - instance_type: default t3.small
    - root_volume_size: GB; default the profile's, else 20
    - labels: added to the profile's
    - taints: KEY=VALUE:EFFECT each, in place of the profile's; [] for none
    - tags: added to the profile's
  EOT

  type = map(object({
    subnet_id        = string
    name             = optional(string)
    instance_type    = optional(string, "t3.small")
    root_volume_size = optional(number)
    labels           = optional(map(string), {})
    taints           = optional(list(string))
    tags             = optional(map(string), {})
  }))
  nullable = false

  validation {
    condition = alltrue([
      for key, node in var.nodes : can(regex("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", key))
    ])
    error_message = "Keys of nodes must be DNS labels (a-z, 0-9 and -)."
  }

  validation {
    condition = alltrue([
      for node in values(var.nodes) : can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", coalesce(node.name, "x")))
    ])
    error_message = "Names of nodes must be DNS labels (a-z, 0-9 and -, at most 63 characters)."
  }

  validation {
    condition = length(distinct([
      for key, node in var.nodes : coalesce(node.name, "k8s-${key}")
    ])) == length(var.nodes)
    error_message = "Two nodes have the same name."
  }

  validation {
    condition = alltrue([
      for node in values(var.nodes) : contains(keys(local.instance_types), node.instance_type)
    ])
    error_message = "Unknown instance type: ${join(", ", [
      for key, node in var.nodes : "${node.instance_type} (${key})" if !contains(keys(local.instance_types), node.instance_type)
    ])}. Known: ${join(", ", keys(local.instance_types))}."
  }

  validation {
    condition = alltrue([
      for node in values(var.nodes) : can(regex("^subnet-[0-9a-f]{8,17}$", node.subnet_id))
    ])
    error_message = "Each node needs the ID of a subnet, such as subnet-0123456789abcdef0."
  }

  validation {
    condition = alltrue([
      for key, node in var.nodes : contains(keys(local.profiles), key) || length(node.labels) > 0
    ])
    error_message = "A node whose key is no profile (${join(", ", keys(local.profiles))}) must bring labels."
  }

  # kubelet refuses to start with other keys under kubernetes.io, so that no node gives
  # itself a role: kubeadm sets node-role.kubernetes.io/control-plane.
  validation {
    condition = alltrue(flatten([
      for node in values(var.nodes) : [
        for label, value in node.labels :
        can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", label)) &&
        !can(regex("(^|\\.)(kubernetes|k8s)\\.io/", label)) &&
        can(regex("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$", value))
      ]
    ]))
    error_message = "A label is not one that kubelet may set: PREFIX/NAME=VALUE, at most 63 characters each, and no key under kubernetes.io or k8s.io."
  }

  validation {
    condition = alltrue(flatten([
      for node in values(var.nodes) : [
        for taint in coalesce(node.taints, []) :
        can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?=([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?:(NoSchedule|PreferNoSchedule|NoExecute)$", taint))
      ]
    ]))
    error_message = "A taint must read KEY=VALUE:EFFECT, with NoSchedule, PreferNoSchedule or NoExecute as effect."
  }
}

variable "ami_id" {
  description = "Image of all nodes (Ubuntu 22.04, amd64), pinned by its ID: see the README for how to find one."
  type        = string

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id must be the ID of one image, such as ami-0123456789abcdef0."
  }
}

variable "security_group_ids" {
  description = "Security groups of the nodes: the cluster's, which lets nodes talk to each other."
  type        = list(string)

  validation {
    condition = length(var.security_group_ids) > 0 && alltrue([
      for id in var.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))
    ])
    error_message = "security_group_ids must hold at least one ID, such as sg-0123456789abcdef0."
  }
}

variable "key_name" {
  description = "EC2 key pair for SSH, which Ansible uses."
  type        = string

  validation {
    condition     = length(var.key_name) > 0
    error_message = "key_name must name an EC2 key pair: without one Ansible cannot reach the nodes."
  }
}

variable "iam_instance_profile" {
  description = "Name of the nodes' instance profile; null: none."
  type        = string
  default     = null
}

variable "root_volume_type" {
  description = "Type of the root volumes: gp3 or gp2."
  type        = string
  default     = "gp3"
}

variable "kms_key_id" {
  description = "ARN of the key that encrypts the root volumes; null: the account's default key for EBS."
  type        = string
  default     = null
}

variable "metadata_hop_limit" {
  description = "1: instance metadata for the node only; 2: for its pods too."
  type        = number
  default     = 1
}

variable "tags" {
  description = "Tags of every node; a node's own win."
  type        = map(string)
  default     = {}
}
