//! A worker without a thread: it works when it is told to, on the thread that tells it.
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
        let settings = Settings {
            workers: 1,
            cpus: vec![],
            polling: Polling::Busy,
            rx_wait_ns,
        };
        let shared = Shared::new(settings, events)?;
        let worker = Worker::new(0, Arc::clone(&shared))?;
        Ok(Self { shared, worker })
    }

    /// What it sees from its next pass on.
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
