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

variable "name" {
  description = "Name of the cluster, and the beginning of the names of all that is made here."
  type        = string
  default     = "eventbus"
}

variable "vpc_cidr" {
  description = "Addresses of the VPC, a /16; pods and services need ranges of their own outside it."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 8, 255)) && endswith(var.vpc_cidr, "/16")
    error_message = "vpc_cidr must be an IPv4 range of /16."
  }
}

variable "zones" {
  description = "Letters of the availability zones, in the order of public_subnet_ids."
  type        = list(string)
  default     = ["a", "b", "c"]

  validation {
    condition     = length(var.zones) > 0 && length(distinct(var.zones)) == length(var.zones)
    error_message = "zones must name at least one zone, and none twice."
  }
}

variable "admin_cidrs" {
  description = "Where administrators and Ansible come from, such as [\"203.0.113.7/32\"]."
  type        = list(string)
}

variable "api_cidrs" {
  description = "Who reaches the API server from outside; null: admin_cidrs."
  type        = list(string)
  default     = null
}

variable "open_ports" {
  description = "Ports open to the world, by port: { \"443\" = [\"0.0.0.0/0\"] } for an ingress gateway on the nodes."
  type        = map(list(string))
  default     = {}
}

variable "nodeport_security_group_ids" {
  description = "Security groups of load balancers that reach NodePorts."
  type        = list(string)
  default     = []
}

variable "ssh_public_key" {
  description = "Public half of the SSH key that Ansible uses."
  type        = string

  validation {
    condition     = can(regex("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp256) [A-Za-z0-9+/=]+", var.ssh_public_key))
    error_message = "ssh_public_key must be a line such as \"ssh-ed25519 AAAA… name\"."
  }
}

variable "policy_arns" {
  description = "Policies of the nodes' role, such as the one of the EBS CSI driver."
  type        = list(string)
  default     = []
}
