#!/bin/sh
# host.sh: makes the host the gateway of both subnets, once evb runs. eth0 is its way out.
set -eu
ip address replace 10.0.1.1/24 dev gw1
ip address replace 10.0.2.1/24 dev gw2
exec "$(dirname "$0")/../masquerade.sh" 10.0.0.0/16 eth0
