//! Kick and call: the two eventfds of a queue.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::{MemoryError, wait_readable};
use super::ring::Ring;
use crate::sys::eventfd;

#[derive(Debug)]
pub(super) struct Wake {
    kick: EventFd,
    call: EventFd,
}

impl Wake {
    pub fn new() -> Result<Self, MemoryError> {
        let eventfd = || {
            EventFd::new(EFD_NONBLOCK).map_err(|source| MemoryError::Os {
                what: "make an eventfd",
                source,
            })
        };
        Ok(Self {
            kick: eventfd()?,
            call: eventfd()?,
        })
    }

    pub fn kick(&self) -> io::Result<()> {
        match eventfd::signal(&self.kick) {
            // The counter is full: the device has not looked yet and will be woken all the same.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Sleeps until `ring` has something used; false when the time is over. Calls are enabled only
    /// meanwhile, so a busy queue costs the device none.
    pub fn wait(&self, ring: &mut Ring, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        let mut found = ring.enable_calls();
        while !found {
            // SAFETY: the descriptor belongs to `self.call` and stays open through this call.
            let fd = unsafe { BorrowedFd::borrow_raw(self.call.as_raw_fd()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if !wait_readable(fd, left)? {
                found = ring.has_used();
                break;
            }
            self.drain()?;
            // A call may be for what was found without it.
            found = ring.has_used();
        }
        ring.disable_calls();
        Ok(found)
    }

    fn drain(&self) -> io::Result<()> {
        match self.call.read() {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(()),
        }
    }

    pub fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    pub fn call_fd(&self) -> &EventFd {
        &self.call
    }
}
