//! The queue pair of a vhost-user back end, to which we are the front end: one more kind of link queue.
//!
//! The memory is ours and sealed; the back end at the other end is not trusted. What it does wrong in a
//! ring makes the queue useless, and ends the connection, which whoever waits for its end is told by.
//!
//! *Threads.* Any; receiving and sending do not wait for each other.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::virtqueue::Gather;
use crate::virtqueue::driver::{DeviceError, RxQueue, SendError, TxQueue};

/// Buffers that are given back together, so that not every frame costs the other end a look.
const REFILL: u16 = 64;

/// Both rings of a queue pair, running.
#[derive(Debug)]
pub struct PeerQueue {
    rx: Mutex<RxQueue>,
    tx: Mutex<TxQueue>,
    /// The eventfd of `rx`, for those who wait without the lock.
    call: EventFd,
    /// Buffers that the back end has when it has all.
    posted: u16,
    connection: UnixStream,
    fault: OnceLock<DeviceError>,
}

impl PeerQueue {
    /// A queue pair that the back end of `connection` has started. The receive ring gets its buffers here.
    ///
    /// # Errors
    ///
    /// The error of an eventfd.
    pub fn new(mut rx: RxQueue, tx: TxQueue, connection: UnixStream) -> io::Result<Self> {
        rx.refill();
        rx.kick()?;
        Ok(Self {
            call: rx.call_fd().try_clone()?,
            posted: rx.outstanding(),
            rx: Mutex::new(rx),
            tx: Mutex::new(tx),
            connection,
            fault: OnceLock::new(),
        })
    }

    /// What made the queue useless.
    pub fn fault(&self) -> Option<DeviceError> {
        self.fault.get().copied()
    }

    /// Takes a frame behind its header; the bytes of both, or of `buffer` if that was too short.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let mut rx = lock(&self.rx);
        let received = rx.recv_into(buffer).map_err(|error| self.broken(error))?;
        let spent = self.posted.saturating_sub(rx.outstanding());
        if spent >= REFILL || received.is_none() && spent > 0 {
            rx.refill();
            self.kicked(rx.kick())?;
        }
        match received {
            Some(len) => Ok(len.min(buffer.len())),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Sends a frame, or nothing of it.
    pub(super) fn send(&self, frame: &Gather<'_>) -> io::Result<()> {
        self.check()?;
        let mut tx = lock(&self.tx);
        tx.reclaim().map_err(|error| self.broken(error))?;
        match tx.send_gather(frame) {
            Ok(()) => self.kicked(tx.kick()),
            Err(SendError::Full) => Err(io::ErrorKind::WouldBlock.into()),
            Err(SendError::Length(_)) => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
            Err(SendError::Device(error)) => Err(self.broken(error)),
        }
    }

    pub(super) fn enable_calls(&self) -> bool {
        lock(&self.rx).enable_calls()
    }

    pub(super) fn disable_calls(&self) {
        lock(&self.rx).disable_calls();
    }

    /// A kick that failed was waited for, which must not happen again.
    fn kicked(&self, kick: io::Result<bool>) -> io::Result<()> {
        kick.map(drop)
            .map_err(|_| self.broken(DeviceError::KickBlocks))
    }

    fn check(&self) -> io::Result<()> {
        match self.fault.get() {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Notes what went wrong first, and ends the connection.
    #[cold]
    fn broken(&self, error: DeviceError) -> io::Error {
        if self.fault.set(error).is_ok() {
            // It fails only where the peer has ended the connection already.
            let _ = self.connection.shutdown(Shutdown::Both);
        }
        io::ErrorKind::BrokenPipe.into()
    }
}

impl AsRawFd for PeerQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.call.as_raw_fd()
    }
}

/// Nobody panics while holding a queue.
fn lock<T>(queue: &Mutex<T>) -> MutexGuard<'_, T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
