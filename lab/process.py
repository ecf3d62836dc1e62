"""Processes and waiting: what the rest of the lab is built on. Standard library only."""
import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = pathlib.Path(os.environ.get('EVB_LAB') or ROOT / 'target' / 'lab')
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command, log, stays=False):
    """Starts a process in a session of its own, so that Ctrl-C reaches only us, and we clean up in
    order; should we die without that, the kernel ends it, unless it `stays`. Its output is appended to the
    file `log`."""
    with open(log, 'ab') as out:
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                stderr=subprocess.STDOUT, start_new_session=True,
                                preexec_fn=None if stays else _die_with_parent)


def kill(process):
    """SIGKILL, and waits for the end. Nothing if it has ended already."""
    if process.poll() is None:
        process.kill()
    process.wait()


def tail(path, size=2000):
    """The end of a log file, as text."""
    with contextlib.suppress(FileNotFoundError), open(path, 'rb') as file:
        return file.read()[-size:].decode(errors='replace')
    return ''


def wait_for(condition, timeout, what):
    """Polls `condition` until it gives something true, and returns that."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f'{what}: not within {timeout} s')
        time.sleep(0.05)
    return result


def connect(path, process, timeout, log):
    """Connects to the unix socket that `process` is about to open."""
    def attempt():
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.connect(str(path))
            return stream
        except OSError:
            stream.close()
            if process.poll() is not None:
                raise RuntimeError(f'{process.args[0]} ended with {process.returncode}:\n{tail(log)}') from None
            return None
    return wait_for(attempt, timeout, f'{path}: a listener')


def cpu_seconds(pid):
    """CPU time that a process has used so far, all threads together."""
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
