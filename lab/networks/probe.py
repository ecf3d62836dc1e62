"""Raw frames: sent, caught byte by byte, and counted.

A probe is a packet socket on one device. What counts is what arrives there; what leaves is not looked at, so a cable
has a probe at either end, one for each direction.
"""
import collections
import dataclasses
import itertools
import select
import socket
import struct
import time

from .netns import inside

_ALL = 3                                            # ETH_P_ALL
_SOL_PACKET, _AUXDATA = 263, 8
_AUXILIARY = struct.Struct('=IIIHHHH')              # tpacket_auxdata
_VLAN_VALID, _TPID_VALID = 1 << 4, 1 << 6
_OUTGOING = 4
BROADCAST = 'ff:ff:ff:ff:ff:ff'
_numbers = itertools.count(1)


def octets(address):
    return bytes.fromhex(address.replace(':', ''))


def tag(vid, tpid=0x8100):
    return struct.pack('!HH', tpid, vid)


def with_tag(frame, vid):
    """The frame with a C-tag, or as it is without a VID."""
    return frame if vid is None else frame[:12] + tag(vid) + frame[12:]


def arp_request(source):
    """An ARP request, to everybody, for an address that nobody has. It ends in a number that no other frame has, and is as
    long as NICs make shorter ones."""
    addresses = octets(source) + bytes([10, 9, 9, 8]) + bytes(6) + bytes([10, 9, 9, 9])
    head = octets(BROADCAST) + octets(source) + b'\x08\x06'
    return head + struct.pack('!HHBBH', 1, 0x0800, 6, 4, 1) + addresses + bytes(6) + ending()


def unicast(source, destination):
    """A frame to one station, of the EtherType for experiments."""
    return octets(destination) + octets(source) + b'\x88\xb5' + bytes(46) + ending()


def ending():
    """The last twelve bytes of a frame, by which it is known again."""
    return struct.pack('!4sQ', b'evb?', next(_numbers))


class Probe:
    """A packet socket on a device of a namespace."""

    def __init__(self, namespace, device):
        with inside(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)              # SO_RCVBUFFORCE
            self.socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
            self.socket.bind((device, _ALL))
        self.socket.setblocking(False)

    def send(self, frame):
        self.socket.send(frame)

    def arrived(self):
        """The frames that have arrived since the last time, as they were on the wire."""
        frames = []
        while True:
            try:
                data, auxiliary, _, address = self.socket.recvmsg(70000, 64)
            except BlockingIOError:
                return frames
            if address[2] != _OUTGOING:
                frames.append(_with_its_tag(data, auxiliary))

    def close(self):
        self.socket.close()


def _with_its_tag(data, auxiliary):
    """The kernel takes the outer tag out of what arrives and tells it aside."""
    for _, _, value in auxiliary:
        status, _, _, _, _, tci, tpid = _AUXILIARY.unpack(value[:_AUXILIARY.size])
        if status & _VLAN_VALID:
            return data[:12] + tag(tci, tpid if status & _TPID_VALID else 0x8100) + data[12:]
    return data


@dataclasses.dataclass
class Question:
    """A frame, who sends it, and who has to receive it, as which bytes: exactly once. Of those who are `silent` nobody
    may receive it; None stands for everybody else."""
    sender: str
    frame: bytes
    answers: dict
    silent: set = None

    def complaint(self, heard):
        """What is wrong with what was heard, by observer: a sentence, or None."""
        for observer, frames in heard.items():
            wanted = self.answers.get(observer)
            if wanted is None:
                if frames and (self.silent is None or observer in self.silent):
                    return f'{self.sender} sent {self.frame.hex()}: {observer} was not to receive it'
            elif frames != [wanted]:
                return (f'{self.sender} sent {self.frame.hex()}: {observer} was to receive {wanted.hex()} once, and '
                        f'got {[frame.hex() for frame in frames]}')
        return None


class Field:
    """All probes of a network by name."""

    def __init__(self):
        self.probes = {}

    def add(self, name, namespace, device):
        self.probes[name] = Probe(namespace, device)

    def close(self):
        for probe in self.probes.values():
            probe.close()

    def collect(self, done, timeout):
        """Lets frames arrive until done(heard) says so or time is over; `heard` has, by the last bytes of a frame and
        by probe, the frames."""
        heard = collections.defaultdict(lambda: collections.defaultdict(list))
        by_socket = {probe.socket: (name, probe) for name, probe in self.probes.items()}
        end = time.monotonic() + timeout
        while not done(heard) and (left := end - time.monotonic()) > 0:
            for ready in select.select(list(by_socket), [], [], left)[0]:
                name, probe = by_socket[ready]
                for frame in probe.arrived():
                    heard[frame[-12:]][name].append(frame)
        return heard

    def ask(self, make, timeout=10, rounds=2):
        """Asks the questions of make(), `rounds` times, each round anew; back, with the complaints, when all answers of
        all rounds are there. What was not to arrive had the later rounds to do so: they go the same ways behind it."""
        asked = []
        heard = collections.defaultdict(lambda: collections.defaultdict(list))
        for _ in range(rounds):
            questions = make()
            for question in questions:
                self.probes[question.sender].send(question.frame)
            for ending, by_probe in self.collect(lambda h: _answered(questions, h), timeout).items():
                for name, frames in by_probe.items():
                    heard[ending][name] += frames
            asked += questions
        everybody = {name: [] for name in self.probes}
        return [complaint for question in asked
                if (complaint := question.complaint(everybody | heard[question.frame[-12:]]))]

    def warm_up(self, make, timeout=20):
        """Asks until every answer of one round has come: the first frames after a link came up may be lost."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            questions = make()
            for question in questions:
                self.probes[question.sender].send(question.frame)
            heard = self.collect(lambda h: _answered(questions, h), 0.5)
            if _answered(questions, heard):
                return
        lost = [f'{q.sender} → {o}' for q in questions for o in q.answers if not heard[q.frame[-12:]][o]]
        raise TimeoutError(f'within {timeout} s nothing arrived on the way {", ".join(lost)}')


def _answered(questions, heard):
    return all(heard[question.frame[-12:]][observer] for question in questions for observer in question.answers)
