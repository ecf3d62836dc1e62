//! Workers without threads: one works when it is told to, on the thread that tells it.
//!
//! This is how the frame path is measured. Guests, worker and measurement take turns, so that nothing waits and
//! nothing is counted but the path itself.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::thread::Worker;
use super::{Event, Polling, Settings, Shared, Snapshot};

/// One worker, which never lets go of a queue: nobody has to kick.
pub struct Manual {
    shared: Arc<Shared>,
    worker: Worker,
}

impl Manual {
    /// A worker with an empty snapshot. A frame waits `rx_wait_ns` for a receiver that has no buffers.
    /// `events` is called in a pass.
    ///
    /// # Errors
    ///
    /// The error of creating a descriptor.
    pub fn new(
        rx_wait_ns: u64,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::several(1, rx_wait_ns, events).map(|mut one| one.remove(0))
    }

    /// So many workers that see the same snapshots. Each may go to a thread of its own.
    ///
    /// # Errors
    ///
    /// The error of creating a descriptor.
    pub fn several(
        workers: usize,
        rx_wait_ns: u64,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Vec<Self>> {
        let settings = Settings {
            workers,
            cpus: vec![],
            polling: Polling::Busy,
            rx_wait_ns,
        };
        let shared = Shared::new(settings, events)?;
        let worker = |number| {
            Ok(Self {
                shared: Arc::clone(&shared),
                worker: Worker::new(number, Arc::clone(&shared))?,
            })
        };
        (0..workers).map(worker).collect()
    }

    /// What it, and those made with it, see from their next pass on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.shared.quiescence.publish(snapshot);
    }

    /// One turn for each queue.
    pub fn pass(&mut self) {
        self.worker.pass();
    }
}

impl fmt::Debug for Manual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manual").finish_non_exhaustive()
    }
}
