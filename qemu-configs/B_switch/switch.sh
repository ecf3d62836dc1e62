#!/bin/sh
# switch.sh: routes between the VLANs and out by eth0, once evb runs.
set -eu
# The stack hears broadcasts on the cables' devices too. It shall answer for an address only where it has it.
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
for vlan in 10 20 30; do ip address replace "10.0.$vlan.1/24" dev "vlan$vlan"; done
exec "$(dirname "$0")/../masquerade.sh" 10.0.0.0/16 eth0
