//! The daemon: the one place that changes the world.
//!
//! A single-threaded runtime carries sockets, signals and the API. Everything that happens arrives as
//! an [`Event`] or a command of the API; both change the [`World`], and at most once a
//! millisecond a new snapshot of it is published to the workers. No worker ever waits for the daemon.

mod apply;
mod commands;
mod device;
mod devices;
mod endpoint;
mod event;
mod links;
mod report;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::agent::announce;
use crate::api::{self, Refusal, RefusalKind};
use crate::api_types::Reloaded;
use crate::config::{Change, Config, Poll};
use crate::frame::mac::Mac;
use crate::privileged::Privileged;
use crate::sys::limits;
use crate::vhost_user::{SHARE_HINT, Update};
use crate::virtqueue::RingError;
use crate::worker::{self, Fault, Polling, Pool, PortId};
pub use apply::{ApplyError, check};
use event::Event;
use world::World;

/// Snapshots are published no more often than this.
const PUBLISH_EVERY: Duration = Duration::from_millis(1);
/// How long sessions may take to end when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often the FDB is swept and ports are asked for news.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Addresses that a front end may ask to announce at once; more are not announced.
const ANNOUNCEMENTS: usize = 8;
/// While so many announcements wait to be sent, no more are made.
const BACKLOG: usize = 4096;
/// In how many turns of that all of an FDB is swept.
const SWEEP_TURNS: usize = 4;

/// Why the daemon could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was refused.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Too few descriptors are allowed.
    #[error(
        "the configuration needs {needed} open descriptors, but the limit is {limit}: raise it \
         with `ulimit -n {needed}` or `LimitNOFILE={needed}` in the service's unit"
    )]
    Descriptors {
        /// What the configuration needs where each guest has one queue pair.
        needed: u64,
        /// What the process may have.
        limit: u64,
    },
    /// Parts of the configuration cannot be carried out.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Apply(Vec<ApplyError>),
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::System { what, source }
}

/// A configuration on its way, and who is told when it is there.
struct Reload {
    config: Config,
    reply: Option<ReloadReply>,
}

/// Where the outcome of a reload goes.
type ReloadReply = oneshot::Sender<Result<Reloaded, Refusal>>;

/// The state of the daemon.
pub struct Daemon {
    world: World,
    pool: Pool,
    privileged: Arc<Privileged>,
    events: mpsc::UnboundedSender<Event>,
    /// What the running state was made from.
    config: Config,
    /// Directories in which sockets may be: those that were named at start.
    directories: BTreeSet<PathBuf>,
    /// The file that a reload reads.
    file: Option<PathBuf>,
    wanted: apply::WantedPorts,
    /// Endpoints that have been told to close and have not closed yet.
    closing: usize,
    reload: Option<Reload>,
    /// The world has changed since the last snapshot.
    dirty: bool,
    published: u64,
    published_at: Instant,
    /// Sessions that wait for the next snapshot.
    replies: Vec<oneshot::Sender<u64>>,
    /// Ports to be announced with the next snapshot, and an address that a front end asked for.
    announcing: VecDeque<(PortId, Option<Mac>)>,
    /// Ports that went down and are silent with the next snapshot.
    falling: Vec<PortId>,
    devices: devices::Devices,
    started: Instant,
}

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
    check(&config).map_err(|error| DaemonError::Apply(vec![error]))?;
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
fn check_descriptors(config: &Config) -> Result<(), DaemonError> {
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
    let errors = daemon.establish(&config);
    if !errors.is_empty() {
        return Err(DaemonError::Apply(errors));
    }
    let watching = daemon.watch_devices().await;
    watching.map_err(system("the news of network devices"))?;
    let parents = config.sockets().filter_map(Path::parent);
    daemon.directories = parents.map(Path::to_owned).collect();
    daemon.config = config;
    daemon.publish();
    log::info!(
        "evb {} serves {} ports",
        env!("CARGO_PKG_VERSION"),
        daemon.world.ports().count()
    );
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    loop {
        let publish_at = tokio::time::Instant::from_std(daemon.published_at + PUBLISH_EVERY);
        tokio::select! {
            // News come last: whoever makes many keeps nobody else from being served.
            biased;
            _ = signals.stop.recv() => break,
            _ = signals.interrupt.recv() => break,
            () = tokio::time::sleep_until(publish_at), if daemon.dirty => daemon.publish(),
            _ = signals.reload.recv() => daemon.reload(None),
            _ = housekeeping.tick() => daemon.keep_house(),
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

impl Daemon {
    fn new(
        pool: Pool,
        privileged: Arc<Privileged>,
        events: mpsc::UnboundedSender<Event>,
        file: Option<PathBuf>,
    ) -> Self {
        let now = Instant::now();
        Self {
            world: World::new(pool.workers()),
            pool,
            privileged,
            events,
            config: Config::default(),
            directories: BTreeSet::new(),
            file,
            wanted: apply::WantedPorts::default(),
            closing: 0,
            reload: None,
            dirty: false,
            published: 0,
            published_at: now,
            replies: vec![],
            announcing: VecDeque::new(),
            falling: vec![],
            devices: devices::Devices::default(),
            started: now,
        }
    }

    /// Gives workers the world as it is now, and its number to those who wait for it.
    fn publish(&mut self) {
        let snapshot = self.world.snapshot();
        self.published = self.pool.publish(snapshot);
        self.published_at = Instant::now();
        self.dirty = false;
        for reply in self.replies.drain(..) {
            // A session that has ended meanwhile waits for nothing.
            let _ = reply.send(self.published);
        }
        self.announce_some();
        for port in std::mem::take(&mut self.falling) {
            let events = self.events.clone();
            self.when_in_force(move || drop(events.send(Event::Quiet { port })));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connected { port, session } => {
                if let Some(device) = self.world.device_mut(port) {
                    device.session = Some(session);
                    device.failure = None;
                }
            }
            Event::Rings {
                port,
                session,
                rings,
                reply,
            } => {
                self.replies.push(reply);
                self.dirty = true;
                self.plug(port, session, |device| device.rings = Arc::new(rings));
            }
            Event::Link {
                port,
                session,
                link,
                reply,
            } => {
                self.replies.push(reply);
                self.dirty = true;
                self.plug(port, session, |device| device.link = link);
            }
            Event::Update {
                port,
                session,
                update,
                done,
            } => {
                self.update(port, session, &update);
                drop(done);
            }
            Event::Disconnected { port, session } => {
                if let Some(device) = self.device(port, session) {
                    device.session = None;
                    device.link = None;
                    device.features = 0;
                    device.failure = None;
                }
            }
            Event::Quiet { port } => {
                // It may have come back up meanwhile; what it learns from now on is new.
                if let Some(port) = self.world.port(port)
                    && !port.is_active()
                    && let Some(relay) = self.world.relay(port.relay)
                {
                    relay.tables.port_down(port.slot);
                }
            }
            Event::Failed { port, error } => self.fail(port, &error),
            Event::Hollow { port } => {
                if let Some(port) = self.world.port(port) {
                    port.note(
                        Level::Warn,
                        format_args!(
                            "the guest kicks, but its ring is empty: it writes to memory that is not \
                             shared. {SHARE_HINT}"
                        ),
                    );
                }
            }
            Event::Devices(changes) => self.devices_changed(&changes),
            Event::Found { search, link } => self.device_found(search, link),
            Event::Over { port } => self.announce_behind(port),
            Event::EndpointGone => {
                self.closing = self.closing.saturating_sub(1);
                self.finish_reload();
            }
        }
    }

    /// The device of a port, if `session` is its present one.
    fn device(&mut self, port: PortId, session: event::SessionId) -> Option<&mut device::Device> {
        let device = self.world.device_mut(port)?;
        (device.session == Some(session)).then_some(device)
    }

    /// Changes what a session has to offer, which may take its port up or down.
    fn plug(
        &mut self,
        id: PortId,
        session: event::SessionId,
        change: impl FnOnce(&mut device::Device),
    ) {
        let was_active = self.world.port(id).is_some_and(world::PortEntry::is_active);
        let Some(device) = self.device(id, session) else {
            return;
        };
        change(device);
        let Some(port) = self.world.port(id) else {
            return;
        };
        match (was_active, port.is_active()) {
            (false, true) => {
                port.note(Level::Info, "up");
                self.announcing.push_back((id, None));
            }
            (true, false) => {
                port.note(Level::Info, "down");
                self.falling.push(id);
            }
            _ => {}
        }
    }

    fn update(&mut self, id: PortId, session: event::SessionId, update: &Update) {
        let Some(device) = self.device(id, session) else {
            return;
        };
        match update {
            Update::Negotiated(features) => device.features = *features,
            Update::Announce(mac) => {
                let asked = self.announcing.iter().filter(|(port, _)| *port == id);
                if asked.count() < ANNOUNCEMENTS && !self.announcing.contains(&(id, Some(*mac))) {
                    self.announcing.push_back((id, Some(*mac)));
                    self.dirty = true;
                }
            }
            Update::Mtu(mtu) => {
                let Some(port) = self.world.port(id) else {
                    return;
                };
                if port.bridge.config().mtu.is_some_and(|limit| *mtu > limit) {
                    let what = format_args!("the guest was told an MTU of {mtu}, above the port's");
                    port.note(Level::Warn, what);
                }
            }
        }
    }

    /// A ring of a port is broken: the port is out of use until its guest resets the device.
    fn fail(&mut self, id: PortId, error: &Fault) {
        let Some(port) = self.world.port(id) else {
            return;
        };
        if !port.is_active() {
            return;
        }
        let why = error.to_string();
        let what = format_args!("stopped until the guest resets its device: {why}");
        port.note(Level::Error, what);
        if let Some(device) = self.world.device_mut(id) {
            device.failure = Some((device.rings.life, why));
            if let (Fault::Ring(RingError::CallBlocks), Some(endpoint)) = (error, &device.endpoint)
            {
                endpoint.expel();
            }
        }
        self.falling.push(id);
        self.dirty = true;
    }

    /// Announces the ports that wait for it, as long as the frames are not more than workers can send soon.
    fn announce_some(&mut self) {
        while self.pool.backlog() < BACKLOG
            && let Some((port, extra)) = self.announcing.pop_front()
        {
            self.announce(port, extra);
        }
    }

    /// Tells the network where the addresses of a port are now (after a start or a migration).
    fn announce(&mut self, id: PortId, extra: Option<Mac>) {
        let Some(port) = self.world.port(id) else {
            return;
        };
        let Some(relay) = self.world.relay(port.relay) else {
            return;
        };
        let places = relay.tables.announcements(port.slot, extra);
        let frames = places
            .iter()
            .map(|at| announce::frame(at.mac, at.vid, &port.bridge.config().vlan));
        self.pool.inject(id, frames);
    }

    /// Reads the configuration file again and becomes what it says.
    fn reload(&mut self, reply: Option<ReloadReply>) {
        match self.begin_reload() {
            Ok(config) => {
                self.reload = Some(Reload { config, reply });
            }
            Err((error, remedy)) => {
                log::error!("reload refused, all goes on as before:\n{error}");
                let refusal = Refusal::new(RefusalKind::Conflict, error, remedy);
                reply.map(|reply| reply.send(Err(refusal)));
            }
        }
    }

    /// The first half of a reload; an error says what is wrong and what to do.
    fn begin_reload(&mut self) -> Result<Config, (String, &'static str)> {
        const MEND: &str = "mend the file and reload again; until then all goes on as before";
        if self.reload.is_some() {
            return Err(("a reload is under way".to_owned(), "wait until it is done"));
        }
        let Some(file) = &self.file else {
            let error = "evb was started without a configuration file".to_owned();
            return Err((error, "start it with `evb run --config FILE`"));
        };
        let mut config = Config::load(file).map_err(|errors| (errors.to_string(), MEND))?;
        // What concerns the process itself stays as it is until the next start.
        config.daemon = self.config.daemon.clone();
        let elsewhere = config.sockets().find(|path| {
            path.parent()
                .is_some_and(|parent| !self.directories.contains(parent))
        });
        if let Some(path) = elsewhere {
            let error = format!(
                "{} is in a directory that held no socket when evb started",
                path.display()
            );
            return Err((error, "start evb anew, or put the socket beside the others"));
        }
        self.check_devices(&config)
            .map_err(|error| (error.to_string(), MEND))?;
        check_descriptors(&config).map_err(|error| (error.to_string(), "start evb anew"))?;
        self.retire(&config)
            .map_err(|error| (error.to_string(), MEND))?;
        // What was removed may be given to others only when no worker uses it any more.
        self.publish();
        self.closing += 1;
        let events = self.events.clone();
        self.when_in_force(move || drop(events.send(Event::EndpointGone)));
        Ok(config)
    }

    /// The second half of a reload, once all sockets that had to close have closed.
    fn finish_reload(&mut self) {
        if self.closing > 0 {
            return;
        }
        let Some(Reload { config, reply }) = self.reload.take() else {
            return;
        };
        let changes = Config::diff(&self.config, &config);
        let errors = self.establish(&config);
        self.config = config;
        self.keep_watching_devices();
        self.publish();
        self.when_in_force(move || {
            let answer = answer(&changes, &errors);
            reply.map(|reply| reply.send(answer));
        });
    }

    /// Does something when all workers see what was published last.
    fn when_in_force(&self, then: impl FnOnce() + Send + 'static) {
        let (barrier, number) = (self.pool.barrier(), self.published);
        tokio::task::spawn_blocking(move || {
            barrier.wait(number);
            then();
        });
    }

    /// What is due now and then.
    fn keep_house(&mut self) {
        self.announce_some();
        let now = self.pool.now_s();
        for (_, relay) in self.world.relays() {
            relay.fdb.sweep(now, relay.fdb.buckets() / SWEEP_TURNS + 1);
        }
        for (port, report) in self.world.take_reports() {
            report::log_report(port, &report);
        }
    }

    /// Closes all sockets and waits for their sessions.
    async fn stop(&mut self, news: &mut mpsc::UnboundedReceiver<Event>) {
        self.reload = None;
        if let Err(error) = self.retire(&Config::default()) {
            log::error!("{error}");
        }
        self.publish();
        let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
        while self.closing > 0 {
            tokio::select! {
                Some(event) = news.recv() => {
                    self.handle(event);
                    if self.dirty {
                        self.publish();
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    log::warn!("{} front ends are still being served; leaving anyway", self.closing);
                    return;
                }
            }
        }
    }
}

/// Logs what came of a reload, and says it to whom asked for it.
fn answer(changes: &[Change], errors: &[ApplyError]) -> Result<Reloaded, Refusal> {
    if errors.is_empty() {
        let changes: Vec<_> = changes.iter().map(report::change).collect();
        log::info!("reloaded; {}", changes.join("; "));
        return Ok(Reloaded { changes });
    }
    let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    log::error!("reloaded in part:\n{text}");
    let remedy = "everything else was carried out; mend this and reload again";
    Err(Refusal::new(RefusalKind::Failed, text, remedy))
}
