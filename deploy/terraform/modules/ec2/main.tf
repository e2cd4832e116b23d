# One Kubernetes node: an instance that starts encrypted, on gp3 and with IMDSv2 only.
resource "aws_instance" "this" {
  # Always one. As a list it is empty, not unknown, where a targeted run left this instance
  # out, so that outputs about the others are right all the same.
  count = 1

  ami                         = var.ami_id
  instance_type               = var.instance_type
  subnet_id                   = var.subnet_id
  vpc_security_group_ids      = var.security_group_ids
  key_name                    = var.key_name
  iam_instance_profile        = var.iam_instance_profile
  user_data                   = var.user_data
  user_data_replace_on_change = false

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
    # 1 keeps the node's credentials out of reach of pods that have a network of their own.
    http_put_response_hop_limit = var.metadata_hop_limit
  }

  root_block_device {
    volume_size           = var.root_volume_size
    volume_type           = var.root_volume_type
    encrypted             = true
    kms_key_id            = var.kms_key_id
    delete_on_termination = true
    tags                  = merge(var.tags, { Name = "${var.instance_name}-root" })
  }

  tags = merge(var.tags, { Name = var.instance_name })

  lifecycle {
    # Both matter at first boot only. A new pin or another label must not replace or restart
    # a running node behind the operator's back: `-replace=…` says so when that is meant,
    # and playbooks/join.yml brings labels and taints of running nodes up to date.
    ignore_changes = [ami, user_data]

    precondition {
      condition     = length(coalesce(var.user_data, " ")) <= 16384
      error_message = "${var.instance_name}: user data has more than the 16 KiB that EC2 takes."
    }
  }
}
