//! The daemon under test: a process of its own, made for one benchmark.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::clock::Clock;
use super::error::{BenchError, system};
use super::station::{Make, Station};
use super::{filler, stop};
use crate::cli::bench::Bench;
use crate::sys::{limits, process};

/// How long the daemon may take to end.
const END: Duration = Duration::from_secs(10);
/// Bytes of its log that are shown.
const SAID: usize = 4096;
/// Descriptors that a connected port takes here: its socket, memory, and three for each ring and one more.
const DESCRIPTORS: u64 = 8;

/// A running daemon, and who is connected to it besides the stations that are measured.
pub struct Host {
    // Dropped in this order: the silent guests leave, the daemon ends, its directory goes.
    silent: Vec<Station>,
    daemon: Running,
    dir: TempDir,
}

/// The process; it ends when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        process::terminate(&self.0);
        let deadline = Instant::now() + END;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // It may have ended just now.
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Host {
    /// Starts a daemon for these options, with its workers on `cpus`.
    pub fn start(options: &Bench, cpus: &[usize], clock: Clock) -> Result<Self, BenchError> {
        let needed = DESCRIPTORS * u64::from(ports(options)) + 64;
        let limit =
            limits::raise_descriptor_limit().map_err(system("raise the limit of descriptors"))?;
        if limit < needed {
            return Err(BenchError::Options(format!(
                "so many ports need {needed} open descriptors, but the limit is {limit}: raise it with \
                 `ulimit -n {needed}`"
            )));
        }
        let dir = tempfile::Builder::new()
            .prefix("evb-bench-")
            .tempdir()
            .map_err(system("make a directory"))?;
        let file = dir.path().join("evb.toml");
        fs::write(&file, configuration(options, dir.path(), cpus))
            .map_err(system("write the configuration"))?;
        let log = File::create(dir.path().join("log")).map_err(system("write a log"))?;
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let mut command = Command::new(program);
        command
            .args(["--log", "warn", "run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(system("write a log"))?)
            .stderr(log);
        process::bind_to_parent(&mut command);
        let child = command.spawn().map_err(system("start the daemon"))?;
        let mut host = Self {
            silent: vec![],
            daemon: Running(child),
            dir,
        };
        host.await_socket(&host.socket(0))?;
        host.invite(options, clock)?;
        Ok(host)
    }

    /// Connects the silent guests and fills the forwarding database.
    fn invite(&mut self, options: &Bench, clock: Clock) -> Result<(), BenchError> {
        let first = 2 * options.pairs;
        for port in first..first + options.idle_ports {
            stop::check()?;
            let socket = self.socket(port);
            self.silent.push(Station::connect(
                &socket,
                &Make::idle(clock),
                vec![],
                u16::MAX,
            )?);
        }
        let talking: u32 = options
            .flows
            .iter()
            .map(|&flows| u32::from(flows))
            .max()
            .unwrap_or(0);
        let more = options
            .fdb
            .saturating_sub(2 * talking * u32::from(options.pairs));
        if more > 0 {
            let socket = self.socket(first + options.idle_ports);
            self.silent
                .push(filler::fill(&socket, more, options.vlans, clock)?);
        }
        Ok(())
    }

    /// The socket of port number `port`.
    pub fn socket(&self, port: u16) -> PathBuf {
        self.dir.path().join(format!("p{port}.sock"))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.0.id()
    }

    /// Whether it still runs.
    pub fn check(&mut self) -> Result<(), BenchError> {
        match self
            .daemon
            .0
            .try_wait()
            .map_err(system("watch the daemon"))?
        {
            None => Ok(()),
            Some(status) => Err(BenchError::Daemon {
                what: format!("ended with {status}"),
                said: self.said(),
            }),
        }
    }

    fn await_socket(&mut self, socket: &Path) -> Result<(), BenchError> {
        while !socket.exists() {
            stop::check()?;
            self.check()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The end of its log.
    fn said(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        let end = &log[log.len().saturating_sub(SAID)..];
        String::from_utf8_lossy(end).trim_end().to_owned()
    }
}

/// Ports of the daemon.
fn ports(options: &Bench) -> u16 {
    2 * options.pairs + options.idle_ports + u16::from(options.fdb > 0)
}

/// One relay, and ports that may all use any address.
fn configuration(options: &Bench, dir: &Path, cpus: &[usize]) -> String {
    let entries = options.fdb.max(1 << 17);
    let mut text = format!(
        "[daemon]\nworkers = {}\ncpus = {cpus:?}\npoll = \"{}\"\n\n\
         [[relay]]\nname = \"bench\"\nmax_entries = {entries}\nageing = 1000000\n\n\
         [[port]]\nname = \"p{{n}}\"\ncount = {}\nfirst = 0\nlisten = \"{}\"\n\
         queues = {}\nmac_policy = \"trusted\"\nmac_limit = {entries}\n",
        options.workers,
        options.poll.name(),
        ports(options),
        dir.join("p{n}.sock").display(),
        options.queues,
    );
    if options.vlans > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(text, "trunk = [\"1-{}\"]", options.vlans);
    }
    text
}
