"""What an operator meets."""
import subprocess
import time

from ..evb import BINARY
from ..guest import mac, nic
from ..process import ROOT, cpu_seconds, wait_for
from ..runner import check


@check(cases={'private_file': ('off',), 'no_file': (None,)})
def share_forgotten(lab, share):
    """Guest memory without share=on: the log says so, in a sentence, and other ports go on."""
    evb = lab.evb('a', 'b', 'echo')
    a = lab.linux('a', nic(evb.socket('a'), mac(1)), share=share).ready()
    a.check('ip link set eth0 up')
    wait_for(lambda: 'share=on' in evb.log_text(), 60, 'a word about share=on in the log')
    a.close()
    lab.bare('echo', nic(evb.socket('echo'), mac(2))).echoing()
    probe = lab.bare('probe', nic(evb.socket('b'), mac(3)), words='role=probe peer=525400000002 frames=100')
    _, lost, bad = probe.probed()
    assert (lost, bad) == (0, 0)
    line = next(line for line in evb.log_text().splitlines() if 'share=on' in line)
    return line.partition('port a: ')[2][:70] + ' ...'


@check()
def idle(lab):
    """256 ports, two of them with an idle guest: less than half a percent of a core."""
    ports = [f'p{n}' for n in range(254)]
    evb = lab.evb('a', 'b', *ports)
    lab.two_guests(evb)
    seconds = 10
    time.sleep(1)                       # the last frames' own cost is none of idling
    before = cpu_seconds(evb.process.pid)
    time.sleep(seconds)                 # what is measured
    share = (cpu_seconds(evb.process.pid) - before) / seconds
    assert share < 0.005, f'{share:.2%} of a core'
    return f'{share:.2%} of a core'


def _examples():
    configs = ROOT / 'qemu-configs'
    return {str(path.relative_to(configs).with_suffix('')): (path,) for path in sorted(configs.rglob('*.toml'))}


@check(smoke=True, cases=_examples())
def example_config(lab, path):
    """Each configuration under qemu-configs/ is one that `evb check` accepts."""
    done = subprocess.run([BINARY, 'check', '--config', path], text=True, timeout=30, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


@check(smoke=True, cases={
    'qemu-connects': ('qemu-connects.sh', 'listen', ()),
    'qemu-listens': ('qemu-listens.sh', 'connect', ()),
    'qemu-multiqueue': ('qemu-multiqueue.sh', 'listen', ('2',)),
})
def example_command(lab, script, role, arguments):
    """The command lines under qemu-configs/ start guests as they stand; frames go there and back."""
    names = ('echo', 'probe')
    evb = lab.evb(*(names if role == 'listen' else ()), config='[[relay]]\nname = "net"\n' + ''.join(
        f'[[port]]\nname = "{p}"\nrelay = "net"\n{role} = "{{dir}}/{p}.sock"\n' for p in names))
    for n, (name, words) in enumerate(zip(names, ('role=echo', 'role=probe peer=525400000001 frames=100')), 1):
        guest = lab.bare(name, (), words=words, command=[
            ROOT / 'qemu-configs' / script, evb.socket(name), mac(n), *arguments, '-accel', 'tcg'])
        if name == 'echo':
            guest.echoing()
    sent, lost, bad = guest.probed()
    assert (lost, bad) == (0, 0), f'{sent} frames: {lost} lost, {bad} wrong'
