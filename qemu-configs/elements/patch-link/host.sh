#!/bin/sh
# host.sh: makes the host the gateway of both VLANs, once evb runs. eth0 is its way out.
set -eu
for vlan in 10 20; do ip address replace "10.0.$vlan.1/24" dev "gw$vlan"; done
exec "$(dirname "$0")/../../masquerade.sh" 10.0.0.0/16 eth0
