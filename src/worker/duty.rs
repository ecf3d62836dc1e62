//! The work on one queue that frames come from: who does it, and how much it is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::handover::Handover;

/// What outlasts the snapshots of a queue pair of a port, whatever is behind the port. It has cache lines of its own,
/// because the worker that serves the queue writes to it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Duty {
    pub(super) handover: Handover,
    pub(super) busy: Busy,
}

impl Duty {
    /// Nobody has begun yet.
    #[expect(clippy::new_without_default, reason = "there is no usual one")]
    pub fn new() -> Self {
        Self {
            handover: Handover::new(),
            busy: Busy::default(),
        }
    }

    /// The worker that serves the queue now.
    pub fn worker(&self) -> Option<usize> {
        self.handover.holder()
    }

    /// The time that workers have spent on frames of the queue.
    pub fn busy(&self) -> &Busy {
        &self.busy
    }
}

/// Time spent on frames, as far as it was measured: nanoseconds. One worker at a time adds to it.
#[derive(Debug, Default)]
pub struct Busy(AtomicU64);

impl Busy {
    /// How many there are.
    pub fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds some more.
    pub fn add(&self, ns: u64) {
        self.0.store(self.ns() + ns, Ordering::Relaxed);
    }
}
