#!/bin/sh
# qemu-hugepages.sh SOCKET MAC [QEMU ARGUMENTS]: like qemu-connects.sh, with 2 MiB pages. They are not
# needed; where the host has them (sysctl vm.nr_hugepages), they save address translation.
set -eu
socket=$1 mac=$2
shift 2
exec "${QEMU:-qemu-system-x86_64}" \
  -machine q35,memory-backend=mem -m "${MEMORY:-1G}" \
  -object memory-backend-memfd,id=mem,size="${MEMORY:-1G}",share=on,hugetlb=on,hugetlbsize=2M \
  -chardev socket,id=port,path="$socket",reconnect-ms=500 \
  -netdev vhost-user,id=net,chardev=port \
  -device virtio-net-pci,netdev=net,mac="$mac" \
  "$@"
