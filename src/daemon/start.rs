//! The process: what is set up before the first port, and the loop that runs until the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::apply::openings;
use super::event::Event;
use super::{Daemon, DaemonError, system};
use crate::api;
use crate::config::{Config, Poll};
use crate::privileged::Privileged;
use crate::sys::limits;
use crate::worker::{self, Polling, Pool};

/// Snapshots are published no more often than this.
const PUBLISH_EVERY: Duration = Duration::from_millis(1);

/// Runs until SIGTERM or SIGINT.
///
/// `file` is where `config` came from, for SIGHUP.
///
/// # Errors
///
/// What kept the daemon from starting.
pub fn run(
    config: Config,
    file: Option<PathBuf>,
    privileged: Privileged,
) -> Result<(), DaemonError> {
    check_descriptors(&config)?;
    crate::virtqueue::install_sigbus_handler().map_err(system("the SIGBUS handler"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("the runtime"))?;
    runtime.block_on(serve(config, file, privileged))
}

/// Descriptors that the daemon itself needs, generously.
const OWN_DESCRIPTORS: u64 = 64;
/// Descriptors of a port besides those of its queues: listener, connection and its duplicates, log,
/// and the files of memory regions.
const PORT_DESCRIPTORS: u64 = 12;
/// Descriptors of a queue pair: kick, call and error of two rings.
const PAIR_DESCRIPTORS: u64 = 6;

/// Refuses what cannot work, and warns of what works only as long as guests use few of their queues.
pub(super) fn check_descriptors(config: &Config) -> Result<(), DaemonError> {
    let limit = limits::raise_descriptor_limit().map_err(system("the limit of descriptors"))?;
    let queues = config.ports.values().map(|port| port.queues);
    let links = config
        .uplinks
        .values()
        .flat_map(|uplink| uplink.attachment.links());
    let (mut needed, mut most) = (OWN_DESCRIPTORS, OWN_DESCRIPTORS);
    for pairs in queues.chain(links.map(|link| link.queues)) {
        needed += PORT_DESCRIPTORS + PAIR_DESCRIPTORS;
        most += PORT_DESCRIPTORS + PAIR_DESCRIPTORS * u64::from(pairs);
    }
    if needed > limit {
        return Err(DaemonError::Descriptors { needed, limit });
    }
    if most > limit {
        log::warn!(
            "{most} open descriptors are needed if every guest uses all its queues, and the limit is \
             {limit}: raise it with `ulimit -n {most}` or `LimitNOFILE={most}`, or set fewer `queues`"
        );
    }
    Ok(())
}

async fn serve(
    config: Config,
    file: Option<PathBuf>,
    privileged: Privileged,
) -> Result<(), DaemonError> {
    let (events, mut news) = mpsc::unbounded_channel();
    let mut signals = Signals::new().map_err(system("signal handlers"))?;
    let to_daemon = events.clone();
    let pool = Pool::start(settings(&config), move |event| {
        let event = match event {
            worker::Event::Failed { port, error } => Event::Failed { port, error },
            worker::Event::Hollow { port } => Event::Hollow { port },
            worker::Event::Awake => Event::Awake,
        };
        // The daemon outlives the workers.
        let _ = to_daemon.send(event);
    })
    .map_err(system("the workers"))?;
    let privileged = Arc::new(privileged);
    let (commands, mut requests) = api::channel();
    if let Some(path) = &config.daemon.control {
        let listener = privileged
            .bind(path)
            .map_err(io::Error::other)
            .and_then(|listener| {
                listener.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(listener)
            })
            .map_err(system("the control socket"))?;
        tokio::spawn(api::serve(
            listener,
            commands.clone(),
            api::Limits::default(),
        ));
    }
    let control = config.daemon.control.clone();
    let mut daemon = Daemon::new(pool, privileged, events, file);
    daemon.state.clone_from(&config.daemon.state);
    let opened = openings(&daemon.world, &config, daemon.opener()).open();
    let errors = daemon.establish(&config, opened);
    if !errors.is_empty() {
        return Err(DaemonError::Apply(errors));
    }
    let watching = daemon.watch_devices().await;
    watching.map_err(system("the news of network devices"))?;
    daemon.directories = config.directories().map(Path::to_owned).collect();
    daemon.config = config;
    daemon.publish();
    log::info!(
        "evb {} is ready; ports: {}; control socket: {}",
        env!("CARGO_PKG_VERSION"),
        daemon.world.ports().count(),
        control.as_deref().unwrap_or(Path::new("none")).display()
    );
    loop {
        let publish_at = tokio::time::Instant::from_std(daemon.published_at + PUBLISH_EVERY);
        tokio::select! {
            // News come last: whoever makes many keeps nobody else from being served.
            biased;
            _ = signals.stop.recv() => break,
            _ = signals.interrupt.recv() => break,
            () = tokio::time::sleep_until(publish_at), if daemon.dirty => daemon.publish(),
            _ = signals.reload.recv() => daemon.reload(None),
            () = tokio::time::sleep_until(daemon.next_housekeeping.into()) => daemon.keep_house(),
            Some(command) = requests.recv() => daemon.command(command),
            Some(event) = news.recv() => daemon.handle(event),
        }
    }
    log::info!("stopping");
    daemon.stop(&mut news).await;
    if let Some(path) = control
        && let Err(error) = daemon.privileged.unlink(&path)
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
    Ok(())
}

/// The signals that an operator sends.
struct Signals {
    stop: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            stop: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

fn settings(config: &Config) -> worker::Settings {
    let daemon = &config.daemon;
    worker::Settings {
        workers: daemon.workers,
        cpus: daemon.cpus.clone(),
        polling: match daemon.poll {
            Poll::Adaptive => Polling::Adaptive {
                cool_ns: daemon.cool.as_nanos() as u64,
            },
            Poll::Busy => Polling::Busy,
            Poll::Sleep => Polling::Sleep,
        },
        rx_wait_ns: daemon.rx_wait.as_nanos() as u64,
    }
}
