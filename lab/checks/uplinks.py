"""A guest, and a network beyond an uplink."""
import os
import statistics
import subprocess
import sys

from ..guest import mac, nic
from ..networks import netns
from ..process import wait_for
from ..runner import check
from ..stations import node

_BYTES = 16 << 20

# Serves one transfer each way: what comes in on port 9 is summed, and what goes out on port 10 is made up.
_STATION = f"""
import hashlib, os, socket
for port in (9, 10):
    with socket.create_server(('10.0.0.2', port)) as server:
        print('ready', flush=True)
        connection, _ = server.accept()
        with connection:
            sum, left = hashlib.md5(), {_BYTES}
            while left:
                part = connection.recv(left) if port == 9 else os.urandom(1 << 20)
                assert part, f'{{left}} bytes are missing'
                if port == 10:
                    connection.sendall(part)
                sum.update(part)
                left -= len(part)
            print(sum.hexdigest(), flush=True)
"""


_PORT = """
[[relay]]
name = "net"
[[port]]
name = "a"
relay = "net"
listen = "{{dir}}/a.sock"
mac = ["{guest}"]
"""
_DEVICES = {
    'tap': _PORT + """
[[port]]
name = "host"
relay = "net"
tap = {{ name = "tap0", mac = "{host}" }}
""",
    'macvtap': _PORT + """
[[uplink]]
name = "up0"
relay = "net"
macvtap = {{ parent = "eth1", mode = "{mode}" }}
""",
}


def _cabled(lab):
    """Two namespaces with a cable: the host's, where it is eth1, and one with a station at 10.0.0.2."""
    if why := netns.missing():
        raise RuntimeError(why)
    here, there = (f'evb-up-{os.getpid()}-{side}' for side in ('host', 'wire'))
    netns.sweep('evb-up-')
    lab.callback(netns.remove, f'evb-up-{os.getpid()}-')
    for name in (here, there):
        netns.add(name)
    netns.cable(here, 'eth1', there, 'eth0')
    netns.configure(there, 'addr add 10.0.0.2/24 dev eth0')
    return here, there


@check(cases={mode: (mode,) for mode in ('passthru', 'bridge')})
def macvtap_uplink(lab, mode):
    """A guest reaches a station beyond a MACVTAP uplink: ping, and TCP with segments left to the devices, summed."""
    here, there = _cabled(lab)
    evb = lab.evb('a', before=netns.within(here), config=_DEVICES['macvtap'].format(guest=mac(1), mode=mode))
    guest = lab.linux('a', nic(evb.socket('a'), mac(1))).ready()
    guest.up('10.0.0.1')
    guest.reach('10.0.0.2')
    sent, answered = guest.ping('10.0.0.2', 20, size=1400)
    assert sent == answered, f'{answered} of {sent} pings answered'
    log = lab.directory / 'station.log'
    with open(log, 'w') as out:
        station = subprocess.Popen(netns.within(there, sys.executable, '-c', _STATION), stdout=out, stderr=out)
    lab.callback(station.kill)
    said = lambda: log.read_text().split('\n')[:-1]
    wait_for(lambda: said() == ['ready'], 30, 'the station')
    sent = guest.check(f'dd if=/dev/urandom of=/tmp/out bs=1M count={_BYTES >> 20} 2>/dev/null; md5sum < /tmp/out')
    guest.check('timeout 100 nc 10.0.0.2 9 < /tmp/out', 120)
    wait_for(lambda: said()[2:] == ['ready'], 60, 'the sum of what arrived')
    assert said()[1] in sent, 'the station got something else'
    got = guest.check('nc 10.0.0.2 10 < /dev/null > /tmp/in; wc -c < /tmp/in; md5sum < /tmp/in', 120)
    assert station.wait(60) == 0 and said()[3] in got, f'the guest got something else: {got}'
    counters = evb.counters('up0')
    frames = counters['rx_frames'] + counters['tx_frames']
    assert frames < 2 * _BYTES / 1448, f'{frames} frames: segments were cut on the way'
    return f'{2 * _BYTES >> 20} MiB in {frames} frames'


@check(cases={kind: (kind,) for kind in _DEVICES})
def rates_beside_qemu(lab, kind):
    """TCP with segments left to the devices, to a station and back: through `evb`, and through QEMU's own back end for a device
    of the same kind, in turn. Their rates are told."""
    here, there = _cabled(lab)
    evb = lab.evb('a', before=netns.within(here), config=_DEVICES[kind].format(guest=mac(1), host=mac(2), mode='bridge'))
    ours = lab.linux('ours', nic(evb.socket('a'), mac(1)))
    if kind == 'tap':
        # The host itself is the station, in a subnet for each guest.
        station, (address, other) = here, ('10.0.0.2', '10.0.1.2')
        netns.configure(here, 'addr add 10.0.0.2/24 dev tap0', 'link set tap0 up',
                        'tuntap add tap1 mode tap vnet_hdr', 'addr add 10.0.1.2/24 dev tap1', 'link set tap1 up')
        theirs = lab.linux('theirs', _qemu_nic('ifname=tap1,script=no,downscript=no'), before=netns.within(here))
    else:
        station, address, other = there, '10.0.0.2', '10.0.0.2'
        netns.configure(here, f'link add link eth1 name mv1 address {mac(3)} type macvtap mode bridge', 'link set mv1 up')
        with node(here, 'mv1') as path:
            opened = netns.within(here, 'sh', '-c', f'exec "$@" 3<>{path}', 'sh')
            theirs = lab.linux('theirs', _qemu_nic('fd=3'), before=opened)
    guests = {'evb': (ours.ready(), address), 'QEMU': (theirs.ready(), other)}
    for name, number in (('evb', 1), ('QEMU', 3)):
        guest, address = guests[name]
        guest.up(address[:-1] + str(number)).reach(address)
    server = subprocess.Popen(netns.within(station, 'iperf3', '-s'), stdout=subprocess.DEVNULL)
    lab.callback(server.kill)
    # Port 5201.
    wait_for(lambda: ':1451 ' in netns.run(*netns.within(station, 'cat', '/proc/net/tcp', '/proc/net/tcp6')), 30, 'iperf3')
    rates = {}
    for _ in range(3):
        for name, (guest, address) in guests.items():
            for way, option in (('out', ''), ('in', '-R')):
                rates.setdefault((name, way), []).append(guest.tcp(address, 2, option))
    rate = {key: statistics.median(found) for key, found in rates.items()}
    return ', '.join(f'{way} {rate["evb", way]} beside {rate["QEMU", way]} Mbit/s' for way in ('out', 'in'))


def _qemu_nic(back_end):
    """QEMU's arguments for a NIC with its own back end for TAP devices."""
    return ['-netdev', f'tap,id=n0,{back_end}', '-device', f'virtio-net-pci,netdev=n0,id=d0,mac={mac(3)},romfile=']
