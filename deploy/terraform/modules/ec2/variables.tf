variable "instance_name" {
  description = "Name tag; by convention also the node's host name."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.instance_name))
    error_message = "instance_name must be a DNS label (a-z, 0-9 and -, at most 63 characters)."
  }
}

variable "instance_type" {
  description = "EC2 instance type."
  type        = string
}

variable "ami_id" {
  description = "Machine image, pinned by its ID. Looked up by hand on purpose: see the README."
  type        = string

  validation {
    condition     = can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id must be the ID of one image, such as ami-0123456789abcdef0."
  }
}

variable "subnet_id" {
  description = "Subnet, and by it the availability zone."
  type        = string

  validation {
    condition     = can(regex("^subnet-[0-9a-f]{8,17}$", var.subnet_id))
    error_message = "subnet_id must be the ID of a subnet, such as subnet-0123456789abcdef0."
  }
}

variable "security_group_ids" {
  description = "Security groups of the instance, at least one."
  type        = list(string)

  validation {
    condition = length(var.security_group_ids) > 0 && alltrue([
      for id in var.security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))
    ])
    error_message = "security_group_ids must hold at least one ID, such as sg-0123456789abcdef0."
  }
}

variable "key_name" {
  description = "EC2 key pair for SSH."
  type        = string
}

variable "iam_instance_profile" {
  description = "Name of the instance profile; null: none."
  type        = string
  default     = null
}

variable "root_volume_size" {
  description = "Root volume, GB. Ubuntu's image needs 8."
  type        = number

  validation {
    condition     = var.root_volume_size >= 8 && var.root_volume_size <= 16384
    error_message = "root_volume_size must be from 8 to 16384 GB."
  }
}

variable "root_volume_type" {
  description = "Root volume type. gp3: 3,000 IOPS at any size, where gp2 gives a small volume 100."
  type        = string
  default     = "gp3"

  validation {
    condition     = contains(["gp3", "gp2"], var.root_volume_type)
    error_message = "root_volume_type must be gp3 or gp2."
  }
}

variable "kms_key_id" {
  description = "ARN of the key that encrypts the root volume; null: the account's default key for EBS."
  type        = string
  default     = null
}

variable "metadata_hop_limit" {
  description = "Network hops a metadata answer may take. 1: the node only; 2: pods too (some AWS controllers need it)."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2], var.metadata_hop_limit)
    error_message = "metadata_hop_limit must be 1 or 2."
  }
}

variable "user_data" {
  description = "cloud-init user data, plain text."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of instance and root volume. Name is added."
  type        = map(string)
  default     = {}
}
