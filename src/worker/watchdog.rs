//! Looks after workers that wait where they must not.
//!
//! A worker waits for work and for nothing else. One thing can stop it all the same: a call or error descriptor
//! is shared with its front end, which can make it blocking again and fill its counter, and no write to an
//! eventfd can be told not to wait. So a thread looks whether workers that are awake get on, and interrupts
//! one that does not: the write fails, and only the port whose descriptor it was is stopped. A worker that is merely
//! slow, or not scheduled, does not notice.
//!
//! When all workers have slept for a while the thread sleeps as well, for as long as they do: the first of them that
//! wakes calls it before it does anything else.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::{Event, Shared, lock};
use crate::sys::interrupt::{self, Interruptible};

/// How long a worker may be stopped: twice this at most, while any is awake.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The same while all workers sleep but did something lately: one that wakes then may be stopped for so much longer.
const LOOK_SELDOM: Duration = Duration::from_millis(50);

/// What workers and the thread know of each other.
#[derive(Debug)]
pub struct Watch {
    /// How often each worker has been round.
    rounds: Box<[CachePadded<AtomicU64>]>,
    /// The thread sleeps until it is called.
    dozing: CachePadded<AtomicBool>,
    orders: Mutex<Orders>,
    given: Condvar,
}

/// What the thread is told.
#[derive(Debug, Default)]
struct Orders {
    /// A worker has woken.
    called: bool,
    stop: bool,
}

impl Watch {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            rounds: (0..workers).map(|_| CachePadded::default()).collect(),
            dozing: CachePadded::default(),
            orders: Mutex::default(),
            given: Condvar::new(),
        }
    }

    /// Worker `worker` got on. Only it calls this.
    #[inline]
    pub fn count(&self, worker: usize) {
        let rounds = &self.rounds[worker];
        rounds.store(rounds.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A worker has woken, which its number in `Quiescence` says by now.
    #[inline]
    pub fn wake(&self) {
        // Full fence: either this sees that the thread dozes, or the thread sees that a worker is awake.
        fence(Ordering::SeqCst);
        if self.dozing.load(Ordering::Relaxed) && self.dozing.swap(false, Ordering::Relaxed) {
            self.order(|orders| orders.called = true);
        }
    }

    /// Whether all workers have slept for a while and still do.
    pub fn is_dozing(&self) -> bool {
        self.dozing.load(Ordering::Relaxed)
    }

    #[cold]
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut lock(&self.orders));
        self.given.notify_one();
    }

    /// Waits for an order, not longer than `pause` if there is one; whether to go on.
    fn pause(&self, pause: Option<Duration>) -> bool {
        let idle = |orders: &mut Orders| !orders.called && !orders.stop;
        let orders = lock(&self.orders);
        let mut orders = if let Some(pause) = pause {
            let woken = self.given.wait_timeout_while(orders, pause, idle);
            woken.unwrap_or_else(PoisonError::into_inner).0
        } else {
            let woken = self.given.wait_while(orders, idle);
            woken.unwrap_or_else(PoisonError::into_inner)
        };
        orders.called = false;
        !orders.stop
    }
}

/// The thread. Dropping this ends it.
pub struct Watchdog {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Watchdog {
    /// Watches the workers of `shared`, whose threads are `threads`.
    ///
    /// # Errors
    ///
    /// The error of making a thread or of setting the signal up.
    pub(super) fn start(shared: Arc<Shared>, threads: Vec<Interruptible>) -> io::Result<Self> {
        interrupt::prepare()?;
        let theirs = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("evb-watchdog".to_owned());
        let thread = builder.spawn(move || keep_watch(&theirs, &threads))?;
        Ok(Self {
            thread: Some(thread),
            shared,
        })
    }
}

fn keep_watch(shared: &Shared, threads: &[Interruptible]) {
    let watch = &shared.watch;
    let mut last = vec![0; threads.len()];
    let mut pause = Some(LOOK_SELDOM);
    while watch.pause(pause) {
        if pause.is_none() {
            (shared.events)(Event::Awake);
        }
        let (mut awake, mut moved) = (false, false);
        for (worker, thread) in threads.iter().enumerate() {
            let rounds = watch.rounds[worker].load(Ordering::Relaxed);
            let stands = std::mem::replace(&mut last[worker], rounds) == rounds;
            moved |= !stands;
            if shared.quiescence.is_awake(worker) {
                awake = true;
                // One that has just called may not have been round yet.
                if stands && pause.is_some() {
                    thread.interrupt();
                }
            }
        }
        pause = if awake {
            Some(LOOK_EVERY)
        } else if moved {
            Some(LOOK_SELDOM)
        } else {
            watch.dozing.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // One that has woken meanwhile may have seen nobody to call.
            let woken = (0..threads.len()).any(|worker| shared.quiescence.is_awake(worker));
            if woken {
                watch.dozing.store(false, Ordering::Relaxed);
            }
            woken.then_some(LOOK_EVERY)
        };
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.watch.order(|orders| orders.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic has been reported on standard error.
            let _ = thread.join();
        }
    }
}
