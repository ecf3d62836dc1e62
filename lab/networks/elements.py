"""The elements of which networks are built, each as small as it can be: the same kind of description, and so the same
commands and checks."""
import itertools

from .describe import Cable, Host, Network, Station, Variant
from .reference import NETWORKS, gateway, vlan_switch

_CABLE = (Cable('host', 'eth1', 'switch', 'port1', 'lan'),)
_LAN, _SWITCH_LAN = gateway('host', 'gw0', 'lan', 0), gateway('switch', 'br0', 'lan', 0)


def _bridge(hairpin):
    """A Linux bridge as the adjacent switch, with a router behind it."""
    return Host('switch', script=('A_M0/switch.sh', hairpin), sockets=('port1',))


_NO_HAIRPIN, _HAIRPIN = Variant('no hairpin', (_bridge('off'),)), Variant('hairpin', (_bridge('on'),), reflecting=True)


def _host(name, *script):
    return Host('host', f'elements/{name}/host.toml', script)


def _stations(mode='bridge', count=2):
    return tuple(Station(n, 'host', 'lan', mode) for n in range(1, count + 1))


def _behind(name, title, mode, *, hairpin=False, variants=(), config=None, **more):
    """Two VMs on a host whose cable goes to a Linux bridge."""
    host = Host('host', config) if config else _host(name)
    return Network(name, title, hosts=(_bridge('on' if hairpin else 'off'), host), stations=_stations(mode),
                   gateways=(_SWITCH_LAN,), router='switch', cables=_CABLE, reflecting=hairpin, variants=variants, **more)


ELEMENTS = {element.name: element for element in (
    Network(
        'host-port', 'The host as a port of a relay, and NAT',
        hosts=(_host('host-port', 'A_V0/host.sh'),), stations=_stations(), gateways=(_LAN,), router='host'),
    Network(
        'patch-link', 'A cable between two relays, with two VLANs',
        hosts=(_host('patch-link', 'elements/patch-link/host.sh'),),
        stations=tuple(Station(n, 'host', vid, device=relay)
                       for n, (relay, vid) in enumerate(itertools.product(('left', 'right'), (10, 20)), 1)),
        gateways=tuple(gateway('host', f'gw{vid}', vid, vid) for vid in (10, 20)), router='host'),
    Network(
        'vlan-group', 'Groups: a VEB in one VLAN, a VEPA in another',
        hosts=(vlan_switch('reflecting'), _host('vlan-group')),
        stations=tuple(Station(n, 'host', 10 if n < 3 else 20, 'bridge' if n < 3 else 'vepa') for n in range(1, 5)),
        gateways=NETWORKS['B_M2'].gateways, router='switch', cables=(Cable('host', 'eth1', 'switch', 'port1'),),
        reflecting=True, variants=NETWORKS['B_M2'].variants),
    _behind('macvtap-bridge', 'A MACVTAP device for each VM, in mode bridge', 'bridge', by_nic=True,
            variants=(_HAIRPIN,)),
    _behind('macvtap-vepa', 'A MACVTAP device for each VM, in mode vepa', 'vepa', hairpin=True,
            variants=(_NO_HAIRPIN,)),
    _behind('macvtap-private', 'A MACVTAP device for each VM, in mode private', 'private'),
    _behind('private-ports', 'Ports in mode private, and one MACVTAP device for all', 'private', variants=(_HAIRPIN,),
            config='elements/macvtap-private/ports.toml'),
    _behind('macvtap-passthru', 'One MACVTAP device for a relay, in mode passthru', 'bridge', variants=(_HAIRPIN,)),
    _behind('reflecting-bridge', 'A VEPA before a Linux bridge with hairpin', 'vepa', hairpin=True,
            variants=(_NO_HAIRPIN,)),
    Network(
        'reflecting-evb', 'A VEPA before another evb, which reflects',
        hosts=(Host('switch', 'elements/reflecting-evb/switch.toml', ('elements/reflecting-evb/switch.sh',),
                    sockets=('port1',)), _host('reflecting-evb')),
        stations=_stations('vepa'), gateways=(gateway('switch', 'gw0', 'lan', 0),), router='switch', cables=_CABLE,
        reflecting=True, variants=(
            Variant('no hairpin', (Host('switch', 'elements/reflecting-evb/no-hairpin.toml', sockets=('port1',)),)),)),
    _behind('reflect-local', 'A VEPA that reflects for itself', 'vepa', local=True),
    Network(
        'vf-passthru', 'A virtual function by MACVTAP passthru',
        hosts=(Host('nic', script=('elements/vf-passthru/nic.sh',), sockets=('port1', 'port2')), _host('vf-passthru')),
        stations=tuple(Station(n + 1, 'host', 'lan', 'passthrough', f'vf{n}') for n in range(2)),
        gateways=(gateway('nic', 'br0', 'lan', 0),), router='nic',
        cables=tuple(Cable('host', f'vf{n}', 'nic', f'port{n + 1}', 'lan') for n in range(2))),
    Network(
        'failover', 'A failover pair: a virtual function as primary, a port of evb as standby',
        hosts=(Host('nic', script=('elements/failover/nic.sh',), sockets=('port1', 'port2')), _host('failover'),
               Host('target', 'elements/failover/target.toml')),
        stations=(Station(1, 'host', 'lan', function='vf0'), Station(2, 'host', 'lan')),
        gateways=(gateway('nic', 'br0', 'lan', 0),), router='nic',
        cables=(Cable('host', 'eth1', 'nic', 'port1', 'lan'), Cable('target', 'eth1', 'nic', 'port2', 'lan'))),
)}
