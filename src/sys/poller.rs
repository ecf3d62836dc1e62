//! An epoll set that closes itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// Descriptors that one wait reports at most; others are reported by the next.
pub const MAX_EVENTS: usize = 64;

/// Readiness of many descriptors, each under a number of the caller's choice.
#[derive(Debug)]
pub struct Poller {
    epoll: File,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// The error of `epoll_create`.
    pub fn new() -> io::Result<Self> {
        let fd = epoll::create(true)?;
        // SAFETY: `create` returned a new descriptor that nobody else owns.
        let epoll = unsafe { File::from_raw_fd(fd) };
        Ok(Self { epoll })
    }

    /// Watches `fd` for input, once per arrival (edge-triggered).
    ///
    /// # Errors
    ///
    /// The error of `epoll_ctl`, such as `AlreadyExists` for a descriptor already in the set.
    pub fn add(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::EPOLLIN | epoll::Events::EPOLLET, token);
        epoll::ctl(
            self.raw(),
            epoll::ControlOptions::EPOLL_CTL_ADD,
            fd.as_raw_fd(),
            event,
        )
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    ///
    /// The error of `epoll_ctl`, such as `NotFound` for a descriptor not in the set.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::empty(), 0);
        epoll::ctl(
            self.raw(),
            epoll::ControlOptions::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            event,
        )
    }

    /// Waits up to `timeout_ms` milliseconds (-1: for ever, 0: not at all) and passes the token of
    /// each ready descriptor to `ready`.
    ///
    /// # Errors
    ///
    /// The error of `epoll_wait`; an interruption counts as nothing ready.
    pub fn wait(&self, timeout_ms: i32, mut ready: impl FnMut(u64)) -> io::Result<()> {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0); MAX_EVENTS];
        match epoll::wait(self.raw(), timeout_ms, &mut events) {
            Ok(n) => {
                for event in &events[..n] {
                    ready(event.data);
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn raw(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn each_write_is_one_edge_and_needs_no_read() {
        let poller = Poller::new().unwrap();
        let event = EventFd::new(0).unwrap();
        poller.add(&event, 7).unwrap();
        let ready = || {
            let mut tokens: Vec<u64> = vec![];
            poller.wait(0, |t| tokens.push(t)).unwrap();
            tokens
        };
        assert!(ready().is_empty());
        for _ in 0..3 {
            event.write(1).unwrap();
            assert_eq!(ready(), [7]);
            assert!(ready().is_empty());
        }
        poller.remove(&event).unwrap();
        event.write(1).unwrap();
        assert!(ready().is_empty());
        assert!(poller.remove(&event).is_err());
    }
}
