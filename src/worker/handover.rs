//! Who works on a queue: one worker at a time.
//!
//! A snapshot says who is to serve a queue; this says who does. Workers take a new snapshot at different
//! times, so for a while the old worker still serves the queue while the new one knows already that it is to. It
//! must not begin before the other has ended: one of them would tell the guest not to kick any more after the other
//! has asked it to, and nobody would look again. So the new one *takes* the queue, which succeeds only when the old one
//! has *left* it, and tries again whenever it is woken. Whoever has left a queue therefore wakes the others.
//!
//! What a worker has written before it leaves, the next one sees after it has taken.
//!
//! The synchronisation types come from `super::sync`, so that `tests/model_handover.rs` can run this very file under
//! a model checker.

use super::sync::{AtomicU64, Ordering};

/// The number of no worker.
const NOBODY: u64 = u64::MAX;

/// Who works on one queue.
#[derive(Debug)]
pub struct Handover(AtomicU64);

impl Handover {
    /// Nobody does yet.
    pub fn new() -> Self {
        Self(AtomicU64::new(NOBODY))
    }

    /// Worker `worker` begins to work on the queue; false while another does.
    pub fn take(&self, worker: usize) -> bool {
        self.0
            .compare_exchange(NOBODY, worker as u64, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// The worker that has taken the queue has ended. It wakes the others, one of which may want it.
    pub fn leave(&self) {
        self.0.store(NOBODY, Ordering::Release);
    }

    /// Who works on the queue now.
    pub fn holder(&self) -> Option<usize> {
        let holder = self.0.load(Ordering::Relaxed);
        (holder != NOBODY).then_some(holder as usize)
    }
}
