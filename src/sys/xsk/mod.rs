//! `AF_XDP` sockets (`linux/if_xdp.h`), set up in two processes.
//!
//! The first, which has the capabilities, opens sockets ([`open`]) and gives each its memory ([`register`]).
//! Both travel by their descriptors to the second, which maps memory and rings and binds ([`start`]): a
//! socket that is bound cannot be mapped any more, and binding needs no capability.
//!
//! Memory and rings are shared with the kernel alone, which is trusted as far as they go.

mod memory;
mod queue;
mod ring;

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use libc::{c_int, socklen_t};

use super::call::{check, raw, set};

pub use super::mapping::Mapping;
pub use memory::file;
pub use queue::{Rx, SendError, Tx, start};

/// Bytes in front of a received frame that drivers keep for themselves.
pub const HEADROOM: u32 = 256;

/// The kernel lets go of a queue a moment after its socket was closed, and tells nobody. So often, and after
/// so long each, a queue in use is tried again.
const RELEASES: u32 = 100;
const RELEASE: Duration = Duration::from_millis(10);

/// How the memory of a socket is divided, and how long its rings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a chunk, in which one frame is: 2048 or 4096.
    pub chunk: u32,
    /// Chunks for receiving, a power of two. They come first.
    pub rx: u32,
    /// Chunks for sending, a power of two.
    pub tx: u32,
}

impl Layout {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        (self.rx + self.tx) as usize * self.chunk as usize
    }

    /// Whether there is no chunk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A socket without memory and rings.
///
/// # Errors
///
/// The error of `socket`: `EPERM` without `CAP_NET_RAW`, `EAFNOSUPPORT` where the kernel has no `AF_XDP`.
pub fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes integers only.
    let fd = unsafe { libc::socket(libc::AF_XDP, kind, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives `socket` its memory and its rings. The kernel keeps the pages of `memory` until the socket is
/// closed, so the mapping may go.
///
/// # Errors
///
/// The error of `setsockopt`: `ENOBUFS` without `CAP_IPC_LOCK` where the limit of locked memory is reached.
pub fn register(socket: &impl AsFd, memory: &Mapping, layout: Layout) -> io::Result<()> {
    let umem = libc::xdp_umem_reg {
        addr: memory.base() as u64,
        len: memory.len() as u64,
        chunk_size: layout.chunk,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)?;
    for (ring, entries) in [
        (libc::XDP_UMEM_FILL_RING, layout.rx),
        (libc::XDP_RX_RING, layout.rx),
        (libc::XDP_UMEM_COMPLETION_RING, layout.tx),
        (libc::XDP_TX_RING, layout.tx),
    ] {
        set(socket, libc::SOL_XDP, ring, &entries)?;
    }
    // In copy mode what is on its way counts here, and all of it should find room.
    let bytes = c_int::try_from(layout.len()).unwrap_or(c_int::MAX);
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes))
}

/// Where the rings lie.
fn offsets(socket: &impl AsFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all-zero bytes are valid offsets.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
    get(socket, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
}

/// The receive queue of a device to which a socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the device.
    pub ifindex: u32,
    /// Number of the queue.
    pub queue: u32,
    /// The kernel hands over copies, also where the driver could do without.
    pub copies: bool,
}

/// Binds `socket`, without copies where the driver can do that and nobody wants them; whether it can.
fn bind(socket: &impl AsFd, place: Place) -> io::Result<bool> {
    let copies = if place.copies { libc::XDP_COPY } else { 0 };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP | copies,
        sxdp_ifindex: place.ifindex,
        sxdp_queue_id: place.queue,
        sxdp_shared_umem_fd: 0,
    };
    let bind = || {
        // SAFETY: the kernel reads a sockaddr_xdp of exactly the size given.
        check(unsafe {
            libc::bind(
                raw(socket),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as socklen_t,
            )
        })
    };
    let mut bound = bind();
    for _ in 0..RELEASES {
        match &bound {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => thread::sleep(RELEASE),
            _ => break,
        }
        bound = bind();
    }
    bound?;
    let mut options = libc::xdp_options { flags: 0 };
    get(socket, libc::XDP_OPTIONS, &mut options)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// `T` must be what the option is: plain numbers.
fn get<T>(socket: &impl AsFd, option: c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`, of which any bytes are valid.
    check(unsafe {
        libc::getsockopt(
            raw(socket),
            libc::SOL_XDP,
            option,
            (&raw mut *value).cast(),
            &raw mut len,
        )
    })
}
