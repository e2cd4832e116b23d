variable "region" {
  description = "AWS region."
  type        = string
  default     = "ap-northeast-2"
}

variable "project" {
  description = "Project tag of everything."
  type        = string
  default     = "eventbus"
}

variable "public_subnet_ids" {
  description = "The VPC's public subnets in the order of zones a, b, c; nodes name theirs by its index."
  type        = list(string)
}

variable "security_group_ids" {
  description = "Security groups of all nodes."
  type        = list(string)
}

variable "key_name" {
  description = "EC2 key pair for SSH."
  type        = string
}

variable "iam_instance_profile" {
  description = "Name of the nodes' instance profile; null: none."
  type        = string
  default     = null
}

variable "ami_id" {
  description = "Ubuntu 22.04 image, amd64, pinned by its ID (README: how to find one). Another ID later is for new nodes only."
  type        = string
}

variable "kms_key_id" {
  description = "ARN of the key that encrypts the root volumes; null: the account's default key for EBS."
  type        = string
  default     = null
}

variable "metadata_hop_limit" {
  description = "1: instance metadata for the nodes only; 2: for pods too."
  type        = number
  default     = 1
}

variable "event_nodes" {
  description = "The nodes that eventbus brings; see modules/event-nodes for what a node may say."
  type = map(object({
    subnet           = number
    name             = optional(string)
    instance_type    = optional(string, "t3.small")
    root_volume_size = optional(number)
    labels           = optional(map(string), {})
    taints           = optional(list(string))
    tags             = optional(map(string), {})
  }))
  nullable = false
  default = {
    event-router = { subnet = 2 }
    redis-pubsub = { subnet = 0 }
  }

  validation {
    condition = alltrue([
      for node in values(var.event_nodes) : contains(range(length(var.public_subnet_ids)), node.subnet)
    ])
    error_message = "A node of event_nodes names a subnet that public_subnet_ids (${length(var.public_subnet_ids)}) does not have."
  }
}

variable "ssh_user" {
  description = "User that Ansible logs in as."
  type        = string
  default     = "ubuntu"
}

variable "ansible_address" {
  description = "The address that Ansible connects to: public or private."
  type        = string
  default     = "public"

  validation {
    condition     = contains(["public", "private"], var.ansible_address)
    error_message = "ansible_address must be public or private."
  }
}

variable "control_plane" {
  description = "Name and address of the control plane for the inventory, where it is not one of cluster_nodes."
  type = object({
    name    = string
    address = string
  })
  default = null
}
