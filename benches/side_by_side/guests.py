"""The guests: runs the front ends against a peer, and sees who used the CPUs meanwhile."""
import json
import subprocess
import threading
import time

from lab.process import tail

from . import machine
from .cases import FRONTS

# Of one CPU, taken by others or by the hypervisor: a window with more is not counted.
MAX_FOREIGN = 0.08
WINDOWS = 2
SECONDS = 0.25
IDLE_SECONDS = 2


def measure(peer, case, cpus):
    """The windows of one run of the guests."""
    guests_cpu, _ = cpus
    ports = [f'--vdev=net_virtio_user{i},path={peer.directory}/p{i}.sock,queue_size=1024,{FRONTS[case.front]}'
             for i in (0, 1)]
    memory = ['--no-huge'] if case.small_pages else ['--in-memory', '--single-file-segments']
    idle = case.mode == 'idle'
    seconds, windows = (IDLE_SECONDS, 1) if idle else (SECONDS, WINDOWS)
    words = ['taskset', '--cpu-list', guests_cpu, machine.BUILT / 'front_ends', '--lcores', f'0@{guests_cpu}',
             '--no-pci', '--no-telemetry', *memory, '-m', '256', '--log-level=error',
             *ports, '--',
             '--mode', case.mode, '--size', case.size, '--flows', case.flows, '--rate', case.rate,
             '--seconds', seconds, '--windows', windows]
    log = peer.directory / 'guests.log'
    with open(log, 'w', encoding='utf-8') as errors:
        guests = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=errors, text=True)
    # A peer that stops answering must not stop us.
    watch = threading.Timer(20 + windows * (seconds + 1), guests.kill)
    watch.start()
    try:
        found = list(_windows(guests, peer, cpus, seconds, idle))
    finally:
        watch.cancel()
        guests.kill()
        guests.wait()
    if not found:
        raise RuntimeError(f'the guests of {peer.name} measured nothing: {tail(log)}')
    if not idle and not all(window['mpps'] for window in found):
        raise RuntimeError(f'nothing came through {peer.name}: {tail(peer.log)}')
    return found


def _windows(guests, peer, cpus, seconds, idle):
    """Reads what the front ends say, and adds what they cannot know."""
    window, before, start = None, None, None
    for line in guests.stdout:
        said = json.loads(line)
        if said.get('event') == 'pause':
            after = machine.placement(cpus)
            if window:
                window['place'] = machine.place(before, after)
                yield window
            before = after
        elif said.get('event') == 'start':
            pids = peer.pids()
            start = _clocks(pids, guests.pid)
        else:
            window = said | _used(start, _clocks(pids, guests.pid), seconds)
            if idle:
                window['place'] = 'idle'
                yield window


def _clocks(pids, guests):
    busy, steal = machine.cpu_seconds()
    return time.monotonic(), machine.process_seconds(pids), machine.process_seconds([guests]), busy, steal


def _used(start, end, seconds):
    """Shares of one CPU, in a window that is to be so long."""
    passed, peer, guests, busy, steal = (after - before for before, after in zip(start, end))
    # We read what the front ends say late where somebody has our CPU.
    late = abs(passed - seconds) > MAX_FOREIGN * seconds
    foreign = max(busy - peer - guests, steal)
    return {'cpu': peer / seconds, 'noisy': late or foreign > MAX_FOREIGN * seconds}


def ceiling(case, cpus):
    """The same windows with a plain copy instead of a peer."""
    before = machine.placement(cpus)
    for _ in range(WINDOWS):
        busy, steal = machine.cpu_seconds()
        mpps = machine.copies(cpus, case.size, SECONDS)
        busy_after, steal_after = machine.cpu_seconds()
        after = machine.placement(cpus)
        # Both CPUs are busy with it.
        foreign = max(busy_after - busy - 2 * SECONDS, steal_after - steal) / SECONDS
        yield {'mpps': mpps, 'gbps': mpps * case.size * 8 / 1e3, 'place': machine.place(before, after),
               'noisy': foreign > MAX_FOREIGN}
        before = after
