"""Every combination of the device's properties, each with guests that accept what is offered."""
from itertools import product

from ..guest import mac, nic
from ..runner import check

PROPERTIES = ('mrg_rxbuf', 'event_idx', 'indirect_desc')


def _combinations():
    """Each on/off combination for the probing guest, its opposite for the echoing one, and modern registers with
    split and with packed rings, and legacy ones: QEMU's order of negotiation for all of them."""
    for kind, values in product(('modern', 'packed', 'legacy'), product((True, False), repeat=len(PROPERTIES))):
        on = {p for p, v in zip(PROPERTIES, values) if v}
        yield kind + ''.join(f',{p}' for p in PROPERTIES if p in on), (on, kind)


def _properties(on, kind):
    registers = 'disable-modern=on,disable-legacy=off' if kind == 'legacy' else 'disable-legacy=on'
    packed = ['packed=on'] if kind == 'packed' else []
    return ','.join([registers, *packed, *(f'{p}={"on" if p in on else "off"}' for p in PROPERTIES)])


def _probe(lab, on, kind, other_on, more=''):
    """Frames of every length go from one bare-metal guest to another and come back: none lost, none changed."""
    evb = lab.evb('probe', 'echo')
    legacy = kind == 'legacy'
    modern = set() if legacy else {'version_1', 'in_order'} | ({'packed'} if kind == 'packed' else set())
    echo = lab.bare('echo', nic(evb.socket('echo'), mac(2), _properties(other_on, kind) + more),
                    accept=other_on | modern, legacy=legacy)
    echo_has = echo.negotiated()
    echo.echoing()
    probe = lab.bare('probe', nic(evb.socket('probe'), mac(1), _properties(on, kind) + more), accept=on | modern,
                     words='role=probe peer=525400000002 frames=600', legacy=legacy)
    assert probe.negotiated() - {'in_order'} == on | modern - {'in_order'}
    assert echo_has - {'in_order'} == other_on | modern - {'in_order'}
    sent, lost, bad = probe.probed()
    if lost or bad:
        # They tell who did not pass on what.
        counters = {port: evb.counters(port) for port in evb.ports}
        raise AssertionError(f'{sent} frames: {lost} lost, {bad} wrong; {counters}')
    return f'{sent} frames'


@check(smoke=True, cases=dict(_combinations()))
def bare(lab, on, kind):
    """Frames of every length to an echoing guest and back, with these features on, the others off."""
    return _probe(lab, on, kind, set(PROPERTIES) - on)


OFFLOADS = {'csum', 'guest_csum', 'guest_tso4', 'host_tso4'}
NO_OFFLOADS = ('csum=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,'
               'host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off')


@check(cases={f'{kind},{value}': (kind, value) for kind in ('modern', 'packed') for value in ('on', 'off')})
def in_order(lab, kind, value):
    """The same with VIRTIO_F_IN_ORDER offered by QEMU, and not."""
    everything = set(PROPERTIES)
    return _probe(lab, everything, kind, everything, f',in_order={value}')


@check(cases={
    'plain': ('mrg_rxbuf=off,event_idx=off,indirect_desc=off', {'mrg_rxbuf', 'event_idx', 'indirect_desc'}),
    'no_mrg_rxbuf': ('mrg_rxbuf=off', {'mrg_rxbuf'}),
    'no_event_idx': ('event_idx=off', {'event_idx'}),
    'large_rings': ('rx_queue_size=1024,tx_queue_size=1024', set()),
    'packed': ('packed=on', set()),
    'packed_plain': ('packed=on,mrg_rxbuf=off,event_idx=off,indirect_desc=off',
                     {'mrg_rxbuf', 'event_idx', 'indirect_desc'}),
    'packed_large_rings': ('packed=on,rx_queue_size=1024,tx_queue_size=1024', set()),
    'legacy': ('disable-modern=on,disable-legacy=off', {'version_1'}),
    'legacy_no_mrg_rxbuf': ('disable-modern=on,disable-legacy=off,mrg_rxbuf=off', {'version_1', 'mrg_rxbuf'}),
})
def linux(lab, props, absent):
    """A Linux guest with these properties and one with the usual ones: ping, TCP, a file both ways."""
    evb = lab.evb('a', 'b')
    a, b = lab.two_guests(evb, props, '')
    assert not a.negotiated() & absent, a.negotiated()
    assert ('packed' in a.negotiated()) == ('packed=on' in props)
    sent, answered = a.ping('10.0.0.2', 20, size=1400)
    assert sent == answered, f'{answered} of {sent} pings answered'
    a.send_file(b, '10.0.0.2')
    b.send_file(a, '10.0.0.1')
    b.serve_tcp()
    return f'{a.tcp("10.0.0.2", 2)} Mbit/s out, {a.tcp("10.0.0.2", 2, "-R")} Mbit/s in'


@check(cases={f'{a}_{b}': (a, b) for a in ('on', 'off') for b in ('on', 'off')})
def offloads(lab, *sides):
    """Linux guests with and without offloads, each with each: large transfers, and no checksum was wrong."""
    evb = lab.evb('a', 'b')
    pair = lab.two_guests(evb, *('' if side == 'on' else NO_OFFLOADS for side in sides))
    for guest, side in zip(pair, sides, strict=True):
        assert bool(guest.negotiated() & OFFLOADS) == (side == 'on'), guest.negotiated()
    a, b = pair
    a.send_file(b, '10.0.0.2')
    b.send_file(a, '10.0.0.1')
    b.serve_tcp()
    rates = a.tcp('10.0.0.2', 2), a.tcp('10.0.0.2', 2, '-R')
    for guest in pair:
        # The last of the figures of TCP is InCsumErrors.
        assert guest.check("sed -n 's/^Tcp: [0-9].* //p' /proc/net/snmp").strip() == '0', 'wrong checksums'
    return '{} Mbit/s out, {} Mbit/s in'.format(*rates)


@check(cases={'1': (1,), '4': (4,)})
def multiqueue(lab, queues):
    """`mq=on` with this many queue pairs; parallel streams use all of them."""
    evb = lab.evb('a', 'b', config='[[relay]]\nname = "net"\n' + ''.join(
        f'[[port]]\nname = "{p}"\nrelay = "net"\nlisten = "{{dir}}/{p}.sock"\nqueues = {queues}\n' for p in 'ab'))
    a, b = lab.two_guests(evb, queues=queues, cpus=2)
    b.serve_tcp()
    a.send_file(b, '10.0.0.2')
    # Chance puts a connection on its queue: of as many as these, it leaves one queue out in three of a hundred cases.
    for _ in range(4):
        rate = a.tcp('10.0.0.2', 4, f'-P {4 * queues}')
        used = [int(n) for n in b.check(r"ethtool -S eth0 | sed -nE 's/^ *rx_?queue_?[0-9]+_packets: //p;"
                                        r"s/^ *rx[0-9]+_packets: //p'").split()]
        if queues == 1 or sum(n > 20 for n in used) == queues:
            break
    else:
        raise AssertionError(f'frames by receive queue: {used}')
    return f'{rate} Mbit/s over {4 * queues} streams'
