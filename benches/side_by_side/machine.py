"""The machine: who uses its CPUs, where they are, and what it is."""
import contextlib
import os
import pathlib
import platform
import re
import subprocess
import time

from lab.process import ROOT

BUILT = ROOT / 'target' / 'bench'
HERE = pathlib.Path(__file__).resolve().parent
# Nanoseconds in which a cache line goes to the other CPU and back, from and below.
PLACES = {'one core': (0, 74), 'near': (74, 160), 'far': (250, float('inf'))}
_TICKS = os.sysconf('SC_CLK_TCK')


def build():
    """Compiles what is in C."""
    BUILT.mkdir(parents=True, exist_ok=True)
    dpdk = subprocess.run(['pkg-config', '--cflags', '--libs', 'libdpdk'], check=True, capture_output=True, text=True)
    for name, flags in (('front_ends', dpdk.stdout.split()), ('machine', ['-pthread'])):
        source = HERE / f'{name}.c'
        if not (BUILT / name).exists() or (BUILT / name).stat().st_mtime < source.stat().st_mtime:
            subprocess.run(['cc', '-O3', '-march=native', '-Wall', '-o', BUILT / name, source, *flags], check=True)


def _helper(*words):
    output = subprocess.run([BUILT / 'machine', *map(str, words)], check=True, capture_output=True, text=True,
                            timeout=20).stdout
    return float(output)


def placement(cpus):
    """Nanoseconds in which a cache line goes from one of our CPUs to the other and back."""
    return _helper('placement', *cpus)


def copies(cpus, size, seconds):
    """Million frames a second that one CPU can copy for the other."""
    return _helper('copy', *cpus, size, seconds)


def place(before, after):
    """Where two virtual CPUs were during a window, by what was measured on both sides of it: on one core, on two
    that share a cache, or further apart; None where they may have moved."""
    for name, (least, most) in PLACES.items():
        if all(least <= time_ns < most for time_ns in (before, after)):
            return name
    return None


def cpu_seconds():
    """Seconds that all CPUs together worked, and that the hypervisor took."""
    fields = [int(field) for field in pathlib.Path('/proc/stat').read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq) / _TICKS, steal / _TICKS


def process_seconds(pids):
    """CPU seconds of these processes so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # Nanoseconds, of every thread, where /proc/PID/stat has hundredths of a second.
            for task in pathlib.Path(f'/proc/{pid}/task').iterdir():
                total += int((task / 'schedstat').read_text().split()[0])
    return total / 1e9


def wait_until_quiet(share, limit=20):
    """Waits until others use less than `share` of one CPU; not for ever."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        before = cpu_seconds()[0]
        time.sleep(0.2)
        if (cpu_seconds()[0] - before) / 0.2 < share:
            return


def _first(pattern, path):
    with contextlib.suppress(OSError):
        if found := re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE):
            return found[1]
    return 'unknown'


def _line(*words):
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        output = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        return output.strip().splitlines()[0]
    return 'unknown'


def describe(cpus):
    """What a reader has to know of the machine, as pairs."""
    lock = (ROOT / 'Cargo.lock').read_text()
    stock = re.search(r'name = "vhost-user-backend"\nversion = "(.*)"', lock)[1]
    virtual = ', virtual machine' if 'hypervisor' in pathlib.Path('/proc/cpuinfo').read_text() else ''
    return {
        'CPU': f'{_first(r"^model name.*: (.*)", "/proc/cpuinfo")}, {os.cpu_count()} CPUs{virtual}',
        'memory': f'{int(_first(r"MemTotal: *([0-9]+)", "/proc/meminfo")) >> 20} GiB',
        'kernel': platform.release(),
        'guests on CPU, switch on CPU': ', '.join(map(str, cpus)),
        'evb': _line('git', 'describe', '--always', '--dirty', '--tags'),
        'rustc': _line('rustc', '--version'),
        'Open vSwitch': _line('ovs-vswitchd', '--version').rpartition(' ')[2],
        'DPDK': _line('pkg-config', '--modversion', 'libdpdk'),
        'vhost-user-backend': stock,
    }
