"""What the kernel's own devices do, each time beside evb in the same place (docs/comparison.md).

Each check asserts both: that this kernel does it, and that evb does not. They need namespaces, and no guest.
"""
import itertools
import os
import subprocess

from ..evb import BINARY, Evb
from ..networks import netns
from ..networks.probe import BROADCAST, Probe
from ..process import wait_for
from ..runner import check
from ..stations import LLDP, Field, Macvtap, frame, read

OUTSIDE = '02:00:00:00:00:ff'                       # who speaks on the wire
HOST = '02:00:00:00:00:ee'
STRANGER = '02:00:00:00:00:55'                      # nobody's
GROUP = '01:00:5e:01:02:03'
NEIGHBOUR = '01:80:c2:00:00:00'                     # the next bridge, and nobody behind it
_numbers = itertools.count(1)


def mac(n):
    """The address of station `n`."""
    return f'02:00:00:00:00:{n:02x}'


def _namespace(lab):
    if why := netns.missing():
        raise RuntimeError(f'{why}; `make networks` skips these checks')
    netns.sweep('evb')
    name = f'evb{os.getpid()}-kernel-{next(_numbers)}'
    netns.add(name)
    lab.callback(netns.remove, name)
    return name


def _place(lab, vids=(None,)):
    """A namespace with a NIC, `u0`, and the field of who is on its wire: so far the wire itself."""
    name = _namespace(lab)
    netns.cable(name, 'u0', name, 'wire')
    field = lab.enter_context(Field('wire', vids))
    field.add('wire', Probe(name, 'wire'), OUTSIDE)
    return name, field


def _macvtaps(lab, mode, stations=2, vids=(None,)):
    """MACVTAP devices `s1`, `s2`, … on one NIC, opened as VMs do."""
    name, field = _place(lab, vids)
    for n in range(1, stations + 1):
        netns.configure(name, f'link add link u0 name s{n} address {mac(n)} type macvtap mode {mode}',
                        f'link set dev s{n} up')
        # With passthru the NIC takes the device's address, or the device the NIC's.
        field.add(f's{n}', Macvtap(name, f's{n}'), read(name, f'/sys/class/net/s{n}/address'))
    return name, field


def _bridge(lab, stations=2):
    """A kernel's bridge with the same NIC, and a cable to each station."""
    name, field = _place(lab)
    netns.configure(name, 'link add br0 type bridge stp_state 0 mcast_snooping 0', 'link set dev br0 up',
                    'link set dev u0 master br0')
    for n in range(1, stations + 1):
        netns.cable(name, f's{n}', name, f'p{n}')
        netns.configure(name, f'link set dev p{n} master br0')
        field.add(f's{n}', Probe(name, f's{n}'), mac(n))
    return name, field


def _port(n, lines, address=None):
    """A port with a TAP device: to the relay, the station behind it is a VM."""
    return f'[[port]]\nname = "s{n}"\ntap = {{ name = "s{n}" }}\nmac = ["{address or mac(n)}"]\n{lines}\n'


def _evb(lab, *ports, relay='', host=False, vids=(None,), addresses=()):
    """evb with ports of these lines and the same kind of NIC; `host`: and the host."""
    name, field = _place(lab, vids)
    addresses = addresses or [mac(n) for n in range(1, len(ports) + 1)]
    config = f'[[relay]]\nname = "net"\n{relay}\n[[uplink]]\nname = "up"\naf_packet = {{ dev = "u0" }}\n'
    config += ''.join(_port(n, *of) for n, of in enumerate(zip(ports, addresses), 1))
    if host:
        config += f'[[port]]\nname = "host"\ntap = {{ name = "host", mac = "{HOST}" }}\n'
    directory = lab.directory / name
    directory.mkdir()
    daemon = Evb(directory, (), config, before=netns.within(name))
    lab.callback(daemon.close)
    for port in daemon.get('/v1/status')['ports']:
        _running(daemon, port['name'])
    for n, address in enumerate(addresses, 1):
        field.add(f's{n}', Probe(name, f's{n}'), address)
    if host:
        field.add('host', Probe(name, 'host'), HOST)
    return daemon, field


def _running(daemon, port):
    wait_for(lambda: daemon.status(port)['state'] == 'running', 10, f'{port} runs')


def _drops(daemon, port):
    return daemon.counters(port)['drops']


@check(suite='networks')
def kernel_guest_and_host(lab):
    """MACVTAP keeps a guest and its host apart, both ways; a host port joins them."""
    name, field = _macvtaps(lab, 'bridge', 1)
    nic = read(name, '/sys/class/net/u0/address')
    field.add('host', Probe(name, 'u0'), nic)
    assert field.hear('s1', frame(mac(1), nic)) == {'wire': 1}
    assert field.hear('s1', frame(mac(1), BROADCAST)) == {'wire': 1}
    assert field.hear('host', frame(nic, mac(1))) == {'wire': 1}

    _, field = _evb(lab, '', host=True)
    assert field.hear('s1', frame(mac(1), HOST)) == {'host': 1}
    assert field.hear('s1', frame(mac(1), BROADCAST)) == {'host': 1, 'wire': 1}
    assert field.hear('host', frame(HOST, mac(1))) == {'s1': 1}


@check(suite='networks')
def kernel_bridge_address(lab):
    """A bridge has the lowest address among its members, and another one when they change; a host port keeps its own."""
    def own():
        return read(name, '/sys/class/net/br0/address')
    name, _ = _place(lab)
    netns.configure(name, 'link add br0 type bridge', f'link set dev u0 address {mac(9)}', 'link set dev u0 master br0')
    before = own()
    netns.configure(name, f'link add s1 address {mac(1)} type veth peer name p1', 'link set dev s1 master br0')
    assert (before, own()) == (mac(9), mac(1))

    daemon, field = _evb(lab, host=True)
    (daemon.directory / 'evb.toml').open('a').write(
        f'[[port]]\nname = "s1"\nlisten = "{daemon.directory}/s1.sock"\nmac = ["{mac(1)}"]\n')
    daemon.cli('reload')
    assert daemon.status('s1')['state'] == 'down'
    assert field.hear('wire', frame(OUTSIDE, HOST)) == {'host': 1}
    assert read(daemon.directory.name, '/sys/class/net/host/address') == HOST


@check(suite='networks')
def kernel_private_leaks(lab):
    """`private` hands a sibling's unicast over once a switch has reflected it; a private port of evb hears no sibling."""
    daemon, evb = _evb(lab, *['mode = "private"'] * 2)
    for leaks, field in ((True, _macvtaps(lab, 'private')[1]), (False, evb)):
        sent = frame(mac(1), mac(2))
        assert field.hear('s1', sent) == {'wire': 1}
        assert field.hear('wire', sent) == ({'s2': 1} if leaks else {})
        # What a router sends on has its own source, and is for the router to allow.
        assert field.hear('wire', frame(OUTSIDE, mac(2))) == {'s2': 1}
    assert _drops(daemon, 'up') == {'pair_rule': 1}


@check(suite='networks', cases={'private': ('private', 'reflected'), 'passthru': ('passthru', 'own_source')})
def kernel_own_frames_return(lab, mode, reason):
    """A broadcast that a switch reflects comes back to its sender, who takes its own address for a duplicate."""
    stations = 1 if mode == 'passthru' else 2
    _, field = _macvtaps(lab, mode, stations)
    own = frame(field.addresses['s1'], BROADCAST)
    assert field.hear('s1', own) == {'wire': 1}
    assert field.hear('wire', own) == {'s1': 1}

    ours = {'passthru': 'mode = "passthrough"\nmac_policy = "trusted"', 'private': 'mode = "private"'}[mode]
    daemon, field = _evb(lab, *[ours] * stations)
    own = frame(mac(1), BROADCAST)
    assert field.hear('s1', own) == {'wire': 1}
    assert field.hear('wire', own) == {}
    assert _drops(daemon, 'up') == {reason: 1}


@check(suite='networks', cases={'bridge': ('bridge',), 'vepa': ('vepa',)})
def kernel_own_address(lab, mode):
    """A frame from a station to itself comes back to it: in bridge mode at once, in VEPA mode from the switch."""
    daemon, evb = _evb(lab, *[f'mode = "{mode}"'] * 2)
    for loops, field in ((True, _macvtaps(lab, mode)[1]), (False, evb)):
        own = frame(mac(1), mac(1))
        back = {'s1': 1} if loops else {}
        if mode == 'vepa':
            assert field.hear('s1', own) == {'wire': 1}
            assert field.hear('wire', own) == back
        else:
            assert field.hear('s1', own) == back
    port, reason = ('s1', 'own_address') if mode == 'bridge' else ('up', 'own_source')
    assert _drops(daemon, port) == {reason: 1}


@check(suite='networks')
def kernel_second_address(lab):
    """Nobody checks a guest's source; under a second one it is a stranger to the source filter, and hears itself."""
    sent = frame(STRANGER, BROADCAST)
    _, field = _macvtaps(lab, 'vepa')
    assert field.hear('s1', sent) == {'wire': 1}
    assert field.hear('wire', sent) == {'s1': 1, 's2': 1}

    daemon, field = _evb(lab, *['mode = "vepa"'] * 2)
    assert field.hear('s1', sent) == {}
    assert _drops(daemon, 's1') == {'spoofed': 1}
    # Allowed to it, the second address is the station's own like the first.
    _, field = _evb(lab, *['mode = "vepa"'] * 2, addresses=(f'{mac(1)}", "{STRANGER}', mac(2)))
    field.addresses['s1'] = mac(1)
    assert field.hear('s1', sent) == {'wire': 1}
    assert field.hear('wire', sent) == {'s2': 1}


@check(suite='networks')
def kernel_stolen_address(lab):
    """A bridge believes any source: one frame, and a neighbour receives what was for another. A pinned port cannot."""
    _, field = _bridge(lab)
    field.hear('s1', frame(mac(1), BROADCAST))
    assert field.hear('wire', frame(OUTSIDE, mac(1))) == {'s1': 1}
    field.hear('s2', frame(mac(1), BROADCAST))
    assert field.hear('wire', frame(OUTSIDE, mac(1))) == {'s2': 1}

    daemon, field = _evb(lab, *['mac_policy = "pinned"'] * 2)
    assert field.hear('s2', frame(mac(1), BROADCAST)) == {}
    assert field.hear('wire', frame(OUTSIDE, mac(1))) == {'s1': 1}
    assert _drops(daemon, 's2') == {'spoofed': 1}


@check(suite='networks')
def kernel_group_filter(lab):
    """MACVTAP sorts groups into 256 buckets: with the one that was joined others arrive. evb compares addresses."""
    name, field = _macvtaps(lab, 'bridge', 1)
    netns.run('ip', '-n', name, 'maddress', 'add', GROUP, 'dev', 's1')
    others = [f'01:00:5e:01:{n >> 8:02x}:{n & 255:02x}' for n in range(0x400, 0x800)]
    leaked = [group for group in others if field.hear('wire', frame(OUTSIDE, group))]
    assert leaked and len(leaked) < len(others)
    assert field.hear('wire', frame(OUTSIDE, GROUP)) == {'s1': 1}

    _, field = _evb(lab, f'join = ["{GROUP}"]', relay='multicast = "groups"\nflood_unregistered = false')
    assert field.hear('wire', frame(OUTSIDE, GROUP)) == {'s1': 1}
    assert not any(field.hear('wire', frame(OUTSIDE, group)) for group in leaked)
    return f'{len(leaked)} of {len(others)} groups that nobody joined'


@check(suite='networks')
def kernel_no_vlans(lab):
    """MACVTAP neither tags nor groups, and looks an address up without its VLAN."""
    vids = (10, 20)
    name, field = _macvtaps(lab, 'bridge', 2, vids)
    sent = frame(mac(1), OUTSIDE)
    assert field.copies('s1', sent) == {'wire': [sent]}, 'as the guest sent it'
    # Tags of the guest's own keep nobody apart.
    assert field.hear('s1', frame(mac(1), BROADCAST, vid=10)) == {'s2': 1, 'wire': 1}
    assert field.hear('wire', frame(OUTSIDE, mac(2), vid=10)) == {'s2': 1}
    assert field.hear('wire', frame(OUTSIDE, mac(2), vid=20)) == {'s2': 1}
    # So there is each address once.
    netns.configure(name, f'link add link u0 name s3 address {mac(1)} type macvtap mode bridge')
    refused = subprocess.run(['ip', '-n', name, 'link', 'set', 'dev', 's3', 'up'], text=True, stderr=subprocess.PIPE)
    assert 'Address already in use' in refused.stderr, refused

    _, field = _evb(lab, 'access = 10', 'access = 20', vids=vids, addresses=(mac(1), mac(1)))
    for n, vid in enumerate(vids, 1):
        sent = frame(mac(1), BROADCAST)
        tag = b'\x81\x00' + vid.to_bytes(2, 'big')
        assert field.copies(f's{n}', sent) == {'wire': [sent[:12] + tag + sent[12:]]}
        assert field.hear('wire', frame(OUTSIDE, mac(1), vid=vid)) == {f's{n}': 1}


@check(suite='networks', cases={'macvtap': (lambda lab: _macvtaps(lab, 'bridge'),), 'bridge': (_bridge,)})
def kernel_poses_as_neighbour(lab, made):
    """A guest can speak LLDP to the switch, and to other guests, in its host's place: what is for the next bridge passes."""
    sent = frame(mac(1), NEIGHBOUR, kind=LLDP)
    _, field = made(lab)
    heard = field.hear('s1', sent)
    assert heard['wire'] == 1, heard

    daemon, field = _evb(lab, '', '')
    assert field.hear('s1', sent) == {}
    assert _drops(daemon, 's1') == {'lldp': 1}
    return f'heard by {", ".join(heard)}'


@check(suite='networks')
def kernel_vepa_needs_a_switch(lab):
    """Before a switch that does not reflect VEPA guests do not reach each other; `reflect = "local"` does without."""
    vepa = ['mode = "vepa"'] * 2
    for _, field in (_macvtaps(lab, 'vepa'), _evb(lab, *vepa)):
        assert field.hear('s1', frame(mac(1), mac(2))) == {'wire': 1}

    _, field = _evb(lab, *vepa, relay='reflect = "local"')
    assert field.hear('s1', frame(mac(1), mac(2))) == {'s2': 1}
    assert field.hear('s1', frame(mac(1), BROADCAST)) == {'s2': 1, 'wire': 1}


@check(suite='networks')
def kernel_vepa_in_vepa(lab):
    """In a guest behind MACVTAP a second layer of it loses reflected unicast, silently; evb refuses to be set up so."""
    name, field = _place(lab)
    # A bridge with a cable stands for the guest: what it sends leaves by the outer device.
    netns.configure(name, f'link add link u0 name outer address {mac(9)} type macvlan mode vepa', 'link add br0 type bridge',
                    'link set dev outer master br0', 'link set dev outer up', 'link set dev br0 up')
    netns.cable(name, 'nic', name, 'p0')
    netns.configure(name, 'link set dev p0 master br0')
    for n in (1, 2):
        netns.configure(name, f'link add link nic name s{n} address {mac(n)} type macvtap mode vepa', f'link set dev s{n} up')
        field.add(f's{n}', Macvtap(name, f's{n}'), mac(n))
    sent = frame(mac(1), mac(2))
    assert field.hear('s1', sent) == {'wire': 1}
    assert field.hear('wire', sent) == {}
    # Broadcasts come back to both, so that ARP finds what cannot be reached.
    sent = frame(mac(1), BROADCAST)
    assert field.hear('wire', sent) == {'s2': 1}

    path = lab.directory / 'nested.toml'
    path.write_text('[[relay]]\nname = "inner"\n[[relay]]\nname = "outer"\n'
                    '[[port]]\nname = "s1"\nrelay = "inner"\nmode = "vepa"\nlisten = "/run/evb/s1.sock"\n'
                    '[[patch]]\na = { relay = "inner", uplink = true }\nb = { relay = "outer", mode = "vepa" }\n'
                    '[[uplink]]\nname = "up"\nrelay = "outer"\naf_packet = { dev = "eth1" }\n')
    done = subprocess.run([BINARY, 'check', '--config', path], text=True, timeout=30, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 2 and 'nested_reflect' in done.stdout, done.stdout
