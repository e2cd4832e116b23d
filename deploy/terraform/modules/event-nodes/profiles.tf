# What a node is for, in kubelet's words. The manifests in deploy/kubernetes place pods by
# these very labels and taints: a change here is a change there.
locals {
  profiles = {
    event-router = {
      root_volume_size = 20
      labels = {
        role     = "event-router"
        domain   = "event-router"
        service  = "event-router"
        workload = "event-router"
        tier     = "integration"
        phase    = "5"
      }
      taints = ["domain=event-router:NoSchedule"]
      tags = {
        Role     = "worker"
        Workload = "event-router"
        Domain   = "event-router"
        Phase    = "6"
      }
    }

    redis-pubsub = {
      root_volume_size = 10
      labels = {
        role            = "infrastructure"
        domain          = "data"
        "infra-type"    = "redis-pubsub"
        "redis-cluster" = "pubsub"
        workload        = "cache"
        tier            = "data"
        phase           = "1"
      }
      taints = ["domain=data:NoSchedule"]
      tags = {
        Role         = "worker"
        Workload     = "cache"
        RedisCluster = "pubsub"
        Phase        = "6"
      }
    }

    redis-streams = {
      root_volume_size = 10
      labels = {
        role            = "infrastructure"
        domain          = "data"
        "infra-type"    = "redis-streams"
        "redis-cluster" = "streams"
        workload        = "cache"
        tier            = "data"
        phase           = "1"
      }
      taints = ["domain=data:NoSchedule"]
      tags = {
        Role         = "worker"
        Workload     = "cache"
        RedisCluster = "streams"
        Phase        = "1"
      }
    }

    sse-gateway = {
      root_volume_size = 20
      labels = {
        role     = "sse-gateway"
        domain   = "sse"
        service  = "sse-gateway"
        workload = "sse"
        tier     = "integration"
        phase    = "5"
      }
      taints = ["domain=sse:NoSchedule"]
      tags = {
        Role     = "worker"
        Workload = "sse-gateway"
        Domain   = "sse"
        Phase    = "5"
      }
    }
  }
}
