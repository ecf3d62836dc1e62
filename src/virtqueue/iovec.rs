//! Vectored I/O between file descriptors and guest memory.
//!
//! The descriptors are `O_NONBLOCK`, so the kernel holds no pointer into a guest once a call returns.
//! Where user space gets a SIGBUS for a truncated file, the kernel answers EFAULT; both end alike:
//! the memory is poisoned and the caller sees an error.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;
use libc::{c_int, c_void, iovec};

use super::copy::{Gather, Segment, pieces};
use super::dirty::DirtyLog;

/// The kernel's limit of parts for one call.
const IOV_MAX: usize = 1024;

struct Parts(ArrayVec<iovec, IOV_MAX>);

impl Parts {
    fn push(&mut self, base: *mut u8, len: usize) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.0
            .try_push(iovec {
                iov_base: base.cast::<c_void>(),
                iov_len: len,
            })
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "more than 1024 parts"))
    }

    fn as_raw(&self) -> (*const iovec, c_int) {
        (
            self.0.as_ptr(),
            c_int::try_from(self.0.len()).unwrap_or(c_int::MAX),
        )
    }
}

/// Writes a frame to an uplink in one call.
pub fn writev(fd: BorrowedFd<'_>, frame: &Gather<'_>) -> io::Result<usize> {
    let mut parts = Parts(ArrayVec::new());
    for part in [frame.header, frame.head] {
        parts.push(part.as_ptr().cast_mut(), part.len())?;
    }
    for (segment, from, count) in pieces(frame.rest, frame.rest_skip, frame.rest_len) {
        parts.push(segment.ptr().wrapping_add(from), count)?;
    }
    let (iov, count) = parts.as_raw();
    // SAFETY: each part is a slice borrowed by `frame` or a checked range of a segment it borrows;
    // writev only reads from them.
    let result = unsafe { libc::writev(fd.as_raw_fd(), iov, count) };
    finish(result, frame.rest)
}

/// Where a frame that is read goes: its first bytes to `front`, what follows into `dst` behind the first
/// `skip` bytes of that, and what finds no room there to `spill`.
#[derive(Debug)]
pub struct Scatter<'a, 'm> {
    /// The uplink's header and as much of the frame as the reader wants to see.
    pub front: &'a mut [u8],
    /// The segments of one grant.
    pub dst: &'a [Segment<'m>],
    /// How many bytes of `dst` are left for what is in `front`.
    pub skip: usize,
    /// For the end of a frame that is longer than expected.
    pub spill: &'a mut [u8],
}

/// Reads a frame. Returns its bytes, wherever they went.
pub(super) fn readv(
    fd: BorrowedFd<'_>,
    to: Scatter<'_, '_>,
    log: Option<&DirtyLog>,
) -> io::Result<usize> {
    let Scatter {
        front,
        dst,
        skip,
        spill,
    } = to;
    let mut parts = Parts(ArrayVec::new());
    parts.push(front.as_mut_ptr(), front.len())?;
    for (segment, from, count) in pieces(dst, skip, usize::MAX) {
        parts.push(segment.ptr().wrapping_add(from), count)?;
    }
    parts.push(spill.as_mut_ptr(), spill.len())?;
    let (iov, count) = parts.as_raw();
    // SAFETY: `front` and `spill` are borrowed mutably, the other parts are checked ranges of segments
    // that `dst` borrows, and they may be written at any time.
    let result = unsafe { libc::readv(fd.as_raw_fd(), iov, count) };
    let read = finish(result, dst)?;
    if log.is_some() {
        for (segment, from, count) in pieces(dst, skip, read.saturating_sub(front.len())) {
            segment.mark(log, from, count);
        }
    }
    Ok(read)
}

fn finish(result: isize, segments: &[Segment<'_>]) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EFAULT) {
            // Which mapping was cut off is found by touching them: the SIGBUS handler does the rest.
            segments.iter().for_each(Segment::touch);
        }
        error
    })
}
