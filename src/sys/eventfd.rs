//! Event descriptors that a stranger handed over.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

/// Takes a descriptor received from a front end as an eventfd.
///
/// A front end is not trusted: a pipe or a socket in the place of an eventfd could make a worker
/// block in `write`, so anything else is refused, and the descriptor is made non-blocking.
///
/// # Errors
///
/// `InvalidInput` if the descriptor is no eventfd, or the error of `fcntl`.
pub fn adopt(file: File) -> io::Result<EventFd> {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the descriptor is {}, not an eventfd", link.display()),
        ));
    }
    let fd = file.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL take and return plain integers; `file` keeps the descriptor open.
    let done = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if !done {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `into_raw_fd` gives up the only owner, so the EventFd becomes the new one.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

/// Adds one to the counter, in one attempt.
///
/// # Errors
///
/// `WouldBlock` where the counter is full, and `Interrupted` where it is full, a stranger has made the
/// descriptor blocking, and a signal ended the wait.
#[inline]
pub fn signal(event: &EventFd) -> io::Result<()> {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the descriptor is open as long as `event` lives, and `one` has the eight bytes that are read.
    let written = unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    if written < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What the counter holds, without taking it.
///
/// # Errors
///
/// That of reading `/proc`.
pub fn count(event: &EventFd) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("eventfd-count:"))
        .and_then(|count| u64::from_str_radix(count.trim(), 16).ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eventfd_is_taken_and_made_non_blocking() {
        let theirs = EventFd::new(0).unwrap();
        // SAFETY: the duplicate is owned by nobody else.
        let file = unsafe { File::from_raw_fd(theirs.try_clone().unwrap().into_raw_fd()) };
        let ours = adopt(file).unwrap();
        ours.write(3).unwrap();
        assert_eq!(theirs.read().unwrap(), 3);
        assert_eq!(ours.read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_counter_can_be_looked_at() {
        let event = EventFd::new(0).unwrap();
        assert_eq!(count(&event).unwrap(), 0);
        event.write(26).unwrap();
        signal(&event).unwrap();
        assert_eq!(count(&event).unwrap(), 27);
        assert_eq!(event.read().unwrap(), 27);
    }

    #[test]
    fn anything_else_is_refused() {
        let error = adopt(File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("/dev/null"));
    }
}
