#!/bin/sh
# switch.sh on|off: a Linux bridge as the adjacent switch and gateway, with hairpin at the host's port or without.
# port1 is the cable to the host, eth0 the way out. May be run again.
set -eu
ip link show dev br0 > /dev/null 2>&1 || ip link add name br0 address 52:54:00:00:00:fe type bridge mcast_snooping 0
ip link set dev port1 master br0 up
bridge link set dev port1 hairpin "$1"
ip link set dev br0 up
ip address replace 10.0.0.1/24 dev br0
exec "$(dirname "$0")/../masquerade.sh" 10.0.0.0/24 eth0
