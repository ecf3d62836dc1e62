//! Who still uses what was taken away?
//!
//! The daemon publishes snapshots, each with a number of its own, one higher than the last. A worker
//! holds one snapshot at a time and may follow any pointer in it. Whoever took something out of the
//! world (guest memory, a ring) waits here until every worker has passed a *quiescent point*: it holds
//! a snapshot at least as new as the one without that thing, or it sleeps. A sleeping worker holds
//! nothing, and takes the newest snapshot before it does anything else.
//!
//! Each worker has a number that only it writes: the snapshot it uses, or [`OFFLINE`]. Publisher and
//! worker each write one variable and then read the other's, so both sides need a full fence. So do a
//! worker that passes and somebody who waits for it: while nobody waits, passing makes no system call.
//!
//! The synchronisation types come from `super::sync`, so that `tests/model_quiescence.rs` can run this
//! very file under a model checker.
//!
//! Threads: `publish` by the daemon, `enter` and `leave` by the worker itself, `wait` by anybody.

use std::fmt;

use crossbeam_utils::CachePadded;

use super::sync::{Arc, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, fence};

/// The number of a worker that sleeps.
const OFFLINE: u64 = u64::MAX;

/// The current value of `T`, and what each worker uses of it.
pub struct Quiescence<T> {
    /// Read by every worker in every turn, so it stands where nobody writes anything else.
    newest: CachePadded<AtomicU64>,
    current: Mutex<(u64, Arc<T>)>,
    used: Box<[CachePadded<AtomicU64>]>,
    /// How many wait for workers.
    waiting: AtomicU64,
    passed: Condvar,
    passing: Mutex<()>,
}

impl<T> Quiescence<T> {
    /// Starts with `first` as snapshot 0 and all `workers` asleep.
    pub fn new(first: T, workers: usize) -> Self {
        Self {
            newest: CachePadded::new(AtomicU64::new(0)),
            current: Mutex::new((0, Arc::new(first))),
            used: (0..workers)
                .map(|_| CachePadded::new(AtomicU64::new(OFFLINE)))
                .collect(),
            waiting: AtomicU64::new(0),
            passed: Condvar::new(),
            passing: Mutex::new(()),
        }
    }

    /// Makes `next` the current snapshot and returns its number.
    ///
    /// # Panics
    ///
    /// Not in practice: the lock is never held over code that panics.
    pub fn publish(&self, next: T) -> u64 {
        let next = Arc::new(next);
        let mut current = lock(&self.current);
        current.0 += 1;
        current.1 = next;
        self.newest.store(current.0, Ordering::Release);
        current.0
    }

    /// The number of the current snapshot: cheap, for a look before every turn.
    #[inline]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Worker `worker` is awake and uses the current snapshot, which is returned with its number.
    ///
    /// The worker has given up every pointer into the one it used before.
    pub fn enter(&self, worker: usize) -> (u64, Arc<T>) {
        // Awake with nothing known: no wait can end before the load below is done.
        self.used[worker].store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let current = lock(&self.current).clone();
        self.used[worker].store(current.0, Ordering::Release);
        self.notify();
        current
    }

    /// Worker `worker` goes to sleep and uses nothing from here on.
    pub fn leave(&self, worker: usize) {
        self.used[worker].store(OFFLINE, Ordering::Release);
        self.notify();
    }

    /// Whether worker `worker` is not asleep.
    pub fn is_awake(&self, worker: usize) -> bool {
        self.used[worker].load(Ordering::Relaxed) != OFFLINE
    }

    /// Returns once no worker uses a snapshot older than number `at_least`.
    pub fn wait(&self, at_least: u64) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut guard = lock(&self.passing);
        while self
            .used
            .iter()
            .any(|used| used.load(Ordering::Acquire) < at_least)
        {
            guard = match self.passed.wait(guard) {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A worker has written its number: tells those who wait.
    fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        drop(lock(&self.passing));
        self.passed.notify_all();
    }
}

/// A panic while one of these locks was held cannot have left its value half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

impl<T> fmt::Debug for Quiescence<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiescence")
            .field("newest", &self.newest)
            .finish_non_exhaustive()
    }
}
