#!/bin/sh
# switch.sh: makes the switch a router with NAT by eth0, once evb runs.
set -eu
# The stack hears broadcasts on port1 too. It shall answer for an address only where it has it.
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
exec "$(dirname "$0")/../../A_V0/host.sh"
