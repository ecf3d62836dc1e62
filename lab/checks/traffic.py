"""Plain switching between guests."""
from ..guest import mac, nic, ping_figures
from ..process import wait_for
from ..runner import check


@check(smoke=True)
def two_guests(lab):
    """Two Linux guests: pings, TCP, a file compared by its sum both ways, the port's counters."""
    evb = lab.evb('a', 'b')
    a, b = lab.two_guests(evb)
    assert {'version_1', 'mrg_rxbuf', 'event_idx', 'indirect_desc', 'csum', 'host_tso4'} <= a.negotiated()
    sent, answered = a.ping('10.0.0.2', 20, size=1400)
    assert sent == answered, f'{answered} of {sent} pings answered'
    before = evb.counters('b')
    a.send_file(b, '10.0.0.2')
    b.send_file(a, '10.0.0.1')
    after = evb.counters('b')
    assert after['rx_bytes'] - before['rx_bytes'] > 8 << 20 and after['tx_bytes'] - before['tx_bytes'] > 8 << 20
    b.serve_tcp()
    assert 'running' in evb.cli('status')
    note = f'{a.tcp("10.0.0.2", 2)} Mbit/s out, {a.tcp("10.0.0.2", 2, "-R")} Mbit/s in'
    evb.stop()
    assert not evb.socket('a').exists(), 'a socket was left behind'
    return note


@check(smoke=True)
def offload_repair(lab):
    """TCP with segmentation left to the switch, towards a guest that accepts no offload whatever."""
    evb = lab.evb('linux', 'echo')
    lab.bare('echo', nic(evb.socket('echo'), mac(9))).echoing()
    linux = lab.linux('linux', nic(evb.socket('linux'), mac(1))).ready()
    linux.loop_through('10.0.0.1', '10.0.0.9', mac(9))
    assert 'tcp-segmentation-offload: on' in linux.check('ethtool -k eth0')
    linux.reach('10.0.0.9')
    linux.send_file(linux, '10.0.0.9', 4)
    sent, answered = linux.ping('10.0.0.9', 20, size=1400)
    assert sent == answered, f'{answered} of {sent} pings answered'


@check()
def guest_killed(lab):
    """A guest that is killed while frames pour into it disturbs no other port."""
    evb = lab.evb('a', 'victim', 'echo')
    lab.bare('echo', nic(evb.socket('echo'), mac(9))).echoing()
    a = lab.linux('a', nic(evb.socket('a'), mac(1)))
    victim = lab.linux('victim', nic(evb.socket('victim'), mac(2)))
    a.ready().loop_through('10.0.0.1', '10.0.0.9', mac(9))
    a.check('ip route add 10.0.0.2 dev eth0 src 10.0.0.1 table 100')
    victim.ready().up('10.0.0.2')
    a.reach('10.0.0.2')
    a.reach('10.0.0.9')
    victim.serve_tcp()
    before = evb.counters('victim')['rx_frames']
    a.check('iperf3 -c 10.0.0.2 -u -b 100M -l 1400 -t 60 > /dev/null 2>&1 &')
    a.background('ping -c 60 -i 0.1 10.0.0.9', 'ping')
    wait_for(lambda: evb.counters('victim')['rx_frames'] - before > 5000, 60, 'frames at the victim')
    victim.close()
    sent, answered = ping_figures(a.gathered('ping'))
    assert sent == answered, f'{answered} of {sent} pings answered'
    flood = evb.counters('victim')['rx_frames'] - before
    a.sh('killall iperf3')
    # Its port serves the next front end.
    again = lab.linux('again', nic(evb.socket('victim'), mac(2)))
    again.ready().up('10.0.0.2')
    a.reach('10.0.0.2')
    return f'{flood} frames poured in, {answered} pings answered beside that'


@check()
def hotplug(lab):
    """A NIC plugged into a running guest, used, unplugged, and plugged in again on the same socket."""
    evb = lab.evb('a', 'b')
    a = lab.linux('a', ['-device', 'pcie-root-port,id=socket9'])
    b = lab.linux('b', nic(evb.socket('b'), mac(2)))
    a.ready()
    b.ready().up('10.0.0.2')
    for _ in range(2):
        a.plug(9, evb.socket('a'), mac(1), 'socket9')
        a.check('until [ -e /sys/class/net/eth0 ]; do usleep 50000; done')
        a.up('10.0.0.1').reach('10.0.0.2')
        sent, answered = a.ping('10.0.0.2')
        assert sent == answered, f'{answered} of {sent} pings answered'
        a.unplug(9)
        a.check('while [ -e /sys/class/net/eth0 ]; do usleep 50000; done')
    evb.stop()


@check()
def vlans(lab):
    """Access ports of two VLANs and a trunk: reachable within a VLAN, not across."""
    ports = {'a': 'access = 10', 'b': 'access = 20', 'trunk': 'trunk = [10, 20]'}
    evb = lab.evb(*ports, config='[[relay]]\nname = "net"\n' + ''.join(
        f'[[port]]\nname = "{p}"\nrelay = "net"\nlisten = "{{dir}}/{p}.sock"\n{keys}\n' for p, keys in ports.items()))
    # One guest with a NIC in each VLAN, one behind the trunk: what crosses would be seen.
    a = lab.linux('a', nic(evb.socket('a'), mac(1)) + nic(evb.socket('b'), mac(2), index=1))
    t = lab.linux('trunk', nic(evb.socket('trunk'), mac(3)))
    a.ready().check('ip addr add 10.0.10.1/24 dev eth0; ip addr add 10.0.20.1/24 dev eth1; '
                    'echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; '
                    'ip link set eth0 up; ip link set eth1 up')
    t.ready().check('ip link set eth0 up; for v in 10 20; do ip link add link eth0 name v$v type vlan id $v; '
                    'ip addr add 10.0.$v.3/24 dev v$v; ip link set v$v up; done')
    for vlan in (10, 20):
        a.reach(f'10.0.{vlan}.3')
        sent, answered = a.ping(f'10.0.{vlan}.3', 10, size=1472)
        assert sent == answered, f'VLAN {vlan}: {answered} of {sent} pings answered'
    # The address of VLAN 10 asked for in VLAN 20: nobody answers, unless the question crosses over.
    t.check('ip addr add 10.0.10.4/32 dev v20')
    assert t.sh('arping -c 3 -w 4 -I v20 10.0.10.1')[0] != 0, 'VLAN 20 was answered from VLAN 10'
    t.send_file(a, '10.0.10.1', 4)


@check()
def guest_changes_vlan(lab):
    """Two guests of one subnet, in two VLANs: neither ARP nor a known address helps, until a reload puts them in one."""
    def config(vid):
        return '[[relay]]\nname = "net"\n' + ''.join(
            f'[[port]]\nname = "{port}"\nrelay = "net"\nlisten = "{{dir}}/{port}.sock"\naccess = {access}\n'
            for port, access in (('a', 10), ('b', vid)))
    evb = lab.evb('a', 'b', config=config(20))
    a, b = (lab.linux(name, nic(evb.socket(name), mac(n))) for n, name in enumerate('ab', 1))
    a.ready().up('10.0.0.1')
    b.ready().up('10.0.0.2')
    booted = b.check('cat /proc/sys/kernel/random/boot_id')

    def apart():
        sent, got = evb.counters('a')['tx_frames'], evb.counters('b')['rx_frames']
        assert a.sh('arping -I eth0 -c 3 -w 4 10.0.0.2')[0], 'VLAN 20 answers ARP from VLAN 10'
        a.check(f'arp -i eth0 -s 10.0.0.2 {mac(2)}')
        assert a.ping('10.0.0.2', 3) == (3, 0)
        a.check('arp -i eth0 -d 10.0.0.2')
        assert evb.counters('a')['tx_frames'] - sent >= 6, 'the guest has not sent all'
        assert evb.counters('b')['rx_frames'] == got, 'frames of VLAN 10 arrived in VLAN 20'

    apart()
    evb.reload(config(10))
    a.reach('10.0.0.2')
    assert a.sh('arping -I eth0 -c 1 -w 4 10.0.0.2')[0] == 0
    sent, answered = a.ping('10.0.0.2')
    assert sent == answered, f'{answered} of {sent} pings answered'
    a.send_file(b, '10.0.0.2', 4)
    evb.reload(config(20))
    apart()
    assert b.check('cat /proc/sys/kernel/random/boot_id') == booted
