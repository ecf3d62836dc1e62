//! What the integration tests have in common: the daemon as a process, guests that talk to it over
//! vhost-user, frames, and a way to say that nothing arrived without waiting for it.
//!
//! Nothing here sleeps for a fixed time in the hope that something has happened by then. Waits end at an
//! event and have a generous limit, whose only purpose is that a broken daemon fails the test.

// Each test binary uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod evb;
pub mod frames;
pub mod guest;
pub mod log;
pub mod net;
pub mod netns;
pub mod packets;
pub mod ring;
pub mod wire;

pub use evb::{Evb, Finished};
pub use frames::{BROADCAST, Eth, eth, mac};
pub use guest::{Frame, Guest, GuestOptions, silence};
pub use log::DirtyLog;
pub use net::Net;
pub use wire::Wire;

use std::time::{Duration, Instant};

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Asks `done` again and again, with pauses that grow to 20 ms, until it has an answer or the time is over.
/// For what has no event to wait for: a file that appears, a count that falls.
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = done() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
