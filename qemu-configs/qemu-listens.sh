#!/bin/sh
# qemu-listens.sh SOCKET MAC [QEMU ARGUMENTS]: a guest whose NIC waits for a port that has `connect`.
# QEMU starts once evb is there, and evb may come and go afterwards.
set -eu
socket=$1 mac=$2
shift 2
exec "${QEMU:-qemu-system-x86_64}" \
  -machine q35,memory-backend=mem -m "${MEMORY:-1G}" \
  -object memory-backend-memfd,id=mem,size="${MEMORY:-1G}",share=on \
  -chardev socket,id=port,path="$socket",server=on,wait=off \
  -netdev vhost-user,id=net,chardev=port \
  -device virtio-net-pci,netdev=net,mac="$mac" \
  "$@"
