"""python3 -m benches.side_by_side [--minutes N] [--only WORDS]... [--fresh] [--place PLACE] [--report]

Measures evb beside its peers, adds what it finds to target/bench/results.jsonl, and writes docs/performance from all that
was found with this build. Each round has one case with all its peers, one after the other, in another order each time, so
that what the machine does happens to all; ratios are those within a round. The case with the fewest rounds is next, so a
run can end at any time and another one goes on from there.
"""
import argparse
import hashlib
import json
import os
import signal
import sys
import time

from . import guests, machine, report
from .cases import CASES
from .peers import RELEASE, started

RESULTS = machine.BUILT / 'results.jsonl'


def build_id():
    """Tells builds apart."""
    digest = hashlib.sha256()
    for path in (RELEASE / 'evb', RELEASE / 'examples' / 'stock', machine.BUILT / 'front_ends', machine.BUILT / 'machine'):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main():
    parser = argparse.ArgumentParser(prog='python3 -m benches.side_by_side', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=14, help='begin nothing after so long')
    parser.add_argument('--only', action='append', default=[], metavar='WORDS', help='cases whose name has all of these')
    parser.add_argument('--cpus', help='of the guests and of the switch, as in 2,3')
    parser.add_argument('--fresh', action='store_true', help='forget what was found before')
    parser.add_argument('--place', choices=machine.PLACES, help='which windows are shown, if not the most frequent')
    parser.add_argument('--report', action='store_true', help='only write the report again')
    options = parser.parse_args()
    if options.fresh:
        RESULTS.unlink(missing_ok=True)
    if not options.report:
        if os.geteuid():
            sys.exit('the side-by-side run needs root')
        cpus = options.cpus or ','.join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        cpus = tuple(cpus.split(','))
        if len(cpus) != 2:
            sys.exit('two CPUs are needed: one for the guests, one for the switch')
        machine.build()
        cases = [case for case in CASES if all(word in case.name for words in options.only for word in words.split())]
        if not cases:
            sys.exit('no such case; there are: ' + '; '.join(case.name for case in CASES))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        run(cases, cpus, options.minutes)
    report.write(RESULTS, options.place)


def run(cases, cpus, minutes):
    """Rounds until the time is over."""
    end, build = time.monotonic() + 60 * minutes, build_id()
    rows = [row for row in report.rows_of(RESULTS) if row['build'] == build]
    rounds = {case.name: len({row['round'] for row in rows if row['case'] == case.name}) for case in cases}
    with open(RESULTS, 'a', encoding='utf-8') as results:
        def note(**row):
            results.write(json.dumps({'build': build, **row}) + '\n')
            results.flush()
        note(machine=machine.describe(cpus), when=time.strftime('%Y-%m-%d'))
        longest = 0
        while time.monotonic() + longest < end:
            least = min(rounds.values())
            setup = next(case.setup for case in cases if rounds[case.name] == least)
            due = [case for case in cases if case.setup == setup and rounds[case.name] == least]
            wanted = sorted({peer for case in due for peer in case.peers} - {'copy'})
            with started(wanted, cpus[1], setup) as peers:
                for case in due:
                    if time.monotonic() + longest > end:
                        return
                    begin = time.monotonic()
                    one_round(case, peers, cpus, rounds[case.name], note)
                    rounds[case.name] += 1
                    longest = max(longest, time.monotonic() - begin)


def one_round(case, peers, cpus, number, note):
    """One case with all its peers."""
    order = case.peers if number % 2 == 0 else case.peers[::-1]
    stamp = time.time_ns()
    for name in order:
        machine.wait_until_quiet(guests.MAX_FOREIGN)
        try:
            if name == 'copy':
                windows = list(guests.ceiling(case, cpus))
            else:
                with peers[name].turn():
                    windows = guests.measure(peers[name], case, cpus)
        except RuntimeError as error:
            print(f'{case.name}: {error}', file=sys.stderr)
            note(case=case.name, peer=name, round=stamp, failed=str(error))
            continue
        for window in windows:
            note(case=case.name, peer=name, round=stamp, **window)
            print(report.line(case.name, name, window), flush=True)


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
