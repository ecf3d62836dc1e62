//! The narrow interface through which everything goes that needs a path or a capability.
//!
//! A small process of its own, the *helper*, is this same program started with a hidden subcommand
//! before the daemon has threads. It takes requests from a closed set over a channel that nobody else
//! has, and answers with a descriptor or a reason. So the daemon, which reads what guests write, can
//! give up its privileges; what it can still have done is what the set allows:
//!
//! - listen on or connect to unix stream sockets directly inside the directories named at start. The
//!   set is closed then: a reload that names another directory is refused, with the remedy (restart);
//! - replace a socket there that nobody listens on; never a socket in use, nor any other file;
//! - remove sockets that it made itself.
//!
//! The helper ignores the signals that stop a process and lives as long as the channel: when the daemon
//! is gone, by intention or by SIGKILL, it removes the sockets that are still its own and exits. A
//! socket that a restarted daemon has put in their place stays.
//!
//! Any thread may ask; one request is under way at a time, and none waits for another process:
//! connecting succeeds at once or fails. This room knows no vhost-user, no API and no configuration.

mod helper;
mod place;
mod protocol;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

pub use helper::serve;
pub use protocol::{Action, Error, Refusal};
use protocol::{Reply, Request};

use crate::sys::fdpass::{Channel, MESSAGE_MAX};

/// The hidden subcommand by which this program becomes the helper; [`serve`] is what it runs.
pub const SUBCOMMAND: &str = "privileged-helper";

/// The daemon's side of its helper.
#[derive(Debug)]
pub struct Privileged {
    /// There until the drop.
    channel: Option<Mutex<Channel>>,
    child: Child,
}

impl Privileged {
    /// Starts the helper. Sockets may be in these directories (absolute paths; one that is missing
    /// may be created later), and in no other for as long as the helper lives.
    ///
    /// # Errors
    ///
    /// [`Error::Start`], or [`Error::Refused`] for a directory that is not an absolute path.
    pub fn spawn<P: AsRef<Path>>(
        directories: impl IntoIterator<Item = P>,
    ) -> Result<Privileged, Error> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("evb").arg(SUBCOMMAND);
        Privileged::spawn_as(command, directories)
    }

    fn spawn_as<P: AsRef<Path>>(
        mut command: Command,
        directories: impl IntoIterator<Item = P>,
    ) -> Result<Privileged, Error> {
        let (ours, theirs) = Channel::pair().map_err(Error::Start)?;
        // The command holds the other end until it is dropped, so that must be before we wait.
        let child = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::Start)?;
        drop(command);
        let helper = Privileged {
            channel: Some(Mutex::new(ours)),
            child,
        };
        for directory in directories {
            let path = directory.as_ref();
            let request = Request::Allow {
                directory: path.to_owned(),
            };
            helper.done(&request, Action::Allow, path)?;
        }
        // Its answer also says that the helper has come up and ignores signals by now.
        helper.done(&Request::Seal, Action::Allow, Path::new("/"))?;
        Ok(helper)
    }

    /// Listens on a unix stream socket at `path`, made with mode 0660. A stale socket there is
    /// replaced. The listener is blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] says why not and what helps; [`Error::Gone`].
    pub fn bind(&self, path: &Path) -> Result<UnixListener, Error> {
        let request = Request::Bind {
            path: path.to_owned(),
        };
        self.socket(&request, Action::Bind, path)
    }

    /// Connects to the unix stream socket at `path`, at once or not at all. The stream is blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] says why not and what helps; [`Error::Gone`].
    pub fn connect(&self, path: &Path) -> Result<UnixStream, Error> {
        let request = Request::Connect {
            path: path.to_owned(),
        };
        self.socket(&request, Action::Connect, path)
    }

    /// Removes the socket that [`Privileged::bind`] made at `path`. It is no error if it is gone, or if
    /// another process has put its own there.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for a path that was not bound, and for what the system refuses;
    /// [`Error::Gone`].
    pub fn unlink(&self, path: &Path) -> Result<(), Error> {
        let request = Request::Unlink {
            path: path.to_owned(),
        };
        self.done(&request, Action::Unlink, path)
    }

    fn socket<T: From<OwnedFd>>(
        &self,
        request: &Request,
        action: Action,
        path: &Path,
    ) -> Result<T, Error> {
        match self.ask(request, action, path)? {
            Some(socket) => Ok(T::from(socket)),
            None => Err(Error::Gone(io::ErrorKind::InvalidData.into())),
        }
    }

    fn done(&self, request: &Request, action: Action, path: &Path) -> Result<(), Error> {
        self.ask(request, action, path).map(drop)
    }

    fn ask(
        &self,
        request: &Request,
        action: Action,
        path: &Path,
    ) -> Result<Option<OwnedFd>, Error> {
        // A path that is not UTF-8 has no JSON, and one too long for a message no file.
        let unusable = |_| {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            Error::refused(action, path, Refusal::os("write the path as UTF-8", &error))
        };
        let message = serde_json::to_vec(request).map_err(unusable)?;
        if message.len() > MESSAGE_MAX {
            let error = io::Error::from_raw_os_error(libc::ENAMETOOLONG);
            return Err(Error::refused(action, path, Refusal::os("path", &error)));
        }
        let answer = self.exchange(&message).map_err(|error| {
            // What the kernel says of a descriptor that found no room in our table; the rest of the
            // answer is lost with it.
            if error.raw_os_error() == Some(libc::ENOBUFS) {
                let error = io::Error::from_raw_os_error(libc::EMFILE);
                Error::refused(action, path, Refusal::os("take the socket", &error))
            } else {
                Error::Gone(error)
            }
        })?;
        match answer {
            (Reply::Refused(refusal), _) => Err(Error::refused(action, path, refusal)),
            (Reply::Socket, Some(socket)) => Ok(Some(socket)),
            (Reply::Done, None) => Ok(None),
            _ => Err(Error::Gone(io::ErrorKind::InvalidData.into())),
        }
    }

    fn exchange(&self, message: &[u8]) -> io::Result<(Reply, Option<OwnedFd>)> {
        let Some(channel) = &self.channel else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        // Nothing under the lock panics, so there is no half-done exchange behind a poisoned one.
        let channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(message, None)?;
        let mut buffer = vec![0; MESSAGE_MAX];
        let (length, socket) = channel.receive(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&buffer[..length])?, socket))
    }
}

impl Drop for Privileged {
    /// Closes the channel and waits until the helper has removed the sockets.
    fn drop(&mut self) {
        self.channel = None;
        if let Err(error) = self.child.wait() {
            log::warn!("cannot wait for the privileged helper process: {error}");
        }
    }
}
