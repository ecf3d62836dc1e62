//! Memory that is shared with the kernel.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
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
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing away.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = base.cast();
        Ok(Self { base, len })
    }

    /// Its first byte.
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

/// A file of `len` bytes in memory, whose length never changes.
///
/// # Errors
///
/// The error of a system call: `ENOMEM` and the like.
pub fn file(len: usize) -> io::Result<OwnedFd> {
    let kind = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    let len = off_t::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the name is a literal with its zero; the rest are integers. The descriptor is new, and
    // nobody else owns it.
    unsafe {
        let fd = libc::memfd_create(c"evb-umem".as_ptr(), kind);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let file = OwnedFd::from_raw_fd(fd);
        if libc::ftruncate(fd, len) != 0 || libc::fcntl(fd, libc::F_ADD_SEALS, seals) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(file)
    }
}
