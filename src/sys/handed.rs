//! Descriptors that the process had when it started.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that whoever started the process has left open. It will not be inherited
/// further.
///
/// For the beginning of the process, once for each number: whatever has the number then is taken to be
/// nobody else's.
///
/// # Errors
///
/// `EBADF` where nothing is open under the number.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes and returns plain integers; a number that is not open is an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by this function's condition nobody else in the process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes calls on a descriptor return where they would wait, also for others who share it.
///
/// # Errors
///
/// The error of `fcntl`.
pub fn set_nonblocking(descriptor: &impl AsFd) -> io::Result<()> {
    let raw = descriptor.as_fd().as_raw_fd();
    // SAFETY: both requests take and return plain integers, on a descriptor that is open.
    let done = unsafe {
        let flags = libc::fcntl(raw, libc::F_GETFL);
        flags >= 0 && libc::fcntl(raw, libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_is_taken_by_its_number() {
        let (near, _far) = UnixStream::pair().unwrap();
        let taken = take(near.into_raw_fd()).unwrap();
        set_nonblocking(&taken).unwrap();
        let error = UnixStream::from(taken).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let error = take(i32::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
