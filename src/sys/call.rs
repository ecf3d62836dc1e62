//! What system calls have in common.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, socklen_t};

/// The number of a descriptor, for a call during which its owner is borrowed.
pub(super) fn raw(descriptor: &impl AsFd) -> c_int {
    descriptor.as_fd().as_raw_fd()
}

/// The error that a return value below zero stands for.
pub(super) fn check(rc: c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sets an option of a socket. `T` must be what the option is.
pub(super) fn set<T>(socket: &impl AsFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads at most the size given, which is that of the value borrowed; a
    // pointer inside a value is to something that its caller keeps alive over this call.
    check(unsafe {
        libc::setsockopt(
            raw(socket),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as socklen_t,
        )
    })
}
