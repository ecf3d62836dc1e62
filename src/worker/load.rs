//! Load ports: frames that a worker makes itself, and frames that it only counts.
//!
//! A *generator* is a source like a ring or a device: its worker asks it for a burst a turn. A *sink* is a receiver without
//! buffers. Every generator is a sink as well: what others send back to it is counted.
//!
//! *Threads.* A generator belongs to the worker that serves its port; workers share what a sink knows of its flows. The
//! control side gives orders through a lock that no worker waits for, and reads counters.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::count::{Account, Counts, Sum};
use super::egress::Burst;
use super::frame::HEAD;
use super::ingress::{BURST, Moment, Path, Tally, Turn};
use super::lock;
use super::payload::Payload;
use super::route::Entrance;
use super::snapshot::{PortId, Snapshot};
use crate::load::{self, Ledger, Pacer, Rate, Stamp, Stream};
use crate::sys::eventfd;
use crate::virtqueue::Segment;

/// Flows that a sink follows, about.
const FLOWS: usize = 4096;

/// What a generator is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send, from now on, and for how long.
    Start {
        /// How fast.
        rate: Rate,
        /// Until it is told to stop, if there is none.
        time: Option<Duration>,
    },
    /// Send nothing more.
    Stop,
}

/// What a load port has counted of frames that carry a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What became of the numbers.
    pub tally: load::Tally,
    /// Frames without a number.
    pub stray: u64,
}

/// What is behind a load port.
#[derive(Debug)]
pub struct LoadPort {
    generator: Option<Generator>,
    ledger: Mutex<Ledger>,
    seen: Published,
}

/// [`Seen`], to be read at any time. Written by whoever has the ledger.
#[derive(Debug, Default)]
struct Published {
    received: AtomicU64,
    missing: AtomicU64,
    late: AtomicU64,
    twice: AtomicU64,
    stray: AtomicU64,
}

/// The half of a load port that sends.
#[derive(Debug)]
struct Generator {
    /// Announces an order to a worker that sleeps.
    wake: EventFd,
    ordered: AtomicBool,
    order: Mutex<Option<Order>>,
    running: AtomicBool,
    source: Mutex<Source>,
}

/// What the worker has of it.
#[derive(Debug)]
struct Source {
    stream: Stream,
    pacer: Pacer,
    /// When to stop, in the worker's time.
    end_ns: Option<u64>,
    /// What is behind the heads of all frames.
    body: Vec<u8>,
}

impl LoadPort {
    /// A port that sends nothing.
    pub fn sink() -> Self {
        Self {
            generator: None,
            ledger: Mutex::new(Ledger::new(FLOWS)),
            seen: Published::default(),
        }
    }

    /// A port that sends `stream` when it is told to.
    ///
    /// # Errors
    ///
    /// The error of making an eventfd.
    pub fn generator(stream: Stream) -> io::Result<Self> {
        let body = vec![0; stream.longest()];
        let generator = Generator {
            wake: EventFd::new(EFD_NONBLOCK)?,
            ordered: AtomicBool::new(false),
            order: Mutex::new(None),
            running: AtomicBool::new(false),
            source: Mutex::new(Source {
                stream,
                pacer: Pacer::new(Rate::Max),
                end_ns: None,
                body,
            }),
        };
        Ok(Self {
            generator: Some(generator),
            ..Self::sink()
        })
    }

    /// Whether it can send.
    pub fn is_generator(&self) -> bool {
        self.generator.is_some()
    }

    /// Whether it sends.
    pub fn is_running(&self) -> bool {
        let generator = self.generator.as_ref();
        generator.is_some_and(|generator| generator.running.load(Ordering::Relaxed))
    }

    /// Gives an order, from any thread but a worker's. The newest counts.
    pub fn give(&self, order: Order) {
        let Some(generator) = &self.generator else {
            return;
        };
        *lock(&generator.order) = Some(order);
        // It is as good as done, for who asks before the worker has looked.
        let starts = matches!(order, Order::Start { .. });
        generator.running.store(starts, Ordering::Relaxed);
        generator.ordered.store(true, Ordering::Release);
        // Only a counter that is full can refuse, and that wakes as well.
        let _ = eventfd::signal(&generator.wake);
    }

    /// What was found about the frames that came.
    pub fn seen(&self) -> Seen {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Seen {
            tally: load::Tally {
                received: read(&self.seen.received),
                missing: read(&self.seen.missing),
                late: read(&self.seen.late),
                twice: read(&self.seen.twice),
            },
            stray: read(&self.seen.stray),
        }
    }

    /// The descriptor that becomes readable when there is an order.
    pub(super) fn event(&self) -> Option<RawFd> {
        Some(self.generator.as_ref()?.wake.as_raw_fd())
    }

    /// Whether its worker has something to do.
    pub(super) fn has_work(&self) -> bool {
        self.is_running()
            || self
                .generator
                .as_ref()
                .is_some_and(|generator| generator.ordered.load(Ordering::Acquire))
    }

    /// Counts the jobs of a burst and drops their frames.
    pub(super) fn take(&self, burst: Burst<'_, '_>, counts: Counts<'_>) {
        let mut ledger = lock(&self.ledger);
        let mut stray = 0;
        let mut vid = None;
        let mut sum = Sum::default();
        for job in burst.jobs {
            let frame = &burst.frames[job.frame];
            let Account { vid: now, .. } = job.account();
            if let Some(last) = vid.replace(now)
                && last != now
            {
                counts.rx(last, std::mem::take(&mut sum));
            }
            sum.add(frame.header.dst, job.len_of(frame));
            match Stamp::read(frame.head()) {
                Some((stamp, _)) => ledger.note(stamp),
                None => stray += 1,
            }
        }
        counts.rx(vid.unwrap_or_default(), sum);
        let tally = ledger.tally();
        let seen = &self.seen;
        for (counter, now) in [
            (&seen.received, tally.received),
            (&seen.missing, tally.missing),
            (&seen.late, tally.late),
            (&seen.twice, tally.twice),
            (&seen.stray, seen.stray.load(Ordering::Relaxed) + stray),
        ] {
            counter.store(now, Ordering::Relaxed);
        }
    }
}

impl Generator {
    /// Carries out an order that has come, and returns what is to be sent from; none if nothing is.
    fn source(&self, now_ns: u64) -> Option<MutexGuard<'_, Source>> {
        // Another worker had it until a moment ago.
        let mut source = try_lock(&self.source)?;
        if self.ordered.load(Ordering::Acquire)
            && let Some(mut order) = try_lock(&self.order)
        {
            self.ordered.store(false, Ordering::Relaxed);
            match order.take() {
                Some(Order::Start { rate, time }) => {
                    source.pacer = Pacer::new(rate);
                    source.end_ns = time.map(|time| now_ns.saturating_add(time.as_nanos() as u64));
                    self.running.store(true, Ordering::Relaxed);
                }
                Some(Order::Stop) => self.running.store(false, Ordering::Relaxed),
                None => {}
            }
        }
        if source.end_ns.is_some_and(|end_ns| now_ns >= end_ns) {
            source.end_ns = None;
            self.running.store(false, Ordering::Relaxed);
        }
        self.running.load(Ordering::Relaxed).then_some(source)
    }
}

/// A lock, if nobody has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Path {
    /// Sends what the generator behind the port `id` has to send now, a burst at most.
    pub fn load_turn(&mut self, snapshot: &Snapshot, id: PortId, at: Moment) -> Turn {
        let here = (snapshot, at.worker);
        let (Some(port), Some(counts), Some(entrance)) = (
            snapshot.port(id),
            Counts::of(snapshot, id, at.worker),
            Entrance::of(here, id, at.now_s),
        ) else {
            return Turn::Idle;
        };
        let generator = port
            .attachment
            .load()
            .and_then(|load| load.generator.as_ref());
        let now_ns = at.patience.now_ns;
        let Some(mut source) = generator.and_then(|generator| generator.source(now_ns)) else {
            return Turn::Idle;
        };
        let Source {
            stream,
            pacer,
            body,
            ..
        } = &mut *source;
        self.routes.clear();
        pacer.refill(now_ns);
        let header = stream.header();
        let mut sent = 0;
        while sent < BURST && pacer.take(stream.next_len()) {
            let frame = stream.compose(now_ns);
            let mut head = [0; HEAD];
            head[..frame.head.len()].copy_from_slice(frame.head);
            let head = &head[..frame.len.min(HEAD)];
            let frames = &mut self.routes.frames;
            match frames.add(|place| place.read_bytes(0, header, head, frame.len)) {
                Ok(frame) => self.routes.add(&entrance, frame),
                Err(reason) => counts.drop_frames(0, reason, 1),
            }
            stream.advance();
            sent += 1;
        }
        self.routes.count(here, |_| true);
        let bodies = [Segment::of(body)];
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, None);
        let burst = Burst {
            frames: &self.routes.frames,
            jobs: &self.routes.jobs,
            payload: Payload::Frames(&bodies),
            // A frame that finds no room is lost: that is what is to be measured.
            sole: 0,
        };
        self.egress.deliver(here, burst, at.patience, &mut tally);
        // It stays on the list as long as it runs: the next frame is due at a time, not at an event.
        Turn::Busy
    }
}
