"""python3 -m lab functions NETWORK WIRE PF...: a network on virtual functions of NICs, B_M3 or the element failover.

Each `PF` is a NIC with SR-IOV, one for each host with an evb, and `WIRE` another one at the other end of their cable. All are
taken. `make e2e` runs this in a guest that has them; see checks/sriov.py.
"""
import dataclasses
import pathlib

from ..checks.elements import pair
from ..checks.networks import refusal, walk
from ..evb import BINARY
from ..guest import Linux
from ..lab import Lab
from ..process import IMAGES, wait_for
from . import netns
from .build import Built
from .describe import Cable, Host
from .elements import ELEMENTS
from .reference import NETWORKS, vlan_switch


def _carriers():
    """B_M3, whose NIC is a switch between functions: what is between two of them is not on the cable."""
    pretended = NETWORKS['B_M3']
    stations = tuple(dataclasses.replace(s, mode='bridge', device='nic') for s in pretended.stations)
    return dataclasses.replace(
        pretended, stations=stations, hosts=(vlan_switch(), pretended.host('host')), router='switch',
        gateways=NETWORKS['B_V2'].gateways, cables=(Cable('host', 'nic', 'switch', 'port1', blind=True),))


def _primaries():
    """The element failover: each host has a NIC, and all NICs are at one cable, with a Linux bridge at its other end."""
    pretended = ELEMENTS['failover']
    switch = Host('nic', script=('A_M0/switch.sh', 'off'), sockets=('port1',))
    return dataclasses.replace(
        pretended, hosts=(switch, pretended.host('host'), pretended.host('target')),
        cables=tuple(Cable(host, 'eth1', 'nic', 'port1', 'lan', blind=True) for host in ('host', 'target')))


class _OnFunctions(Built):
    """A network whose hosts have NICs in place of cables."""

    def __init__(self, network, directory, wire, pfs):
        super().__init__(network, directory)
        self.wire, self.pfs = wire, pfs

    def _plug_cables(self):
        super()._plug_cables()
        where = self.namespace(self.network.cables[0].switch)
        netns.run('ip', 'link', 'set', 'dev', self.wire, 'netns', where, 'name', 'port1')
        netns.configure(where, 'link set dev port1 up')
        for cable, pf in zip(self.network.cables, self.pfs, strict=True):
            self._plug_nic(cable, pf)


class _Carriers(_OnFunctions):
    """The functions are uplinks: those of the one NIC are devices of the host."""

    def _plug_nic(self, cable, pf):
        host = self.namespace(cable.host)
        netns.run('ip', 'link', 'set', 'dev', pf, 'up')
        for number, function in enumerate(self._make(pf)):
            device = function.joinpath('net')
            wait_for(lambda: device.is_dir() and list(device.iterdir()), 30, f'the netdev of VF {number}')
            name = next(device.iterdir()).name
            netns.run('ip', 'link', 'set', 'dev', name, 'netns', host, 'name', f'vf{number}')
            netns.configure(host, f'link set dev vf{number} up')

    def _make(self, pf):
        """Makes a function for each station, with its address and VLAN; their directories in /sys. A driver may ask for
        the address when it starts only, so that comes last."""
        nic = pathlib.Path(f'/sys/class/net/{pf}/device')
        for file, value in (('drivers_autoprobe', 0), ('numvfs', len(self.network.stations)), ('drivers_autoprobe', 1)):
            nic.joinpath(f'sriov_{file}').write_text(str(value))
        for number, station in enumerate(self.network.stations):
            netns.run('ip', 'link', 'set', 'dev', pf, 'vf', number, 'mac', station.mac, 'vlan', station.domain)
            function = nic.joinpath(f'virtfn{number}').resolve()
            pathlib.Path('/sys/bus/pci/drivers_probe').write_text(function.name)
            yield function


class _Nested(Linux):
    """A guest in a guest, which takes its time: emulated by what is emulated itself. Parts of its kernel that nobody here
    needs are left out."""
    CMDLINE = (f'{Linux.CMDLINE} no_timer_check cryptomgr.notests initcall_blacklist=crypto_kdf108_init,'
               'load_system_certificate_list,init_kprobe_trace,init_encrypted,init_ima,init_zswap')
    PATIENCE = 30

    def ready(self, timeout=600):
        super().ready(timeout)
        self.check('dmesg -n 1')                    # words of the kernel would come between answers
        return self

    def check(self, command, timeout=600):
        return super().check(command, timeout)


class _Primaries(_OnFunctions):
    """The functions are primaries of failover pairs: each host has one that a VM drives, as its README says."""
    # What a NIC has for a function that no driver has, before the migration or after it, is lost.
    answered = 0.5

    def _plug_nic(self, cable, pf):
        host = self.namespace(cable.host)
        pathlib.Path(f'/sys/class/net/{pf}/device/sriov_numvfs').write_text('1')
        netns.run('ip', 'link', 'set', 'dev', pf, 'netns', host, 'name', cable.device)
        netns.configure(host, f'link set dev {cable.device} up')
        # Between a function and whoever is behind the physical one the NIC decides by addresses that it knows.
        for station in self.network.stations:
            if station.host == cable.host and not station.function:
                netns.run('bridge', '-n', host, 'fdb', 'add', station.mac, 'dev', cable.device)

    def sriov(self, host, *words):
        """What `evb sriov WORDS` says on a host."""
        return netns.run(*netns.within(self.namespace(host), BINARY, 'sriov', *words))

    def boot(self, station, name=None, incoming=None):
        name = name or station.name
        self.sriov(station.host, 'bind', 'eth1', 0, '--mac', station.mac)
        devices = self.sriov(station.host, 'args', 'eth1', 0, '--standby', self.socket(station)).split()
        return _Nested(self._directory(name), name, devices, memory=160, incoming=incoming, boot=[
            '-kernel', IMAGES / 'host.vmlinux', '-initrd', IMAGES / 'primary.cpio', '-append', _Nested.CMDLINE],
            before=netns.within(self.namespace(station.host)))

    def unplugged(self):
        # The NIC would keep frames for the address of a function from everybody else.
        netns.configure(self.namespace('host'), 'link set dev eth1 vf 0 mac 00:00:00:00:00:00')

    def ready_guests(self):
        super().ready_guests()
        for guest in self.machines.values():
            driver = guest.check('until [ -e /sys/class/net/eth2 ]; do usleep 50000; done; '
                                 'basename $(readlink /sys/class/net/eth2/device/driver)')
            assert driver == 'igbvf', driver


def _run_carriers(built):
    return walk(built, {'second VM refused': lambda built: refusal(built, real=True)})


_NETWORKS = {'B_M3': (_carriers, _Carriers, _run_carriers), 'failover': (_primaries, _Primaries, pair)}


def main(network, wire, pfs):
    """Runs it; the exit status."""
    describe, kind, check = _NETWORKS[network]
    with Lab() as lab:
        built = kind(describe(), lab.directory, wire, pfs)
        lab.callback(built.close)
        print(check(built.up()))
    return 0
