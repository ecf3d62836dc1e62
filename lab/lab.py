"""One check's workplace: a directory, the daemon and the guests in it."""
import contextlib
import pathlib
import shutil
import tempfile

from .evb import Evb
from .guest import Bare, Linux, mac, nic
from .host import Host


class Lab(contextlib.ExitStack):
    """Whatever it hands out is closed, in reverse order, when its `with` block ends. The directory, with
    the logs, stays until remove()."""

    def __init__(self):
        super().__init__()
        # Not below the project: the path of a unix socket has at most 107 bytes.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix='evb-lab-'))

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def memory(self):
        """A directory on a tmpfs, which the others need not be on."""
        return pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix='evb-lab-', dir='/dev/shm')))

    def _keep(self, thing):
        self.callback(thing.close)
        return thing

    def evb(self, *ports, config=None, options=(), before=()):
        return self._keep(Evb(self.directory, ports, config, options, before))

    def linux(self, name, nic_args=(), **options):
        return self._keep(Linux(self.directory, name, nic_args, **options))

    def host(self, name='host', **options):
        return self._keep(Host(self.directory, name, **options)).ready()

    def bare(self, name, nic_args, **options):
        return self._keep(Bare(self.directory, name, nic_args, **options))

    def two_guests(self, evb, props='', other_props=None, queues=1, cpus=1, **role):
        """Linux guests on the ports `a` and `b`, 10.0.0.1 and 10.0.0.2, that reach each other."""
        pair = [self.linux(name, nic(evb.socket(name), mac(n), p, queues=queues, **role), cpus=cpus)
                for n, name, p in ((1, 'a', props), (2, 'b', props if other_props is None else other_props))]
        for n, guest in enumerate(pair, 1):
            guest.ready().up(f'10.0.0.{n}', queues=queues)
        pair[0].reach('10.0.0.2')
        return pair
