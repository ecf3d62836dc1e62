"""`python3 -m lab network`, typed as by its user: what it says, and that nothing is left of it."""
import contextlib
import os
import pathlib
import signal
import subprocess
import sys

from ..networks import netns
from ..networks.elements import ELEMENTS
from ..networks.reference import NETWORKS
from ..process import ROOT, kill, spawn, tail, wait_for
from ..runner import cell, check


class _Place:
    """Devices, processes and a /run, with the directory for temporary files in it, that are nobody else's. So whatever is
    found there is the command's, and a network of the same name that is up elsewhere is not disturbed."""

    def __init__(self, lab):
        if why := netns.missing():
            raise RuntimeError(f'{why}; `make networks` skips these checks')
        log = lab.directory / 'place.log'
        outer = spawn(['unshare', '--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-ec',
                       'mount -t tmpfs none /run; mkdir /run/tmp /run/netns /run/evb-lab; cd "$0"; echo ready; '
                       'exec sleep infinity', ROOT], log)
        lab.callback(kill, outer)

        def ready():
            if outer.poll() is not None:
                raise RuntimeError(f'no namespace of processes can be made here: {tail(log)}')
            return 'ready' in tail(log)
        wait_for(ready, 10, 'a place with a /run of its own')
        self.first = _child(outer.pid)
        self.run = pathlib.Path(f'/proc/{self.first}/root/run')

    @contextlib.contextmanager
    def start(self, *words, **more):
        """The command with these words, as a process, which ends with the block."""
        enter = ['nsenter', '--target', str(self.first), '--net', '--mount', '--pid', '--wd']
        more = {'stdout': subprocess.PIPE, **more}
        with subprocess.Popen([*enter, sys.executable, '-B', '-m', 'lab', 'network', *words], text=True,
                              stdin=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                              env={**os.environ, 'TMPDIR': '/run/tmp', 'SHELL': '/bin/sh'}, **more) as process:
            try:
                yield process
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise

    def says(self, *words, status=0, typed='', timeout=60):
        """Runs the command to its end, which has to be with this exit status: what it has printed."""
        with self.start(*words) as process:
            said, _ = process.communicate(typed, timeout)
        assert process.returncode == status, f'{" ".join(words)}: exit status {process.returncode}, not {status}\n{said}'
        return said

    def found(self):
        """All that is there, each in a line of its own: files, namespaces among them, devices and processes."""
        files = [str(path.relative_to(self.run)) for path in self.run.rglob('*')]
        devices = subprocess.run(['nsenter', '--target', str(self.first), '--net', 'ip', '-br', 'link'], check=True,
                                 text=True, stdout=subprocess.PIPE).stdout.splitlines()
        return sorted(files + devices + list(self._processes()))

    def nothing_but(self, before, when):
        """Nothing is there that was not there before, and nothing of that is missing."""
        found = self.found()
        assert found == before, f'{when}: ' + ', '.join(sorted({*found} ^ {*before}) or found)

    def _processes(self):
        ours = os.readlink(f'/proc/{self.first}/ns/pid')
        for path in pathlib.Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                if os.readlink(path / 'ns' / 'pid') == ours and int(path.name) != self.first and netns.alive(path.name):
                    yield path.joinpath('cmdline').read_text().replace('\0', ' ')


def _child(pid):
    """The one child of a process."""
    return int(pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text())


def _names(network):
    """The hosts and stations of a network that have a namespace."""
    return [*(host.name for host in network.hosts), 'outside', *(station.name for station in network.stations)]


@check(suite='networks')
def network_command(lab):
    """`network up`, `status`, `shell` and `down` as typed; nothing is left, nor after an `up` that was killed half way."""
    network = NETWORKS['B_V1']
    name, station = network.name, network.stations[0]
    with cell(name, 'commands'):
        place = _Place(lab)
        before = place.found()
        for words in (('status', name), ('shell', name, station.name)):
            assert f'{name} is not up' in place.says(*words, status=1)

        assert f'network shell {name} {station.name}\n' in place.says('up', name)
        for one in _names(network):
            assert f'netns/evb-{name}-{one}' in place.found(), f'{one} has no namespace'
        listed = [line for line in place.says('list').splitlines() if line.split()[1] == 'up']
        assert [line.split()[0] for line in listed] == [name], listed
        status = place.says('status', name).splitlines()
        for one in network.stations:
            lines = [line.split() for line in status if line.startswith(f'{one.name} ')]
            assert [network.address(one) in line for line in lines] == [True, False], f'{one.name} in {status}'
            assert 'running' in lines[1], lines[1]
        assert place.says('shell', name, station.name) == ''
        ask = f'busybox ping -c 1 -W 5 {network.address(network.stations[-1])}\n'
        assert ' 1 packets received' in place.says('shell', name, station.name, typed=ask)
        place.says('shell', name, 'outside', status=3, typed='exit 3\n')
        assert 'which one? ' in place.says('shell', name, 'vm7', status=2)
        # A second `up` begins anew, over whatever is there.
        place.says('up', name)
        place.says('down', name)
        place.nothing_but(before, 'after `down`')

        for number in (signal.SIGTERM, signal.SIGKILL):
            with place.start('up', name) as process:
                wait_for(place.run.joinpath(f'evb-lab/{name}/{station.name}/control.sock').exists, 30, 'the first station')
                os.kill(_child(process.pid), number)
                said, _ = process.communicate(timeout=30)
            if number == signal.SIGTERM:
                assert process.returncode == 130 and 'nothing is left running' in said, said
            else:
                assert place.found() != before, 'a kill that leaves nothing says nothing of `down`'
                place.says('down', name)
            place.nothing_but(before, f'after signal {number}')


@check()
def network_command_guests(lab):
    """`network up --guests`, the console of a guest by `shell`, and `down`: nothing is left."""
    network = ELEMENTS['host-port']
    name, station = network.name, network.stations[0]
    with cell(name, 'commands'):
        place = _Place(lab)
        before = place.found()
        place.says('up', '--guests', name, timeout=300)
        said = lab.directory / 'shell'
        with open(said, 'wb') as out, place.start('shell', name, station.name, stdout=out) as shell:
            shell.stdin.write(f'ping -c 3 -W 5 {network.address(network.stations[-1])}\n')
            shell.stdin.flush()
            wait_for(lambda: ' 3 packets received' in tail(said), 60, 'three answers to pings')
            shell.stdin.close()
        assert shell.returncode == 0
        place.says('down', name)
        place.nothing_but(before, 'after `down`')
