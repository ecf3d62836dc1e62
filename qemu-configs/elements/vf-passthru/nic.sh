#!/bin/sh
# nic.sh: what is in the NIC, and behind it: a Linux bridge with a port for each virtual function, and a router.
set -eu
"$(dirname "$0")/../../A_M0/switch.sh" off
ip link set dev port2 master br0 up
