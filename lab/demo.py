"""`make demo`: evb and its guests, shown on the terminal as it happens."""
import contextlib
import sys
import time

from .guest import mac, nic, ping_figures
from .lab import Lab

COLOURS = {'evb': 36, 'vm1': 33, 'vm2': 35, 'vm2*': 34}


def paint(text, colour):
    return f'\033[{colour}m{text}\033[0m' if sys.stdout.isatty() else text


def title(text):
    print('\n' + paint(f'== {text}', 1), flush=True)


def say(who, text):
    print(paint(f'{who:>4} |', COLOURS[who]), text, flush=True)


def live(guest, who):
    """Shows what a guest prints, but for the marks by which the lab drives it."""
    def show(line):
        line = line.strip()
        if line and not line.startswith('@@'):
            say(who, line)
    guest.console.listener = show


@contextlib.contextmanager
def quietly(guest):
    listener, guest.console.listener = guest.console.listener, None
    yield
    guest.console.listener = listener


def show_ports(evb):
    for line in evb.cli('status').rstrip().split('\n'):
        say('evb', line)


def main():
    begin = time.monotonic()
    lab = Lab()
    try:
        with lab:
            passed = play(lab)
    finally:
        lab.remove()
    print(f'\n{"All of it worked" if passed else "NOT all of it worked"}, in {time.monotonic() - begin:.0f} s. '
          'Nothing is left running, and nothing was left behind.')
    return 0 if passed else 1


def play(lab):
    title('A bridge with three ports, each a unix socket')
    evb = lab.evb('port1', 'port2', 'port3')
    say('evb', '$ ' + ' '.join(map(str, evb.command)))

    title('Two guests boot, each with a virtio-net NIC on a port')
    vm1 = lab.linux('vm1', nic(evb.socket('port1'), mac(1)))
    vm2 = lab.linux('vm2', nic(evb.socket('port2'), mac(2)))
    for n, guest in enumerate((vm1, vm2), 1):
        say(guest.name, 'QEMU is running, Linux is booting')
    for n, guest in enumerate((vm1, vm2), 1):
        guest.ready().up(f'10.0.0.{n}')
        say(guest.name, f'Linux {guest.kernel} is up after {guest.boot_seconds:.1f} s; eth0 is 10.0.0.{n}')
        live(guest, guest.name)
    with quietly(vm1):
        vm1.reach('10.0.0.2')

    title('vm1 pings vm2')
    sent, answered = vm1.ping('10.0.0.2', 5, 0.3)
    passed = sent == answered

    title('vm1 sends 16 MiB of random bytes to vm2 by TCP, and the sums are compared')
    with quietly(vm1), quietly(vm2):
        seconds = vm1.send_file(vm2, '10.0.0.2', 16)
    say('vm2', f'received; the MD5 sums are equal ({16 * 8.39 / seconds:.0f} Mbit/s, on emulated CPUs)')

    title('What the ports have counted')
    show_ports(evb)

    title('vm2 migrates, from port2 to port3, while vm1 pings it')
    uri = f'unix:{lab.directory}/migration'
    moved = lab.linux('target', nic(evb.socket('port3'), mac(2)), incoming=uri)
    say('vm2*', 'a third QEMU waits on port3 for the state of vm2')
    with quietly(vm2):
        marker = vm2.check('cat /proc/sys/kernel/random/boot_id')
    vm1.start('ping -i 0.25 -c 24 10.0.0.2')
    vm1.expect(rb'seq=4 ')
    say('vm2', 'is being moved ...')
    state = vm2.migrate(uri)
    vm2.close()
    say('vm2*', f'runs here now: moved in {state["total-time"]} ms, of which it stood still for {state["downtime"]} ms')
    _, out = vm1.wait()
    sent, answered = ping_figures(out)
    moved.console.send('')
    same = moved.check('cat /proc/sys/kernel/random/boot_id') == marker
    say('vm2*', f'has been up for {moved.check("cut -d. -f1 /proc/uptime")} s: ' +
        ('the same Linux as before' if same else 'ANOTHER Linux'))
    with quietly(vm1):
        vm1.send_file(moved, '10.0.0.2', 8)
    say('vm1', f'{answered} of {sent} pings were answered; 8 MiB more arrived unharmed')
    show_ports(evb)
    passed &= same and answered >= sent - 8

    title('The end')
    evb.stop()
    say('evb', 'ended upon SIGTERM')
    return passed
