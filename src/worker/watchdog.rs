//! Looks after workers that wait where they must not.
//!
//! A worker waits for work and for nothing else. One thing can stop it all the same: a call or error descriptor
//! is shared with its front end, which can make it blocking again and fill its counter, and no write to an
//! eventfd can be told not to wait. So a thread looks whether workers that are awake get on, and interrupts
//! one that does not: the write fails, and only the port whose descriptor it was is stopped. A worker that is merely
//! slow, or not scheduled, does not notice.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::Shared;
use crate::sys::interrupt::{self, Interruptible};

/// How long a worker may be stopped: twice this at most, while any is awake.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The same while all workers sleep, for the sake of an idle machine: one that wakes then may be stopped for so
/// much longer.
const LOOK_SELDOM: Duration = Duration::from_millis(50);

/// How often each worker has been round.
#[derive(Debug)]
pub struct Rounds(Box<[CachePadded<AtomicU64>]>);

impl Rounds {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| CachePadded::default()).collect())
    }

    /// Worker `worker` got on. Only it calls this.
    #[inline]
    pub fn count(&self, worker: usize) {
        let rounds = &self.0[worker];
        rounds.store(rounds.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// The thread. Dropping this ends it.
#[derive(Debug)]
pub struct Watchdog {
    thread: Option<JoinHandle<()>>,
    stop: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches the workers of `shared`, whose threads are `threads`.
    ///
    /// # Errors
    ///
    /// The error of making a thread or of setting the signal up.
    pub(super) fn start(shared: Arc<Shared>, threads: Vec<Interruptible>) -> io::Result<Self> {
        interrupt::prepare()?;
        let (stop, stopped) = std::sync::mpsc::channel();
        let body = move || {
            let mut last = vec![0; threads.len()];
            let mut pause = LOOK_SELDOM;
            while stopped.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                pause = LOOK_SELDOM;
                for (worker, thread) in threads.iter().enumerate() {
                    let rounds = shared.rounds.0[worker].load(Ordering::Relaxed);
                    if shared.quiescence.is_awake(worker) {
                        pause = LOOK_EVERY;
                        if rounds == last[worker] {
                            thread.interrupt();
                        }
                    }
                    last[worker] = rounds;
                }
            }
        };
        let builder = std::thread::Builder::new().name("evb-watchdog".to_owned());
        Ok(Self {
            thread: Some(builder.spawn(body)?),
            stop,
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // It waits for nothing else.
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
