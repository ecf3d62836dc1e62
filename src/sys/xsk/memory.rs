//! Memory that frames lie in.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::off_t;

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
