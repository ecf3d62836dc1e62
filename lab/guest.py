"""Guests: QEMU under TCG, with Linux or with the bare-metal guest inside.

Each is driven over its serial console, which a thread reads all the time: a console that nobody reads
stalls the guest. RX and TX are from the guest's side.
"""
import contextlib
import json
import os
import re
import threading
import time

from .process import IMAGES, connect, kill, spawn, tail, wait_for

QEMU = os.environ.get('QEMU', 'qemu-system-x86_64')
FEATURES = {'csum': 0, 'guest_csum': 1, 'guest_tso4': 7, 'host_tso4': 11, 'mrg_rxbuf': 15, 'ctrl_vq': 17,
            'mq': 22, 'indirect_desc': 28, 'event_idx': 29, 'version_1': 32, 'packed': 34, 'in_order': 35}


def mac(n):
    return f'52:54:00:00:00:{n:02x}'


def nic(socket, address, props='', *, queues=1, listen=False, reconnect_ms=200, index=0, rom=False):
    """QEMU's arguments for one vhost-user NIC. `props` are more properties of the device, as in
    'mrg_rxbuf=off'. listen=True: QEMU listens and `evb` connects; otherwise QEMU connects, again and
    again if it must. rom=True: with iPXE, as QEMU brings it along."""
    role = 'server=on,wait=off' if listen else f'reconnect-ms={reconnect_ms}'
    mq = f',mq=on,vectors={2 * queues + 2}' if queues > 1 else ''
    return ['-chardev', f'socket,id=c{index},path={socket},{role}',
            '-netdev', f'vhost-user,id=n{index},chardev=c{index},queues={queues}',
            '-device', f'virtio-net-pci,netdev=n{index},id=d{index},mac={address}{mq}'
                       + ('' if rom else ',romfile=') + (f',{props}' if props else '')]


def failover_pair(socket, address, tap):
    """QEMU's arguments for a failover pair: a vhost-user NIC as the standby, and an emulated one on a TAP device as the
    primary, which QEMU unplugs before a migration as it would a virtual function."""
    return [*nic(socket, address, 'failover=on'), '-device', 'pcie-root-port,id=primary-port,slot=256',
            '-netdev', f'tap,id=primary,ifname={tap},script=no,downscript=no',
            '-device', f'vmxnet3,netdev=primary,id=primary,mac={address},romfile=,bus=primary-port,failover_pair_id=d0']


def emulator(memory, cpus=1, share='on'):
    """The start of a command line: QEMU under TCG with so many MiB of memory. evb can map it where it is
    a file and shared; `share` may also be 'off', or None for no file at all. Where there can be no second CPU, TCG makes
    plain instructions of locked ones, which are the fences of Linux, although evb looks on: so there could be one."""
    backend = ['-object', f'memory-backend-memfd,id=mem,size={memory}M,share={share}'] if share else []
    machine = 'q35,memory-backend=mem' if share else 'q35'
    return [QEMU, '-accel', 'tcg,thread=multi', '-M', machine, '-m', str(memory), '-smp', f'{cpus},maxcpus={max(cpus, 2)}',
            *backend]


class Machine:
    """One QEMU; killed by close(). `command` is what starts it, with its machine and its memory; one that `stays`
    outlives the lab."""

    def __init__(self, directory, name, command, args=(), stays=False):
        self.directory, self.name, self.started = directory, name, time.monotonic()
        self.log, self.qmp_stream = directory / f'{name}.log', None
        serial, qmp = directory / f'{name}.ser', directory / f'{name}.qmp'
        # QEMU waits for us on the serial line: what a guest says before somebody listens is lost.
        self.process = spawn(
            [*command, '-nodefaults', '-no-user-config', '-display', 'none',
             '-chardev', f'socket,id=ser,path={serial},server=on,wait=on,logfile={directory}/{name}.console',
             '-serial', 'chardev:ser', '-qmp', f'unix:{qmp},server=on,wait=off', *args], self.log, stays)
        try:
            self.console = Console(name, connect(serial, self.process, 60, self.log))
            self.qmp_stream = connect(qmp, self.process, 60, self.log).makefile('rw')
            self.qmp_stream.readline()
            self.qmp('qmp_capabilities')
        except BaseException:
            self.close()
            raise

    def qmp(self, command, **arguments):
        """One QMP command, and what it returns. Events are passed over."""
        self.qmp_stream.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.qmp_stream.flush()
        while True:
            line = self.qmp_stream.readline()
            if not line:
                raise RuntimeError(f'{self.name}: QEMU is gone: {tail(self.log)}')
            reply = json.loads(line)
            if 'error' in reply:
                raise RuntimeError(f'{self.name}: {command}: {reply["error"]["desc"]}')
            if 'return' in reply:
                return reply['return']

    def expect(self, pattern, timeout=60):
        return self.console.expect(pattern, timeout)

    def migrate(self, uri, timeout=300, unplugged=lambda: None):
        """Live migration to a machine started with incoming=uri; back when it is complete. `unplugged` is called as soon as
        the guest has let go of the primaries of its failover pairs."""
        def status():
            return self.qmp('query-migrate').get('status')
        self.qmp('migrate', uri=uri)
        wait_for(lambda: status() not in (None, 'setup', 'wait-unplug'), timeout, 'unplugging')
        unplugged()
        wait_for(lambda: status() in ('completed', 'failed', 'cancelled'), timeout, 'migration')
        state = self.qmp('query-migrate')
        if state['status'] != 'completed':
            raise RuntimeError(f'migration {state["status"]}: {state.get("error-desc")}')
        return state

    def close(self):
        kill(self.process)
        if hasattr(self, 'console'):
            self.console.close()
        if self.qmp_stream:
            with contextlib.suppress(OSError):
                self.qmp_stream.close()


class Console:
    """A serial line and all that has been said on it. `listener` is called with each line, as text."""

    def __init__(self, name, stream):
        self.name, self.stream, self.listener = name, stream, None
        self.text, self.read_to, self.ended, self.partial = b'', 0, False, b''
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            try:
                data = self.stream.recv(65536)
            except OSError:
                data = b''
            if data and self.listener:
                *lines, self.partial = (self.partial + data).split(b'\n')
                for line in lines:
                    self.listener(line.decode(errors='replace').rstrip('\r'))
            with self.changed:
                self.text += data
                self.ended |= not data
                self.changed.notify_all()
            if not data:
                return

    def send(self, line):
        self.stream.sendall(line.encode() + b'\n')

    def expect(self, pattern, timeout):
        """Waits for a regular expression (bytes): its match, and the text that came before it."""
        rx, found = re.compile(pattern), None

        def seen():
            nonlocal found
            found = rx.search(self.text, self.read_to)
            return found or self.ended
        with self.changed:
            self.changed.wait_for(seen, timeout)
            if not found:
                why = 'its end' if self.ended else f'{timeout} s'
                raise TimeoutError(f'{self.name}: no {pattern!r} before {why}; the console ends:\n'
                                   + self.text[-2000:].decode(errors='replace'))
            before = self.text[self.read_to:found.start()]
            self.read_to = found.end()
        return found, before.decode(errors='replace').replace('\r', '')

    def close(self):
        with contextlib.suppress(OSError):
            self.stream.shutdown(2)
        self.thread.join(5)
        self.stream.close()


class Bare(Machine):
    """The bare-metal guest (bare/bare.c): `accept` lists the features that it takes if they are offered."""

    def __init__(self, directory, name, nic_args, accept=(), words='role=echo', legacy=False, command=None):
        mask = sum(1 << FEATURES[f] for f in accept)
        line = f'accept={mask:x} {words}' + (' legacy' if legacy else '')
        super().__init__(directory, name, command or emulator(32),
                         ['-no-reboot', '-kernel', IMAGES / 'bare.elf', '-append', line, *nic_args])

    def negotiated(self):
        """The features agreed on, by name."""
        bits = int(self.expect(rb'features \w+ (\w+)\r')[0][1], 16)
        return {name for name, bit in FEATURES.items() if bits >> bit & 1}

    def echoing(self):
        self.expect(rb'@@ ECHO ready')
        return self

    def probed(self, timeout=120):
        """The probe's result: frames sent, lost, bad."""
        m, _ = self.expect(rb'@@ PROBE sent=(\w+) lost=(\w+) bad=(\w+)\r', timeout)
        return tuple(int(figure, 16) for figure in m.groups())


class Linux(Machine):
    """A Linux guest that takes shell commands on its console."""
    CMDLINE = 'console=ttyS0 quiet panic=-1 nokaslr mitigations=off'
    PATIENCE = 2                                    # seconds that ping() gives the last answer

    def __init__(self, directory, name, nic_args=(), *, memory=256, cpus=1, share='on', initrd=None, boot=None,
                 incoming=None, reboots=False, before=(), stays=False):
        """`initrd` replaces the image's; `boot` replaces kernel and initrd by QEMU arguments of one's own; `before` is
        put before the command."""
        if boot is None:
            boot = ['-kernel', IMAGES / 'vmlinux', '-initrd', initrd or IMAGES / 'guest.cpio',
                    '-append', self.CMDLINE]
        super().__init__(directory, name, [*before, *emulator(memory, cpus, share)], [
            *boot, *nic_args, *([] if reboots else ['-no-reboot']), *(['-incoming', incoming] if incoming else [])],
            stays)

    def ready(self, timeout=180):
        """Waits until it takes commands; remembers how long it took."""
        self.kernel = self.expect(rb'@@ READY Linux (\S+)[^\n]*\n', timeout)[0][1].decode()
        self.boot_seconds = time.monotonic() - self.started
        return self

    def start(self, command):
        """Sends one shell command (at most 4000 bytes); wait() gets its result."""
        command = command.strip().replace('\n', '; ')
        end = '' if command.endswith('&') else ';'
        self.console.send(f'{{ {command}{end} }} 2>&1; echo @@R$?')

    def wait(self, timeout=120):
        found, out = self.expect(rb'@@R(\d+)\r?\n', timeout)
        return int(found[1]), out

    def sh(self, command, timeout=120):
        """Runs a shell command: its exit status and its output."""
        self.start(command)
        return self.wait(timeout)

    def check(self, command, timeout=120):
        """Like sh(), with `set -e`; a failure is an exception. The output without surrounding blanks."""
        status, out = self.sh(f'( set -e; {command.strip()} )', timeout)
        if status:
            raise RuntimeError(f'{self.name}: {command}: exit status {status}\n{out}')
        return out.strip()

    def negotiated(self):
        """The features of eth0 as the driver sees them, by name."""
        bits = self.check('cat /sys/class/net/eth0/device/features')         # bit 0 first
        return {name for name, bit in FEATURES.items() if bits[bit] == '1'}

    # Steps that many checks share.

    def up(self, address, dev='eth0', queues=1):
        self.check(f'ip addr add {address}/24 dev {dev}; ip link set {dev} up'
                   + (f'; ethtool -L {dev} combined {queues}' if queues > 1 else ''))
        return self

    def reach(self, address, timeout=30):
        """Pings until the first answer: seconds that it took."""
        begin = time.monotonic()
        self.check(f'n=0; until ping -c1 -W1 {address} > /dev/null; do n=$((n+1)); [ $n -lt {timeout} ] || break; '
                   f'done; [ $n -lt {timeout} ]', timeout * 2 + 60)
        return time.monotonic() - begin

    def loop_through(self, address, other, echo_mac):
        """Owns both addresses, and sends what goes from one to the other out to the echo guest, which
        sends it back: whatever is sent to `other` crosses the bridge twice. Linux would take the short
        way over lo, so the local table comes last and only for what arrives; accept_local lets its
        own source addresses in."""
        self.check(f"""for f in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$f/accept_local; done
            ip addr add {address}/32 dev eth0; ip addr add {other}/32 dev eth0; ip link set eth0 up
            ip rule add pref 10 iif lo lookup 100; ip rule add pref 20 lookup local; ip rule del pref 0
            ip route add {address} dev eth0 src {other} table 100
            ip route add {other} dev eth0 src {address} table 100
            arp -i eth0 -s {address} {echo_mac}
            arp -i eth0 -s {other} {echo_mac}""")
        return self

    def ping(self, address, count=10, interval=0.1, size=56):
        """Pings sent, pings answered."""
        return ping_figures(self.sh(f'ping -c {count} -i {interval} -s {size} -W {self.PATIENCE} {address}', count * 3 + 60)[1])

    def serve_tcp(self):
        """An iperf3 server, listening when this returns."""
        self.check('iperf3 -s -D > /dev/null; until netstat -ltn | grep -q :5201; do usleep 50000; done')

    def tcp(self, address, seconds=3, options=''):
        """iperf3 to a server: Mbit/s as its receiver counted them."""
        return iperf_figure(self.check(f'iperf3 -c {address} -t {seconds} -f m {options}', seconds * 4 + 90))

    def send_file(self, to, address, mib=8):
        """Copies random bytes to the guest `to` over TCP, and compares the sums. The seconds it took."""
        # The pipe holds nc's stdin open: at its end busybox's nc would stop.
        to.check('rm -f /tmp/in; (tail -f /dev/null | nc -l -p 9 > /tmp/in) > /dev/null 2>&1 & '
                 'until netstat -ltn | grep -q ":9 "; do usleep 50000; done')
        sent = self.check(f'dd if=/dev/urandom of=/tmp/out bs=1M count={mib} 2>/dev/null; md5sum < /tmp/out')
        begin = time.monotonic()
        self.check(f'timeout 60 nc {address} 9 < /tmp/out', 120)
        got = to.check(f'for i in $(seq 600); do [ "$(wc -c < /tmp/in)" -ge {mib << 20} ] && break; '
                       'usleep 50000; done; md5sum < /tmp/in')
        seconds = time.monotonic() - begin
        to.sh('killall nc tail')
        # The sum alone: the shell may put a word about a job before it.
        sums = [re.search(r'[0-9a-f]{32}', out)[0] for out in (sent, got)]
        if sums[0] != sums[1]:
            raise RuntimeError(f'{mib} MiB from {self.name} to {to.name}: sent {sums[0]}, got {sums[1]}')
        return seconds

    def background(self, command, name):
        """Starts a command whose output gathered() will return."""
        self.check(f'({command}; echo; echo @@END) > /tmp/{name} 2>&1 &')

    def gathered(self, name, timeout=120):
        """What a background command has printed, once it has ended."""
        return self.check(f'until grep -q @@END /tmp/{name}; do usleep 100000; done; cat /tmp/{name}',
                          timeout).replace('@@END', '')

    def plug(self, index, socket, address, bus):
        """Plugs a vhost-user NIC (with reconnect) into the empty pcie-root-port `bus`."""
        self.qmp('chardev-add', id=f'c{index}', backend={'type': 'socket', 'data': {
            'addr': {'type': 'unix', 'data': {'path': str(socket)}}, 'server': False, 'reconnect-ms': 200}})
        self.qmp('netdev_add', type='vhost-user', id=f'n{index}', chardev=f'c{index}')
        self.qmp('device_add', driver='virtio-net-pci', netdev=f'n{index}', id=f'd{index}', bus=bus, mac=address)

    def unplug(self, index, timeout=60):
        """The guest has to let go of the device; only then may the rest go."""
        self.qmp('device_del', id=f'd{index}')
        wait_for(lambda: f'd{index}' not in [p['name'] for p in self.qmp('qom-list', path='/machine/peripheral')],
                 timeout, f'{self.name}: removal of d{index}')
        self.qmp('netdev_del', id=f'n{index}')          # takes its chardev along


def ping_figures(text):
    """Pings sent, pings answered, by ping's summary."""
    m = re.search(r'(\d+) packets transmitted, (\d+) (?:packets )?received', text)
    if not m:
        raise RuntimeError(f'no summary of ping in:\n{text}')
    return int(m[1]), int(m[2])


def iperf_figure(text):
    """Mbit/s by the receiver's line of `iperf3 -f m` (the sum's, where there are streams)."""
    m = re.findall(r'([\d.]+) Mbits/sec.*receiver', text)
    if not m:
        raise RuntimeError(f'no summary of iperf3 in:\n{text}')
    return round(float(m[-1]))
