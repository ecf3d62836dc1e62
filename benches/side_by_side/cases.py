"""What is measured, and with whom."""
import dataclasses

# The options of the front ends' rings: as a Linux guest has them.
FRONTS = {
    'split': 'packed_vq=0,mrg_rxbuf=1,in_order=0',
    'packed': 'packed_vq=1,mrg_rxbuf=1,in_order=0',
}
FAST = ('evb', 'ovs', 'testpmd')
ALL = FAST + ('bridge', 'stock')


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to load two guests. Cases of one `setup` share the processes that were started for it."""
    mode: str
    size: int = 64
    front: str = 'split'
    flows: int = 1
    rate: int = 0
    peers: tuple = FAST
    setup: str = 'plain'
    small_pages: bool = False       # the guests' memory is in pages of 4 KiB, and not of 2 MiB

    @property
    def name(self):
        """What `--only` looks for, and the result's name in the file."""
        words = [self.mode]
        if self.mode != 'idle':
            words += [str(self.size), self.front]
        if self.flows > 1:
            words.append(f'{self.flows} flows')
        if self.rate:
            words.append(f'at {self.rate:g}')
        if self.small_pages:
            words.append('small pages')
        if self.setup != 'plain':
            words.append(self.setup)
        return ' '.join(words)


CASES = [
    Case('one-way', 64, peers=ALL + ('copy',)),
    Case('one-way', 256, peers=FAST + ('copy',)),
    Case('one-way', 1514, peers=ALL + ('copy',)),
    Case('both-ways', 64),
    Case('both-ways', 1514),
    Case('one-way', 64, 'packed'),
    Case('both-ways', 64, 'packed'),
    Case('one-way', 1514, 'packed'),
    Case('one-way', 1514, small_pages=True),
    *(Case('one-way', 64, flows=flows) for flows in (16, 256, 1000, 4000)),
    Case('ping-pong', peers=ALL),
    Case('one-way', 64, rate=1_000_000),
    Case('idle', peers=ALL),
    Case('one-way', 9000, peers=FAST + ('copy',), setup='jumbo'),
    Case('ping-pong', peers=('evb', 'ovs-sleep'), setup='sleeping'),
    Case('idle', peers=('evb', 'ovs-sleep'), setup='sleeping'),
]
