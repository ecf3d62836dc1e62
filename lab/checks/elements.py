"""The elements of networks, end to end, by the same description and the same checks as the networks; and what only one
of them has to show."""
import contextlib
import dataclasses

from ..guest import mac, ping_figures
from ..networks import probe
from ..networks.describe import Variant
from ..networks.elements import ELEMENTS
from ..runner import cell, check
from .networks import built, crosses_once, pass_patterns, walk

_SECOND = mac(0x99)                                 # another address of vm1, which is in no configuration


def _second_address(arrives):
    """A VM with two addresses: both serve behind a device that has the NIC to itself. Where the NIC knows the first one
    only, what is for the second one is lost there, and what comes from it is dropped by evb."""
    def part(it):
        gateway = it.network.gateways[0]
        def there():
            frame = probe.unicast(_SECOND, gateway.mac)
            return [probe.Question('vm1', frame, {gateway.name: frame} if arrives else {}, {'vm2', gateway.name})]
        def back():
            second, first = (probe.unicast(gateway.mac, address) for address in (_SECOND, mac(1)))
            return [probe.Question(gateway.name, second, {'vm1': second} if arrives else {}, {'vm1', 'vm2'}),
                    probe.Question(gateway.name, first, {'vm1': first}, {'vm2'})]
        for questions in (there, back):
            complaints = it.field.ask(questions)
            assert not complaints, complaints[0]
    return part


def _private_leaks(it):
    """The kernel's MACVTAP: before a switch that reflects, `private` keeps broadcasts from siblings, and unicasts not.
    That is what it does, and `mode = "private"` of a port does not (comparison.md)."""
    _second_address(False)(it)
    it.change(Variant('hairpin', ELEMENTS['macvtap-vepa'].hosts[:1]))
    def questions():
        unicast, broadcast = probe.unicast(mac(1), mac(2)), probe.arp_request(mac(1))
        return [probe.Question('vm1', unicast, {'vm2': unicast}, set()),
                probe.Question('vm1', broadcast, {'br0': broadcast}, {'vm2'})]
    complaints = it.field.ask(questions)
    assert not complaints, complaints[0]


_PARTS = {
    'patch-link': crosses_once,
    'macvtap-bridge': _second_address(False),
    'macvtap-vepa': _second_address(False),
    'macvtap-private': _private_leaks,
    'macvtap-passthru': _second_address(True),
    'vf-passthru': pass_patterns,
}


@check(suite='networks', cases={
    name: (element,) for name, element in ELEMENTS.items() if not any(s.function for s in element.stations)})
def element(lab, element):
    """An element by itself, its stations being namespaces."""
    part = _PARTS.get(element.name)
    return walk(built(lab, element), {'its own': part} if part else {})


def pair(it):
    """A VM with a failover pair uses the function, and sends by evb only while it migrates, to another one."""
    network, here, there = it.network, it.daemons['host'], it.daemons['target']
    station, gateway = network.station('vm1'), network.gateways[0]

    def carried(daemon):
        return daemon.counters('vm1')['tx_frames']

    def by_function(guest):
        """The guest, its neighbour on the relay and the gateway reach each other, and nothing of it passes evb's port."""
        guest.check('until ip link show dev eth2 | grep -q "master eth0" && grep -q 1 /sys/class/net/eth2/carrier; '
                    'do usleep 50000; done')
        # Before Linux 6.2 both have an IPv6 address of their own beside the pair's, and speak for it.
        guest.check('for f in eth1 eth2; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done')
        neighbour = network.address(network.station('vm2'))
        for address in (gateway.address, neighbour):
            guest.reach(address)
        daemon = there if guest is not it.machines['vm1'] else here
        before = carried(daemon)
        sent, answered = guest.ping(neighbour, 20)
        assert sent == answered, f'{answered} of {sent} pings answered'
        it.run(network.station('vm2'), 'busybox', 'ping', '-c', '3', '-W', '5', network.address(station))
        assert carried(daemon) == before, f'{carried(daemon) - before} frames went by the standby'

    with cell('failover', 'guests'):
        it.ready_guests()
        guest = it.machines['vm1']
        by_function(guest)
    uri, before = f'unix:{it.directory}/migration', carried(here)
    other = dataclasses.replace(station, host='target', function='vf1')
    with cell('failover', 'migration'), contextlib.closing(it.boot(other, 'moved', incoming=uri)) as moved:
        marker = guest.check('cat /proc/sys/kernel/random/boot_id')
        guest.background(f'ping -i 0.1 {gateway.address}', 'ping')
        state = guest.migrate(uri, unplugged=it.unplugged)
        assert carried(here) > before, 'nothing went by the standby while the function was unplugged'
        guest.close()
        moved.console.send('')                      # its console is another one now
        now = moved.check('cat /proc/sys/kernel/random/boot_id')
        assert marker in now, f'boot {marker} became {now}'
        by_function(moved)
        moved.check('killall -INT ping')
        sent, answered = ping_figures(moved.gathered('ping'))
        assert answered > sent * it.answered, f'{answered} of {sent} pings answered'
        return f'down for {state["downtime"]} ms, {sent - answered} of {sent} pings missed'


@check()
def failover(lab):
    """A failover pair: the guest uses the function, and sends by evb only while it migrates, to another one."""
    return pair(built(lab, ELEMENTS['failover']))
