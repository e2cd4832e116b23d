# The names are those of ../cluster's variables:
#   terraform output -json | jq 'map_values(.value)' >../cluster/network.auto.tfvars.json
output "public_subnet_ids" {
  description = "Public subnets in the order of zones."
  value       = aws_subnet.public[*].id
}

output "security_group_ids" {
  description = "The nodes' security group."
  value       = [module.nodes.security_group_id]
}

output "key_name" {
  description = "Key pair for SSH."
  value       = aws_key_pair.this.key_name
}

output "iam_instance_profile" {
  description = "Instance profile of the nodes."
  value       = aws_iam_instance_profile.node.name
}
