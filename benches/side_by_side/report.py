"""Tables and plots of what was found, in docs/performance."""
import collections
import json
import statistics

from lab.process import ROOT

from . import plots
from .cases import ALL, CASES
from .peers import NAMES

PAGE = ROOT / 'docs' / 'performance' / 'side-by-side.md'
# Guests that have nothing to do for less than this share of their time are themselves the limit.
GUESTS_LIMIT = 0.05
HEAD = '''\
# Side by side

Written by `make bench`, which see in [performance.md](../performance.md#side-by-side). Do not edit.

'''
NOTES = '''
## How to read it

- A figure is the median over rounds; a ratio is the median of the ratios within a round, in which all peers had their turn
  within seconds, with its middle half in brackets and the number of rounds. Below eight rounds nothing under 10 % can be said.
- "≥" and "≤": one of them was held up by the guests, which had nothing to do for less than 5 % of their time, and could do
  more. Where both were, "guests" stands for a ratio that would compare the guests with themselves.
- Everything of a switch is on one CPU, whatever threads it has; both guests are on another. The wires switch nothing.
- "One copy" is a plain copy of the same bytes from one CPU to the other through two rings: what a switch that copies
  once can reach at most in this placement, about.
- Sizes are bytes in the virtqueue, without checksum on the wire and virtio-net header.
'''


def rows_of(path):
    """The windows in a file of results."""
    return [row for row in _lines(path) if 'case' in row and 'failed' not in row]


def _lines(path):
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text().splitlines()]


def line(case, peer, window):
    """A window, for the console."""
    words = [f'{case:28} {peer:9}']
    if 'mpps' in window:
        words.append(f"{window['mpps']:8.3f} Mpps {window['gbps']:7.2f} Gbit/s")
    if 'p50' in window:
        words.append(f"p50 {window['p50']:.2f} p99 {window['p99']:.2f} µs")
    if 'cpu' in window:
        words.append(f"CPU {window['cpu']:.0%}")
    words.append(window['place'] or 'moved')
    if window['noisy']:
        words.append('noisy')
    return '  '.join(words)


class Results:
    """The windows of one build that count, by case and peer."""

    def __init__(self, path, place=None):
        lines = _lines(path)
        self.machine = next(row for row in reversed(lines) if 'machine' in row)
        lines = [row for row in lines if row['build'] == self.machine['build']]
        # Turns in which a peer did not do what it was to.
        self.failed = collections.Counter((row['peer'], row['case']) for row in lines if 'failed' in row)
        rows = [row for row in lines if 'case' in row and 'failed' not in row]
        self.windows = len(rows)
        clean = [row for row in rows if not row['noisy'] and row['place']]
        self.clean = len(clean)
        places = collections.Counter(row['place'] for row in clean if row['place'] != 'idle')
        # Windows of different placements do not compare.
        self.place = place or (places.most_common(1)[0][0] if places else 'near')
        shown = [row for row in clean if row['place'] in (self.place, 'idle')]
        self.rounds = collections.defaultdict(lambda: collections.defaultdict(list))
        for row in shown:
            self.rounds[row['case'], row['peer']][row['round']].append(row)

    def values(self, case, peer, key):
        """The median of each round."""
        rounds = self.rounds.get((case, peer), {})
        found = {number: [row[key] for row in rows if key in row] for number, rows in rounds.items()}
        return {number: statistics.median(values) for number, values in found.items() if values}

    def median(self, case, peer, key):
        """The median of all rounds, or None."""
        values = self.values(case, peer, key)
        return statistics.median(values.values()) if values else None

    def at_limit(self, case, peer):
        """Whether the guests are the limit."""
        idle = self.median(case, peer, 'idle')
        return idle is not None and idle < GUESTS_LIMIT

    def ratios(self, case, peer, key):
        """evb's to the peer's, in each round that has both."""
        ours, theirs = self.values(case, 'evb', key), self.values(case, peer, key)
        return [ours[number] / theirs[number] for number in ours if number in theirs]


def _number(value):
    return '–' if value is None else f'{value:.3g}' if value < 100 else f'{value:.0f}'


def _table(head, rows):
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    return '\n'.join(lines + ['| ' + ' | '.join(row) + ' |' for row in rows]) + '\n'


def _caption(case):
    words = [f'{case.size} B', case.mode.replace('-', ' ')]
    if case.front == 'packed':
        words.append('packed ring')
    if case.small_pages:
        words.append('4 KiB pages')
    if case.flows > 1:
        words.append(f'{case.flows} address pairs')
    return ', '.join(words)


def _spread(values):
    if not values:
        return '–'
    low, high = (values[0], values[0]) if len(values) < 2 else statistics.quantiles(values, n=4)[::2]
    return f'**{statistics.median(values):.2f}** [{low:.2f}–{high:.2f}] {len(values)}'


def _ratio(results, case, peer):
    """How many times as much evb carries, as far as the guests let both of them."""
    spread = _spread(results.ratios(case, peer, 'mpps'))
    if spread == '–':
        return spread
    limited = results.at_limit(case, 'evb'), results.at_limit(case, peer)
    return {(True, True): 'guests', (True, False): '≥ ' + spread, (False, True): '≤ ' + spread}.get(limited, spread)


def _load(results):
    """The cases with as much load as there can be, and two tables of them."""
    peers = ALL + ('copy',)
    cases = [case for case in CASES if case.mode.endswith('-way') or case.mode.endswith('-ways')]
    cases = [case for case in cases if not case.rate and results.median(case.name, 'evb', 'mpps')]
    rates, ratios = [], []
    for case in cases:
        cells = []
        for peer in peers:
            mpps, gbps = (results.median(case.name, peer, key) for key in ('mpps', 'gbps'))
            cell = _number(mpps)
            if mpps and case.size >= 1514:
                cell += f' ({gbps:.0f} Gbit/s)'
            cells.append('≥ ' + cell if results.at_limit(case.name, peer) else cell)
        rates.append([_caption(case), *cells])
        ratios.append([_caption(case), *(_ratio(results, case.name, peer) for peer in peers[1:])])
    names = [NAMES[peer] for peer in peers]
    return cases, _table(['million frames a second', *names], rates), _table(['evb to', *names[1:]], ratios)


def _latency(results):
    rows = []
    for case in CASES:
        if case.mode == 'ping-pong' or case.rate:
            what = 'round trip' if case.mode == 'ping-pong' else f'one way, {case.rate / 1e6:g} million frames a second'
            rows += [[what, NAMES[peer], *(_number(results.median(case.name, peer, key)) for key in ('p50', 'p99')),
                      _spread(results.ratios(case.name, peer, 'p50'))]
                     for peer in case.peers if peer != 'evb' or case.setup == 'plain']
    return _table(['', 'peer', 'p50 µs', 'p99 µs', 'evb to it, p50'], rows)


def _cpu(results):
    paced = next(case for case in CASES if case.rate)
    rows = []
    for case in CASES:
        for peer in case.peers if case.mode == 'idle' else ():
            idle, busy = results.median(case.name, peer, 'cpu'), results.median(paced.name, peer, 'cpu')
            if idle is not None and (peer != 'evb' or case.setup == 'plain'):
                rows.append([NAMES[peer], f'{idle:.1%}', '–' if busy is None else f'{busy:.0%}'])
    return _table(['', 'guests idle', f'{paced.rate / 1e6:g} million frames a second'], rows)


def _plots(results, cases):
    """Writes them, and returns what shows them in the page."""
    shown = [case for case in cases if case.flows == 1]
    groups = {_caption(case): {peer: (value, f'{_number(value)} M/s')
                               for peer in case.peers if (value := results.median(case.name, peer, 'mpps'))}
              for case in shown}
    pages = {'frames.svg': plots.bars('Frames a second', groups, NAMES)}
    flows = {peer: [(case.flows, value) for case in cases
                    if (case.mode, case.size, case.front) == ('one-way', 64, 'split')
                    and (value := results.median(case.name, peer, 'mpps'))]
             for peer in ('evb', 'ovs', 'testpmd')}
    flows = {peer: line for peer, line in flows.items() if len(line) > 1}
    if flows:
        pages['flows.svg'] = plots.lines('Million frames a second, 64 B one way', flows, NAMES, 'address pairs')
    trips = {'p50': {}, 'p99': {}}
    for case in CASES:
        for peer in case.peers if case.mode == 'ping-pong' else ():
            for key, group in trips.items():
                if value := results.median(case.name, peer, key):
                    group.setdefault(peer, (value, f'{_number(value)} µs'))
    trips = {key: group for key, group in trips.items() if group}
    if trips:
        pages['latency.svg'] = plots.bars('Round trip', trips, NAMES)
    for name, text in pages.items():
        (PAGE.parent / name).write_text(text)
    return {name: f'![{name}]({name})\n' for name in pages}


def _failed(results):
    """Turns that failed, in words."""
    said = [f'{count} of {NAMES[peer]} in "{case}"' for (peer, case), count in sorted(results.failed.items())]
    return f' Turns that failed: {", ".join(said)}.' if said else ''


def write(path, place=None):
    """The page, from a file of results: of windows in which the CPUs were in this place, or in the most frequent one."""
    if not rows_of(path) or not (results := Results(path, place)).clean:
        print('nothing was measured yet that counts')
        return
    PAGE.parent.mkdir(exist_ok=True)
    cases, rates, ratios = _load(results)
    pictures = _plots(results, cases)
    noise = (f'{results.windows} windows, of which {results.clean} count: in the others somebody else used the CPUs, '
             f'or the hypervisor moved them. Shown are those in which the two CPUs were "{results.place}".'
             f'{_failed(results)}\n')
    machine = _table(['', results.machine['when']], [list(pair) for pair in results.machine['machine'].items()])
    parts = [HEAD, '## Frames\n', rates, ratios, pictures.get('frames.svg', ''), pictures.get('flows.svg', ''),
             '## Latency\n', _latency(results), pictures.get('latency.svg', ''), '## CPU of the switch\n',
             _cpu(results), '## The machine\n', machine, noise]
    PAGE.write_text('\n'.join(part for part in parts if part) + NOTES)
    print(f'wrote {PAGE.relative_to(ROOT)}')
