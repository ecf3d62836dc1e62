//! The threads that forward, and what they share with the daemon.
//!
//! This is the only room where relay, virtqueue and uplink meet. Workers see the world as a
//! [`Snapshot`] and never wait for a control thread; how things are taken away from them is told in
//! [`quiescence`].

mod count;
mod duty;
mod egress;
mod flood;
mod frame;
mod front;
mod handover;
mod ingress;
mod link_in;
mod link_out;
pub mod load;
mod manual;
mod mend;
mod patience;
mod payload;
mod queues;
pub mod quiescence;
mod ring_out;
mod route;
mod snapshot;
mod source;
mod straight;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod thread;
mod watchdog;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_utils::CachePadded;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::sys::cpu;
use crate::sys::interrupt::Interruptible;
use crate::virtqueue::{GuestMemory, RingError};
pub use duty::{Busy, Duty};
pub use manual::Manual;
use quiescence::Quiescence;
pub use snapshot::{
    Assignment, Attachment, Port, PortId, PortRings, QueueProgress, RelayView, Snapshot, TxQueue,
};
use watchdog::{Watch, Watchdog};

/// What a worker does when a queue has nothing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Looks at it for a while longer, then waits for a kick.
    Adaptive {
        /// How much longer, in nanoseconds.
        cool_ns: u64,
    },
    /// Goes on looking, for ever.
    Busy,
    /// Waits for a kick at once.
    Sleep,
}

/// How workers behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many there are; at least one.
    pub workers: usize,
    /// The CPU of each, where they are pinned.
    pub cpus: Vec<usize>,
    /// What they do with idle queues.
    pub polling: Polling,
    /// How long a frame waits for a receiver that has no buffers, in nanoseconds.
    pub rx_wait_ns: u64,
}

/// Why a port cannot be served any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// One of its rings is broken.
    #[error(transparent)]
    Ring(RingError),
    /// The file behind its memory or its dirty log became shorter than what was mapped of it.
    #[error("the guest's memory file or dirty log was truncated while it was in use")]
    Memory,
}

impl Fault {
    /// What lies behind an error of a ring: memory that was taken away reads as zeros, in which no
    /// ring makes sense.
    fn of(error: RingError, memory: &GuestMemory) -> Self {
        if memory.poisoned() {
            Self::Memory
        } else {
            Self::Ring(error)
        }
    }
}

/// What a worker tells the daemon.
#[derive(Debug)]
pub enum Event {
    /// A port is broken. It is not reported again before the next snapshot.
    Failed {
        /// The port.
        port: PortId,
        /// What is wrong.
        error: Fault,
    },
    /// A guest has kicked, and nothing was ever in its ring: it may be writing to
    /// memory that is not shared.
    Hollow {
        /// The port.
        port: PortId,
    },
    /// A worker has woken, after all of them had slept for a while.
    Awake,
}

/// What the workers and the daemon have in common.
struct Shared {
    quiescence: Quiescence<Snapshot>,
    wake: Vec<EventFd>,
    stop: AtomicBool,
    settings: Settings,
    events: Box<dyn Fn(Event) + Send + Sync>,
    started: Instant,
    watch: Watch,
    /// How long each worker was busy.
    busy: Box<[CachePadded<Busy>]>,
    /// Frames that worker 0 sends in the name of a port, one in each of its rounds.
    injected: Mutex<VecDeque<(PortId, Vec<u8>)>>,
    has_injected: AtomicBool,
}

impl Shared {
    fn new(
        settings: Settings,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        let count = settings.workers.max(1);
        let wake = (0..count)
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            quiescence: Quiescence::new(Snapshot::default(), count),
            wake,
            stop: AtomicBool::new(false),
            settings,
            events: Box::new(events),
            started: Instant::now(),
            watch: Watch::new(count),
            busy: (0..count).map(|_| CachePadded::default()).collect(),
            injected: Mutex::default(),
            has_injected: AtomicBool::new(false),
        }))
    }

    /// Makes every worker look for what has changed.
    fn wake_all(&self) {
        for wake in &self.wake {
            // Only a counter that is already full can refuse, and that wakes as well.
            let _ = wake.write(1);
        }
    }
}

/// A panic while such a lock was held cannot have left its value half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle for waiting until workers have let go of something.
#[derive(Clone)]
pub struct Barrier(Arc<Shared>);

impl Barrier {
    /// Returns once no worker uses a snapshot older than number `snapshot`.
    pub fn wait(&self, snapshot: u64) {
        self.0.quiescence.wait(snapshot);
    }
}

/// The running workers. Dropping it stops them.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// It ends after the last thread.
    watchdog: Option<Watchdog>,
}

impl Pool {
    /// Starts the workers with an empty snapshot. `events` is called on their threads.
    ///
    /// # Errors
    ///
    /// The error of creating a descriptor or a thread, or of pinning a worker to its CPU.
    pub fn start(
        settings: Settings,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Shared::new(settings, events)?;
        let count = shared.wake.len();
        let mut pool = Self {
            shared,
            threads: vec![],
            watchdog: None,
        };
        let mut watched = vec![];
        for number in 0..count {
            let worker = thread::Worker::new(number, Arc::clone(&pool.shared))?;
            let cpu = pool.shared.settings.cpus.get(number).copied();
            let (pinned, was_pinned) = std::sync::mpsc::channel();
            let body = move || {
                let result = cpu.map_or(Ok(()), cpu::pin_current_thread);
                let go = result.is_ok();
                // The receiver waits for exactly this.
                let _ = pinned.send(result.map(|()| Interruptible::current()));
                if go {
                    worker.run();
                }
            };
            let builder = std::thread::Builder::new().name(format!("evb-worker-{number}"));
            pool.threads.push(builder.spawn(body)?);
            let thread = was_pinned
                .recv()
                .map_err(io::Error::other)?
                .map_err(|error| {
                    let cpu = cpu.unwrap_or_default();
                    io::Error::new(
                        error.kind(),
                        format!("worker {number} on CPU {cpu}: {error}"),
                    )
                })?;
            watched.push(thread);
        }
        pool.watchdog = Some(Watchdog::start(Arc::clone(&pool.shared), watched)?);
        Ok(pool)
    }

    /// Makes `snapshot` what workers see, and returns its number for [`Barrier::wait`].
    pub fn publish(&self, snapshot: Snapshot) -> u64 {
        let number = self.shared.quiescence.publish(snapshot);
        self.shared.wake_all();
        number
    }

    /// Sends frames, of at most 128 bytes each, as if they came in by `port`.
    pub fn inject(&self, port: PortId, frames: impl IntoIterator<Item = Vec<u8>>) {
        lock(&self.shared.injected).extend(frames.into_iter().map(|frame| (port, frame)));
        self.shared.has_injected.store(true, Ordering::Release);
        self.shared.wake_all();
    }

    /// How many frames given to [`Pool::inject`] are still to be sent.
    pub fn backlog(&self) -> usize {
        lock(&self.shared.injected).len()
    }

    /// Waits for workers, from any thread.
    pub fn barrier(&self) -> Barrier {
        Barrier(Arc::clone(&self.shared))
    }

    /// Seconds since the workers started: the clock of the FDB.
    pub fn now_s(&self) -> u32 {
        self.shared.started.elapsed().as_secs() as u32
    }

    /// Whether all workers have slept for a while and still do; [`Event::Awake`] will tell of the end.
    pub fn is_idle(&self) -> bool {
        self.shared.watch.is_dozing()
    }

    /// Nanoseconds that each worker has spent on frames, as far as they were measured.
    pub fn busy_ns(&self) -> impl Iterator<Item = u64> {
        self.shared.busy.iter().map(|busy| busy.ns())
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake_all();
        for thread in self.threads.drain(..) {
            // A panic of a worker has been reported on standard error.
            let _ = thread.join();
        }
        // Nobody is left to watch.
        self.watchdog = None;
    }
}
