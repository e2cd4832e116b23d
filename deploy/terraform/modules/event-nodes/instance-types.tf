# What AWS does not say before an instance runs: cores and memory of each type that a node
# may have. A type that is missing here is refused; add a line to allow it. amd64 only, as
# the image is.
locals {
  instance_types = {
    "t3.small"    = { vcpu = 2, memory_gb = 2 }
    "t3.medium"   = { vcpu = 2, memory_gb = 4 }
    "t3.large"    = { vcpu = 2, memory_gb = 8 }
    "t3.xlarge"   = { vcpu = 4, memory_gb = 16 }
    "t3.2xlarge"  = { vcpu = 8, memory_gb = 32 }
    "t3a.small"   = { vcpu = 2, memory_gb = 2 }
    "t3a.medium"  = { vcpu = 2, memory_gb = 4 }
    "t3a.large"   = { vcpu = 2, memory_gb = 8 }
    "t3a.xlarge"  = { vcpu = 4, memory_gb = 16 }
    "t3a.2xlarge" = { vcpu = 8, memory_gb = 32 }
    "m6i.large"   = { vcpu = 2, memory_gb = 8 }
    "m6i.xlarge"  = { vcpu = 4, memory_gb = 16 }
    "m6i.2xlarge" = { vcpu = 8, memory_gb = 32 }
    "c6i.large"   = { vcpu = 2, memory_gb = 4 }
    "c6i.xlarge"  = { vcpu = 4, memory_gb = 8 }
    "c6i.2xlarge" = { vcpu = 8, memory_gb = 16 }
    "r6i.large"   = { vcpu = 2, memory_gb = 16 }
    "r6i.xlarge"  = { vcpu = 4, memory_gb = 32 }
    "r6i.2xlarge" = { vcpu = 8, memory_gb = 64 }
  }
}
