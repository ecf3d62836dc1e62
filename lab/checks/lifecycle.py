"""What happens when the daemon, or the machine below a guest, is exchanged."""
from ..guest import iperf_figure, mac, nic, ping_figures
from ..process import wait_for
from ..runner import check

RELAY = '[[relay]]\nname = "net"\n'


def _connecting(*ports):
    return RELAY + ''.join(f'[[port]]\nname = "{p}"\nrelay = "net"\nconnect = "{{dir}}/{p}.sock"\n' for p in ports)


@check(cases={f'{who}{rings}': (who == 'qemu_listens', rings) for who in ('evb_listens', 'qemu_listens')
              for rings in ('', ',packed')})
def killed_and_restarted(lab, qemu_listens, rings):
    """The daemon is killed under traffic and started again: guests go on by themselves."""
    state = ('--state', lab.memory())
    evb = (lab.evb(config=_connecting('a', 'b'), options=state) if qemu_listens
           else lab.evb('a', 'b', options=state))
    a, b = lab.two_guests(evb, 'packed=on' if rings else '', listen=qemu_listens)
    assert ('packed' in a.negotiated()) == bool(rings)
    marker = a.check('cat /proc/sys/kernel/random/boot_id')
    b.check('(ping -i 0.05 10.0.0.1) > /dev/null 2>&1 &')
    for _ in range(2):
        evb.crash()
        for guest in (a, b):
            guest.check('until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do usleep 50000; done', 30)
        evb.start()
        seconds = b.reach('10.0.0.1')
        a.reach('10.0.0.2')
        sent, answered = b.ping('10.0.0.1', 20)
        assert sent == answered, f'{answered} of {sent} pings answered after the restart'
        b.send_file(a, '10.0.0.1')
        a.send_file(b, '10.0.0.2')
    assert a.check('cat /proc/sys/kernel/random/boot_id') == marker
    return f'first answer {seconds:.1f} s after the restart'


@check()
def reset_after_a_loss(lab):
    """The daemon is killed, and what it knew of packed rings is lost with it: a guest is back when its driver is loaded
    anew, and so is one whose driver was loaded anew while the daemon was away."""
    state = lab.memory()
    evb = lab.evb('a', 'b', options=('--state', state))
    a, b = lab.two_guests(evb, 'packed=on')
    evb.crash()
    (state / 'a.positions').unlink()
    _reload(b)
    evb.start()
    wait_for(lambda: evb.status('a')['state'] == 'failed', 30, 'the loss of a')
    _reload(a)
    a.up('10.0.0.1')
    b.up('10.0.0.2')
    a.reach('10.0.0.2')
    a.send_file(b, '10.0.0.2')
    b.send_file(a, '10.0.0.1')


def _reload(guest):
    guest.check('rmmod virtio_net; insmod /lib/modules/virtio_net.ko; '
                'until [ -e /sys/class/net/eth0 ]; do usleep 50000; done')


@check(cases={'': ('',), 'no_mrg_rxbuf': ('mrg_rxbuf=off',), 'packed': ('packed=on',)})
def migration(lab, props):
    """A guest migrates to another port and back under ping and TCP; both survive."""
    evb = lab.evb('peer', 'here', 'there')
    peer = lab.linux('peer', nic(evb.socket('peer'), mac(1)))
    guest = lab.linux('here', nic(evb.socket('here'), mac(2), props))
    peer.ready().up('10.0.0.1')
    guest.ready().up('10.0.0.2')
    peer.reach('10.0.0.2')
    guest.serve_tcp()
    marker = guest.check('cat /proc/sys/kernel/random/boot_id')
    peer.background('iperf3 -c 10.0.0.2 -t 25 -f m', 'iperf')
    peer.background('ping -i 0.1 -c 250 10.0.0.2', 'ping')
    peer.check('sleep 1')
    notes = []
    for trip, port in enumerate(('there', 'here')):
        uri = f'unix:{lab.directory}/migration{trip}'
        target = lab.linux(f'{port}{trip}', nic(evb.socket(port), mac(2), props), incoming=uri)
        state = guest.migrate(uri)
        guest.close()
        guest = target
        guest.console.send('')                          # its console is another one now
        assert guest.check('cat /proc/sys/kernel/random/boot_id') == marker
        peer.reach('10.0.0.2')
        notes.append(f'down for {state["downtime"]} ms')
    rate = iperf_figure(peer.gathered('iperf'))
    sent, answered = ping_figures(peer.gathered('ping'))
    peer.send_file(guest, '10.0.0.2')
    guest.send_file(peer, '10.0.0.1')
    assert answered > sent * 0.8, f'{answered} of {sent} pings answered'
    return f'{", ".join(notes)}; {sent - answered} of {sent} pings missed, TCP {rate} Mbit/s over it all'
