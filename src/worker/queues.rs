//! The queues that a worker serves: which are its own, which of them are hot, and what wakes it for the others.
//!
//! A *hot* queue is on the list and its guest does not kick. A *cold* one kicks, and its descriptor sits in epoll.
//!
//! The snapshot says which queues are to be its own. One that another worker still has is *awaited*, see
//! [`handover`](super::handover): nothing of it is touched.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::duty::Duty;
use super::snapshot::{Attachment, PortId, Snapshot};
use super::source::Source;
use super::straight::Sizes;
use crate::sys::poller::{self, Poller};
use crate::virtqueue::Silence;

/// How often rings that have no kick are looked at while nothing else happens.
const LOOK_EVERY_MS: i32 = 1;
/// The token of the descriptor that wakes a sleeping worker.
const WAKE: u64 = u64::MAX;

/// Queues that were kicked.
pub type Tokens = arrayvec::ArrayVec<usize, { poller::MAX_EVENTS }>;

/// A queue as the snapshot has it.
struct Wanted {
    port: PortId,
    pair: u16,
    /// Its place among the transmit rings of the port.
    index: usize,
    source: Source,
    duty: Arc<Duty>,
}

/// One of the queues that this worker serves.
pub struct Local {
    pub port: PortId,
    pair: u16,
    /// Its place among the transmit rings of the port.
    pub index: usize,
    pub source: Source,
    pub duty: Arc<Duty>,
    hot: bool,
    /// When it had something to do last.
    pub busy_ns: u64,
    /// It was kicked since it was looked at last.
    kicked: bool,
    /// How often it had been kicked when it came here, while nothing was ever found in it. QEMU kicks each ring
    /// once before it hands it over.
    hollow: Option<u64>,
    /// What came from it lately, if it is a device's.
    pub sizes: Sizes,
    /// How its ring looks while it is worth no turn; none where that is not known.
    pub silence: Option<Silence>,
    /// Still in the newest snapshot.
    current: bool,
}

impl Local {
    /// Something was found in the queue at `now_ns`.
    #[inline]
    pub fn note_busy(&mut self, now_ns: u64) {
        self.busy_ns = now_ns;
        if self.hollow.take().is_some() {
            self.source.note_found();
        }
    }

    /// Whether it is a ring that nothing has come into since it was empty.
    #[inline]
    pub fn is_silent(&self) -> bool {
        match &self.source {
            Source::Ring { ring, .. } => self.silence.is_some_and(|look| ring.is_silent(look)),
            Source::Link(_) | Source::Load(_) => false,
        }
    }

    /// Whether the guest has kicked for the first time, and for nothing. A guest whose ring is seen by nobody may
    /// never kick again, because it waits for an index to be noticed.
    pub fn is_hollow(&mut self) -> bool {
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

/// The queues of one worker. Those that it serves have a place each, by which epoll and the list know them.
pub struct Queues {
    worker: usize,
    poller: Poller,
    locals: Vec<Option<Local>>,
    places: HashMap<(PortId, u16), usize>,
    hot: Vec<usize>,
    awaited: Vec<Wanted>,
    /// Whether there are rings without a kick, and when they were looked at last.
    kickless: bool,
    looked_ns: u64,
}

impl Queues {
    /// None yet, for worker `worker`, which `wake` wakes.
    ///
    /// # Errors
    ///
    /// That of making an epoll set.
    pub fn new(worker: usize, wake: &EventFd) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(wake, WAKE)?;
        Ok(Self {
            worker,
            poller,
            locals: vec![],
            places: HashMap::new(),
            hot: vec![],
            awaited: vec![],
            kickless: false,
            looked_ns: 0,
        })
    }

    /// Whether none is hot.
    #[inline]
    pub fn all_cold(&self) -> bool {
        self.hot.is_empty()
    }

    /// The hot queue number `place` of the list.
    #[inline]
    pub fn hot(&mut self, place: usize) -> Option<&mut Local> {
        let token = *self.hot.get(place)?;
        self.locals[token].as_mut()
    }

    /// Takes hot queue number `place` off the list; the last one takes its place.
    #[inline]
    pub fn cool(&mut self, place: usize) {
        let token = self.hot.swap_remove(place);
        if let Some(local) = &mut self.locals[token] {
            local.hot = false;
        }
    }

    /// How long the worker may sleep, in milliseconds, -1 for ever.
    pub fn patience_ms(&self) -> i32 {
        if self.kickless { LOOK_EVERY_MS } else { -1 }
    }

    /// Asks epoll which queues were kicked, waiting for `timeout_ms` if none was.
    pub fn kicked(&self, timeout_ms: i32) -> Tokens {
        let mut kicked = Tokens::new();
        let asked = self.poller.wait(timeout_ms, |token| {
            if token != WAKE {
                kicked.push(token as usize);
            }
        });
        if let Err(error) = asked {
            log::error!("worker {}: epoll: {error}", self.worker);
        }
        kicked
    }

    /// Puts queues that were kicked on the list. A place that was given to another queue meanwhile costs that
    /// one look.
    pub fn heat_all(&mut self, kicked: &Tokens, now_ns: u64) {
        for &token in kicked {
            if let Some(Some(local)) = self.locals.get_mut(token) {
                local.kicked = true;
            }
            self.heat(token, now_ns);
        }
    }

    /// Puts rings that nobody kicks on the list, now and then.
    pub fn look(&mut self, now_ns: u64) {
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
                self.heat(token, now_ns);
            }
        }
    }

    /// Makes the queues those of the snapshot; whether others were left, so that their new workers have to be
    /// woken.
    pub fn adopt(&mut self, snapshot: &Snapshot, now_ns: u64) -> bool {
        for local in self.locals.iter_mut().flatten() {
            local.current = false;
        }
        self.awaited.clear();
        for (id, port) in snapshot.ports.iter().enumerate() {
            let Some(port) = port else { continue };
            let id = PortId(id as u16);
            let worker = self.worker;
            let mine = |pair: usize| {
                let assigned = port.queues.get(pair);
                assigned.filter(|assigned| assigned.worker == worker)
            };
            match &port.attachment {
                Attachment::Rings(rings) => {
                    for (index, queue) in rings.tx.iter().enumerate() {
                        if let Some(assigned) = mine(queue.pair.into()) {
                            self.want(
                                Wanted {
                                    port: id,
                                    pair: queue.pair,
                                    index,
                                    source: Source::ring(queue),
                                    duty: Arc::clone(&assigned.duty),
                                },
                                now_ns,
                            );
                        }
                    }
                }
                Attachment::Link(Some(link)) => {
                    for index in 0..link.queues().len() {
                        if let Some(assigned) = mine(index) {
                            self.want(
                                Wanted {
                                    port: id,
                                    pair: index as u16,
                                    index,
                                    source: Source::Link(Arc::clone(link)),
                                    duty: Arc::clone(&assigned.duty),
                                },
                                now_ns,
                            );
                        }
                    }
                }
                Attachment::Load(load) if load.is_generator() => {
                    if let Some(assigned) = mine(0) {
                        self.want(
                            Wanted {
                                port: id,
                                pair: 0,
                                index: 0,
                                source: Source::Load(Arc::clone(load)),
                                duty: Arc::clone(&assigned.duty),
                            },
                            now_ns,
                        );
                    }
                }
                Attachment::Load(_) | Attachment::Link(None) | Attachment::Patch(_) => {}
            }
        }
        let mut left = false;
        for token in 0..self.locals.len() {
            if let Some(local) = self.locals[token].take_if(|local| !local.current) {
                self.leave(&local);
                left = true;
            }
        }
        let locals = &self.locals;
        self.hot.retain(|&token| locals[token].is_some());
        self.kickless = locals
            .iter()
            .flatten()
            .any(|local| local.source.is_kickless());
        self.take_awaited(now_ns);
        left
    }

    /// Whether queues are awaited.
    #[inline]
    pub fn awaits_any(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Takes awaited queues that their last workers have left.
    pub fn take_awaited(&mut self, now_ns: u64) {
        let mut place = 0;
        while let Some(wanted) = self.awaited.get(place) {
            if wanted.duty.handover.take(self.worker) {
                let wanted = self.awaited.swap_remove(place);
                self.begin(wanted, now_ns);
            } else {
                place += 1;
            }
        }
    }

    /// Goes on with a queue of the snapshot, or awaits it.
    fn want(&mut self, wanted: Wanted, now_ns: u64) {
        let place = self.places.get(&(wanted.port, wanted.pair)).copied();
        let local = place.and_then(|token| self.locals[token].as_mut());
        let same = local.filter(|local| {
            Arc::ptr_eq(&local.duty, &wanted.duty) && local.source.wakes_like(&wanted.source)
        });
        let (Some(local), Some(token)) = (same, place) else {
            self.awaited.push(wanted);
            return;
        };
        local.index = wanted.index;
        local.current = true;
        if !local.source.is(&wanted.source) {
            local.source = wanted.source;
            local.silence = None;
            // It may have work that nobody will announce again.
            self.heat(token, now_ns);
        }
    }

    /// Begins to serve a queue that was taken.
    fn begin(&mut self, wanted: Wanted, now_ns: u64) {
        let Wanted {
            port,
            pair,
            index,
            source,
            duty,
        } = wanted;
        let free = self.locals.iter().position(Option::is_none);
        let token = free.unwrap_or(self.locals.len());
        if free.is_none() {
            self.locals.push(None);
        }
        if let Some(event) = source.event(index)
            && let Err(error) = self.poller.add(&event, token as u64)
        {
            log::error!("worker {}: cannot watch a queue: {error}", self.worker);
        }
        self.kickless |= source.is_kickless();
        self.places.insert((port, pair), token);
        self.locals[token] = Some(Local {
            port,
            pair,
            index,
            hollow: (!source.was_found()).then(|| source.kicks()),
            source,
            duty,
            hot: false,
            busy_ns: 0,
            kicked: false,
            sizes: Sizes::default(),
            silence: None,
            current: true,
        });
        self.heat(token, now_ns);
    }

    /// Ends the service of a queue, between two of its turns: nothing of it is under way here.
    fn leave(&mut self, local: &Local) {
        self.places.remove(&(local.port, local.pair));
        if let Some(event) = local.source.event(local.index)
            && let Err(error) = self.poller.remove(&event)
        {
            log::error!("worker {}: cannot unwatch a queue: {error}", self.worker);
        }
        local.duty.handover.leave();
    }

    /// Puts a queue on the list.
    fn heat(&mut self, token: usize, now_ns: u64) {
        let Some(Some(local)) = self.locals.get_mut(token) else {
            return;
        };
        if local.hot {
            return;
        }
        local.hot = true;
        local.busy_ns = now_ns;
        self.hot.push(token);
        local.source.disable_announcements(local.index);
    }
}
