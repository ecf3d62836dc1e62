#!/bin/sh
# switch.sh: routes between the VLANs and out by eth0, once evb runs.
set -eu
for vlan in 10 20 30; do ip address replace "10.0.$vlan.1/24" dev "vlan$vlan"; done
exec "$(dirname "$0")/../masquerade.sh" 10.0.0.0/16 eth0
