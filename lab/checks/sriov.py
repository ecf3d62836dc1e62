"""Virtual functions of a NIC (QEMU's igb) in a guest that is a host. Its other end of the cable has a network
namespace of its own, so that what is on the wire is what that end sees."""
import json
import re

from ..host import PF_MAC
from ..runner import cell, check

STATIONS = ('52:54:00:00:02:01', '52:54:00:00:02:02')


def _configure(host, sriov, stations=1, access=(None, None), uplink=''):
    """Writes the configuration of a relay: the host's ports evb0 and evb1, with pinned addresses, and an uplink
    by virtual function 0."""
    text = '[daemon]\ncontrol = "/run/evb/control.sock"\n[[relay]]\nname = "blue"\n'
    for n, (address, vid) in enumerate(zip(STATIONS[:stations], access)):
        text += (f'[[port]]\nname = "host{n}"\ntap = {{ name = "evb{n}", mac = "{address}" }}\nmac_policy = "pinned"\n'
                 + (f'access = {vid}\n' if vid else ''))
    host.write('/tmp/evb.toml', f'{text}[[uplink]]\nname = "up0"\nsriov = {{ pf = "{host.pf}", vf = 0, {sriov} }}\n'
                                f'{uplink}\n')


def _start(host):
    """Starts the daemon, and waits for its uplink's carrier."""
    host.check('evb run --config /tmp/evb.toml > /tmp/evb.log 2>&1 & echo $! > /tmp/evb.pid')
    _running(host)


def _running(host):
    """Waits for the uplink's carrier; what the daemon says where it does not live to see it."""
    host.check('n=0; until evb status 2>&1 | grep -q "^up0 .* running "; do n=$((n+1)); '
               '[ $n -lt 200 ] && kill -0 $(cat /tmp/evb.pid) || { cat /tmp/evb.log; exit 1; }; usleep 100000; done')


def _stop(host):
    host.check('kill $(cat /tmp/evb.pid); while [ -e /proc/$(cat /tmp/evb.pid) ]; do usleep 50000; done')
    assert 'panicked' not in host.check('cat /tmp/evb.log')


def _refused(host):
    """What the daemon says that does not start."""
    return host.fails('evb run --config /tmp/evb.toml')


def _told(host):
    """What the kernel tells of virtual function 0."""
    return re.search('vf 0 .*', host.check(f'ip -d link show {host.pf}'))[0]


def _state(host, number=0):
    nic, = json.loads(host.check('evb sriov list --json'))
    return nic['functions'][number]


@check()
def sriov_hand_over(lab):
    """evb sriov: functions listed, given to vfio-pci and taken back, and what stands against it."""
    host = lab.host()
    pf = host.pf
    nic, = json.loads(host.check('evb sriov list --json'))
    assert (nic['device'], nic['driver'], nic['total'], nic['functions']) == (pf, 'igb', 7, [])
    assert f'{pf} has no virtual functions yet; make them with `echo 2 > ' in host.fails(f'evb sriov bind {pf} 1')
    host.check(f'echo 2 > /sys/class/net/{pf}/device/sriov_numvfs; '
               f'until ls /sys/class/net/{pf}/device/virtfn1/net; do usleep 100000; done')
    function = _state(host, 1)
    address, device = function['address'], function['device']
    assert function['driver'] == 'igbvf' and function['iommu_group'] is not None, function
    assert 'there is no VF 2: ' in host.fails(f'evb sriov bind {pf} 2')
    assert 'is no virtual function' in host.fails(f'evb sriov bind {nic["address"]}')

    host.check(f'ip link set {device} up')
    assert f'is the host\'s {device}, which is up; run `ip link set dev {device} down`' in host.fails(
        f'evb sriov bind {address}')
    host.check(f'ip link set dev {device} down; evb sriov bind {pf} 1 --mac {STATIONS[1]}')
    function = _state(host, 1)
    assert (function['driver'], function['state']['mac']) == ('vfio-pci', STATIONS[1]), function
    group = f'/dev/vfio/{function["iommu_group"]}'
    assert f'host={address}' in host.check(f'evb sriov args {pf} 1')
    pair = host.check(f'evb sriov args {address} --standby /run/evb/vm1.sock')
    assert f'mac={STATIONS[1]},failover=on' in pair and 'failover_pair_id=standby' in pair

    host.check(f'sh -c "exec 3<> {group}; sleep 1000" & echo $! > /tmp/user; '
               f'until readlink /proc/$(cat /tmp/user)/fd/3 | grep {group}; do usleep 50000; done')
    assert f'a virtual machine uses {address}' in host.fails(f'evb sriov unbind {pf} 1')
    host.check('kill $(cat /tmp/user); while [ -e /proc/$(cat /tmp/user) ]; do usleep 50000; done')
    assert host.check(f'evb sriov unbind {pf} 1') == f'{address}: igbvf'
    function = _state(host, 1)
    assert function['driver'] == 'igbvf' and function['device'], function
    assert host.check(f'cat /sys/class/net/{function["device"]}/address') == STATIONS[1]


@check(cases={via: (via,) for via in ('macvtap', 'af_packet', 'af_xdp')})
def sriov_uplink(lab, via):
    """A function as uplink: made and set as configured; its address and its VLAN are on the wire."""
    host = lab.host()
    host.wire_up('10.0.0.2')
    host.wire_up('10.7.0.2', vlan=7)
    _configure(host, f'create = 2, rate = 200, via = "{via}"')
    _start(host)
    host.check('ip addr add 10.0.0.1/24 dev evb0; ip addr add 10.7.0.1/24 dev evb0; ip link set evb0 up')
    host.reach('10.0.0.2')
    assert not host.answers('10.7.0.2'), 'an untagged frame got into VLAN 7'
    assert host.seen_on_wire('10.0.0.1') == (host.wire, STATIONS[0])
    # Nor does one of VLAN 7 get in, with its tag or, worse, without.
    assert host.sh('ip netns exec wire ping -c 2 -W 1 10.7.0.1 > /dev/null')[0], 'VLAN 7 is answered untagged'
    assert 'lladdr' not in host.check('ip neigh show 10.7.0.2 dev evb0'), 'a frame of VLAN 7 arrived untagged'
    if via == 'af_xdp':
        # igbvf runs no XDP programs.
        assert 'its driver does not run the XDP program' in host.check('cat /tmp/evb.log')
        assert json.loads(host.check('evb status --json'))['ports'][-1]['links'][0]['mode'] == 'generic'
    state = _state(host)['state']
    assert (state['mac'], state['vlan'], state['rate']) == (STATIONS[0], 0, 200), state
    used = _state(host)['address']
    assert f'{used} is in use by evb' in host.fails(f'evb sriov bind {used}')
    host.write('/tmp/other.toml', '[[relay]]\nname = "red"\n[[uplink]]\nname = "up1"\n'
                                  f'sriov = {{ pf = "{host.pf}", vf = 0 }}\n')
    assert 'is in use by another uplink or another evb' in host.fails('evb run --config /tmp/other.toml --control /run/evb/other.sock')

    _configure(host, f'create = 2, vlan = 7, via = "{via}"')
    host.check('evb reload')
    _running(host)
    host.reach('10.7.0.2')
    assert not host.answers('10.0.0.2'), 'a frame of VLAN 7 arrived untagged'
    assert host.seen_on_wire('10.7.0.1') == (f'{host.wire}.7', STATIONS[0])
    _stop(host)
    assert 'evb-up0' not in host.check('ip -br link')
    assert (_state(host)['driver'], _state(host)['state']['vlan']) == ('igbvf', 7)
    if via == 'af_xdp':
        # By that device's leave tagged frames arrive, and igbvf takes their tags out.
        device = _state(host)['device']
        host.check(f'ip link add link {device} name {device}.5 type vlan id 5')
        assert f'the feature rx-vlan-hw-parse of {device} stays on' in _refused(host)
        assert ' promiscuity 0 allmulti 0 ' in host.check(f'ip -d link show {device} | tr -s " "')


def _both_reach(host):
    """Both ports of the host reach the wire's other end, which knows each by its own address."""
    host.check('ip -n wire neigh flush all')
    for n, address in enumerate(STATIONS):
        host.check(f'ip addr add 10.0.{n}.1/24 dev evb{n}; ip link set evb{n} up')
        host.reach(f'10.0.{n}.2')
        assert host.seen_on_wire(f'10.0.{n}.1') == (host.wire, address)


@check()
def sriov_trust(lab):
    """Several stations behind a function: refused with the command that grants it, which then does; so do the words of
    the configuration."""
    host = lab.host()
    host.wire_up('10.0.0.2')
    host.wire_up('10.0.1.2')
    _configure(host, 'create = 1', stations=2)
    text = _refused(host)
    assert 'VF 0 of eth1 would lose frames: the relay serves several addresses; run ' in text, text
    host.check(re.search('run `(ip link [^`]*)`', text)[1])
    _start(host)
    _both_reach(host)
    assert host.check(f'cat /sys/class/net/{host.pf}/address') == PF_MAC
    _stop(host)

    host.check(f'ip link set dev {host.pf} vf 0 trust off spoofchk on')
    granted, withdrawn = (f'spoof checking {check}, link-state auto, trust {trust}'
                          for check, trust in (('off', 'on'), ('on', 'off')))
    assert withdrawn in _told(host), _told(host)
    _configure(host, 'trust = true, spoofchk = false', stations=2)
    _start(host)
    assert granted in _told(host), _told(host)
    _both_reach(host)
    _stop(host)

    # What igb accepts and its functions cannot do.
    _configure(host, 'vlan = 0', stations=2, access=(7, 8))
    assert 'drops tagged ones, which the uplink takes; run `ethtool -K' in _refused(host)
    _configure(host, 'vlan = 7', stations=2, access=(7, 8))
    assert 'is in VLAN 7, which the NIC tags itself' in _refused(host)
    _configure(host, 'rate = 100000')
    assert 'igb, the driver of eth1, refuses `max_tx_rate 100000` for VF 0: ' in _refused(host)

    _configure(host, 'trust = false, spoofchk = true')
    _start(host)
    assert withdrawn in _told(host), _told(host)
    _stop(host)


@check()
def sriov_network(lab):
    """B_M3 on functions of a real NIC, as far as QEMU's is one: frames, tags on the wire, NAT, a second VM."""
    with cell('B_M3', 'functions'):
        host = lab.host()
        host.check(f'ip -n wire link set {host.wire} netns 1')
        return host.lab('functions', 'B_M3', host.wire, host.pf).splitlines()[-1]


@check()
def sriov_failover(lab):
    """The element failover on functions of real NICs, as far as QEMU's are such: a guest in the guest drives one by
    vfio-pci, and migrates to another one."""
    with cell('failover', 'functions'):
        host = lab.host(nics=2, memory=1536)
        host.check(f'ip -n wire link set {host.wire} netns 1')
        return host.lab('functions', 'failover', host.wire, *host.pfs, timeout=900).splitlines()[-1]
