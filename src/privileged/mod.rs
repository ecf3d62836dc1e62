//! The narrow interface through which everything goes that needs a path or a capability.
//!
//! A small process of its own, the *helper*, is this same program started with a hidden subcommand
//! before the daemon has threads. It takes requests from a closed set over a channel that nobody else
//! has, and answers with a descriptor or a reason. So the daemon, which reads what guests write, gives
//! up all its capabilities ([`Privileged::renounce`]), and the helper those that no request needs; what the daemon
//! can still have done is what the set allows:
//!
//! - listen on or connect to unix stream sockets directly inside the directories named at start. The
//!   set is closed then: a reload that names another directory is refused, with the remedy (restart);
//! - replace a socket there that nobody listens on; never a socket in use, nor any other file;
//! - remove sockets that it made itself;
//! - open or make files there that belong to its user alone, and remove those again;
//! - make, take and set up the network devices named at start, a set that is closed as well, and
//!   remove those that it made itself. A device with `AF_XDP` sockets gets a program and loses features that
//!   would harm frames, and so does the other device of a pair; both are as before at the end.
//!
//! The helper ignores the signals that stop a process and lives as long as the channel: when the daemon
//! is gone, by intention or by SIGKILL, it removes the sockets and devices that are still its own and exits. A
//! socket that a restarted daemon has put in their place stays.
//!
//! Any thread may ask; one request is under way at a time, and none waits for another process:
//! connecting succeeds at once or fails. This room knows no vhost-user, no API and no configuration.

mod handed;
mod helper;
mod place;
mod protocol;
mod renounce;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

pub use handed::Handed;
pub use helper::serve;
pub use protocol::{Action, Error, LinkRefusal, Refusal};
use protocol::{Reply, Request};

use crate::sys::fdpass::{Channel, MESSAGE_MAX};
use crate::uplink::{Link, LinkError, Spec};

/// The hidden subcommand by which this program becomes the helper; [`serve`] is what it runs.
pub const SUBCOMMAND: &str = "privileged-helper";

/// The daemon's side of its helper.
#[derive(Debug)]
pub struct Privileged {
    /// There until the drop.
    channel: Option<Mutex<Channel>>,
    child: Child,
    /// Names of the devices that may be opened.
    devices: BTreeSet<String>,
    handed: Handed,
}

impl Privileged {
    /// Starts the helper. Sockets may be in these directories (absolute paths; one that is missing
    /// may be created later), and in no other for as long as the helper lives; the same goes for the
    /// names of network devices.
    ///
    /// # Errors
    ///
    /// [`Error::Start`], or [`Error::Refused`] for a directory that is not an absolute path.
    pub fn spawn<P: AsRef<Path>, D: AsRef<str>>(
        directories: impl IntoIterator<Item = P>,
        devices: impl IntoIterator<Item = D>,
    ) -> Result<Privileged, Error> {
        let mut command = Command::new("/proc/self/exe");
        let level = log::max_level().as_str();
        command.arg0("evb").args([SUBCOMMAND, level]);
        Privileged::spawn_as(command, directories, devices)
    }

    fn spawn_as<P: AsRef<Path>, D: AsRef<str>>(
        mut command: Command,
        directories: impl IntoIterator<Item = P>,
        devices: impl IntoIterator<Item = D>,
    ) -> Result<Privileged, Error> {
        let (ours, theirs) = Channel::pair().map_err(Error::Start)?;
        // The command holds the other end until it is dropped, so that must be before we wait.
        let child = command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::Start)?;
        drop(command);
        let mut helper = Privileged {
            channel: Some(Mutex::new(ours)),
            child,
            devices: BTreeSet::new(),
            handed: Handed::default(),
        };
        for directory in directories {
            let path = directory.as_ref();
            let request = Request::Allow {
                directory: path.to_owned(),
            };
            helper.done(&request, Action::Allow, path)?;
        }
        for device in devices {
            let name = device.as_ref().to_owned();
            helper.ask_link(
                &Request::AllowDevice { name },
                device.as_ref(),
                Action::AllowDevice,
            )?;
            helper.devices.insert(device.as_ref().to_owned());
        }
        // Its answer also says that the helper has come up and ignores signals by now.
        helper.done(&Request::Seal, Action::Allow, Path::new("/"))?;
        Ok(helper)
    }

    /// Gives up all capabilities of this process, for good: from here on, what needs one goes through the helper.
    /// For a process without threads.
    ///
    /// # Errors
    ///
    /// [`Error::Start`].
    pub fn renounce(self) -> Result<Privileged, Error> {
        let done = renounce::all().map_err(|error| Error::Start(io::Error::other(error)));
        done.map(|()| self)
    }

    /// The same, with devices that are already open.
    #[must_use]
    pub fn with(mut self, handed: Handed) -> Privileged {
        self.handed = handed;
        self
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
        self.opened(&request, Action::Bind, path)
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
        self.opened(&request, Action::Connect, path)
    }

    /// Opens the file at `path` for reading and writing, or makes it, for this user alone. It stays when the
    /// helper ends.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] says why not and what helps; [`Error::Gone`].
    pub fn keep(&self, path: &Path) -> Result<File, Error> {
        let request = Request::Keep {
            path: path.to_owned(),
        };
        self.opened(&request, Action::Keep, path)
    }

    /// Removes the socket that [`Privileged::bind`] made at `path`, or the file that [`Privileged::keep`] opened. It
    /// is no error if it is gone, or if another process has put its own there.
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

    /// Whether all devices of `spec` were named at start, so that it may be opened.
    ///
    /// # Errors
    ///
    /// [`Error::LinkRefused`] names one that was not.
    pub fn admits(&self, spec: &Spec) -> Result<(), Error> {
        let refusal = if let Spec::Handed(handed) = spec {
            self.handed.queues(handed).err().map(LinkRefusal::Device)
        } else {
            let mut devices = spec.devices();
            let other = devices.find(|name| !self.devices.contains(*name));
            other.map(|device| LinkRefusal::NotAllowed {
                device: device.to_owned(),
            })
        };
        refusal.map_or(Ok(()), |refusal| Err(refused_link(spec, refusal)))
    }

    /// Makes or takes a network device; one that was handed in is taken without the helper. It is removed, if it was made, by
    /// [`Privileged::remove_link`] or with the helper; a TAP device goes with the last use of the link.
    ///
    /// # Errors
    ///
    /// [`Error::LinkRefused`] says why not and what helps; [`Error::Gone`].
    pub fn open_link(&self, spec: &Spec) -> Result<Link, Error> {
        if let Spec::Handed(handed) = spec {
            let opened = self.handed.open(handed);
            let link = opened.and_then(|opened| Link::new(opened.facts, opened.queues));
            return link.map_err(|error| refused_link(spec, LinkRefusal::Device(error)));
        }
        let request = Request::OpenLink { spec: spec.clone() };
        match self.ask_link(&request, spec.name(), Action::OpenLink)? {
            (Reply::Link(facts), queues) if !queues.is_empty() => {
                let ifindex = facts.ifindex;
                Link::new(facts, queues).map_err(|error| {
                    let request = Request::RemoveLink { ifindex };
                    // The first error is the one to tell.
                    if let Err(error) = self.ask_link(&request, spec.name(), Action::Unlink) {
                        log::warn!("{error}");
                    }
                    refused_link(spec, LinkRefusal::Device(error))
                })
            }
            _ => Err(unexpected()),
        }
    }

    /// Removes the device of a link if [`Privileged::open_link`] made it and it does not go by itself, and
    /// undoes what was changed about one that was there. It is no error if there is nothing to undo.
    ///
    /// # Errors
    ///
    /// [`Error::LinkRefused`] for what the system refuses; [`Error::Gone`].
    pub fn remove_link(&self, link: &Link) -> Result<(), Error> {
        let ifindex = link.ifindex();
        let request = Request::RemoveLink { ifindex };
        match self.ask_link(&request, link.name(), Action::Unlink) {
            Err(Error::LinkRefused {
                refusal: LinkRefusal::NotMade,
                ..
            })
            | Ok((Reply::Done, _)) => Ok(()),
            Ok(_) => Err(unexpected()),
            Err(error) => Err(error),
        }
    }

    fn opened<T: From<OwnedFd>>(
        &self,
        request: &Request,
        action: Action,
        path: &Path,
    ) -> Result<T, Error> {
        let (_, mut descriptors) = self.ask(request, action, path)?;
        descriptors.pop().map(T::from).ok_or_else(unexpected)
    }

    fn done(&self, request: &Request, action: Action, path: &Path) -> Result<(), Error> {
        self.ask(request, action, path).map(drop)
    }

    /// Asks for something about a path.
    fn ask(
        &self,
        request: &Request,
        action: Action,
        path: &Path,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let refused = |call: &str, errno| {
            let error = io::Error::from_raw_os_error(errno);
            Error::refused(action, path, Refusal::os(call, &error))
        };
        // A path that is not UTF-8 has no JSON, and one too long for a message no file.
        let message = serde_json::to_vec(request)
            .map_err(|_| refused("write the path as UTF-8", libc::EINVAL))?;
        if message.len() > MESSAGE_MAX {
            return Err(refused("path", libc::ENAMETOOLONG));
        }
        match self.exchange(&message) {
            Ok((Reply::Refused(refusal), _)) => Err(Error::refused(action, path, refusal)),
            Ok((reply @ (Reply::Opened | Reply::Done), descriptors)) => Ok((reply, descriptors)),
            Ok(_) => Err(unexpected()),
            Err(error) if found_no_room(&error) => Err(refused("take the socket", libc::EMFILE)),
            Err(error) => Err(Error::Gone(error)),
        }
    }

    /// Asks for something about a network device.
    fn ask_link(
        &self,
        request: &Request,
        device: &str,
        action: Action,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let refused = |refusal| {
            Err(Error::LinkRefused {
                action,
                device: device.to_owned(),
                refusal,
            })
        };
        let message =
            serde_json::to_vec(request).map_err(|error| Error::Gone(io::Error::other(error)))?;
        match self.exchange(&message) {
            Ok((Reply::LinkRefused(refusal), _)) => refused(refusal),
            Ok((reply @ (Reply::Link(_) | Reply::Done), queues)) => Ok((reply, queues)),
            Ok(_) => Err(unexpected()),
            Err(error) if found_no_room(&error) => refused(LinkRefusal::Device(LinkError::Os {
                call: "taking its descriptors".to_owned(),
                errno: libc::EMFILE,
            })),
            Err(error) => Err(Error::Gone(error)),
        }
    }

    fn exchange(&self, message: &[u8]) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let Some(channel) = &self.channel else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        // Nothing under the lock panics, so there is no half-done exchange behind a poisoned one.
        let channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send(message, &[])?;
        let mut buffer = vec![0; MESSAGE_MAX];
        let (length, descriptors) = channel.receive(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&buffer[..length])?, descriptors))
    }
}

fn refused_link(spec: &Spec, refusal: LinkRefusal) -> Error {
    Error::LinkRefused {
        action: Action::OpenLink,
        device: spec.name().to_owned(),
        refusal,
    }
}

fn unexpected() -> Error {
    Error::Gone(io::ErrorKind::InvalidData.into())
}

/// What the kernel says of descriptors that found no room in our table; the rest of the answer is
/// lost with them.
fn found_no_room(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

impl Drop for Privileged {
    /// Closes the channel and waits until the helper has removed its sockets and devices.
    fn drop(&mut self) {
        self.channel = None;
        if let Err(error) = self.child.wait() {
            log::warn!("cannot wait for the privileged helper process: {error}");
        }
    }
}
