//! The daemon as a process.

// `kill` and `setrlimit` have no safe form in the standard library.
#![allow(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::guest::{Guest, GuestOptions};
use super::{LIMIT, eventually};

/// Lines that the process wrote, and whether more can come.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, u8)>,
    more: Condvar,
}

impl Log {
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                log.lines
                    .lock()
                    .unwrap()
                    .0
                    .push(String::from_utf8_lossy(&line).into_owned());
                log.more.notify_all();
            }
            log.lines.lock().unwrap().1 += 1;
            log.more.notify_all();
        })
    }

    /// Waits until the lines from number `from` on satisfy `wanted`; false when time or lines run out.
    fn wait(&self, from: usize, timeout: Duration, wanted: impl Fn(&[String]) -> bool) -> bool {
        let lines = self.lines.lock().unwrap();
        let (lines, _) = self
            .more
            .wait_timeout_while(lines, timeout, |(lines, ended)| {
                *ended < 2 && !wanted(&lines[from.min(lines.len())..])
            })
            .unwrap();
        wanted(&lines.0[from.min(lines.0.len())..])
    }

    /// Waits until both streams are closed, which is when the process has gone.
    fn wait_end(&self, timeout: Duration) -> bool {
        let lines = self.lines.lock().unwrap();
        let (lines, _) = self
            .more
            .wait_timeout_while(lines, timeout, |(_, ended)| *ended < 2)
            .unwrap();
        lines.1 == 2
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().0.join("\n")
    }
}

/// A process that has ended.
pub struct Finished {
    /// How it ended; `None` for a signal.
    pub code: Option<i32>,
    /// All that it wrote.
    pub output: String,
}

/// A running daemon; it is killed when this is dropped.
pub struct Evb {
    child: Child,
    dir: tempfile::TempDir,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    sockets: Vec<PathBuf>,
}

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_evb"))
}

impl Evb {
    /// Starts the daemon with this configuration, in which `{dir}` stands for a directory of its own,
    /// and waits until it is ready.
    pub fn start(config: &str) -> Self {
        let evb = Self::spawn(config);
        evb.await_ready();
        evb
    }

    /// Ports `p0`, `p1`, … of one relay in bridge mode, with one worker and a control socket.
    pub fn bridge(ports: usize) -> Self {
        Self::start(&bridge_config(ports, ""))
    }

    /// The same without a configuration file, named on the command line only.
    pub fn with_ports(ports: usize) -> Self {
        let dir = directory();
        let sockets: Vec<_> = (0..ports)
            .map(|i| dir.path().join(format!("p{i}.sock")))
            .collect();
        let mut command = binary();
        command.arg("run");
        for socket in &sockets {
            command.arg("--port").arg(socket);
        }
        let evb = Self::launch(command, dir, sockets);
        evb.await_ready();
        evb
    }

    /// Starts it without waiting for anything.
    pub fn spawn(config: &str) -> Self {
        let dir = directory();
        let file = dir.path().join("evb.toml");
        let text = in_dir(config, dir.path());
        fs::write(&file, &text).unwrap();
        let mut command = binary();
        command.args(["run", "--config"]).arg(&file);
        Self::launch(command, dir, listened(&text))
    }

    /// The same as another user would, by a command that is given the program to start. `set_up` is done in
    /// the new process before.
    pub fn spawn_by(
        starter: &[&str],
        config: &str,
        set_up: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let dir = directory();
        let file = dir.path().join("evb.toml");
        let text = in_dir(config, dir.path());
        fs::write(&file, &text).unwrap();
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(env!("CARGO_BIN_EXE_evb"));
        command.args(["run", "--config"]).arg(&file);
        // SAFETY: what is passed makes plain system calls only.
        unsafe { command.pre_exec(set_up) };
        Self::launch(command, dir, listened(&text))
    }

    fn launch(mut command: Command, dir: tempfile::TempDir, sockets: Vec<PathBuf>) -> Self {
        let mut child = command
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let out = log.follow(child.stdout.take().unwrap());
        let err = log.follow(child.stderr.take().unwrap());
        Self {
            child,
            dir,
            log,
            readers: vec![out, err],
            sockets,
        }
    }

    /// Waits until it says that it is ready. A socket that has a name need not be listened on yet.
    pub fn await_ready(&self) {
        assert!(
            self.logs_contain(&["is ready; ports:"], LIMIT),
            "the daemon does not get ready:\n{}",
            self.log()
        );
    }

    /// Path of a file or socket in the daemon's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Connects a guest to `{dir}/<name>.sock` and starts its rings.
    pub fn guest(&self, name: &str, number: u16) -> Guest {
        self.guest_with(name, number, GuestOptions::default())
    }

    /// The same with other features, order or sizes.
    pub fn guest_with(&self, name: &str, number: u16, options: GuestOptions) -> Guest {
        Guest::connect(&self.path(&format!("{name}.sock")), number, options)
    }

    /// Connects guest 1, 2, … to ports `p0`, `p1`, ….
    pub fn guests<const N: usize>(&self) -> [Guest; N] {
        std::array::from_fn(|i| self.guest(&format!("p{i}"), i as u16 + 1))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let sent = signal_process(&self.child, signal);
        assert!(sent, "the daemon is gone:\n{}", self.log());
    }

    /// Panics if the process has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the daemon ended with {status}:\n{}", self.log());
        }
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Number of lines so far, for `logged_since`.
    pub fn log_mark(&self) -> usize {
        self.log.lines.lock().unwrap().0.len()
    }

    /// Waits for a line that contains all of `words`, whatever their case.
    pub fn logs_contain(&self, words: &[&str], timeout: Duration) -> bool {
        self.logged_since(0, words, timeout)
    }

    /// The same among the lines from number `mark` on.
    pub fn logged_since(&self, mark: usize, words: &[&str], timeout: Duration) -> bool {
        let words: Vec<_> = words.iter().map(|w| w.to_lowercase()).collect();
        self.log.wait(mark, timeout, |lines| {
            lines.iter().any(|line| {
                let line = line.to_lowercase();
                words.iter().all(|w| line.contains(w))
            })
        })
    }

    /// Asserts that such a line comes.
    pub fn expect_log(&self, mark: usize, words: &[&str]) {
        assert!(
            self.logged_since(mark, words, LIMIT),
            "no line with {words:?} in:\n{}",
            self.log()
        );
    }

    /// Asserts that a warning or an error comes that names this port and contains `words`.
    pub fn expect_complaint(&self, mark: usize, port: &str, words: &[&str]) {
        let about =
            |level: &str, wait| self.logged_since(mark, &[&[level, port], words].concat(), wait);
        let deadline = Instant::now() + LIMIT;
        while !about("error", Duration::from_millis(10))
            && !about("warn", Duration::from_millis(10))
        {
            let none = || {
                format!(
                    "no complaint about {port} with {words:?} in:\n{}",
                    self.log()
                )
            };
            assert!(Instant::now() < deadline, "{}", none());
        }
    }

    /// Descriptors that the process holds.
    pub fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// Waits until the process holds `count` descriptors again.
    pub fn expect_fds(&self, count: usize) {
        let mut last = 0;
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            last = self.fds();
            if last == count {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!(
            "the daemon holds {last} descriptors, not {count}:\n{}",
            self.log()
        );
    }

    /// Runs another command of the same binary to its end.
    pub fn command(&self, args: &[&str]) -> Finished {
        run(args, self.dir.path())
    }

    /// `evb status --json`.
    pub fn status(&self) -> serde_json::Value {
        let control = self.path("control.sock");
        let done = run(
            &["status", "--json", "--control", control.to_str().unwrap()],
            self.dir.path(),
        );
        assert_eq!(done.code, Some(0), "{}", done.output);
        serde_json::from_str(&done.output).unwrap_or_else(|e| panic!("{e}: {}", done.output))
    }

    /// A counter of a port, by the port's name and the counter's, wherever it stands in the status; the
    /// sum if it stands there more than once, 0 if nowhere.
    pub fn counter(&self, port: &str, counter: &str) -> u64 {
        let status = self.status();
        let port = named(&status, port).unwrap_or_else(|| panic!("no port {port} in {status}"));
        sum(port, counter)
    }

    /// Waits until a counter of a port has reached `least`.
    pub fn expect_counter(&self, port: &str, counter: &str, least: u64) {
        eventually(&format!("{port}: {counter} ≥ {least}"), || {
            (self.counter(port, counter) >= least).then_some(())
        });
    }

    /// Replaces the configuration file and sends SIGHUP.
    pub fn reload(&mut self, config: &str) {
        let text = in_dir(config, self.dir.path());
        fs::write(self.path("evb.toml"), &text).unwrap();
        self.sockets = listened(&text);
        self.signal(libc::SIGHUP);
    }

    /// Ends it with SIGTERM: it must exit with 0 and leave no socket behind.
    pub fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}:\n{}", self.log());
        for socket in &self.sockets {
            assert!(!socket.exists(), "{} was left behind", socket.display());
        }
    }

    /// Waits for the process to end by itself.
    pub fn finish(mut self) -> Finished {
        let code = self.wait().code();
        Finished {
            code,
            output: self.log(),
        }
    }

    /// Kills it as a crash would, and returns the directory with what it left behind.
    pub fn crash(mut self) -> tempfile::TempDir {
        self.signal(libc::SIGKILL);
        self.wait();
        std::mem::replace(&mut self.dir, directory())
    }

    fn wait(&mut self) -> ExitStatus {
        assert!(
            self.log.wait_end(LIMIT),
            "the daemon does not end:\n{}",
            self.log()
        );
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Evb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log:\n{}\n---", self.log());
        }
    }
}

/// Sends a signal to a process that has not been waited for; false if there is none.
pub fn signal_process(child: &Child, signal: libc::c_int) -> bool {
    // SAFETY: a plain system call; the child has not been waited for, so the pid is still its own.
    unsafe { libc::kill(child.id().cast_signed(), signal) == 0 }
}

/// Allows this process as many descriptors as it may have: guests have about ten each.
pub fn raise_descriptor_limit() {
    // SAFETY: both calls get a valid structure on this stack.
    unsafe {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("evb").tempdir().unwrap()
}

/// A configuration with ports `p0`, `p1`, … and more lines for each of them.
pub fn bridge_config(ports: usize, more: &str) -> String {
    use std::fmt::Write;
    let mut config =
        "[daemon]\ncontrol = \"{dir}/control.sock\"\n\n[[relay]]\nname = \"r\"\n".to_owned();
    for i in 0..ports {
        let port =
            format!("name = \"p{i}\"\nrelay = \"r\"\nlisten = \"{{dir}}/p{i}.sock\"\n{more}");
        write!(config, "\n[[port]]\n{port}").unwrap();
    }
    config
}

/// Runs the binary with these arguments to its end.
pub fn run(args: &[&str], dir: &Path) -> Finished {
    let output = binary()
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = if output.status.success() {
        String::from_utf8_lossy(&output.stdout).into_owned()
    } else {
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    };
    Finished {
        code: output.status.code(),
        output: text,
    }
}

fn in_dir(config: &str, dir: &Path) -> String {
    config.replace("{dir}", dir.to_str().unwrap())
}

/// The sockets that a configuration makes the daemon listen on, fleets written out.
fn listened(config: &str) -> Vec<PathBuf> {
    let Ok(table) = config.parse::<toml::Table>() else {
        return Vec::new();
    };
    let mut sockets = Vec::new();
    if let Some(control) = table.get("daemon").and_then(|d| d.get("control")?.as_str()) {
        sockets.push(control.into());
    }
    let ports = ["port", "uplink"]
        .iter()
        .filter_map(|kind| table.get(*kind)?.as_array())
        .flatten();
    for port in ports {
        let Some(listen) = port.get("listen").and_then(|l| l.as_str()) else {
            continue;
        };
        match port.get("count").and_then(toml::Value::as_integer) {
            None => sockets.push(listen.into()),
            // Whether a fleet starts at 0 or 1 is the daemon's affair; the middle is there either way.
            Some(count) => {
                sockets.extend((1..count).map(|n| listen.replace("{n}", &n.to_string()).into()));
            }
        }
    }
    sockets
}

fn named<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    use serde_json::Value;
    match value {
        Value::Object(fields) if fields.get("name").and_then(Value::as_str) == Some(name) => {
            Some(value)
        }
        Value::Object(fields) => {
            // A map from names to ports will do too.
            let by_key = fields.get(name).filter(|v| v.is_object());
            by_key.or_else(|| fields.values().find_map(|v| named(v, name)))
        }
        Value::Array(items) => items.iter().find_map(|v| named(v, name)),
        _ => None,
    }
}

fn sum(value: &serde_json::Value, key: &str) -> u64 {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(k, v)| {
                if k == key {
                    v.as_u64().unwrap_or_else(|| sum(v, key))
                } else {
                    sum(v, key)
                }
            })
            .sum(),
        Value::Array(items) => items.iter().map(|v| sum(v, key)).sum(),
        _ => 0,
    }
}
