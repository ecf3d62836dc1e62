"""Brings a network up on this machine, and takes it down.

Each host is a namespace in which the files of qemu-configs/ run as they stand, but for the directory of their sockets.
Each station is a namespace, too: a small `evb` there joins a TAP device to the socket where a VM would be, frame for
frame; or it is a VM.
"""
import urllib.request

from ..evb import Evb
from ..guest import Linux, failover_pair, nic
from ..process import ROOT, spawn
from . import netns
from .probe import Field

CONFIGS = ROOT / 'qemu-configs'
PAGE = 'http://198.51.100.2/cgi-bin/you'            # tells who asked for it
_OUTSIDE = ('198.51.100.1', '198.51.100.2')
_PREFIX = 'evb'                                     # of all namespaces

# A TAP device in place of a VM: whatever passes the socket passes the device.
_STATION = """[daemon]
control = "{dir}/control.sock"
poll = "sleep"

[[relay]]
name = "nic"

[[port]]
name = "eth0"
relay = "nic"
mode = "passthrough"
tap = {{ name = "eth0", mac = "{mac}" }}
mac = []

[[uplink]]
name = "socket"
relay = "nic"
connect = "{socket}"
"""
# What Linux calls a VLAN device, on top of that.
_VLAN_DEVICE = """[daemon]
control = "{dir}/control.sock"
poll = "sleep"

[[relay]]
name = "vlan"

[[port]]
name = "eth0.{vid}"
relay = "vlan"
tap = {{ name = "eth0.{vid}", mac = "{mac}" }}
access = {vid}

[[uplink]]
name = "untagging"
relay = "vlan"
af_packet = {{ dev = "eth0" }}
trunk = [{vid}]
"""


def prefix(network, owner=''):
    """How the names of its namespaces begin; `owner` is the process that they are for."""
    return f'{_PREFIX}{owner}-{network.name}-'


class Built:
    """A network that runs. `guests` names the stations that are VMs; those that cannot be anything else are besides. With
    `stays` all of it outlives this process."""
    answered = 0.8                                  # of the pings of a VM that migrates, at least

    def __init__(self, network, directory, owner='', guests=(), stays=False):
        self.network, self.directory, self.stays = network, directory, stays
        self.guests = {*guests, *(station.name for station in network.stations if station.function)}
        self.prefix, self.daemons, self.machines, self.field = prefix(network, owner), {}, {}, None
        netns.sweep(_PREFIX)
        netns.remove(self.prefix)

    def namespace(self, name):
        return self.prefix + name

    def up(self):
        """Brings it up; back when it is on its feet, guests still booting."""
        network = self.network
        for name in (*(host.name for host in network.hosts), 'outside', *(s.name for s in network.stations)):
            netns.add(self.namespace(name))
        self._plug_cables()
        self._way_out()
        for host in network.hosts:
            self._start(host)
        for station in network.stations:
            self._guest(station) if station.name in self.guests else self._station(station)
        return self

    def _plug_cables(self):
        for cable in (cable for cable in self.network.cables if not cable.blind):
            netns.cable(self.namespace(cable.host), cable.device, self.namespace(cable.switch), cable.socket)
        used = {(cable.switch, cable.socket) for cable in self.network.cables}
        for host in self.network.hosts:
            for socket in host.sockets:
                if (host.name, socket) not in used:
                    netns.configure(
                        self.namespace(host.name), f'link add name {socket} type veth peer name no-{socket}',
                        f'link set dev {socket} up')

    def _way_out(self):
        """The world that the router has its way out to: a web server that knows of no private addresses."""
        ours, theirs = _OUTSIDE
        netns.cable(self.namespace(self.network.router), 'eth0', self.namespace('outside'), 'eth0')
        netns.configure(self.namespace(self.network.router), f'address add {ours}/24 dev eth0')
        netns.configure(self.namespace('outside'), f'address add {theirs}/24 dev eth0')
        page = self.directory / 'www' / 'cgi-bin' / 'you'
        page.parent.mkdir(parents=True)
        page.write_text('#!/bin/sh\necho Content-Type: text/plain\necho\necho "$REMOTE_ADDR"\n')
        page.chmod(0o755)
        server = ('busybox', 'httpd', '-f', '-p', f'{theirs}:80', '-h', page.parent.parent)
        spawn(netns.within(self.namespace('outside'), *server), self.directory / 'www.log', self.stays)

    def _directory(self, name):
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        return directory

    def _evb(self, name, config, where):
        return Evb(self._directory(name), (), config, before=netns.within(self.namespace(where)), stays=self.stays)

    def _file(self, host):
        """The configuration of a host. On one machine each host has a directory of its own for /run/evb."""
        return (CONFIGS / host.config).read_text().replace('/run/evb', str(self.directory / host.name))

    def _start(self, host):
        if host.config:
            self.daemons[host.name] = self._evb(host.name, self._file(host), host.name)
        self._run_script(host)

    def _run_script(self, host):
        if host.script:
            script, *words = host.script
            netns.run(*netns.within(self.namespace(host.name), CONFIGS / script, *words))

    def socket(self, station):
        """The vhost-user socket of a station."""
        return self.directory / station.host / f'{station.name}.sock'

    def _station(self, station):
        network, name, device = self.network, self.namespace(station.name), 'eth0'
        self._tap(station, device, _STATION.format(dir='{dir}', mac=station.mac, socket=self.socket(station)))
        if network.tags_itself(station):
            device = f'eth0.{station.domain}'
            self._tap(station, device, _VLAN_DEVICE.format(dir='{dir}', mac=station.mac, vid=station.domain))
        netns.configure(name, f'address add {network.address(station)}/24 dev {device}',
                        f'route add default via {network.gateway(station).address}')

    def _tap(self, station, device, config):
        """A TAP device of a station, and the daemon behind it."""
        netns.configure(self.namespace(station.name), f'tuntap add dev {device} mode tap',
                        f'link set dev {device} address {station.mac} up')
        name = station.name + device.removeprefix('eth0')
        self.daemons[name] = self._evb(name, config, station.name)

    def _guest(self, station):
        self.machines[station.name] = self.boot(station)

    def boot(self, station, name=None, incoming=None):
        """Starts the VM of a station; `name` is another one for it, for a target of its migration."""
        name, where, socket = name or station.name, station.name, self.socket(station)
        if station.function:
            devices, where = failover_pair(socket, station.mac, station.function), self.network.router
        else:
            devices = nic(socket, station.mac)
        return Linux(self._directory(name), name, devices, incoming=incoming,
                     before=netns.within(self.namespace(where)), stays=self.stays)

    def unplugged(self):
        """What there is to do once a VM that migrates has let go of its function."""

    def ready_guests(self):
        """Waits for the guests, and gives them their addresses."""
        for name, guest in self.machines.items():
            station, device = self.network.station(name), 'eth0'
            guest.ready()
            if self.network.tags_itself(station):
                device = f'eth0.{station.domain}'
                guest.check(f'ip link set eth0 up; ip link add link eth0 name {device} type vlan id {station.domain}')
            guest.up(self.network.address(station), device)
            guest.check(f'ip route add default via {self.network.gateway(station).address}')
            guest.reach(self.network.gateway(station).address)

    def watch(self):
        """Puts probes on every station, gateway and cable, and waits until frames pass wherever they should."""
        network, self.field = self.network, Field()
        for station in network.stations:
            self.field.add(station.name, self.namespace(station.name), 'eth0')
        for gateway in network.gateways:
            self.field.add(gateway.name, self.namespace(gateway.host), gateway.name)
        for cable in network.cables:
            self.field.add(f'{cable.name} up', self.namespace(cable.switch), cable.socket)
            if not cable.blind:
                self.field.add(f'{cable.name} down', self.namespace(cable.host), cable.device)
        self.field.warm_up(lambda: list(network.broadcasts()))
        return self.field

    def change(self, variant):
        """Goes over to a variant, while it runs. Without probes the first frames after that may be lost."""
        self.network = self.network.vary(variant)
        for host in variant.hosts:
            if host.config:
                self.daemons[host.name].reload(self._file(host))
            self._run_script(host)
        if self.field:
            self.field.warm_up(lambda: list(self.network.broadcasts()))

    def set_modes(self, host, modes):
        """Puts stations of a host into other modes, by a reload of its file in which their `mode` is replaced."""
        self.network = self.network.with_modes(modes)
        text = self._file(self.network.host(host))
        for name, mode in modes.items():
            before, table, after = text.partition(f'name = "{name}"\n')
            own, blank, rest = after.partition('\n\n')
            lines = [line for line in own.split('\n') if not line.startswith('mode =')]
            text = before + table + '\n'.join([*lines, f'mode = "{mode}"']) + blank + rest
        self.daemons[host].reload(text)
        self.field.warm_up(lambda: list(self.network.broadcasts()))

    def run(self, station, *words):
        """Runs a command at a station that is a namespace."""
        return netns.run(*netns.within(self.namespace(station.name), *words))

    def seen_as(self, station):
        """Has a station that is a namespace fetch the page from outside: the address that is told there."""
        with netns.inside(self.namespace(station.name)), urllib.request.urlopen(PAGE, timeout=10) as page:
            return page.read().decode().strip()

    def close(self):
        """Takes it down. A daemon that ended early or panicked is an error."""
        if self.field:
            self.field.close()
        complaints = []
        for thing in (*self.machines.values(), *self.daemons.values()):
            try:
                thing.close()
            except RuntimeError as error:
                complaints.append(str(error))
        netns.remove(self.prefix)
        if complaints:
            raise RuntimeError('\n'.join(complaints))
