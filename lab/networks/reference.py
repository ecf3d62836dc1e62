"""The reference networks: two subjects, A (flat Ethernet) and B (802.1Q), each built in the ways people build them."""
from .describe import Cable, Gateway, Host, Network, Station, Variant

_OUT = '52:54:00:00:{}:fe'
_SOCKETS = ('port1', 'port2', 'port3')


def gateway(host, name, domain, third):
    return Gateway(host, name, domain, f'10.0.{third}.1', _OUT.format(f'{third:02x}'))


_VLANS = tuple(gateway('switch', f'vlan{vid}', vid, vid) for vid in (10, 20, 30))


def vlan_switch(config='switch'):
    return Host('switch', f'B_switch/{config}.toml', ('B_switch/switch.sh',), sockets=_SOCKETS)


_HAIRPIN_OFF = Variant('no hairpin', (vlan_switch(),))
_HOSTS, _VMS = 'abc', {1: ('a', 10), 2: ('a', 20), 3: ('b', 30), 4: ('b', 30), 5: ('c', 10), 6: ('c', 20)}


def _three(name, title, flat='', modes=None, **more):
    """The network B on three hosts."""
    reflecting = bool(modes)
    return Network(
        name, title,
        hosts=(vlan_switch('reflecting' if reflecting else 'switch'),
               *(Host(host, f'{name}/{host}.toml', flat=host in flat) for host in _HOSTS)),
        stations=tuple(Station(n, host, vid, (modes or {}).get(n, 'bridge')) for n, (host, vid) in _VMS.items()),
        gateways=_VLANS, router='switch', reflecting=reflecting, leaks=bool(flat),
        cables=tuple(Cable(host, 'eth1', 'switch', socket) for host, socket in zip(_HOSTS, _SOCKETS)),
        variants=(_HAIRPIN_OFF,) if reflecting else (), **more)


def _one(name, title, mode, **more):
    """The network B on one host."""
    return Network(
        name, title, hosts=(vlan_switch('reflecting' if more else 'switch'), Host('host', f'{name}/host.toml')),
        stations=tuple(Station(n, 'host', vid, mode) for n, (_, vid) in _VMS.items()),
        gateways=_VLANS, router='switch', cables=(Cable('host', 'eth1', 'switch', 'port1'),), **more)


def _four(domain, mode='bridge'):
    return tuple(Station(n, 'host', domain, mode) for n in range(1, 5))


_MODES = {1: 'vepa', 2: 'vepa', 3: 'vepa'}
_SLOTS = (10, 20, 30, 30, 10, 20)

NETWORKS = {network.name: network for network in (
    Network(
        'A_V0', 'A flat Ethernet: access bridge, cable, second bridge, host gateway with NAT',
        hosts=(Host('host', 'A_V0/host.toml', ('A_V0/host.sh',)),),
        stations=_four('lan'), gateways=(gateway('host', 'gw0', 'lan', 0),), router='host'),
    Network(
        'A_V1', 'Two subnets with a bridge each, and the host as the gateway of both',
        hosts=(Host('host', 'A_V1/host.toml', ('A_V1/host.sh',)),),
        stations=tuple(Station(n, 'host', 'left' if n < 3 else 'right') for n in range(1, 5)),
        gateways=(gateway('host', 'gw1', 'left', 1), gateway('host', 'gw2', 'right', 2)), router='host'),
    _three('B_V0', 'Six VMs in three VLANs on three hosts, two of which know no VLANs', flat='ab'),
    _three('B_V1', 'Six VMs in three VLANs on three hosts, all of which know VLANs'),
    _one('B_V2', 'Six VMs in three VLANs on one host with a trunk', 'bridge'),
    Network(
        'A_M0', 'A flat Ethernet by MACVTAP, as a VEPA and as a bridge, with an external switch',
        hosts=(Host('switch', script=('A_M0/switch.sh', 'on'), sockets=('port1',)), Host('host', 'A_M0/vepa.toml')),
        stations=_four('lan', 'vepa'), gateways=(gateway('switch', 'br0', 'lan', 0),), router='switch',
        cables=(Cable('host', 'eth1', 'switch', 'port1', 'lan'),), reflecting=True,
        variants=(Variant('no hairpin', (Host('switch', script=('A_M0/switch.sh', 'off')),)),
                  Variant('bridge', (Host('host', 'A_M0/bridge.toml'),
                                     Host('switch', script=('A_M0/switch.sh', 'off'))), mode='bridge'))),
    _three('B_M0', 'VEPA and VEB mixed; two of three hosts know no VLANs', flat='ab', modes=_MODES | {5: 'vepa'}),
    _three('B_M1', 'VEPA and VEB mixed; all hosts know VLANs', modes=_MODES),
    _one('B_M2', 'Six VMs in three VEPA groups on one host, behind a switch that reflects', 'vepa', reflecting=True,
         variants=(_HAIRPIN_OFF,)),
    Network(
        'B_M3', 'Six VMs, each with a virtual function for itself',
        hosts=(Host('nic', 'B_M3/nic.toml', ('B_switch/switch.sh',), sockets=tuple(f'port{n}' for n in range(7))),
               Host('host', 'B_M3/host.toml'), Host('target', 'B_M3/target.toml')),
        stations=tuple(Station(n + 1, 'host', vid, 'passthrough', f'vf{n}') for n, vid in enumerate(_SLOTS)),
        gateways=tuple(gateway('nic', f'vlan{vid}', vid, vid) for vid in (10, 20, 30)), router='nic',
        cables=(*(Cable('host', f'vf{n}', 'nic', f'port{n}', vid) for n, vid in enumerate(_SLOTS)),
                Cable('target', 'vf6', 'nic', 'port6', 10))),
)}
