//! A worker's thread: which queue has its turn, and when there is nothing to do.
//!
//! A *hot* queue is on the list and its guest does not kick. A *cold* one kicks, and its descriptor
//! sits in epoll. A queue turns cold a moment after its last frame, by the protocol that
//! [`TxGuard::enable_kicks`](crate::virtqueue::TxGuard::enable_kicks) ends with a second look, so no
//! frame is missed. While the list is empty the worker sleeps; a turn costs what its hot queues
//! cost, however many cold ones there are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use vmm_sys_util::eventfd::EventFd;

use super::egress::Patience;
use super::ingress::{Moment, Path, Turn};
use super::snapshot::{PortId, Snapshot, TxQueue};
use super::{Event, Fault, Polling, Shared, lock};
use crate::sys::poller::Poller;
use crate::virtqueue::TxRing;

/// How often epoll is asked for newly kicked queues while others are hot.
const ASK_EVERY_NS: u64 = 20_000;
/// How often rings that have no kick are looked at while nothing else happens.
const LOOK_EVERY_MS: i32 = 1;
/// The token of the descriptor that wakes a sleeping worker.
const WAKE: u64 = u64::MAX;

/// One of the queues that this worker serves.
struct Local {
    port: PortId,
    /// Its place among the transmit rings of the port.
    index: usize,
    ring: Arc<TxRing>,
    kick: Option<Arc<EventFd>>,
    hot: bool,
    busy_ns: u64,
    /// Still in the newest snapshot.
    current: bool,
}

/// The state of a worker's thread.
pub struct Worker {
    number: usize,
    shared: Arc<Shared>,
    poller: Poller,
    snapshot: Arc<Snapshot>,
    snapshot_number: u64,
    locals: Vec<Option<Local>>,
    places: HashMap<(PortId, u16), usize>,
    hot: Vec<usize>,
    path: Path,
    started: Instant,
    asked_ns: u64,
    /// Ports reported as broken since the last snapshot.
    reported: Vec<PortId>,
}

impl Worker {
    /// Prepares worker `number`.
    pub fn new(number: usize, shared: Arc<Shared>) -> std::io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&shared.wake[number], WAKE)?;
        let started = shared.started;
        Ok(Self {
            number,
            shared,
            poller,
            snapshot: Arc::default(),
            snapshot_number: 0,
            locals: vec![],
            places: HashMap::new(),
            hot: vec![],
            path: Path::default(),
            started,
            asked_ns: 0,
            reported: vec![],
        })
    }

    /// Works until the pool is told to stop.
    pub fn run(mut self) {
        self.enter();
        while !self.shared.stop.load(Ordering::Acquire) {
            if self.shared.quiescence.newest() != self.snapshot_number {
                self.enter();
            }
            if self.number == 0 && self.shared.has_injected.load(Ordering::Acquire) {
                self.inject();
            }
            if self.hot.is_empty() {
                self.sleep();
                continue;
            }
            let now_ns = self.now_ns();
            if now_ns.saturating_sub(self.asked_ns) > ASK_EVERY_NS {
                self.asked_ns = now_ns;
                self.ask(0);
            }
            self.round(now_ns);
        }
        self.shared.quiescence.leave(self.number);
    }

    fn moment(&self, now_ns: u64) -> Moment {
        Moment {
            worker: self.number,
            now_s: (now_ns / 1_000_000_000) as u32,
            patience: Patience {
                now_ns,
                limit_ns: self.shared.settings.rx_wait_ns,
            },
        }
    }

    /// Sends what the daemon wants sent.
    fn inject(&mut self) {
        self.shared.has_injected.store(false, Ordering::Release);
        let frames = std::mem::take(&mut *lock(&self.shared.injected));
        let at = self.moment(self.now_ns());
        for (port, frame) in frames {
            self.path.inject(&self.snapshot, port, &frame, at);
        }
        self.report_failed();
    }

    /// One turn for each hot queue.
    fn round(&mut self, now_ns: u64) {
        let at = self.moment(now_ns);
        let mut place = 0;
        while let Some(&token) = self.hot.get(place) {
            let Some(local) = &mut self.locals[token] else {
                self.hot.swap_remove(place);
                continue;
            };
            let turn = self.path.turn(&self.snapshot, local.port, local.index, at);
            let stays = match turn {
                Turn::Busy => {
                    local.busy_ns = now_ns;
                    true
                }
                Turn::Idle => {
                    let idle_ns = now_ns.saturating_sub(local.busy_ns);
                    !self.shared.settings.polling.cools(idle_ns) || has_work(&local.ring)
                }
                Turn::Failed(error) => {
                    let port = local.port;
                    self.report(port, error);
                    false
                }
            };
            if stays {
                place += 1;
            } else {
                if let Some(local) = &mut self.locals[token] {
                    local.hot = false;
                }
                self.hot.swap_remove(place);
            }
        }
        self.report_failed();
    }

    /// Tells of receivers found broken.
    fn report_failed(&mut self) {
        while let Some((port, error)) = self.path.failed.pop() {
            self.report(port, error);
        }
    }

    /// Tells the daemon once that a port is broken; it will be gone from the next snapshot.
    fn report(&mut self, port: PortId, error: Fault) {
        if !self.reported.contains(&port) {
            self.reported.push(port);
            (self.shared.events)(Event::Failed { port, error });
        }
    }

    /// Nothing to do: sleeps until a kick, a new snapshot, or the end.
    fn sleep(&mut self) {
        let kickless = self
            .locals
            .iter()
            .flatten()
            .any(|local| local.kick.is_none());
        self.shared.quiescence.leave(self.number);
        // A snapshot published before `leave` woke us already; one published from here on will.
        let timeout = if kickless { LOOK_EVERY_MS } else { -1 };
        self.ask(timeout);
        self.enter();
        if kickless {
            for token in 0..self.locals.len() {
                if self.locals[token]
                    .as_ref()
                    .is_some_and(|local| local.kick.is_none())
                {
                    self.heat(token);
                }
            }
        }
    }

    /// Asks epoll which queues were kicked.
    fn ask(&mut self, timeout_ms: i32) {
        let mut kicked = arrayvec::ArrayVec::<u64, 64>::new();
        if let Err(error) = self.poller.wait(timeout_ms, |token| kicked.push(token)) {
            log::error!("worker {}: epoll: {error}", self.number);
        }
        for token in kicked {
            if token != WAKE {
                self.heat(token as usize);
            }
        }
    }

    /// Puts a queue on the list.
    fn heat(&mut self, token: usize) {
        let now_ns = self.now_ns();
        let Some(Some(local)) = self.locals.get_mut(token) else {
            return;
        };
        if local.hot {
            return;
        }
        local.hot = true;
        local.busy_ns = now_ns;
        self.hot.push(token);
        if let Some(mut ring) = local.ring.try_lock() {
            ring.disable_kicks();
        }
    }

    /// Takes the newest snapshot. All use of the one before has ended.
    fn enter(&mut self) {
        let (number, snapshot) = self.shared.quiescence.enter(self.number);
        if number == self.snapshot_number {
            return;
        }
        self.snapshot = snapshot;
        self.snapshot_number = number;
        self.reported.clear();
        self.adopt();
    }

    /// Makes the list of queues that of the snapshot.
    fn adopt(&mut self) {
        for local in self.locals.iter_mut().flatten() {
            local.current = false;
        }
        let snapshot = Arc::clone(&self.snapshot);
        for (id, port) in snapshot.ports.iter().enumerate() {
            let Some(port) = port else { continue };
            let Some(rings) = port.attachment.rings() else {
                continue;
            };
            for (index, queue) in rings.tx.iter().enumerate() {
                if port.workers.get(usize::from(queue.pair)) == Some(&self.number) {
                    let id = PortId(id as u16);
                    self.adopt_queue(id, index, queue);
                }
            }
        }
        for token in 0..self.locals.len() {
            if self.locals[token]
                .as_ref()
                .is_some_and(|local| !local.current)
            {
                self.drop_local(token);
            }
        }
        self.places.retain(|_, token| self.locals[*token].is_some());
        let locals = &self.locals;
        self.hot.retain(|&token| locals[token].is_some());
    }

    fn adopt_queue(&mut self, port: PortId, index: usize, queue: &TxQueue) {
        let (pair, kick) = (queue.pair, queue.kick.as_ref());
        if let Some(&token) = self.places.get(&(port, pair)) {
            if let Some(Some(local)) = self.locals.get_mut(token) {
                let same = match (&local.kick, kick) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    (None, None) => true,
                    _ => false,
                };
                if same {
                    local.index = index;
                    local.current = true;
                    if !Arc::ptr_eq(&local.ring, &queue.ring) {
                        local.ring = Arc::clone(&queue.ring);
                        // It may have work that nobody will announce again.
                        self.heat(token);
                    }
                    return;
                }
            }
            self.drop_local(token);
            self.hot.retain(|&hot| hot != token);
        }
        let free = self.locals.iter().position(Option::is_none);
        let token = free.unwrap_or(self.locals.len());
        if free.is_none() {
            self.locals.push(None);
        }
        if let Some(kick) = kick
            && let Err(error) = self.poller.add(&**kick, token as u64)
        {
            log::error!(
                "worker {}: cannot watch a kick descriptor: {error}",
                self.number
            );
        }
        let (ring, kick) = (Arc::clone(&queue.ring), kick.cloned());
        self.locals[token] = Some(Local {
            port,
            index,
            ring,
            kick,
            hot: false,
            busy_ns: 0,
            current: true,
        });
        self.places.insert((port, pair), token);
        self.heat(token);
    }

    fn drop_local(&mut self, token: usize) {
        if let Some(Local {
            kick: Some(kick), ..
        }) = self.locals[token].take()
            && let Err(error) = self.poller.remove(&*kick)
        {
            log::error!(
                "worker {}: cannot unwatch a kick descriptor: {error}",
                self.number
            );
        }
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

/// Lets the guest kick again; whether it has sent something meanwhile.
fn has_work(ring: &TxRing) -> bool {
    // A broken ring shows in the next turn, so it keeps its place for one more; one that another
    // worker holds is on its way to that worker.
    ring.try_lock()
        .is_some_and(|mut ring| ring.enable_kicks().unwrap_or(true))
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
