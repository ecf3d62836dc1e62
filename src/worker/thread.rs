//! A worker's thread: which queue has its turn, and when there is nothing to do.
//!
//! A *hot* queue is on the list and its guest does not kick. A *cold* one kicks, and its descriptor
//! sits in epoll. A queue turns cold a moment after its last frame, by the protocol that
//! [`TxGuard::enable_kicks`](crate::virtqueue::TxGuard::enable_kicks) ends with a second look, so no
//! frame is missed. While the list is empty the worker sleeps; a turn costs what its hot queues
//! cost, however many cold ones there are.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use super::egress::Patience;
use super::ingress::{Moment, Path, Turn};
use super::queues::Queues;
use super::snapshot::{PortId, Snapshot};
use super::source::Source;
use super::{Event, Fault, Polling, Shared, lock};
use crate::sys::eventfd;
use crate::virtqueue::RingError;

/// How often epoll is asked for newly kicked queues while others are hot.
const ASK_EVERY_NS: u64 = 20_000;
/// One of so many rounds is timed, and stands for them all: a look at the clock for each turn would cost more than
/// it tells. The number has no common factor with those by which guests do things.
const TIMED: u64 = 13;
/// So many rounds that find nothing share a look at the clock, where the last ones took less than [`ASK_EVERY_NS`]
/// together. After one that has let others have the CPU there is another look.
const SHARED: u32 = 16;
/// A round in which frames move counts for so many.
const MOVING: u32 = 4;

/// Time since the workers started.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What a round came to.
enum Round {
    /// Nothing was found.
    Still,
    /// Frames were handled.
    Moved,
    /// Frames wait for their receivers, and others were let have the CPU.
    Yielded,
}

/// The state of a worker's thread.
pub struct Worker {
    number: usize,
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    snapshot_number: u64,
    queues: Queues,
    path: Path,
    clock: Clock,
    /// The time as it was last looked at, and rounds until it is again.
    now_ns: u64,
    known: u32,
    /// Little time had passed since the look before.
    short: bool,
    asked_ns: u64,
    /// Rounds until one is timed.
    untimed: u64,
    /// Ports reported as broken since the last snapshot.
    reported: Vec<PortId>,
}

impl Worker {
    /// Prepares worker `number`.
    pub fn new(number: usize, shared: Arc<Shared>) -> std::io::Result<Self> {
        let queues = Queues::new(number, &shared.wake[number])?;
        let clock = Clock(shared.started);
        Ok(Self {
            number,
            shared,
            snapshot: Arc::default(),
            snapshot_number: 0,
            queues,
            path: Path::default(),
            clock,
            now_ns: 0,
            known: 0,
            short: false,
            asked_ns: 0,
            untimed: 0,
            reported: vec![],
        })
    }

    /// Works until the pool is told to stop.
    pub fn run(mut self) {
        self.enter();
        while !self.shared.stop.load(Ordering::Acquire) {
            if !self.pass() {
                self.sleep();
            }
        }
        self.shared.quiescence.leave(self.number);
    }

    /// Gives every hot queue its turn; false if there is nothing to do.
    pub fn pass(&mut self) -> bool {
        self.shared.watch.count(self.number);
        if self.shared.quiescence.newest() != self.snapshot_number {
            self.enter();
        }
        if self.queues.awaits_any() {
            self.queues.take_awaited(self.clock.now_ns());
        }
        let announces = self.number == 0 && self.shared.has_injected.load(Ordering::Acquire);
        if announces {
            self.inject();
        } else if self.queues.all_cold() {
            return false;
        }
        if self.known == 0 {
            let last_ns = self.now_ns;
            self.now_ns = self.clock.now_ns();
            self.short = self.now_ns.saturating_sub(last_ns) < ASK_EVERY_NS;
        }
        let now_ns = self.now_ns;
        if now_ns.saturating_sub(self.asked_ns) > ASK_EVERY_NS {
            self.asked_ns = now_ns;
            let kicked = self.queues.kicked(0);
            self.queues.heat_all(&kicked, now_ns);
            self.queues.look(now_ns);
        }
        let shared = match self.known {
            0 if self.short => SHARED,
            left => left,
        };
        self.known = match self.round(now_ns) {
            Round::Still => shared.saturating_sub(1),
            Round::Moved => shared.saturating_sub(MOVING),
            Round::Yielded => 0,
        };
        true
    }

    fn moment(&self, now_ns: u64) -> Moment {
        Moment {
            worker: self.number,
            snapshot: self.snapshot.epoch,
            now_s: (now_ns / 1_000_000_000) as u32,
            patience: Patience {
                now_ns,
                limit_ns: self.shared.settings.rx_wait_ns,
            },
        }
    }

    /// Sends the next frame that the daemon wants sent. It may go to all ports of a relay, so those that have
    /// frames of their own get their turns in between.
    fn inject(&mut self) {
        let next = {
            let mut frames = lock(&self.shared.injected);
            let next = frames.pop_front();
            self.shared
                .has_injected
                .store(!frames.is_empty(), Ordering::Release);
            next
        };
        if let Some((port, frame)) = next {
            let at = self.moment(self.clock.now_ns());
            self.path.inject(&self.snapshot, port, &frame, at);
        }
        self.report_failed();
    }

    /// One turn for each hot queue.
    fn round(&mut self, now_ns: u64) -> Round {
        let at = self.moment(now_ns);
        let timed = self.untimed == 0;
        self.untimed = if timed { TIMED } else { self.untimed } - 1;
        let clock = self.clock;
        let (mut moves, mut waits) = (false, false);
        let mut place = 0;
        while let Some(local) = self.queues.hot(place) {
            let (snapshot, port, index) = (&self.snapshot, local.port, local.index);
            // Most looks find nothing, and this is all they cost.
            let silent = local.is_silent();
            let began = (timed && !silent).then(|| clock.now_ns());
            let turn = match &local.source {
                Source::Ring { .. } if silent => Turn::Idle,
                Source::Ring { ring, .. } => {
                    let turn = self.path.turn(snapshot, port, index, at);
                    let idle = matches!(turn, Turn::Idle);
                    local.silence = idle.then(|| ring.silence()).flatten();
                    turn
                }
                Source::Link(_) => {
                    let queue = (port, index);
                    self.path.link_turn(snapshot, queue, at, &mut local.sizes)
                }
                Source::Load(_) => self.path.load_turn(snapshot, port, at),
            };
            if let Some(began) = began
                && matches!(turn, Turn::Busy | Turn::Waits)
            {
                let busy = (clock.now_ns() - began) * TIMED;
                local.duty.busy.add(busy);
                self.shared.busy[self.number].add(busy);
            }
            moves |= matches!(turn, Turn::Busy);
            waits |= matches!(turn, Turn::Waits);
            let stays = match turn {
                Turn::Busy | Turn::Waits => {
                    local.note_busy(now_ns);
                    true
                }
                Turn::Idle => {
                    if local.is_hollow() {
                        (self.shared.events)(Event::Hollow { port });
                    }
                    let idle_ns = now_ns.saturating_sub(local.busy_ns);
                    !self.shared.settings.polling.cools(idle_ns)
                        || local.source.has_work(local.index)
                }
                Turn::Failed(error) => {
                    self.report(port, error);
                    false
                }
            };
            if stays {
                place += 1;
            } else {
                self.queues.cool(place);
            }
        }
        self.report_failed();
        if moves {
            Round::Moved
        } else if waits {
            // The receiver may be in the queue of this CPU, behind this thread.
            thread::yield_now();
            Round::Yielded
        } else {
            Round::Still
        }
    }

    /// Tells of receivers found broken.
    fn report_failed(&mut self) {
        while let Some((port, error)) = self.path.failed.pop() {
            self.report(port, error);
        }
    }

    /// Tells the daemon and the front end once that a port is broken; it will be gone from the next
    /// snapshot.
    fn report(&mut self, port: PortId, mut error: Fault) {
        if !self.reported.contains(&port) {
            self.reported.push(port);
            let rings = self
                .snapshot
                .port(port)
                .and_then(|port| port.attachment.rings());
            let told = rings.iter().flat_map(|rings| &rings.tx);
            for event in told.filter_map(|queue| queue.error.as_ref()) {
                match eventfd::signal(event) {
                    // As a call that waits; there may be more of them.
                    Err(blocked) if blocked.kind() == ErrorKind::Interrupted => {
                        error = Fault::Ring(RingError::CallBlocks);
                        break;
                    }
                    // Any other that is refused is full, and then the front end knows already.
                    _ => {}
                }
            }
            (self.shared.events)(Event::Failed { port, error });
        }
    }

    /// Nothing to do: sleeps until a kick, a new snapshot, a queue that another worker has left, or the end.
    fn sleep(&mut self) {
        self.shared.quiescence.leave(self.number);
        // A snapshot published before `leave` woke us already; one published from here on will.
        let kicked = self.queues.kicked(self.queues.patience_ms());
        self.enter();
        self.shared.watch.wake();
        self.known = 0;
        let now_ns = self.clock.now_ns();
        // Not before: until here the worker must touch no ring.
        self.queues.heat_all(&kicked, now_ns);
        self.queues.look(now_ns);
    }

    /// Takes the newest snapshot. All use of the one before has ended.
    fn enter(&mut self) {
        let (number, snapshot) = self.shared.quiescence.enter(self.number);
        if number == self.snapshot_number {
            return;
        }
        self.snapshot = snapshot;
        self.known = 0;
        self.snapshot_number = number;
        self.reported.clear();
        if self.queues.adopt(&self.snapshot, self.clock.now_ns()) {
            self.shared.wake_all();
        }
    }
}

impl Polling {
    /// Whether a queue that has been idle for so long turns cold.
    fn cools(self, idle_ns: u64) -> bool {
        match self {
            Self::Adaptive { cool_ns } => idle_ns >= cool_ns,
            Self::Busy => false,
            Self::Sleep => true,
        }
    }
}
