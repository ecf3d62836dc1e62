//! The two directions of a bound socket, with the chunks of its memory.
//!
//! A chunk is at one place at a time: with the kernel, in a ring, or with us. *Threads*: each direction is
//! used by one at a time, both at once.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::slice;
use std::sync::Arc;

use libc::{off_t, xdp_desc};

use super::super::mapping::Mapping;
use super::ring::{Consumer, Producer};
use super::{Layout, Place, bind, offsets};

/// Kicks for one publication at most; each makes the kernel take up to 32 frames.
const KICKS: usize = 64;

/// What both directions need of a socket.
#[derive(Debug)]
struct Shared {
    socket: Arc<OwnedFd>,
    memory: Mapping,
    layout: Layout,
}

impl Shared {
    /// A part of the memory; empty if it is not within.
    ///
    /// # Safety
    ///
    /// The chunk in which `at` lies must be the caller's, with no other reference to it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn bytes(&self, at: u64, len: u32) -> &mut [u8] {
        let is_within = at
            .checked_add(len.into())
            .is_some_and(|end| end <= self.memory.len() as u64);
        if !is_within {
            return &mut [];
        }
        // SAFETY: the range is within the mapping, which `self` owns, and the caller guarantees that
        // nobody else uses it.
        unsafe { slice::from_raw_parts_mut(self.memory.base().add(at as usize), len as usize) }
    }
}

/// Maps the rings of `socket`, whose memory is `memory`, gives the kernel the chunks for receiving, and binds
/// to `place`. Returns also whether frames are not copied in the kernel.
///
/// # Errors
///
/// The error of a system call: `EINVAL` where there is no such queue, `EBUSY` where another socket has
/// it, `ENETDOWN` where the device is down.
pub fn start(
    socket: Arc<OwnedFd>,
    memory: Mapping,
    layout: Layout,
    place: Place,
) -> io::Result<(Rx, Tx, bool)> {
    let at = offsets(&socket)?;
    let page = |offset: u64| off_t::try_from(offset).map_err(io::Error::other);
    let fill = page(libc::XDP_UMEM_PGOFF_FILL_RING)?;
    let completion = page(libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
    let mut fill = Producer::new(&socket, fill, &at.fr, layout.rx)?;
    let completion = Consumer::new(&socket, completion, &at.cr, layout.tx)?;
    let received = Consumer::new(&socket, libc::XDP_PGOFF_RX_RING, &at.rx, layout.rx)?;
    let sent = Producer::new(&socket, libc::XDP_PGOFF_TX_RING, &at.tx, layout.tx)?;
    let mut chunks = (0..layout.rx + layout.tx).map(|n| u64::from(n) * u64::from(layout.chunk));
    for chunk in chunks.by_ref().take(layout.rx as usize) {
        fill.push(chunk);
    }
    fill.publish();
    let zero_copy = bind(&socket, place)?;
    let shared = Arc::new(Shared {
        socket,
        memory,
        layout,
    });
    let rx = Rx {
        shared: Arc::clone(&shared),
        received,
        fill,
        taken: Vec::new(),
    };
    let tx = Tx {
        shared,
        sent,
        completion,
        free: chunks.collect(),
        unpublished: 0,
    };
    Ok((rx, tx, zero_copy))
}

/// What is received.
#[derive(Debug)]
pub struct Rx {
    shared: Arc<Shared>,
    received: Consumer<xdp_desc>,
    fill: Producer<u64>,
    /// Frames that are ours until [`Rx::give_back`].
    taken: Vec<xdp_desc>,
}

impl Rx {
    /// Takes the next frame, if there is one.
    #[inline]
    pub fn take(&mut self) -> Option<&mut [u8]> {
        let frame = self.received.pop()?;
        self.taken.push(frame);
        // SAFETY: the kernel has handed over the chunk, and gets it back in `give_back` only; it is in no
        // other frame, and `self` is borrowed for as long as the bytes.
        Some(unsafe { self.shared.bytes(frame.addr, frame.len) })
    }

    /// The frames that were taken, in their order.
    #[inline]
    pub fn taken(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let shared = &self.shared;
        self.taken.iter().map(|frame| {
            // SAFETY: as in `take`; the chunks of different frames are different ones.
            unsafe { shared.bytes(frame.addr, frame.len) }
        })
    }

    /// Gives all chunks that were taken back to the kernel.
    #[inline]
    pub fn give_back(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        self.received.release();
        let chunk = u64::from(self.shared.layout.chunk);
        for frame in self.taken.drain(..) {
            // There is room: the ring has one entry for each chunk.
            self.fill.push(frame.addr & !(chunk - 1));
        }
        self.fill.publish();
        if self.fill.needs_wakeup() {
            self.wake();
        }
    }

    /// Tells the driver that there are chunks again.
    fn wake(&self) {
        let fd = self.shared.socket.as_raw_fd();
        // SAFETY: the kernel writes nothing into a buffer of no bytes. A device that is down takes the
        // chunks when it is up, so its error says nothing.
        unsafe {
            libc::recvfrom(
                fd,
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
    }
}

/// What is sent.
#[derive(Debug)]
pub struct Tx {
    shared: Arc<Shared>,
    sent: Producer<xdp_desc>,
    completion: Consumer<u64>,
    /// Chunks with nothing in them.
    free: Vec<u64>,
    /// Frames that the kernel does not see yet.
    unpublished: u32,
}

/// Why a frame cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// All chunks are on their way.
    Full,
    /// It is longer than a chunk.
    TooLong,
    /// Not all of it was there.
    Short,
}

impl Tx {
    /// Puts a frame of `len` bytes in line, of which `write` tells how many it has written. It goes with the
    /// next [`Tx::kick`].
    ///
    /// # Errors
    ///
    /// What it is refused for; nothing is in line then.
    #[inline]
    pub fn push(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), SendError> {
        let chunk = self.shared.layout.chunk;
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        if len > chunk {
            return Err(SendError::TooLong);
        }
        if self.free.is_empty() {
            self.reclaim();
        }
        let addr = self.free.pop().ok_or(SendError::Full)?;
        // SAFETY: a free chunk is ours and in no frame, and nobody else borrows `self`.
        if write(unsafe { self.shared.bytes(addr, len) }) < len as usize {
            self.free.push(addr);
            return Err(SendError::Short);
        }
        // There is room: the ring has one entry for each chunk.
        self.sent.push(xdp_desc {
            addr,
            len,
            options: 0,
        });
        self.unpublished += 1;
        Ok(())
    }

    /// Frames in line that the next [`Tx::kick`] shows to the kernel.
    #[inline]
    pub fn unpublished(&self) -> u32 {
        self.unpublished
    }

    /// Whether frames are in line that wait for another [`Tx::kick`].
    #[inline]
    pub fn is_late(&mut self) -> bool {
        self.sent.waiting() > 0 && self.sent.needs_wakeup()
    }

    /// Shows the frames in line to the kernel, and tells it of them if it wants that. Returns how many frames
    /// it has taken and not sent, because the device has no carrier or no room.
    ///
    /// Where the device takes no more for now the rest waits for another kick.
    ///
    /// # Errors
    ///
    /// The device is down (`ENETDOWN`), or gone (`ENXIO`).
    pub fn kick(&mut self) -> io::Result<u32> {
        self.sent.publish();
        self.unpublished = 0;
        let mut lost = 0;
        for _ in 0..KICKS {
            let before = self.sent.waiting();
            if before == 0 || !self.sent.needs_wakeup() {
                break;
            }
            let Err(error) = self.wake() else { break };
            match error.raw_os_error() {
                // A frame that was taken could not be sent; behind it there may be others.
                Some(libc::EBUSY) => lost += 1,
                // A turn of the kernel takes so many frames only; or the device is full.
                Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => {}
                _ => return Err(error),
            }
            if self.sent.waiting() == before {
                break;
            }
        }
        self.reclaim();
        Ok(lost)
    }

    /// Takes back the frames in line of a socket whose device is gone; how many these were.
    pub fn withdraw(&mut self) -> u32 {
        self.unpublished = 0;
        self.sent.withdraw()
    }

    /// Takes back the chunks of frames that have gone.
    fn reclaim(&mut self) {
        let mut any = false;
        while let Some(chunk) = self.completion.pop() {
            self.free.push(chunk);
            any = true;
        }
        if any {
            self.completion.release();
        }
    }

    fn wake(&self) -> io::Result<()> {
        let fd = self.shared.socket.as_raw_fd();
        // SAFETY: the kernel reads nothing from a buffer of no bytes.
        let rc = unsafe { libc::sendto(fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        if rc < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}
