# What ../cluster takes as given, for an account that has nothing yet: a VPC with a public
# subnet in each of three zones, the nodes' security group, key pair and instance profile.
# State of its own: the network outlives nodes.
resource "aws_vpc" "this" {
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = var.name }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = var.name }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.name}-public" }

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
}

# 10.0.1.0/24 in zone a, 10.0.2.0/24 in b, 10.0.3.0/24 in c.
resource "aws_subnet" "public" {
  count = length(var.zones)

  vpc_id                  = aws_vpc.this.id
  cidr_block              = cidrsubnet(var.vpc_cidr, 8, count.index + 1)
  availability_zone       = "${var.region}${var.zones[count.index]}"
  map_public_ip_on_launch = true
  tags                    = { Name = "${var.name}-public-${var.zones[count.index]}" }
}

resource "aws_route_table_association" "public" {
  count = length(var.zones)

  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public.id
}

module "nodes" {
  source = "../modules/node-security-group"

  name                        = "${var.name}-nodes"
  vpc_id                      = aws_vpc.this.id
  admin_cidrs                 = var.admin_cidrs
  api_cidrs                   = var.api_cidrs
  open_ports                  = var.open_ports
  nodeport_security_group_ids = var.nodeport_security_group_ids
}

resource "aws_key_pair" "this" {
  key_name   = var.name
  public_key = var.ssh_public_key
}

# Nodes may do nothing in AWS until policy_arns says so.
resource "aws_iam_role" "node" {
  name = "${var.name}-node"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ec2.amazonaws.com" }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(var.policy_arns)

  role       = aws_iam_role.node.name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "node" {
  name = "${var.name}-node"
  role = aws_iam_role.node.name
}
