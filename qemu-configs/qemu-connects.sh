#!/bin/sh
# qemu-connects.sh SOCKET MAC [QEMU ARGUMENTS]: a guest whose NIC connects to a port that has `listen`.
# QEMU 9.2 or later; before, it was reconnect=1, in seconds.
#
# The guest's memory has to be shared (share=on): evb reads and writes frames where they lie.
set -eu
socket=$1 mac=$2
shift 2
exec "${QEMU:-qemu-system-x86_64}" \
  -machine q35,memory-backend=mem -m "${MEMORY:-1G}" \
  -object memory-backend-memfd,id=mem,size="${MEMORY:-1G}",share=on \
  -chardev socket,id=port,path="$socket",reconnect-ms=500 \
  -netdev vhost-user,id=net,chardev=port \
  -device virtio-net-pci,netdev=net,mac="$mac" \
  "$@"
