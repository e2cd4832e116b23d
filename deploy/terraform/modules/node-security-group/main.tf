# The one security group of all nodes: they reach each other, administrators reach SSH and the
# API server, the world reaches nothing but the ports that are opened to it by name.
resource "aws_security_group" "this" {
  name        = var.name
  description = "Kubernetes nodes of ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = var.name })

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  # One rule for each port and range of addresses, keyed by both, so that a change of one
  # leaves the others alone.
  ingress = merge(
    {
      for cidr in var.admin_cidrs : "ssh ${cidr}" => { port = 22, cidr = cidr, description = "SSH" }
    },
    {
      for cidr in coalesce(var.api_cidrs, var.admin_cidrs) : "api ${cidr}" => { port = 6443, cidr = cidr, description = "Kubernetes API" }
    },
    merge([
      for port, cidrs in var.open_ports : {
        for cidr in cidrs : "port ${port} ${cidr}" => { port = tonumber(port), cidr = cidr, description = "Ingress" }
      }
    ]...),
  )
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  for_each = local.ingress

  security_group_id = aws_security_group.this.id
  description       = each.value.description
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.cidr
}

# kubelet, etcd, the CNI's tunnels and its BGP, NodePorts: between nodes, and nobody else.
resource "aws_vpc_security_group_ingress_rule" "nodes" {
  security_group_id            = aws_security_group.this.id
  description                  = "Node to node"
  ip_protocol                  = "-1"
  referenced_security_group_id = aws_security_group.this.id
}

# A load balancer reaches NodePorts by its own security group.
resource "aws_vpc_security_group_ingress_rule" "nodeports" {
  for_each = toset(var.nodeport_security_group_ids)

  security_group_id            = aws_security_group.this.id
  description                  = "NodePorts"
  ip_protocol                  = "tcp"
  from_port                    = 30000
  to_port                      = 32767
  referenced_security_group_id = each.value
}

# Images, packages, AWS. What pods may reach is for NetworkPolicies.
resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.this.id
  description       = "Out"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}
