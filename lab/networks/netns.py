"""Network namespaces and cables between them."""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess

from ..process import wait_for

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_HOME = pathlib.Path('/run/netns')


def missing():
    """What keeps this machine from making networks, as a sentence; None if nothing does."""
    if os.geteuid() != 0:
        return 'namespaces need root'
    for tool in ('ip', 'bridge', 'nft', 'busybox'):
        if not shutil.which(tool):
            return f'there is no `{tool}`'
    if subprocess.run(['unshare', '--net', '--mount', 'true'], stderr=subprocess.DEVNULL).returncode:
        return 'no namespace can be made here'
    return None


def run(*words, text=None):
    """Runs a command to its end and returns its output; a failure is an error that has that output."""
    done = subprocess.run([str(word) for word in words], input=text, text=True, timeout=60, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f'{" ".join(map(str, words))}: exit status {done.returncode}\n{done.stdout}')
    return done.stdout


def within(name, *words):
    """The command that runs `words` in a namespace, with that namespace's /sys."""
    return ['ip', 'netns', 'exec', name, *words]


@contextlib.contextmanager
def inside(name):
    """Puts this thread into a namespace: sockets that it opens belong there for ever."""
    def enter(fd):
        if _libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f'setns {name}')
    with open('/proc/thread-self/ns/net') as home, open(_HOME / name) as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


def add(name):
    """A namespace whose devices say nothing by themselves: no IPv6."""
    run('ip', 'netns', 'add', name)
    with inside(name):
        for which in ('all', 'default'):
            pathlib.Path(f'/proc/sys/net/ipv6/conf/{which}/disable_ipv6').write_text('1')
    configure(name, 'link set dev lo up')


def configure(name, *lines):
    """Lines for `ip` in a namespace."""
    run('ip', '-n', name, '-batch', '-', text='\n'.join(lines) + '\n')


def cable(one, one_device, other, other_device):
    """A cable with a device at each end, both switched on."""
    configure(one, f'link add name {one_device} type veth peer name {other_device} netns {other}',
              f'link set dev {one_device} up')
    configure(other, f'link set dev {other_device} up')


def found(prefix):
    """The namespaces whose name begins so."""
    return sorted(path.name for path in _HOME.glob(f'{prefix}*'))


def processes(name):
    """The processes that run in a namespace."""
    return [int(pid) for pid in subprocess.run(['ip', 'netns', 'pids', name], text=True, timeout=60,
                                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.split()]


def remove(prefix):
    """Ends what runs in the namespaces whose name begins so, and removes them with all their devices."""
    names = found(prefix)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for name in names:
            for pid in processes(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not any(alive(pid) for name in names for pid in processes(name)), 5, prefix)
    for name in names:
        run('ip', 'netns', 'delete', name)


def alive(pid):
    """A process that has ended and waits for its parent holds nothing any more."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    return False


def sweep(prefix):
    """Removes what labs left that were killed. Their namespaces begin with `prefix`, the process id and `-`."""
    for name in found(prefix):
        owner = re.match(re.escape(prefix) + r'(\d+)-', name)
        if owner and not alive(int(owner[1])):
            remove(owner[0])
