//! A message channel between two processes that can carry descriptors along.
//!
//! Messages keep their boundaries (`SOCK_SEQPACKET`) and their descriptors. Knows nothing of what the
//! messages say. A channel may be shared between threads as any descriptor may; who needs
//! answers to match questions brings a lock.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The longest message; a longer one is refused by [`Channel::send`].
pub const MESSAGE_MAX: usize = 16 * 1024;
/// The most descriptors of one message; more are refused by [`Channel::send`]. A link has up to 64 queues,
/// and a few more descriptors.
pub const DESCRIPTORS_MAX: usize = 72;

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

    /// Sends one message, with the descriptors that belong to it. Waits while the channel is full.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a message that is empty or too long or has too many descriptors, otherwise
    /// the error of `sendmsg`: `BrokenPipe` if the other end is closed.
    pub fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.is_empty() || message.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        // A message of this kind is sent whole or not at all.
        retry(|| self.send_with_fds(&[message], &descriptors)).map(drop)
    }

    /// Waits for one message and copies it into `buffer`; 0 at the end: the other end is closed.
    ///
    /// What does not fit the buffer is lost, so it should hold [`MESSAGE_MAX`].
    ///
    /// # Errors
    ///
    /// The error of `recvmsg`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut arrived = [-1; DESCRIPTORS_MAX];
        let mut parts = [libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        }];
        // SAFETY: the one part is the exclusively borrowed buffer with its true length.
        let (length, count) = retry(|| unsafe { self.recv_with_fds(&mut parts, &mut arrived) })?;
        let arrived: Vec<OwnedFd> = arrived[..count]
            .iter()
            // SAFETY: the kernel has just installed this many descriptors, which nobody else owns.
            .map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
            .collect();
        // They arrive without close-on-exec; the duplicates have it.
        let descriptors: io::Result<_> = arrived.iter().map(OwnedFd::try_clone).collect();
        Ok((length, descriptors?))
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
        a.send(b"one", &[far.as_fd(), far.as_fd()]).unwrap();
        a.send(b"two!", &[]).unwrap();
        drop((a, far));
        let mut buffer = [0; MESSAGE_MAX];
        let (length, mut descriptors) = b.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"one");
        assert_eq!(descriptors.len(), 2);
        let descriptor = descriptors.remove(1);
        assert!(closes_on_exec(&descriptor) && closes_on_exec(&b.0));
        let (length, none) = b.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"two!");
        assert!(none.is_empty());
        assert_eq!(b.receive(&mut buffer).unwrap().0, 0);
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        drop(descriptors);
        UnixStream::from(descriptor).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_message_that_could_not_be_received_is_not_sent() {
        let (a, b) = Channel::pair().unwrap();
        for message in [Vec::new(), vec![0; MESSAGE_MAX + 1]] {
            let error = a.send(&message, &[]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let many = [b.as_fd(); DESCRIPTORS_MAX + 1];
        let error = a.send(b"x", &many).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        a.send(b"x", &many[1..]).unwrap();
        let (_, descriptors) = b.receive(&mut [0; 8]).unwrap();
        assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
        drop((b, descriptors));
        let error = a.send(b"x", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
