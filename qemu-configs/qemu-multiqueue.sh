#!/bin/sh
# qemu-multiqueue.sh SOCKET MAC PAIRS [QEMU ARGUMENTS]: like qemu-connects.sh, with several queue pairs, as
# many CPUs, and rings of the largest size. In the guest: ethtool -L eth0 combined PAIRS.
set -eu
socket=$1 mac=$2 pairs=$3
shift 3
exec "${QEMU:-qemu-system-x86_64}" \
  -machine q35,memory-backend=mem -m "${MEMORY:-1G}" -smp "$pairs" \
  -object memory-backend-memfd,id=mem,size="${MEMORY:-1G}",share=on \
  -chardev socket,id=port,path="$socket",reconnect-ms=500 \
  -netdev vhost-user,id=net,chardev=port,queues="$pairs" \
  -device virtio-net-pci,netdev=net,mac="$mac",mq=on,vectors=$((2 * pairs + 2)),rx_queue_size=1024,tx_queue_size=1024 \
  "$@"
