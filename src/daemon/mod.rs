//! The daemon: the one place that changes the world.
//!
//! A single-threaded runtime carries sockets, signals and the API. Everything that happens arrives as
//! an [`Event`] or a command of the API; both change the [`World`], and at most once a
//! millisecond a new snapshot of it is published to the workers. No worker ever waits for the daemon.

mod apply;
mod balance;
mod commands;
mod device;
mod devices;
mod endpoint;
mod event;
mod links;
mod load;
mod news;
mod opening;
mod positions;
mod queues;
mod reload;
mod report;
mod start;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::frame::mac::Mac;
use crate::privileged::Privileged;
use crate::worker::{Pool, PortId};
pub use apply::ApplyError;
use event::Event;
use queues::Meter;
use reload::Reload;
pub use start::run;
use world::World;

/// How long sessions may take to end when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often FDBs are swept and ports are asked for news.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The same while no worker has anything to do.
const IDLE_HOUSEKEEPING: Duration = Duration::from_secs(30);
/// In how many turns of housekeeping all of an FDB is swept.
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
    /// Where ports keep what they remember over a restart; none: beside their sockets.
    state: Option<PathBuf>,
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
    next_housekeeping: Instant,
    /// How busy each worker was until [`Daemon::measured_at`].
    busy: Vec<Meter>,
    measured_at: Instant,
    started: Instant,
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
            privileged,
            events,
            config: Config::default(),
            directories: BTreeSet::new(),
            state: None,
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
            next_housekeeping: now + HOUSEKEEPING,
            busy: vec![Meter::default(); pool.workers()],
            measured_at: now,
            pool,
            started: now,
        }
    }

    /// Gives workers the world as it is now, and its number to those who wait for it.
    fn publish(&mut self) {
        self.world.begin_epoch();
        self.put_in_force();
    }

    /// The same where nothing has changed but who serves which queue.
    fn put_in_force(&mut self) {
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

    /// Does something when all workers see what was published last.
    fn when_in_force(&self, then: impl FnOnce() + Send + 'static) {
        let (barrier, number) = (self.pool.barrier(), self.published);
        tokio::task::spawn_blocking(move || {
            barrier.wait(number);
            then();
        });
    }

    /// What is due now and then: soon again, unless the workers sleep.
    fn keep_house(&mut self) {
        let pause = if self.pool.is_idle() {
            IDLE_HOUSEKEEPING
        } else {
            HOUSEKEEPING
        };
        self.next_housekeeping = Instant::now() + pause;
        self.announce_some();
        self.balance();
        let now = self.pool.now_s();
        for (_, relay) in self.world.relays() {
            relay.fdb.sweep(now, relay.fdb.buckets() / SWEEP_TURNS + 1);
        }
        for (port, report) in self.world.take_reports() {
            report::log_report(port, &report);
        }
    }

    /// Measures how busy workers are, and gives some of them other queues if that helps.
    fn balance(&mut self) {
        let now = Instant::now();
        let elapsed = now - std::mem::replace(&mut self.measured_at, now);
        let elapsed_ns = elapsed.as_nanos() as u64;
        for (meter, busy_ns) in self.busy.iter_mut().zip(self.pool.busy_ns()) {
            meter.measure(busy_ns, elapsed_ns);
        }
        // What else has changed is published with it.
        if self.world.balance(elapsed_ns) && !self.dirty {
            self.put_in_force();
        }
    }

    /// Closes all sockets and waits for their sessions.
    async fn stop(&mut self, news: &mut mpsc::UnboundedReceiver<Event>) {
        self.reload = None;
        self.retire(&Config::default());
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
