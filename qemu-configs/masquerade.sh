#!/bin/sh
# masquerade.sh SUBNET DEVICE: this host forwards, and what SUBNET sends out by DEVICE gets the host's own address.
# May be run again; `nft delete table ip evb` takes it back.
set -eu
echo 1 > /proc/sys/net/ipv4/ip_forward
nft -f - <<RULES
table ip evb
delete table ip evb
table ip evb {
  chain out {
    type nat hook postrouting priority srcnat
    ip saddr $1 oifname "$2" masquerade
  }
}
RULES
