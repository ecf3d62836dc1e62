#!/bin/sh
# nic.sh: the switch of both hosts, with a port for each cable, port1 and port2, and one for each virtual function.
# A TAP device, vf0 or vf1, stands in for the function: QEMU puts an emulated NIC at it. eth0 is the way out.
set -eu
"$(dirname "$0")/../../A_M0/switch.sh" off
for device in vf0 vf1; do
  ip link show dev "$device" > /dev/null 2>&1 || ip tuntap add dev "$device" mode tap
done
for device in port2 vf0 vf1; do ip link set dev "$device" master br0 up; done
