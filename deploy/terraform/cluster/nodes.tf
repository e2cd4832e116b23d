# The 19 nodes that the cluster had before eventbus. `cluster_nodes = {}` leaves them out,
# for a cluster whose nodes another configuration owns.
variable "cluster_nodes" {
  description = "The nodes the cluster had; see modules/event-nodes for what a node may say."
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

  validation {
    condition = alltrue([
      for node in values(var.cluster_nodes) : contains(range(length(var.public_subnet_ids)), node.subnet)
    ])
    error_message = "A node of cluster_nodes names a subnet that public_subnet_ids (${length(var.public_subnet_ids)}) does not have."
  }

  validation {
    condition     = length(setintersection(keys(var.cluster_nodes), keys(var.event_nodes))) == 0
    error_message = "A node is in cluster_nodes and in event_nodes."
  }

  default = {
    master = {
      subnet           = 0
      instance_type    = "t3.xlarge"
      root_volume_size = 80
      labels           = { role = "control-plane", domain = "control-plane", service = "platform-system", workload = "control-plane", tier = "platform", phase = "0" }
      taints           = ["role=control-plane:NoSchedule"]
      tags             = { Role = "control-plane", Phase = "0" }
    }

    api-auth = {
      subnet           = 0
      instance_type    = "t3.small"
      root_volume_size = 20
      labels           = { role = "api", domain = "auth", service = "auth", workload = "api", tier = "business-logic", phase = "1" }
      taints           = ["domain=auth:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-auth", Domain = "auth", Phase = "1" }
    }

    api-my = {
      subnet           = 1
      instance_type    = "t3.small"
      root_volume_size = 20
      labels           = { role = "api", domain = "my", service = "my", workload = "api", tier = "business-logic", phase = "1" }
      taints           = ["domain=my:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-my", Domain = "my", Phase = "1" }
    }

    api-scan = {
      subnet           = 2
      instance_type    = "t3.medium"
      root_volume_size = 30
      labels           = { role = "api", domain = "scan", service = "scan", workload = "api", tier = "business-logic", phase = "2" }
      taints           = ["domain=scan:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-scan", Domain = "scan", Phase = "2" }
    }

    api-character = {
      subnet           = 0
      instance_type    = "t3.small"
      root_volume_size = 20
      labels           = { role = "api", domain = "character", service = "character", workload = "api", tier = "business-logic", phase = "2" }
      taints           = ["domain=character:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-character", Domain = "character", Phase = "2" }
    }

    api-location = {
      subnet           = 1
      instance_type    = "t3.small"
      root_volume_size = 20
      labels           = { role = "api", domain = "location", service = "location", workload = "api", tier = "business-logic", phase = "2" }
      taints           = ["domain=location:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-location", Domain = "location", Phase = "2" }
    }

    api-image = {
      subnet           = 2
      instance_type    = "t3.small"
      root_volume_size = 20
      labels           = { role = "api", domain = "image", service = "image", workload = "api", tier = "business-logic", phase = "3" }
      taints           = ["domain=image:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-image", Domain = "image", Phase = "3" }
    }

    api-chat = {
      subnet           = 0
      instance_type    = "t3.medium"
      root_volume_size = 30
      labels           = { role = "api", domain = "chat", service = "chat", workload = "api", tier = "business-logic", phase = "3" }
      taints           = ["domain=chat:NoSchedule"]
      tags             = { Role = "worker", Workload = "api-chat", Domain = "chat", Phase = "3" }
    }

    worker-storage = {
      subnet           = 2
      instance_type    = "t3.medium"
      root_volume_size = 40
      labels           = { role = "worker", domain = "worker-storage", worker-type = "storage", workload = "worker-storage", tier = "worker", phase = "4" }
      taints           = ["domain=worker-storage:NoSchedule"]
      tags             = { Role = "worker", Workload = "worker-storage", Domain = "scan", Phase = "4" }
    }

    worker-ai = {
      subnet           = 0
      instance_type    = "t3.medium"
      root_volume_size = 40
      labels           = { role = "worker", domain = "worker-ai", worker-type = "ai", workload = "worker-ai", tier = "worker", phase = "4" }
      taints           = ["domain=worker-ai:NoSchedule"]
      tags             = { Role = "worker", Workload = "worker-ai", Domain = "scan,chat", Phase = "4" }
    }

    rabbitmq = {
      subnet           = 1
      instance_type    = "t3.medium"
      root_volume_size = 40
      labels           = { role = "infrastructure", domain = "integration", infra-type = "rabbitmq", workload = "message-queue", tier = "platform", phase = "4" }
      taints           = ["domain=integration:NoSchedule"]
      tags             = { Role = "worker", Workload = "message-queue", Phase = "4" }
    }

    postgresql = {
      subnet           = 0
      instance_type    = "t3.large"
      root_volume_size = 80
      labels           = { role = "infrastructure", domain = "data", infra-type = "postgresql", workload = "database", tier = "data", phase = "1" }
      taints           = ["domain=data:NoSchedule"]
      tags             = { Role = "worker", Workload = "database", Phase = "1" }
    }

    redis-auth = {
      subnet           = 1
      instance_type    = "t3.medium"
      root_volume_size = 20
      labels           = { role = "infrastructure", domain = "data", infra-type = "redis-auth", redis-cluster = "auth", workload = "cache", tier = "data", phase = "1" }
      taints           = ["domain=data:NoSchedule"]
      tags             = { Role = "worker", Workload = "cache", RedisCluster = "auth", Phase = "1" }
    }

    redis-cache = {
      subnet           = 1
      instance_type    = "t3.small"
      root_volume_size = 10
      labels           = { role = "infrastructure", domain = "data", infra-type = "redis-cache", redis-cluster = "cache", workload = "cache", tier = "data", phase = "1" }
      taints           = ["domain=data:NoSchedule"]
      tags             = { Role = "worker", Workload = "cache", RedisCluster = "cache", Phase = "1" }
    }

    # Labels and taints are the module's profile.
    redis-streams = { subnet = 1 }

    monitoring = {
      subnet           = 1
      instance_type    = "t3.large"
      root_volume_size = 60
      labels           = { role = "infrastructure", domain = "observability", infra-type = "monitoring", workload = "monitoring", tier = "observability", phase = "4" }
      taints           = ["domain=observability:NoSchedule"]
      tags             = { Role = "worker", Workload = "monitoring", Phase = "4" }
    }

    logging = {
      subnet           = 2
      instance_type    = "t3.xlarge"
      root_volume_size = 100
      labels           = { role = "infrastructure", domain = "observability", infra-type = "logging", workload = "logging", tier = "observability", phase = "4" }
      taints           = ["domain=observability:NoSchedule"]
      tags             = { Role = "worker", Workload = "logging", Phase = "4" }
    }

    ingress-gateway = {
      subnet           = 0
      instance_type    = "t3.medium"
      root_volume_size = 20
      labels           = { role = "ingress-gateway", domain = "gateway", infra-type = "istio", workload = "gateway", tier = "network", phase = "5" }
      taints           = ["role=ingress-gateway:NoSchedule"]
      tags             = { Role = "worker", Workload = "gateway", Phase = "5" }
    }

    # Labels and taints are the module's profile.
    sse-gateway = { subnet = 1 }

  }
}
