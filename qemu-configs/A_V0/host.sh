#!/bin/sh
# host.sh: makes the host the gateway, once evb runs. eth0 is its way out.
set -eu
ip address replace 10.0.0.1/24 dev gw0
exec "$(dirname "$0")/../masquerade.sh" 10.0.0.0/24 eth0
