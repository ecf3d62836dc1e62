"""python3 -m lab functions PF WIRE: the network B_M3 on virtual functions of a NIC.

`PF` is a NIC with SR-IOV, and `WIRE` another one at the other end of its cable. Both are taken. `make e2e` runs this in a guest
that has them; see checks/sriov.py.
"""
import dataclasses
import pathlib

from ..checks.networks import refusal, walk
from ..lab import Lab
from ..process import wait_for
from . import netns
from .build import Built
from .describe import Cable
from .reference import NETWORKS, vlan_switch


def _network():
    """B_M3, whose NIC is a switch between functions: what is between two of them is not on the cable."""
    pretended = NETWORKS['B_M3']
    stations = tuple(dataclasses.replace(s, mode='bridge', device='nic') for s in pretended.stations)
    return dataclasses.replace(
        pretended, stations=stations, hosts=(vlan_switch(), pretended.host('host')), router='switch',
        gateways=NETWORKS['B_V2'].gateways, cables=(Cable('host', 'nic', 'switch', 'port1', blind=True),))


class _OnFunctions(Built):
    """A network whose host has functions of a NIC in place of cables."""

    def __init__(self, network, directory, pf, wire):
        super().__init__(network, directory)
        self.pf, self.wire = pf, wire

    def _plug_cables(self):
        super()._plug_cables()
        switch, host = self.namespace('switch'), self.namespace('host')
        netns.run('ip', 'link', 'set', 'dev', self.wire, 'netns', switch, 'name', 'port1')
        netns.configure(switch, 'link set dev port1 up')
        netns.run('ip', 'link', 'set', 'dev', self.pf, 'up')
        for number, station in enumerate(self._make()):
            device = station.joinpath('net')
            wait_for(lambda: device.is_dir() and list(device.iterdir()), 30, f'the netdev of VF {number}')
            name = next(device.iterdir()).name
            netns.run('ip', 'link', 'set', 'dev', name, 'netns', host, 'name', f'vf{number}')
            netns.configure(host, f'link set dev vf{number} up')

    def _make(self):
        """Makes a function for each station, with its address and VLAN; their directories in /sys. A driver may ask for
        the address when it starts only, so that comes last."""
        nic = pathlib.Path(f'/sys/class/net/{self.pf}/device')
        for file, value in (('drivers_autoprobe', 0), ('numvfs', len(self.network.stations)), ('drivers_autoprobe', 1)):
            nic.joinpath(f'sriov_{file}').write_text(str(value))
        for number, station in enumerate(self.network.stations):
            netns.run('ip', 'link', 'set', 'dev', self.pf, 'vf', number, 'mac', station.mac, 'vlan', station.domain)
            function = nic.joinpath(f'virtfn{number}').resolve()
            pathlib.Path('/sys/bus/pci/drivers_probe').write_text(function.name)
            yield function


def main(pf, wire):
    """Runs it; the exit status."""
    with Lab() as lab:
        built = _OnFunctions(_network(), lab.directory, pf, wire)
        lab.callback(built.close)
        print(walk(built.up(), {'second VM refused': lambda built: refusal(built, real=True)}))
    return 0
