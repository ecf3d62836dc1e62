"""The reference networks, end to end. Every frame that is asked for is compared byte by byte wherever it has to be, and
looked for wherever it must not be: stations, gateways, both ends of every cable."""
import itertools
import os
import socket
import subprocess

from ..evb import BINARY
from ..guest import mac, nic, ping_figures
from ..networks import frames, netns
from ..networks.build import PAGE, Built
from ..networks.describe import Station, Variant
from ..networks.reference import NETWORKS
from ..process import tail, wait_for
from ..runner import cell, check

_ROUTER = '198.51.100.1'                            # what the world sees of a network


def built(lab, network, guests=()):
    """Brings a network up, for as long as the check runs."""
    why = netns.missing()
    if why:
        raise RuntimeError(f'{why}; `make networks` skips these checks')
    with cell(network.name, 'up'):
        it = Built(network, lab.directory, os.getpid(), guests)
        lab.callback(it.close)
        return it.up()


def compare(built):
    """Who hears whose broadcasts and unicasts, how often, and with which tags on the cables."""
    network = built.network
    for kind in (network.broadcasts, network.unicasts):
        complaints = built.field.ask(lambda: list(kind()))
        assert not complaints, f'{len(complaints)} frames went wrong; the first: {complaints[0]}'


def _pings(built):
    """Each station reaches the gateway and every other station, through the router where they are in two subnets; but for
    those who are kept apart. It is really the gateway's port that answers, and not the router by another device that hears
    the question as well."""
    network = built.network
    for station in network.stations:
        others = [network.gateway(station).address, *(network.address(s) for s in network.stations if s is not station
                                                      and (s.domain != station.domain or network.hears(s, station)))]
        built.run(station, 'sh', '-ec', ''.join(f'busybox ping -c 1 -W 5 {address}\n' for address in others))
        gateway = network.gateway(station)
        known = built.run(station, 'ip', 'neighbour', 'show', gateway.address)
        assert gateway.mac in known, f'{station.name} takes the gateway to be {known}'


@check(suite='networks', cases={name: (network,) for name, network in NETWORKS.items()})
def network(lab, network):
    """A reference network, its stations being namespaces: frames, cables, IP, NAT, and its variants."""
    return walk(built(lab, network), _PARTS.get(network.name, {}))


def walk(built, parts):
    """What each network has to show, and `parts` besides: by column of the table, functions of what is built."""
    network = built.network
    name = network.name
    with cell(name, 'frames and tags'):
        built.watch()
        compare(built)
    leaks = network.leaking()
    with cell(name, 'leaks, as expected' if network.leaks else 'no leaks'):
        assert bool(leaks) == network.leaks, leaks
        assert _across(built) == set(leaks)
    with cell(name, 'ping'):
        _pings(built)
    with cell(name, 'NAT'):
        for station in network.stations:
            seen = built.seen_as(station)
            assert seen == _ROUTER, f'outside, {station.name} was seen as {seen}'
    for variant in network.variants:
        with cell(name, variant.name):
            built.change(variant)
            compare(built)
    for column, part in parts.items():
        with cell(name, column):
            part(built)
    pairs = len(network.everybody()) * (len(network.everybody()) - 1)
    return f'{pairs} pairs, {len(network.cables)} cables' + (f', {len(leaks)} leaks between VLANs' if leaks else '')


def _across(built):
    """The pairs of stations in two domains of which the one hears ARP requests of the other, whatever is expected."""
    questions = list(built.network.broadcasts())
    heard = {}
    for question in questions:
        built.field.probes[question.sender].send(question.frame)
    found = built.field.collect(lambda h: all(h[q.frame[-12:]][o] for q in questions for o in q.answers), 10)
    for question in questions:
        heard[question.sender] = {name for name, arrived in found[question.frame[-12:]].items() if arrived}
    return {(s.name, o.name) for s, o in itertools.permutations(built.network.stations, 2)
            if s.domain != o.domain and o.name in heard[s.name]}


def _pair_rule(built):
    """Two VMs of one relay in every pair of modes, before a switch that reflects and one that does not: directly, by
    way of the switch, or not at all."""
    hairpin = Variant('hairpin', (NETWORKS[built.network.name].host('switch'),), reflecting=True)
    for variant in (hairpin, *built.network.variants):
        built.change(variant)
        for one, other in itertools.product(('bridge', 'vepa', 'private'), repeat=2):
            built.set_modes('b', {'vm3': one, 'vm4': other})
            compare(built)


def pass_patterns(built):
    """64 patterns each way between a VM and the cable of its virtual function, all bytes as they were."""
    station, wire = 'vm1', 'host:vf0 up'
    for sender, receiver, source in ((station, wire, mac(1)), (wire, station, '52:54:00:00:00:aa')):
        patterns = frames.patterns(source)
        assert len(patterns) == 64
        for frame in patterns:
            built.field.probes[sender].send(frame)
        heard = built.field.collect(lambda h: all(h[frame[-12:]][receiver] for frame in patterns), 10)
        for frame in patterns:
            got = heard[frame[-12:]][receiver]
            assert got == [frame], f'{sender} sent {frame.hex()}, {receiver} got {[f.hex() for f in got]}'


def refusal(built, real=False):
    """A virtual function has one VM: a second one is refused by the socket, the configuration and, of `real` functions, by
    the first daemon's lock; where VETH devices stand in for them, by the kernel."""
    host = built.directory / 'host'
    with socket.socket(socket.AF_UNIX) as second:
        second.settimeout(10)
        second.connect(str(built.socket(built.network.station('vm1'))))
        assert second.recv(1) == b'', 'a second front end was taken'
    wait_for(lambda: 'a second front end' in tail(host / 'evb.log'), 10, 'a word about the second front end in the log')

    text = (host / 'evb.toml').read_text()
    second = f'\n[[port]]\nname = "vm7"\nrelay = "vf0"\nmode = "passthrough"\nlisten = "{host}/vm7.sock"\n'
    (host / 'second.toml').write_text(text + second)
    done = subprocess.run([BINARY, 'check', '--config', host / 'second.toml'], text=True, timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode and '`vf0` is passthrough and has two local ports' in done.stdout, done.stdout

    # Where VETH devices stand in, a second daemon finds the names of its own devices taken; with other names it comes as
    # far as the kernel.
    other = built.directory / 'other'
    other.mkdir()
    text = text.replace(str(host), str(other))
    renamed = text.replace('[[uplink]]\nname = "', '[[uplink]]\nname = "other-')
    refused = ([(text, 'is in use by another uplink or another evb')] if real else
               [(text, 'evb-vf0: the name is taken by a MACVTAP device in mode passthru'),
                (renamed, 'evb-other-vf0: vf0 is used by another MACVLAN or MACVTAP device')])
    for config, sentence in refused:
        (other / 'evb.toml').write_text(config)
        done = subprocess.run(netns.within(built.namespace('host'), BINARY, 'run', '--config', other / 'evb.toml'),
                              text=True, timeout=30, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 1 and sentence in done.stdout, f'exit status {done.returncode}: {done.stdout}'


def crosses_once(built):
    """What one relay says to all is on its patch `cable` once, and what stays on one side never, by the counters there."""
    network, daemon = built.network, built.daemons['host']
    near = network.stations[0].device

    def side(who):
        return isinstance(who, Station) and who.device == near

    def crossed():
        counters = daemon.counters('cable.a')
        return counters['tx_frames'] + counters['rx_frames']

    def ask(question):
        complaints = built.field.ask(lambda: [question], rounds=1)
        assert not complaints, complaints[0]

    # Nobody is to ask for an address again on his own account.
    for name in (network.router, *(station.name for station in network.stations)):
        netns.run(*netns.within(built.namespace(name), 'ip', 'neighbour', 'flush', 'all'))
    everybody = {who.name: who for who in network.everybody()}
    unicasts = (question for question in network.unicasts() if question.silent is None)
    for question in (*network.broadcasts(), *unicasts):
        copies = len({side(everybody[name]) for name in (question.sender, *question.answers)}) - 1
        before = crossed()
        ask(question)
        # Another broadcast of the sender follows: once that is counted, so is what went before.
        ask(next(q for q in network.broadcasts() if q.sender == question.sender))
        wait_for(lambda: crossed() - before > copies, 10, f'{copies} and 1 frames on the cable')
        found = crossed() - before - 1
        assert found == copies, f'{question.sender} sent {question.frame.hex()}: {found} frames on the cable, not {copies}'


# What only one network has to show.
_PARTS = {
    'A_V0': {'crosses once': crosses_once},
    'B_M0': {'pair rule': _pair_rule},
    'B_M1': {'pair rule': _pair_rule},
    'B_M3': {'64 patterns': pass_patterns, 'second VM refused': refusal},
}


@check(cases={name: (name, *pair) for name, pair in {
    'A_V0': ('vm1', 'vm4'), 'A_V1': ('vm1', 'vm3'), 'B_V0': ('vm1', 'vm5'), 'B_V1': ('vm1', 'vm6'), 'B_V2': ('vm1', 'vm2'),
    'A_M0': ('vm1', 'vm2'), 'B_M0': ('vm3', 'vm4'), 'B_M1': ('vm3', 'vm4'), 'B_M2': ('vm1', 'vm5')}.items()})
def network_with_guests(lab, name, one, other):
    """The same with two VMs among the stations: TCP between them, the gateway, a page from outside, the variants."""
    with cell(name, 'guests'):
        it = built(lab, NETWORKS[name], (one, other))
        it.ready_guests()
        network, first, second = it.network, it.machines[one], it.machines[other]
        one, other = network.station(one), network.station(other)
        address = network.address(other)
        first.reach(address)
        routed = one.domain != other.domain
        assert f' ttl={63 if routed else 64} ' in first.check(f'ping -c 1 -W 5 {address}'), 'the way of the answer'
        if routed:
            ask = 'arping -I eth0 -c 3 -w 5'
            first.check(f'{ask} {network.gateway(one).address}')
            assert first.sh(f'{ask} {address}')[0], f'{other.name} answers ARP in the VLAN of {one.name}'
        seconds = first.send_file(second, address, 8)
        for guest in (first, second):
            seen = guest.check(f'wget -q -O - {PAGE}')
            assert seen == _ROUTER, f'outside, {guest.name} was seen as {seen}'
        for variant in network.variants:
            it.change(variant)
            _reach_as_described(it, first, second)
        return f'{8 * 8.39 / seconds:.0f} Mbit/s between two guests'


def _reach_as_described(it, *pair):
    """Two guests of one domain in a variant reach their gateway, and each other if the network is to let them."""
    one, other = (it.network.station(guest.name) for guest in pair)
    for guest in pair:
        guest.reach(it.network.gateway(one).address)
    address = it.network.address(other)
    if it.network.hears(one, other) and it.network.hears(other, one):
        pair[0].reach(address)
    else:
        sent, answered = pair[0].ping(address, 3, 0.5)
        assert sent and not answered, f'{answered} of {sent} pings answered, by a station that is not to hear them'


@check()
def network_migration(lab):
    """B_M3: a VM migrates to a virtual function of another host while it pings its gateway, and is found there."""
    with cell('B_M3', 'migration'):
        it = built(lab, NETWORKS['B_M3'], ('vm1',))
        it.ready_guests()
        network, guest = it.network, it.machines['vm1']
        station, sibling = network.station('vm1'), network.station('vm5')
        marker = guest.check('cat /proc/sys/kernel/random/boot_id')
        guest.background(f'ping -i 0.1 -c 100 {network.gateway(station).address}', 'ping')
        uri = f'unix:{lab.directory}/migration'
        moved = lab.linux('moved', nic(it.directory / 'target' / 'vm1.sock', station.mac), incoming=uri)
        state = guest.migrate(uri)
        guest.close()
        moved.console.send('')                      # its console is another one now
        assert moved.check('cat /proc/sys/kernel/random/boot_id') == marker
        sent, answered = ping_figures(moved.gathered('ping'))
        it.run(sibling, 'busybox', 'ping', '-c', '3', '-W', '5', network.address(station))
        assert answered > sent * 0.8, f'{answered} of {sent} pings answered'
        return f'down for {state["downtime"]} ms, {sent - answered} of {sent} pings missed'
