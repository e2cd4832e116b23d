mock_provider "aws" {}

variables {
  name        = "nodes"
  vpc_id      = "vpc-0123456789abcdef0"
  admin_cidrs = ["203.0.113.7/32"]
}

run "administrators_alone_reach_ssh_and_api" {
  command = plan

  assert {
    condition = [for rule in aws_vpc_security_group_ingress_rule.this : "${rule.from_port} ${rule.cidr_ipv4}"] == [
      "6443 203.0.113.7/32", "22 203.0.113.7/32",
    ]
    error_message = jsonencode(aws_vpc_security_group_ingress_rule.this)
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.nodeports) == 0
    error_message = "NodePorts are open without anyone having asked."
  }
}

run "ports_are_opened_by_name" {
  command = plan

  variables {
    api_cidrs                   = ["198.51.100.0/24"]
    open_ports                  = { "443" = ["0.0.0.0/0"] }
    nodeport_security_group_ids = ["sg-0123456789abcdef0"]
  }

  assert {
    condition = toset([for rule in aws_vpc_security_group_ingress_rule.this : "${rule.from_port}-${rule.to_port} ${rule.cidr_ipv4}"]) == toset([
      "22-22 203.0.113.7/32", "6443-6443 198.51.100.0/24", "443-443 0.0.0.0/0",
    ])
    error_message = jsonencode(aws_vpc_security_group_ingress_rule.this)
  }
  assert {
    condition = [for rule in aws_vpc_security_group_ingress_rule.nodeports : "${rule.from_port}-${rule.to_port} ${rule.referenced_security_group_id}"] == [
      "30000-32767 sg-0123456789abcdef0",
    ]
    error_message = jsonencode(aws_vpc_security_group_ingress_rule.nodeports)
  }
}

run "ssh_for_the_world_is_refused" {
  command = plan

  variables {
    admin_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.admin_cidrs]
}

run "ssh_for_half_the_world_is_refused" {
  command = plan

  variables {
    admin_cidrs = ["0.0.0.0/1", "128.0.0.0/1"]
  }

  expect_failures = [var.admin_cidrs]
}

run "ssh_for_nobody_is_refused" {
  command = plan

  variables {
    admin_cidrs = []
  }

  expect_failures = [var.admin_cidrs]
}

run "the_api_for_the_world_is_refused" {
  command = plan

  variables {
    api_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.api_cidrs]
}

run "ssh_as_an_open_port_is_refused" {
  command = plan

  variables {
    open_ports = { "22" = ["0.0.0.0/0"] }
  }

  expect_failures = [var.open_ports]
}

run "the_api_as_an_open_port_is_refused" {
  command = plan

  variables {
    open_ports = { "6443" = ["0.0.0.0/0"] }
  }

  expect_failures = [var.open_ports]
}

run "redis_as_an_open_port_is_refused" {
  command = plan

  variables {
    open_ports = { "6379" = ["0.0.0.0/0"] }
  }

  expect_failures = [var.open_ports]
}

run "a_nodeport_as_an_open_port_is_refused" {
  command = plan

  variables {
    open_ports = { "30080" = ["0.0.0.0/0"] }
  }

  expect_failures = [var.open_ports]
}

run "a_port_by_name_is_refused" {
  command = plan

  variables {
    open_ports = { https = ["0.0.0.0/0"] }
  }

  expect_failures = [var.open_ports]
}
