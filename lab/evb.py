"""The daemon under test."""
import contextlib
import http.client
import json
import os
import signal
import subprocess

from .process import ROOT, connect, kill, spawn, tail, wait_for

BINARY = os.environ.get('EVB') or str(ROOT / 'target' / 'release' / 'evb')


class Evb:
    """`evb run` with ports named as given. Without `config` it is started with `--port` alone, each port
    listening in `directory`; with it, `config` is the text of its file, in which `{dir}` stands
    for that directory, and `ports` names those that listen there. `before` is put before the command, and
    a daemon that `stays` outlives the lab."""

    def __init__(self, directory, ports, config=None, options=(), before=(), stays=False):
        self.directory, self.ports, self.process, self.stays = directory, list(ports), None, stays
        self.log, self.control = directory / 'evb.log', directory / 'control.sock'
        if config is None:
            self.command = [BINARY, 'run', *(f'--port={self.socket(p)}' for p in self.ports),
                            f'--control={self.control}', *options]
        else:
            self.configure(config)
            self.command = [BINARY, 'run', '--config', directory / 'evb.toml', *options]
        self.command = [*before, *self.command]
        self.start()

    def configure(self, config):
        """Writes its file, which reload() or a start reads. The control socket is the lab's, unless the file has a
        `[daemon]` of its own."""
        own = '' if '[daemon]' in config else f'[daemon]\ncontrol = "{self.control}"\n'
        (self.directory / 'evb.toml').write_text(own + config.replace('{dir}', str(self.directory)))

    def reload(self, config):
        """Goes over to another configuration."""
        self.configure(config)
        self.cli('reload')

    def socket(self, port):
        """The path of the socket of a port."""
        return self.directory / f'{port}.sock'

    def start(self, timeout=30):
        """Starts it, or starts it again; back once it answers and its ports listen."""
        self.process = spawn(self.command, self.log, self.stays)
        try:
            connect(self.control, self.process, timeout, self.log).close()
            self.get('/v1/status')              # answered once its devices are there
            for port in self.ports:
                wait_for(self.socket(port).exists, timeout, f'the socket of {port}')
        except BaseException:
            kill(self.process)
            raise

    def crash(self):
        """SIGKILL, as a crash would be."""
        kill(self.process)

    def stop(self, timeout=20):
        """SIGTERM; it has to end by itself, in peace, without a panic on the way."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f'evb: no end within {timeout} s of SIGTERM\n{tail(self.log)}') from None
        if code:
            raise RuntimeError(f'evb ended with {code}\n{tail(self.log)}')

    def close(self):
        """Ends it however it can, and complains about a panic or an early end."""
        ended_early = self.process.poll()
        if ended_early is None:
            with contextlib.suppress(TimeoutError, RuntimeError):
                self.stop(5)
            kill(self.process)
        if 'panicked' in self.log_text():
            raise RuntimeError(f'evb panicked\n{tail(self.log)}')
        if ended_early:
            raise RuntimeError(f'evb ended early, with {ended_early}\n{tail(self.log)}')

    def log_text(self):
        return self.log.read_text(errors='replace')

    def cli(self, *words):
        """What `evb WORDS --control SOCKET` prints."""
        return subprocess.run([BINARY, *words, '--control', self.control], check=True, text=True, timeout=30,
                              stdout=subprocess.PIPE).stdout

    def get(self, path):
        """An answer of the control API, decoded."""
        connection = http.client.HTTPConnection('localhost', timeout=30)
        connection.sock = connect(self.control, self.process, 5, self.log)
        with contextlib.closing(connection):
            connection.request('GET', path)
            reply = connection.getresponse()
            body = reply.read()
        if reply.status != 200:
            raise RuntimeError(f'evb: GET {path}: {reply.status} {body.decode(errors="replace")}')
        return json.loads(body)

    def status(self, port):
        """The status of a port."""
        return next(entry for entry in self.get('/v1/status')['ports'] if entry['name'] == port)

    def counters(self, port):
        return self.status(port)['counters']
