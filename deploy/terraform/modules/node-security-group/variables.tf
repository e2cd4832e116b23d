variable "name" {
  description = "Name of the group."
  type        = string
}

variable "vpc_id" {
  description = "VPC of the nodes."
  type        = string

  validation {
    condition     = can(regex("^vpc-[0-9a-f]{8,17}$", var.vpc_id))
    error_message = "vpc_id must be the ID of a VPC, such as vpc-0123456789abcdef0."
  }
}

variable "admin_cidrs" {
  description = "Where administrators (and Ansible) come from: SSH, and the API server unless api_cidrs says otherwise."
  type        = list(string)

  validation {
    condition = length(var.admin_cidrs) > 0 && alltrue([
      for cidr in var.admin_cidrs : can(cidrhost(cidr, 0)) && tonumber(try(split("/", cidr)[1], "0")) >= 8
    ])
    error_message = "admin_cidrs must hold IPv4 ranges of /8 or smaller, such as 203.0.113.7/32: SSH and the API are not for the world."
  }
}

variable "api_cidrs" {
  description = "Who reaches the API server (6443); null: admin_cidrs. Nodes reach it in any case."
  type        = list(string)
  default     = null

  validation {
    condition = alltrue([
      for cidr in coalesce(var.api_cidrs, []) : can(cidrhost(cidr, 0)) && tonumber(try(split("/", cidr)[1], "0")) >= 8
    ])
    error_message = "api_cidrs must hold IPv4 ranges of /8 or smaller: the API is not for the world."
  }
}

variable "open_ports" {
  description = "TCP ports opened to ranges of addresses, by port: { \"443\" = [\"0.0.0.0/0\"] } for an ingress gateway on the nodes."
  type        = map(list(string))
  default     = {}
  nullable    = false

  validation {
    condition = alltrue([
      for port in keys(var.open_ports) :
      can(regex("^[0-9]+$", port)) && try(tonumber(port) >= 1 && tonumber(port) <= 65535, false) &&
      !contains([22, 2379, 2380, 6379, 6443, 10250, 26379], try(tonumber(port), 0)) &&
      !try(tonumber(port) >= 30000 && tonumber(port) <= 32767, false)
    ])
    error_message = "open_ports takes ports from 1 to 65535 without SSH, etcd, Redis, the API server, kubelet and the NodePorts (30000 to 32767)."
  }

  validation {
    condition     = alltrue([for cidr in flatten(values(var.open_ports)) : can(cidrhost(cidr, 0))])
    error_message = "open_ports must name IPv4 ranges, such as 0.0.0.0/0."
  }
}

variable "nodeport_security_group_ids" {
  description = "Security groups (of load balancers) that reach NodePorts."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.nodeport_security_group_ids : can(regex("^sg-[0-9a-f]{8,17}$", id))])
    error_message = "nodeport_security_group_ids must hold IDs, such as sg-0123456789abcdef0."
  }
}

variable "tags" {
  description = "Tags of the group."
  type        = map(string)
  default     = {}
}
