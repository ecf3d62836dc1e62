"""What a network is made of, and what follows from that: who hears whom, by which cable, with which tag.

The rules are those of docs/relay.md, said again in as few words as possible and without a look at any configuration.
"""
import dataclasses
import itertools

from . import probe


@dataclasses.dataclass(frozen=True)
class Host:
    """A machine with an `evb`, a script, or both; files are relative to qemu-configs/. A `flat` one knows no VLANs, so
    its stations tag their frames themselves. `sockets` are those of a switch for cables."""
    name: str
    config: str = None
    script: tuple = None
    flat: bool = False
    sockets: tuple = ()


@dataclasses.dataclass(frozen=True)
class Cable:
    """From a device of a host to a socket of a switch. What it carries is tagged, unless it is of one domain alone. At the
    host's end of a `blind` one, which is inside a NIC, nobody can listen."""
    host: str
    device: str
    switch: str
    socket: str
    domain: object = None
    blind: bool = False

    @property
    def name(self):
        return f'{self.host}:{self.device}'


@dataclasses.dataclass(frozen=True)
class Station:
    """A VM. `domain` is its VLAN, or the name of its broadcast domain where there are no VLANs. One with a `function`, a TAP
    device of the router that stands in for it, has a failover pair, and is never a namespace."""
    number: int
    host: str
    domain: object
    mode: str = 'bridge'
    device: str = 'eth1'
    function: str = None

    @property
    def name(self):
        return f'vm{self.number}'

    @property
    def mac(self):
        return f'52:54:00:00:00:{self.number:02x}'


@dataclasses.dataclass(frozen=True)
class Gateway:
    """The router's interface in a domain."""
    host: str
    name: str
    domain: object
    address: str
    mac: str


@dataclasses.dataclass(frozen=True)
class Variant:
    """The same network with other files at some hosts, a switch that reflects or not, stations in other modes."""
    name: str
    hosts: tuple = ()
    reflecting: bool = False
    mode: str = None


@dataclasses.dataclass(frozen=True)
class Network:
    """A network. `router` is the host that has a way out. `leaks`: stations hear VLANs that are not theirs, and the check
    insists on it. `local`: the relay reflects for itself. `by_nic`: siblings are MACVTAP devices of one NIC, which is shown
    what the kernel passes from one to another."""
    name: str
    title: str
    hosts: tuple
    stations: tuple
    gateways: tuple
    router: str
    cables: tuple = ()
    reflecting: bool = False
    leaks: bool = False
    local: bool = False
    by_nic: bool = False
    variants: tuple = ()

    def host(self, name):
        return next(host for host in self.hosts if host.name == name)

    def station(self, name):
        return next(station for station in self.stations if station.name == name)

    def gateway(self, station):
        """The gateway of a station's domain."""
        return next(gateway for gateway in self.gateways if gateway.domain == station.domain)

    def address(self, station):
        """The IP address of a station, which is in the subnet of its gateway."""
        return self.gateway(station).address.rpartition('.')[0] + f'.{10 + station.number}'

    def tags_itself(self, who):
        """Whether this station makes its own tags, and hears those of others."""
        return isinstance(who, Station) and self.host(who.host).flat

    def vary(self, variant):
        """The network as a variant has it."""
        changed = {host.name: host for host in variant.hosts}
        return dataclasses.replace(
            self, reflecting=variant.reflecting, hosts=tuple(changed.get(host.name, host) for host in self.hosts),
            stations=tuple(dataclasses.replace(s, mode=variant.mode or s.mode) for s in self.stations))

    def with_modes(self, modes):
        """The network with these stations, by name, in other modes."""
        return dataclasses.replace(self, stations=tuple(
            dataclasses.replace(s, mode=modes.get(s.name, s.mode)) for s in self.stations))

    def everybody(self):
        return (*self.stations, *self.gateways)

    def siblings(self, one, other):
        """Two stations of one relay."""
        return (isinstance(one, Station) and isinstance(other, Station) and one is not other
                and (one.host, one.device) == (other.host, other.device))

    def direct(self, one, other):
        """The pair rule: siblings talk directly if both are in mode bridge, or their relay reflects for itself ..."""
        return self.siblings(one, other) and (
            one.mode == other.mode == 'bridge' or self.local and 'private' not in (one.mode, other.mode))

    def hears(self, listener, speaker):
        """... otherwise by way of a switch that reflects, if neither is private. Who is no sibling is heard by all in
        the domain, and by whoever is on a flat host."""
        if listener.domain != speaker.domain and not self.tags_itself(listener):
            return False
        if not self.siblings(listener, speaker) or self.direct(listener, speaker):
            return True
        return self.reflecting and 'private' not in (listener.mode, speaker.mode)

    # Frames and where they have to be seen, by the names of probes.

    def _sent(self, frame, speaker):
        return probe.with_tag(frame, speaker.domain) if self.tags_itself(speaker) else frame

    def _received(self, frame, speaker, listener):
        return probe.with_tag(frame, speaker.domain) if self.tags_itself(listener) else frame

    def _cable(self, who):
        return next((c for c in self.cables if isinstance(who, Station)
                     and (c.host, c.device) == (who.host, who.device)), None)

    @staticmethod
    def _on(cable, frame, speaker):
        """The frame as it is on a cable."""
        tagged = cable.domain is None and isinstance(speaker.domain, int)
        return probe.with_tag(frame, speaker.domain) if tagged else frame

    def broadcasts(self):
        """Everybody asks everybody, by ARP. On the speaker's cable the frame goes up once, and comes back once if the
        switch reflects; on the others it comes down once."""
        for speaker in self.everybody():
            frame, own = probe.arp_request(speaker.mac), self._cable(speaker)
            answers = {o.name: self._received(frame, speaker, o)
                       for o in self.everybody() if o is not speaker and self.hears(o, speaker)}
            for cable in self.cables:
                on_it = self._on(cable, frame, speaker)
                if cable is own:
                    answers[f'{cable.name} up'] = on_it
                comes_down = cable.domain in (None, speaker.domain) and (cable is not own or self.reflecting)
                if comes_down and not cable.blind:
                    answers[f'{cable.name} down'] = on_it
            yield probe.Question(speaker.name, self._sent(frame, speaker), answers)

    def unicasts(self):
        """Everybody to everybody. Within a domain nobody else may hear it, and siblings that talk directly are not to
        be seen on the cable. What is sent to another domain is flooded, so only the one it is meant for counts."""
        for speaker, listener in itertools.permutations(self.everybody(), 2):
            frame = probe.unicast(speaker.mac, listener.mac)
            answers = {}
            if self.hears(listener, speaker):
                answers[listener.name] = self._received(frame, speaker, listener)
            if listener.domain != speaker.domain:
                yield probe.Question(speaker.name, self._sent(frame, speaker), answers, {listener.name})
                continue
            up, down = self._cable(speaker), self._cable(listener)
            if up and not self.direct(speaker, listener):
                answers[f'{up.name} up'] = self._on(up, frame, speaker)
            if self.direct(speaker, listener):
                comes_down = self.by_nic
            else:
                comes_down = self.reflecting or not self.siblings(speaker, listener)
            if down and comes_down and not down.blind:
                answers[f'{down.name} down'] = self._on(down, frame, speaker)
            yield probe.Question(speaker.name, self._sent(frame, speaker), answers)

    def leaking(self):
        """The pairs of stations of two domains of which one hears the other."""
        return [(s.name, o.name) for s, o in itertools.permutations(self.stations, 2)
                if s.domain != o.domain and self.hears(o, s)]
