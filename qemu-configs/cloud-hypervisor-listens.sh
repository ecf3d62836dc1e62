#!/bin/sh
# cloud-hypervisor-listens.sh SOCKET MAC [ARGUMENTS]: a guest whose NIC waits for a port that has `connect`.
set -eu
socket=$1 mac=$2
shift 2
exec "${CLOUD_HYPERVISOR:-cloud-hypervisor}" \
  --memory size="${MEMORY:-1G}",shared=on \
  --net vhost_user=true,socket="$socket",mac="$mac",num_queues=2,queue_size=256,vhost_mode=server \
  "$@"
