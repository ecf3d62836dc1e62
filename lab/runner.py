"""Finds the checks, runs them one after the other, and says how each went."""
import contextlib
import importlib
import inspect
import os
import pkgutil
import shutil
import sys
import time
import traceback

from . import checks
from .lab import Lab
from .process import IMAGES

_found = {}
_cells = {}
_rows = set()                                       # of the check that runs
_WHOLE = 'whole check'


def check(smoke=False, cases=None, suite=None):
    """Makes a function of a Lab a check. It is part of `e2e`, and of another `suite` besides: `smoke` (for short,
    `smoke=True`) or `networks`. `cases`: a dict of name → further arguments; each becomes a check of its own. What it
    returns is printed beside its result."""
    def register(function):
        for case, args in (cases or {'': ()}).items():
            name = function.__name__ + (f'[{case}]' if case else '')
            _found[name] = (function, args, suite or ('smoke' if smoke else 'e2e'))
        return function
    return register


@contextlib.contextmanager
def cell(row, column):
    """A part of a check, which has a cell in the table at the end: ok if the block ends well, in whichever check."""
    cells = _cells.setdefault(row, {})
    _rows.add(row)
    before = cells.get(column, 'ok')
    cells[column] = 'FAILED'
    yield
    cells[column] = before


def _mark_rows(passed):
    """The last cell of a check's rows is its result: it may have failed between two cells, or after the last one."""
    for row in _rows:
        before = _cells[row].get(_WHOLE, 'ok')
        _cells[row][_WHOLE] = before if passed else 'FAILED'
    _rows.clear()


def load():
    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f'{checks.__name__}.{module.name}')
    return _found


def paint(text, colour):
    return f'\033[{colour}m{text}\033[0m' if sys.stdout.isatty() else text


def _run(name, function, args):
    """Runs one check: whether it passed, and a note about it."""
    lab = Lab()
    try:
        # The block's end counts too: the daemon has to have lived until then, without a panic.
        with lab:
            note = function(lab, *args)
        return True, note or ''
    except Exception as error:
        logs = IMAGES / 'logs' / name
        shutil.rmtree(logs, ignore_errors=True)
        shutil.copytree(lab.directory, logs, ignore=_only_logs)
        (logs / 'traceback').write_text(traceback.format_exc())
        return False, f'{_complaint(error)}\nlogs: {os.path.relpath(logs)}'
    finally:
        lab.remove()


def _complaint(error):
    """What went wrong; for an assertion without a text, its line."""
    return str(error) or traceback.extract_tb(error.__traceback__)[-1].line or repr(error)


def _only_logs(directory, names):
    return [n for n in names if not os.path.isfile(os.path.join(directory, n)) or n.endswith('.cpio')]


def _show_table():
    """The cells, a line for each row; empty where that part was not run."""
    columns = sorted(dict.fromkeys(column for row in _cells.values() for column in row), key=_WHOLE.__eq__)
    first = max(map(len, _cells))
    print('\n' + '  '.join([' ' * first, *columns]))
    for row, cells in _cells.items():
        words = ((cells.get(column, ''), len(column)) for column in columns)
        print('  '.join([f'{row:{first}}', *(paint(f'{word:{width}}', 31 if word == 'FAILED' else 32)
                                             for word, width in words)]).rstrip())
    print()


def _show_times(times):
    """How long all of it took, and which checks took longest."""
    minutes, seconds = divmod(round(sum(times.values())), 60)
    print(f'{len(times)} checks, {minutes} min {seconds} s; the longest:')
    for name in sorted(times, key=times.get, reverse=True)[:10]:
        print(f'{times[name]:6.1f} s  {name}')
    print()


def run(words=(), suite='e2e'):
    """Runs the checks of a suite whose name contains one of `words` (all, without words); the exit status."""
    chosen = [(name, *what) for name, what in load().items()
              if suite in ('e2e', what[2]) and (not words or any(word in name for word in words))]
    if not chosen:
        print('no such check')
        return 2
    failed, times = 0, {}
    width = max(len(name) for name, *_ in chosen)
    for name, function, args, _ in chosen:
        print(f'{name:{width}}  ', end='', flush=True)
        begin = time.monotonic()
        passed, note = _run(name, function, args)
        times[name] = time.monotonic() - begin
        failed += not passed
        _mark_rows(passed)
        word = paint('ok    ', 32) if passed else paint('FAILED', 31)
        first, *rest = note.split('\n')
        print(f'{word} {times[name]:6.1f} s  {first}')
        for line in rest:
            print(f'    {line}')
    if _cells:
        _show_table()
    _show_times(times)
    print(f'{len(chosen) - failed} passed, {failed} failed', flush=True)
    return 1 if failed else 0


def show():
    """Lists the checks, each with the first line of its description."""
    for name, (function, _, suite) in load().items():
        print(f'{name:40} {suite:8}  {inspect.getdoc(function).splitlines()[0]}')
