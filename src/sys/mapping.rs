//! Memory that the kernel maps: what it shares, or pages of our own.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;

use libc::off_t;

/// A mapping, unmapped at its end.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; what is in it is accessed by those who
// guarantee that they may.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&self` hands out pointers only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a file or a socket from `offset` on.
    ///
    /// # Errors
    ///
    /// The error of `mmap`.
    pub fn new(file: &impl AsFd, len: usize, offset: off_t) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(len, flags, file.as_fd().as_raw_fd(), offset)
    }

    /// Maps `len` bytes of zeros, which nobody else sees. They occupy memory page by page as they are written.
    ///
    /// # Errors
    ///
    /// The error of `mmap`.
    pub(super) fn zeroed(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn map(len: usize, flags: c_int, fd: RawFd, offset: off_t) -> io::Result<Self> {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, rights, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = base.cast();
        Ok(Self { base, len })
    }

    /// Its first byte.
    #[inline]
    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and all that uses it borrows or owns this object.
        unsafe { libc::munmap(self.base.cast::<c_void>(), self.len) };
    }
}
