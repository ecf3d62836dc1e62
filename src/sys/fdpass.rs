//! A message channel between two processes that can carry a descriptor along.
//!
//! Messages keep their boundaries (`SOCK_SEQPACKET`) and carry at most one descriptor. Knows nothing
//! of what the messages say. A channel may be shared between threads as any descriptor may; who needs
//! answers to match questions brings a lock.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The longest message; a longer one is refused by [`Channel::send`].
pub const MESSAGE_MAX: usize = 16 * 1024;

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl ScmSocket for Channel {
    fn socket_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Channel {
    /// Two connected ends. Neither survives an `exec` unless it is handed over on purpose.
    ///
    /// # Errors
    ///
    /// The error of `socketpair`.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: the kernel writes two descriptors into the array of two.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: socketpair succeeded: both descriptors are new and nobody else owns them.
        let [ours, theirs] = ends.map(|end| Channel(unsafe { OwnedFd::from_raw_fd(end) }));
        Ok((ours, theirs))
    }

    /// Sends one message, with a descriptor where there is one. Waits while the channel is full.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a message that is empty or too long, otherwise the error of `sendmsg`:
    /// `BrokenPipe` if the other end is closed.
    pub fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if message.is_empty() || message.len() > MESSAGE_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let descriptor = descriptor.map(|fd| fd.as_raw_fd());
        // A message of this kind is sent whole or not at all.
        retry(|| self.send_with_fds(&[message], descriptor.as_slice())).map(drop)
    }

    /// Waits for one message and copies it into `buffer`; 0 at the end: the other end is closed.
    ///
    /// What does not fit the buffer is lost, so it should hold [`MESSAGE_MAX`].
    ///
    /// # Errors
    ///
    /// The error of `recvmsg`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let (length, file) = retry(|| self.recv_with_fd(buffer))?;
        // It arrives without close-on-exec; the duplicate has it.
        let descriptor = file
            .map(|file| OwnedFd::from(file).try_clone())
            .transpose()?;
        Ok((length, descriptor))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    /// Takes a descriptor for an end; one that is none shows at the first use.
    fn from(descriptor: OwnedFd) -> Channel {
        Channel(descriptor)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> Result<T, vmm_sys_util::errno::Error>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn closes_on_exec(fd: &impl AsRawFd) -> bool {
        // SAFETY: F_GETFD takes and returns plain integers.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) & libc::FD_CLOEXEC != 0 }
    }

    #[test]
    fn messages_keep_their_boundaries_and_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        a.send(b"one", Some(far.as_fd())).unwrap();
        a.send(b"two!", None).unwrap();
        drop((a, far));
        let mut buffer = [0; MESSAGE_MAX];
        let (length, descriptor) = b.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"one");
        let descriptor = descriptor.unwrap();
        assert!(closes_on_exec(&descriptor) && closes_on_exec(&b.0));
        let (length, none) = b.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"two!");
        assert!(none.is_none());
        assert_eq!(b.receive(&mut buffer).unwrap().0, 0);
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(descriptor).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_message_that_could_not_be_received_is_not_sent() {
        let (a, b) = Channel::pair().unwrap();
        for message in [Vec::new(), vec![0; MESSAGE_MAX + 1]] {
            let error = a.send(&message, None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        drop(b);
        let error = a.send(b"x", None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
