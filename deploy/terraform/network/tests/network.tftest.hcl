mock_provider "aws" {
  mock_resource "aws_vpc" {
    defaults = { id = "vpc-0123456789abcdef0" }
  }
}

variables {
  admin_cidrs    = ["203.0.113.7/32"]
  ssh_public_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBTCMOMQ0oUKyHFEWxTR0Mj1q0t0hS8PjSbgqsmQIPRn admin"
}

run "three_public_subnets_in_three_zones" {
  assert {
    condition = [for subnet in aws_subnet.public : "${subnet.availability_zone} ${subnet.cidr_block}"] == [
      "ap-northeast-2a 10.0.1.0/24", "ap-northeast-2b 10.0.2.0/24", "ap-northeast-2c 10.0.3.0/24",
    ]
    error_message = jsonencode(aws_subnet.public)
  }
  assert {
    condition     = length(output.public_subnet_ids) == 3 && length(output.security_group_ids) == 1
    error_message = "The outputs lack what the cluster takes."
  }
}

run "a_key_that_is_none_is_refused" {
  command = plan

  variables {
    ssh_public_key = "not a key"
  }

  expect_failures = [var.ssh_public_key]
}
