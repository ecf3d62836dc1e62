#!/bin/bash
# ovs.sh DIR CPU MTU [KEY=VALUE]...: Open vSwitch with DPDK, a learning bridge between DIR/p0.sock and DIR/p1.sock. Whoever
# starts it gives it namespaces of its own, in which nothing of it is left behind.
set -euo pipefail
dir=$1 cpu=$2 mtu=$3
shift 3
export OVS_RUNDIR=$dir/ovs OVS_LOGDIR=$dir/ovs OVS_DBDIR=$dir/ovs OVS_SYSCONFDIR=$dir/ovs
mkdir "$OVS_RUNDIR"
cd "$OVS_RUNDIR"
db=unix:$OVS_RUNDIR/db.sock
vsctl() { ovs-vsctl --no-wait --db="$db" "$@"; }
ovsdb-tool create conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server conf.db --remote="punix:$OVS_RUNDIR/db.sock" --log-file -vconsole:off &
for _ in {1..100}; do [[ -S db.sock ]] && break; sleep 0.05; done
mask=$(printf '0x%x' $((1 << cpu)))
vsctl init -- set Open_vSwitch . other_config:dpdk-init=true other_config:dpdk-lcore-mask="$mask" \
  other_config:pmd-cpu-mask="$mask" other_config:dpdk-socket-mem=2048 \
  other_config:dpdk-extra='--no-pci --no-telemetry --in-memory --single-file-segments' "${@/#/other_config:}"
/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk "$db" --unixctl="$OVS_RUNDIR/ctl" --log-file -vconsole:off &
vsctl add-br evb -- set bridge evb datapath_type=netdev fail-mode=standalone
for port in p0 p1; do
  # This kind listens, as the others do; its sockets are where Open vSwitch wants them.
  vsctl add-port evb $port -- set Interface $port type=dpdkvhostuser mtu_request="$mtu"
  ln -s ovs/$port "$dir/$port.sock"
done
wait
