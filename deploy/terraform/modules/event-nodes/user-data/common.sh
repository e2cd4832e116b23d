#!/bin/bash
# First boot of a node, run once by cloud-init as root. Only what has to be there before
# kubelet registers: everything else is Ansible's (playbooks/setup-new-nodes.yml).
set -euo pipefail

hostnamectl set-hostname '${hostname}'
# Without a line of its own sudo, and kubeadm's checks, wait for DNS to say who this is.
grep -q '^127\.0\.1\.1 ${hostname}$' /etc/hosts || echo '127.0.1.1 ${hostname}' >>/etc/hosts
# cloud-init would put the EC2 name back at the next boot.
echo 'preserve_hostname: true' >/etc/cloud/cloud.cfg.d/99-hostname.cfg

# kubeadm's drop-in for kubelet reads this file: labels and taints are there at registration.
install -d -m 0755 /etc/default
echo 'KUBELET_EXTRA_ARGS="${kubelet_extra_args}"' >/etc/default/kubelet
chmod 0644 /etc/default/kubelet
