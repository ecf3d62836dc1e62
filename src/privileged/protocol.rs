//! What the daemon and its helper say to each other: a closed set of requests, and one reply to each.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::uplink::{Facts, LinkError, Spec};

/// What the daemon may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Sockets may be made and reached in this directory. Refused after [`Request::Seal`].
    Allow { directory: PathBuf },
    /// The network device of this name may be made, taken, changed and removed. Refused after
    /// [`Request::Seal`].
    AllowDevice { name: String },
    /// Directories and devices are complete; everything else is refused before.
    Seal,
    /// A listening stream socket at this path.
    Bind { path: PathBuf },
    /// A stream connected to the socket at this path.
    Connect { path: PathBuf },
    /// The file at this path, made if there is none.
    Keep { path: PathBuf },
    /// Remove the socket that was bound, or the file that was kept, at this path.
    Unlink { path: PathBuf },
    /// Make or take a network device.
    OpenLink { spec: Spec },
    /// Remove the network device that was made under this number, or undo what was changed about it.
    RemoveLink { ifindex: u32 },
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Done, and there is nothing to hand over.
    Done,
    /// The socket or the file comes with this message.
    Opened,
    /// The device's descriptors come with this message.
    Link(Facts),
    /// Not done, for a path.
    Refused(Refusal),
    /// Not done, for a device.
    LinkRefused(LinkRefusal),
}

/// Why the helper did not do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A path that does not start at the root, or that names no file.
    #[error("it is not the absolute path of a file")]
    NotAbsolute,
    /// A directory that was not given at start.
    #[error("{} is not one of the directories that evb was started with", directory.display())]
    NotAllowed {
        /// The directory, links resolved.
        directory: PathBuf,
    },
    /// Something is there that is not a socket.
    #[error("there is {found}, not a socket")]
    NotASocket {
        /// What is there.
        found: String,
    },
    /// Something is there that is not a file of this user alone.
    #[error("there is {found}")]
    NotOurs {
        /// What is there.
        found: String,
    },
    /// Somebody listens on the socket that is there.
    #[error("another process uses the socket that is there")]
    InUse,
    /// Only what the same daemon has made is removed.
    #[error("it is nothing that this evb has made")]
    NotMade,
    /// The set of directories is closed, or not complete yet.
    #[error("the set of directories can be given at start only")]
    Order,
    /// The operating system refused.
    #[error("{call}: {}", io::Error::from_raw_os_error(*errno))]
    Os {
        /// What was tried.
        call: String,
        /// Its error.
        errno: i32,
    },
}

impl Refusal {
    pub(super) fn os(call: &str, error: &io::Error) -> Refusal {
        Refusal::Os {
            call: call.to_owned(),
            // The standard library checks some arguments itself and then has no number.
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Refusal::NotAbsolute => "write the whole path, from / to the name of the socket",
            Refusal::NotAllowed { .. } => {
                "restart evb with this configuration, or use a directory that it has already"
            }
            Refusal::NotASocket { .. } | Refusal::NotOurs { .. } => {
                "remove it or choose another path"
            }
            Refusal::InUse => "stop that process or choose another path",
            Refusal::NotMade => "remove it by hand if nobody needs it",
            Refusal::Order => "restart evb",
            Refusal::Os { errno, .. } => match *errno {
                libc::ENOENT | libc::ENOTDIR => "create what is missing, or correct the path",
                libc::EACCES | libc::EPERM => {
                    "let the user that evb runs as use the socket and write in its directory"
                }
                libc::ECONNREFUSED => "start the process that should listen there",
                libc::EAGAIN => "look why the process that listens there accepts nobody",
                libc::EROFS => "choose a directory on a writable file system",
                libc::EMFILE | libc::ENFILE => "raise the limit of open files (LimitNOFILE=)",
                libc::ENOSPC | libc::EDQUOT => "make room on the file system",
                _ => "look into the system's log",
            },
        }
    }
}

/// Why the helper did not do it to a network device. The text ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LinkRefusal {
    /// A device that was not given at start.
    #[error(
        "{device} is not one of the devices that evb was started with; restart evb with this \
         configuration"
    )]
    NotAllowed {
        /// The device.
        device: String,
    },
    /// Only devices that the same daemon has made are removed.
    #[error("it is not a device that this evb has made; remove it by hand if nobody needs it")]
    NotMade,
    /// The set of devices is closed, or not complete yet.
    #[error("the set of devices can be given at start only; restart evb")]
    Order,
    /// The device cannot be made or taken.
    #[error(transparent)]
    Device(#[from] LinkError),
}

/// What was to be done with a path or a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Name it as a directory for sockets.
    Allow,
    /// Listen on it.
    Bind,
    /// Connect to it.
    Connect,
    /// Open it, a file.
    Keep,
    /// Remove it.
    Unlink,
    /// Name it as a device that may be opened.
    AllowDevice,
    /// Open it, a device.
    OpenLink,
}

impl Action {
    fn words(self) -> &'static str {
        match self {
            Action::Allow => "use the directory",
            Action::Bind => "listen on",
            Action::Connect => "connect to",
            Action::Keep => "keep state in",
            Action::Unlink => "remove",
            Action::AllowDevice => "use the device",
            Action::OpenLink => "open",
        }
    }
}

/// Why a request to the helper failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The helper refused. The text ends with the remedy.
    #[error("cannot {} {}: {refusal}; {}", action.words(), path.display(), refusal.remedy())]
    Refused {
        /// What was asked for.
        action: Action,
        /// The path it was asked for.
        path: PathBuf,
        /// Why not.
        #[source]
        refusal: Refusal,
    },
    /// The helper refused something about a network device. The text ends with the remedy.
    #[error("cannot {} {device}: {refusal}", action.words())]
    LinkRefused {
        /// What was asked for.
        action: Action,
        /// The device it was asked for.
        device: String,
        /// Why not.
        #[source]
        refusal: LinkRefusal,
    },
    /// The helper could not be started.
    #[error("cannot start the privileged helper process: {0}")]
    Start(#[source] io::Error),
    /// The helper does not answer, or not as it should; it is of no more use.
    #[error("the privileged helper process is gone: {0}; restart evb")]
    Gone(#[source] io::Error),
}

impl Error {
    pub(super) fn refused(action: Action, path: &Path, refusal: Refusal) -> Error {
        Error::Refused {
            action,
            path: path.to_owned(),
            refusal,
        }
    }

    /// The number of the operating system's error, where it was one that refused.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Error::Refused {
                refusal: Refusal::Os { errno, .. },
                ..
            }
            | Error::LinkRefused {
                refusal: LinkRefusal::Device(LinkError::Os { errno, .. }),
                ..
            } => Some(*errno),
            Error::Refused { .. } | Error::LinkRefused { .. } => None,
            Error::Start(error) | Error::Gone(error) => error.raw_os_error(),
        }
    }
}
