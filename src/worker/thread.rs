//! A worker's thread: which queue has its turn, and when there is nothing to do.
//!
//! A *hot* queue is on the list and its guest does not kick. A *cold* one kicks, and its descriptor
//! sits in epoll. A queue turns cold a moment after its last frame, by the protocol that
//! [`TxGuard::enable_kicks`](crate::virtqueue::TxGuard::enable_kicks) ends with a second look, so no
//! frame is missed. While the list is empty the worker sleeps; a turn costs what its hot queues
//! cost, however many cold ones there are.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::egress::Patience;
use super::ingress::{Moment, Path, Turn};
use super::snapshot::{Attachment, PortId, Snapshot};
use super::source::Source;
use super::straight::Sizes;
use super::{Event, Fault, Polling, Shared, lock};
use crate::sys::eventfd;
use crate::sys::poller::Poller;
use crate::virtqueue::RingError;

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
    source: Source,
    hot: bool,
    busy_ns: u64,
    /// It was kicked since it was looked at last.
    kicked: bool,
    /// How often it had been kicked when it came here, while nothing was ever found in it. QEMU kicks each ring
    /// once before it hands it over.
    hollow: Option<u64>,
    /// What came from it lately, if it is a device's.
    sizes: Sizes,
    /// Still in the newest snapshot.
    current: bool,
}

impl Local {
    /// Whether the guest has kicked for the first time, and for nothing. A guest whose ring is seen by nobody may
    /// never kick again, because it waits for an index to be noticed.
    fn is_hollow(&mut self) -> bool {
        let Some(before) = self.hollow.filter(|_| std::mem::take(&mut self.kicked)) else {
            return false;
        };
        let told = self.source.kicks() > before;
        if told {
            self.hollow = None;
        }
        told
    }
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
    /// Whether there are rings without a kick, and when they were looked at last.
    kickless: bool,
    looked_ns: u64,
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
            kickless: false,
            looked_ns: 0,
            reported: vec![],
        })
    }

    /// Works until the pool is told to stop.
    pub fn run(mut self) {
        self.enter();
        while !self.shared.stop.load(Ordering::Acquire) {
            self.shared.rounds.count(self.number);
            if self.shared.quiescence.newest() != self.snapshot_number {
                self.enter();
            }
            let announces = self.number == 0 && self.shared.has_injected.load(Ordering::Acquire);
            if announces {
                self.inject();
            } else if self.hot.is_empty() {
                self.sleep();
                continue;
            }
            let now_ns = self.now_ns();
            if now_ns.saturating_sub(self.asked_ns) > ASK_EVERY_NS {
                self.asked_ns = now_ns;
                self.ask(0);
                self.look(now_ns);
            }
            self.round(now_ns);
        }
        self.shared.quiescence.leave(self.number);
    }

    fn moment(&self, now_ns: u64) -> Moment {
        Moment {
            worker: self.number,
            snapshot: self.snapshot_number,
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
            let at = self.moment(self.now_ns());
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
            let (snapshot, port, index) = (&self.snapshot, local.port, local.index);
            let turn = match &local.source {
                Source::Ring { .. } => self.path.turn(snapshot, port, index, at),
                Source::Link(_) => {
                    let queue = (port, index);
                    self.path.link_turn(snapshot, queue, at, &mut local.sizes)
                }
                Source::Load(_) => self.path.load_turn(snapshot, port, at),
            };
            let stays = match turn {
                Turn::Busy => {
                    local.busy_ns = now_ns;
                    local.hollow = None;
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

    /// Nothing to do: sleeps until a kick, a new snapshot, or the end.
    fn sleep(&mut self) {
        self.shared.quiescence.leave(self.number);
        // A snapshot published before `leave` woke us already; one published from here on will.
        let timeout = if self.kickless { LOOK_EVERY_MS } else { -1 };
        self.ask(timeout);
        self.enter();
        self.look(self.now_ns());
    }

    /// Puts rings that nobody kicks on the list, now and then.
    fn look(&mut self, now_ns: u64) {
        let due = LOOK_EVERY_MS as u64 * 1_000_000;
        if !self.kickless || now_ns.saturating_sub(self.looked_ns) < due {
            return;
        }
        self.looked_ns = now_ns;
        for token in 0..self.locals.len() {
            if self.locals[token]
                .as_ref()
                .is_some_and(|local| local.source.is_kickless())
            {
                self.heat(token);
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
            if token == WAKE {
                continue;
            }
            if let Some(Some(local)) = self.locals.get_mut(token as usize) {
                local.kicked = true;
            }
            self.heat(token as usize);
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
        match &local.source {
            Source::Ring { ring, .. } => {
                if let Some(mut ring) = ring.try_lock() {
                    ring.disable_kicks();
                }
            }
            Source::Link(link) => {
                if let Some(queue) = link.queues().get(local.index) {
                    queue.disable_calls();
                }
            }
            // Orders are rare.
            Source::Load(_) => {}
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
            let id = PortId(id as u16);
            let number = self.number;
            let mine = |pair: usize| port.workers.get(pair) == Some(&number);
            match &port.attachment {
                Attachment::Rings(rings) => {
                    for (index, queue) in rings.tx.iter().enumerate() {
                        if mine(queue.pair.into()) {
                            let (ring, kick) = (Arc::clone(&queue.ring), queue.kick.clone());
                            self.adopt_queue(id, queue.pair, index, Source::Ring { ring, kick });
                        }
                    }
                }
                Attachment::Link(Some(link)) => {
                    for index in (0..link.queues().len()).filter(|index| mine(*index)) {
                        let source = Source::Link(Arc::clone(link));
                        self.adopt_queue(id, index as u16, index, source);
                    }
                }
                Attachment::Load(load) if load.is_generator() && mine(0) => {
                    self.adopt_queue(id, 0, 0, Source::Load(Arc::clone(load)));
                }
                Attachment::Load(_) | Attachment::Link(None) | Attachment::Patch(_) => {}
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
        self.kickless = self
            .locals
            .iter()
            .flatten()
            .any(|local| local.source.is_kickless());
        self.places.retain(|_, token| self.locals[*token].is_some());
        let locals = &self.locals;
        self.hot.retain(|&token| locals[token].is_some());
    }

    fn adopt_queue(&mut self, port: PortId, pair: u16, index: usize, source: Source) {
        if let Some(&token) = self.places.get(&(port, pair)) {
            if let Some(Some(local)) = self.locals.get_mut(token)
                && local.source.wakes_like(&source)
            {
                local.index = index;
                local.current = true;
                if !local.source.is(&source) {
                    local.source = source;
                    // It may have work that nobody will announce again.
                    self.heat(token);
                }
                return;
            }
            self.drop_local(token);
            self.hot.retain(|&hot| hot != token);
        }
        let free = self.locals.iter().position(Option::is_none);
        let token = free.unwrap_or(self.locals.len());
        if free.is_none() {
            self.locals.push(None);
        }
        if let Some(event) = source.event(index)
            && let Err(error) = self.poller.add(&event, token as u64)
        {
            log::error!("worker {}: cannot watch a queue: {error}", self.number);
        }
        let kicks = source.kicks();
        self.locals[token] = Some(Local {
            port,
            index,
            source,
            hot: false,
            busy_ns: 0,
            kicked: false,
            hollow: Some(kicks),
            sizes: Sizes::default(),
            current: true,
        });
        self.places.insert((port, pair), token);
        self.heat(token);
    }

    fn drop_local(&mut self, token: usize) {
        if let Some(local) = self.locals[token].take()
            && let Some(event) = local.source.event(local.index)
            && let Err(error) = self.poller.remove(&event)
        {
            log::error!("worker {}: cannot unwatch a queue: {error}", self.number);
        }
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
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
