"""Stations of a namespace that send raw frames, and who received them.

A station is a probe on a device, or whoever has opened a MACVTAP device as a VM does.
"""
import contextlib
import os
import select
import stat
import struct
import time

from .networks.netns import run, within
from .networks.probe import BROADCAST, ending, octets, with_tag

EXPERIMENT, LLDP = 0x88b5, 0x88cc               # EtherTypes
_VNET_HEADER = 10                               # bytes before each frame on a MACVTAP's device
_TIMEOUT = 10                                   # seconds until what has to arrive is missing


def frame(source, destination, *, vid=None, kind=EXPERIMENT):
    """A frame of 74 bytes, and 4 more with a VID. No other frame has its last twelve."""
    return with_tag(octets(destination) + octets(source) + struct.pack('!H48x', kind) + ending(), vid)


def read(namespace, pattern):
    """The one file of a namespace's /sys that `pattern` names."""
    return run(*within(namespace, 'sh', '-c', f'cat {pattern}')).strip()


@contextlib.contextmanager
def node(namespace, device):
    """A node in /dev to open a MACVTAP device by, in here."""
    major, minor = read(namespace, f'/sys/class/net/{device}/tap*/dev').split(':')
    # /dev/tapN may be another namespace's, and nodes elsewhere than below /dev may not be allowed.
    path = f'/dev/evb-lab-{os.getpid()}'
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(int(major), int(minor)))
    try:
        yield path
    finally:
        os.unlink(path)


class Macvtap:
    """What a VM behind a MACVTAP device sends and receives."""

    def __init__(self, namespace, device):
        with node(namespace, device) as path:
            self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.socket = self.fd

    def send(self, data):
        os.write(self.fd, bytes(_VNET_HEADER) + data)

    def arrived(self):
        """The frames that have arrived since the last time."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(os.read(self.fd, 70000)[_VNET_HEADER:])
        return frames

    def close(self):
        os.close(self.fd)


class Field(contextlib.ExitStack):
    """Stations by name. One of them is the `witness`: it hears each broadcast of the others, and they its, sent in each
    of `vids`."""

    def __init__(self, witness, vids=(None,)):
        super().__init__()
        self.witness, self.vids, self.stations, self.addresses = witness, vids, {}, {}

    def add(self, name, station, address):
        self.callback(station.close)
        self.stations[name], self.addresses[name] = station, address

    def copies(self, sender, data):
        """Lets a station send a frame: by name, the copies that others, or it, received."""
        heard = {name: [] for name in self.stations}
        self.stations[sender].send(data)
        # What is sent next takes the same ways behind it: once that has arrived, nothing is under way any more.
        if sender != self.witness:
            self._follow(sender, {self.witness}, heard)
        self._follow(self.witness, set(self.stations) - {self.witness}, heard)
        return {name: mine for name, frames in heard.items() if (mine := [f for f in frames if f[-12:] == data[-12:]])}

    def hear(self, sender, data):
        """The same, and only how many copies each received."""
        return {name: len(copies) for name, copies in self.copies(sender, data).items()}

    def _follow(self, sender, listeners, heard):
        """A broadcast of `sender`, until all listeners have it. All that arrives meanwhile goes to `heard`."""
        marker = frame(self.addresses[sender], BROADCAST)
        for vid in self.vids if sender == self.witness else (None,):
            self.stations[sender].send(with_tag(marker, vid))
        by_socket = {station.socket: (name, station) for name, station in self.stations.items()}
        end = time.monotonic() + _TIMEOUT
        while listeners:
            ready = select.select(list(by_socket), [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                raise TimeoutError(f'{sender} sent a broadcast: within {_TIMEOUT} s it did not reach '
                                   + ', '.join(sorted(listeners)))
            for name, station in map(by_socket.get, ready):
                frames = station.arrived()
                heard[name] += frames
                if any(f[-12:] == marker[-12:] for f in frames):
                    listeners.discard(name)
