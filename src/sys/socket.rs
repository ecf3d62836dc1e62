//! Looks at a stream socket without taking anything from it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits until `buffer.len()` bytes have arrived and copies them without consuming them.
///
/// Descriptors that came along stay with the message. Returns how many bytes were seen: fewer than
/// asked for only at the end of the stream, 0 if the peer has gone.
///
/// # Errors
///
/// The error of `recv`; interruptions are retried.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into the exclusively borrowed buffer.
        let n = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_PEEK | libc::MSG_WAITALL,
            )
        };
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Waits until a socket has something to read or its peer has gone; `false` after `timeout_ms`
/// milliseconds (-1: never) without either. An interruption starts the wait anew.
pub fn wait_readable(socket: BorrowedFd<'_>, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one valid pollfd, and the count says one.
        let n = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
        if n >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return n != 0;
        }
    }
}

/// The number of the network namespace of a socket, which no other has or had since the system started; that of
/// the first one is the same each time.
///
/// # Errors
///
/// The error of `getsockopt`: before Linux 5.14 there is no such number.
pub fn namespace(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut number = 0_u64;
    let mut len = size_of_val(&number) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a number of that size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut number).cast(),
            &raw mut len,
        )
    };
    if done == 0 {
        Ok(number)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The process that listened at the socket which this one was connected to, when it began to.
///
/// # Errors
///
/// The error of `getsockopt`; [`io::ErrorKind::NotFound`] for a process that is not seen from here.
pub fn listener(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of_val(&credentials) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a structure of that size.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    match u32::try_from(credentials.pid) {
        Ok(pid @ 1..) => Ok(pid),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether the peer of a stream socket has closed its end.
pub fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one valid pollfd, and the count says one.
    let n = unsafe { libc::poll(&raw mut poll, 1, 0) };
    n > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_listener_is_known() {
        use std::os::fd::AsFd;
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(super::listener(a.as_fd()).unwrap(), std::process::id());
    }

    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peek_takes_nothing() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(b"hello").unwrap();
        let mut seen = [0; 3];
        assert_eq!(peek(b.as_fd(), &mut seen).unwrap(), 3);
        assert_eq!(&seen, b"hel");
        let mut all = [0; 5];
        b.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"hello");
    }

    #[test]
    fn the_end_of_the_stream_is_seen() {
        let (mut a, b) = UnixStream::pair().unwrap();
        assert!(!hung_up(b.as_fd()));
        a.write_all(b"x").unwrap();
        drop(a);
        assert!(hung_up(b.as_fd()));
        let mut seen = [0; 3];
        assert_eq!(peek(b.as_fd(), &mut seen).unwrap(), 1);
    }
}
