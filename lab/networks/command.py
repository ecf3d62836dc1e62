"""python3 -m lab network list | up [--guests] NETWORK | status NETWORK | shell NETWORK STATION | down NETWORK

A network that is up outlives the command: processes in namespaces of its own, and a directory below /run. `down`
goes by these, and so also clears away what a crash has left half way.
"""
import contextlib
import os
import pathlib
import select
import shutil
import socket
import subprocess
import sys

from ..evb import BINARY
from ..process import IMAGES
from . import netns
from .build import PAGE, Built, prefix
from .elements import ELEMENTS
from .reference import NETWORKS

_HOME = pathlib.Path('/run/evb-lab')
_ALL = NETWORKS | ELEMENTS


def _directory(network):
    return _HOME / network.name


def add_words(parser):
    """Its words, for argparse."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for name, text in (('list', 'the networks'), ('up', 'bring one up'), ('status', 'what is in it, and its counters'),
                       ('shell', 'log in to a station or a host'),
                       ('down', 'take it down, or what a crash left of it')):
        action = actions.add_parser(name, help=text)
        if name != 'list':
            action.add_argument('network', choices=_ALL, metavar='NETWORK', help=' '.join(_ALL))
        if name == 'up':
            action.add_argument('--guests', action='store_true', help='the stations are VMs, under QEMU')
        if name == 'shell':
            action.add_argument('station', metavar='STATION', help='as in vm1; or a host, or `outside`')


def main(options):
    """Does what the command line says; the exit status."""
    if options.action == 'list':
        return _list()
    network = _ALL[options.network]
    if why := netns.missing():
        print(why)
        return 1
    if options.action == 'up':
        return _up(network, options.guests)
    if options.action == 'down':
        return _down(network)
    if not _directory(network).exists():
        print(f'{network.name} is not up')
        return 1
    if options.action == 'shell':
        return _shell(network, options.station)
    return _status(network)


def _list():
    for network in _ALL.values():
        print(f'{network.name:18}{"up" if _directory(network).exists() else "":4}{network.title}')
    return 0


def _up(network, guests):
    if not pathlib.Path(BINARY).exists():
        print(f'there is no {BINARY}: make build')
        return 1
    directory = _directory(network)
    built = Built(network, directory, guests=[s.name for s in network.stations] if guests else (), stays=True)
    if built.guests and not (IMAGES / 'guest.cpio').exists():
        print('there are no images for guests: make images')
        return 1
    _down(network)
    directory.mkdir(parents=True)
    try:
        built.up()
        if built.guests:
            print('booting ' + ', '.join(sorted(built.guests)) + ' ...', flush=True)
            built.ready_guests()
        else:
            built.watch().close()
    except BaseException:
        _down(network)
        raise
    _status(network)
    one, other = network.stations[0], network.stations[-1]
    print(f'\nLog in:     python3 -m lab network shell {network.name} {one.name}'
          f'\nTry there:  ping {network.address(other)}; wget -qO- {PAGE}'
          f'\nTake down:  python3 -m lab network down {network.name}')
    return 0


def _down(network):
    netns.remove(prefix(network))
    shutil.rmtree(_directory(network), ignore_errors=True)
    return 0


def _status(network):
    print(f'{network.name}: {network.title}\n')
    print(f'{"station":9}{"host":8}{"VLAN or LAN":13}{"mode":13}{"address":14}{"gateway":12}MAC')
    for s in network.stations:
        print(f'{s.name:9}{s.host:8}{s.domain!s:13}{s.mode:13}{network.address(s):14}'
              f'{network.gateway(s).address:12}{s.mac}')
    for host in network.hosts:
        print(f'\n{host.name}: ' + ', '.join(filter(None, (host.config, ' '.join(host.script or ())))))
        if host.config:
            sys.stdout.flush()
            subprocess.run([BINARY, 'status', '--control', _directory(network) / host.name / 'control.sock'])
    return 0


def _shell(network, name):
    names = [s.name for s in network.stations] + [host.name for host in network.hosts] + ['outside']
    if name not in names:
        print('which one? ' + ' '.join(names))
        return 2
    console = _directory(network) / name / f'{name}.ser'
    if console.exists():
        return _attach(console)
    sys.stdout.flush()
    words = netns.within(prefix(network) + name, os.environ.get('SHELL') or '/bin/sh')
    os.execvp(words[0], words)


def _attach(console):
    """Joins this terminal to the serial line of a guest."""
    print('The guest takes lines, and has no prompt. Ctrl-D leaves it.')
    with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(KeyboardInterrupt):
        line.connect(str(console))
        while True:
            ready = select.select([line, 0], [], [])[0]
            if line in ready:
                if not (data := line.recv(4096)):
                    break
                os.write(1, data)
            if 0 in ready:
                if not (data := os.read(0, 4096)):
                    break
                line.sendall(data)
    return 0
