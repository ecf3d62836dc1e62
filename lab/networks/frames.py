"""Frames that a path has to leave alone, whatever it thinks of them."""
import itertools
import struct

from .probe import BROADCAST, ending, octets, tag

_DESTINATIONS = ('52:54:00:00:00:bb', BROADCAST, '01:00:5e:00:00:fb', '33:33:00:00:00:fb',
                 '01:80:c2:00:00:00', '01:80:c2:00:00:02', '01:80:c2:00:00:0e')
_BODIES = (
    b'\x08\x06' + bytes(range(46)),                                     # ARP, and no sense in it
    b'\x08\x00' + b'\x45' + bytes(1387),                                # IPv4 with a wrong checksum
    b'\x88\xb5' + bytes(range(256)) * 5,                                # the EtherType for experiments
    struct.pack('!H', 46) + b'\x42\x42\x03' + bytes(43),                # a length, not a type: LLC
    tag(10) + b'\x88\xb5' + b'\xaa' * 500,                              # a C-tag
    tag(7 << 13) + b'\x88\xb5' + b'\x55' * 46,                          # priority 7 without a VID
    tag(1 << 12 | 4095) + b'\x88\xb5' + bytes(46),                      # the VID that nobody may use, drop eligible
    tag(100, 0x88a8) + tag(20) + b'\x88\xb5' + b'\xff' * 60,            # an S-tag before a C-tag
)


def patterns(source):
    """Each destination and, with the first of them, no source at all, before each body: 64 frames, no two alike."""
    heads = [octets(destination) + octets(source) for destination in _DESTINATIONS]
    heads.append(octets(_DESTINATIONS[0]) + bytes(6))
    return [head + body + ending() for head, body in itertools.product(heads, _BODIES)]
