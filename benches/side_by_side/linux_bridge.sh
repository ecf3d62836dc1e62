#!/bin/bash
# linux_bridge.sh DIR CPU: a bridge of the kernel between two TAP devices. testpmd joins each to a vhost-user socket,
# DIR/p0.sock and DIR/p1.sock, as a VMM would join it to a guest. Whoever starts it gives it namespaces of its own.
set -euo pipefail
dir=$1 cpu=$2
mkdir "$dir/testpmd"
ip link add evb type bridge mcast_snooping 0
ip link set evb addrgenmode none up
dpdk-testpmd --lcores "0@$cpu,1@$cpu" --no-pci --no-telemetry --in-memory --single-file-segments -m 512 \
  --vdev "net_vhost0,iface=$dir/testpmd/p0" --vdev net_tap0,iface=tap0 \
  --vdev "net_vhost1,iface=$dir/testpmd/p1" --vdev net_tap1,iface=tap1 -- \
  --forward-mode=io --port-topology=paired --auto-start --no-mlockall --total-num-mbufs=32768 --stats-period=3600 &
for port in 0 1; do
  for _ in {1..200}; do ip link show tap$port &> /dev/null && break; sleep 0.05; done
  ip link set tap$port addrgenmode none master evb up
  # It is ready once these are there.
  ln -s testpmd/p$port "$dir/p$port.sock"
done
wait
