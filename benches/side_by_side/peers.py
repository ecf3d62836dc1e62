"""What switches between the guests: a process for each peer, pinned whole to one CPU."""
import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
import time

from lab.process import ROOT, spawn, tail, wait_for

HERE = pathlib.Path(__file__).resolve().parent
RELEASE = ROOT / 'target' / 'release'
MTU = {'jumbo': 9000}
# Namespaces in which all processes end with the first, and all devices with them.
APART = ['unshare', '--net', '--pid', '--fork', '--kill-child', '--mount-proc']
NAMES = {
    'evb': 'evb',
    'ovs': 'OVS-DPDK',
    'ovs-sleep': 'OVS-DPDK, sleeping',
    'testpmd': 'testpmd, a wire',
    'bridge': 'Linux bridge, TAP',
    'stock': 'vhost-user-backend, a wire',
    'copy': 'one copy',
}
CONFIG = '''\
[[relay]]
name = "bridge"

[[port]]
name = "p0"
listen = "{dir}/p0.sock"
mac_policy = "trusted"
mac_limit = 4096

[[port]]
name = "p1"
listen = "{dir}/p1.sock"
mac_policy = "trusted"
mac_limit = 4096
'''


def command(name, directory, cpu, setup):
    """How a peer is started; it listens at p0.sock and p1.sock in `directory`."""
    mtu = MTU.get(setup, 1500)
    sockets = [directory / 'p0.sock', directory / 'p1.sock']
    if name == 'evb':
        file = directory / 'evb.toml'
        file.write_text(CONFIG.format(dir=directory))
        return [RELEASE / 'evb', 'run', '--config', file]
    if name in ('ovs', 'ovs-sleep'):
        sleep = ['pmd-maxsleep=100'] if name == 'ovs-sleep' else []
        return [*APART, HERE / 'ovs.sh', directory, cpu, mtu, *sleep]
    if name == 'testpmd':
        ports = [f'--vdev=net_vhost{i},iface={path}' for i, path in enumerate(sockets)]
        return ['dpdk-testpmd', '--lcores', f'0@{cpu},1@{cpu}', '--no-pci', '--no-telemetry', '--in-memory',
                '--single-file-segments', '-m', '512', *ports, '--', '--forward-mode=io', '--auto-start',
                '--no-mlockall', '--total-num-mbufs=32768', '--max-pkt-len=9600', '--stats-period=3600']
    if name == 'bridge':
        return [*APART, HERE / 'linux_bridge.sh', directory, cpu]
    return [RELEASE / 'examples' / 'stock', *sockets]


class Peer:
    """A running peer. It is stopped by a signal while it has no turn, as most of them never sleep."""

    def __init__(self, name, cpu, setup):
        self.name = name
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f'evb-{name}-'))
        self.log = self.directory / 'log'
        words = ['taskset', '--cpu-list', cpu, *command(name, self.directory, cpu, setup)]
        self.process = spawn(words, self.log)

    def ready(self):
        """Waits until it listens."""
        def listens():
            if self.process.poll() is not None:
                raise RuntimeError(f'{self.name} ended with {self.process.returncode}:\n{tail(self.log)}')
            return all((self.directory / f'p{i}.sock').exists() for i in (0, 1))
        try:
            wait_for(listens, 30, f'the sockets of {self.name}')
        except TimeoutError as error:
            raise RuntimeError(f'{error}:\n{tail(self.log)}') from None

    def pids(self):
        """All its processes: they are one session."""
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                if os.getsid(int(pid)) == self.process.pid:
                    found.append(int(pid))
        return found

    def _signal(self, number):
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextlib.contextmanager
    def turn(self):
        """It runs in here."""
        self._signal(signal.SIGCONT)
        try:
            self.ready()
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def end(self):
        """Ends it at once: there is nothing that it would have to put in order."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def started(names, cpu, setup):
    """These peers, ready and without a turn."""
    with contextlib.ExitStack() as stack:
        peers = {}
        # One after the other: most of them poll from the start on.
        for name in names:
            peers[name] = Peer(name, cpu, setup)
            stack.callback(peers[name].end)
            with peers[name].turn():
                # Some open their sockets before they are done.
                time.sleep(1)
        yield peers
