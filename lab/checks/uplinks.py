"""A guest, and a network beyond an uplink."""
import os
import subprocess
import sys

from ..guest import mac, nic
from ..networks import netns
from ..process import wait_for
from ..runner import check

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


@check(cases={mode: (mode,) for mode in ('passthru', 'bridge')})
def macvtap_uplink(lab, mode):
    """A guest reaches a station beyond a MACVTAP uplink: ping, and TCP with segments left to the devices, summed."""
    if why := netns.missing():
        raise RuntimeError(why)
    here, there = (f'evb-up-{os.getpid()}-{side}' for side in ('host', 'wire'))
    netns.sweep('evb-up-')
    lab.callback(netns.remove, f'evb-up-{os.getpid()}-')
    for name in (here, there):
        netns.add(name)
    netns.cable(here, 'eth1', there, 'eth0')
    netns.configure(there, 'addr add 10.0.0.2/24 dev eth0')
    evb = lab.evb('a', before=netns.within(here), config=f'''
[[relay]]
name = "net"
[[port]]
name = "a"
relay = "net"
listen = "{{dir}}/a.sock"
mac = ["{mac(1)}"]
[[uplink]]
name = "up0"
relay = "net"
macvtap = {{ parent = "eth1", mode = "{mode}" }}
''')
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
