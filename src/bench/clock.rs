//! The time of a benchmark, the same in all its threads.

use std::time::{Duration, Instant};

/// Counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since it was made.
    #[inline]
    pub fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// A duration in nanoseconds.
pub fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
