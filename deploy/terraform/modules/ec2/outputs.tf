# All but `exists` are null while the instance is not there: a targeted run left it out.
output "exists" {
  description = "Whether the instance is there, or will be after this run."
  value       = length(aws_instance.this) == 1
}

output "instance_id" {
  description = "Instance ID."
  value       = one(aws_instance.this[*].id)
}

output "public_ip" {
  description = "Public IPv4 address; empty in a private subnet."
  value       = one(aws_instance.this[*].public_ip)
}

output "private_ip" {
  description = "Private IPv4 address, which kubelet reports as the node's InternalIP."
  value       = one(aws_instance.this[*].private_ip)
}

output "instance_type" {
  description = "Type of the instance as it runs."
  value       = one(aws_instance.this[*].instance_type)
}

output "tags" {
  description = "Tags of the instance."
  value       = one(aws_instance.this[*].tags)
}
