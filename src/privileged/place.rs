//! A path that a request names, held by its directory.
//!
//! The directory is opened once, compared by its real path with those allowed, and from then on
//! reached by that descriptor: a link that is swapped in after the check changes nothing. The name
//! itself is never followed if it is a link.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::protocol::Refusal;
use crate::sys::connect::connect_at_once;

/// The longest path that a unix address holds.
const ADDRESS_MAX: usize = 107;

/// Tells a socket or a file from one that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    /// A file system may give the same inode number to the next file, hence the time; permissions and owner may
    /// change meanwhile. A file that is written to has none.
    modified: Option<(i64, i64)>,
}

impl Identity {
    fn of_socket(metadata: &Metadata) -> Identity {
        Identity {
            modified: Some((metadata.mtime(), metadata.mtime_nsec())),
            ..Identity::of_file(metadata)
        }
    }

    fn of_file(metadata: &Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: None,
        }
    }

    /// Whether it is this one's.
    fn fits(&self, metadata: &Metadata) -> bool {
        let present = match self.modified {
            Some(_) => Identity::of_socket(metadata),
            None => Identity::of_file(metadata),
        };
        present == *self
    }
}

/// A name in an open, allowed directory.
pub(super) struct Place {
    directory: File,
    /// The path without links.
    real: PathBuf,
    name: OsString,
}

impl Place {
    /// Opens the directory of `path`, if it is in `allowed`.
    pub(super) fn open(allowed: &BTreeSet<PathBuf>, path: &Path) -> Result<Place, Refusal> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Refusal::NotAbsolute);
        };
        if !path.is_absolute() {
            return Err(Refusal::NotAbsolute);
        }
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(parent)
            .map_err(|error| Refusal::os("open the directory", &error))?;
        let real = fs::read_link(by_descriptor(&directory))
            .map_err(|error| Refusal::os("find the directory", &error))?;
        if !allowed.contains(&real) {
            return Err(Refusal::NotAllowed { directory: real });
        }
        Ok(Place {
            directory,
            real: real.join(name),
            name: name.to_owned(),
        })
    }

    /// The path, links resolved: one socket has one.
    pub(super) fn real(&self) -> &Path {
        &self.real
    }

    fn path(&self) -> PathBuf {
        by_descriptor(&self.directory).join(&self.name)
    }

    /// Opens what is there, without following a link and without permission to use it.
    fn look(&self) -> Result<Option<File>, Refusal> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(self.path());
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Refusal::os("look at it", &error)),
        }
    }

    /// The socket that is there, or `None`; anything else is refused.
    fn socket(&self) -> Result<Option<(File, Identity)>, Refusal> {
        let Some(file) = self.look()? else {
            return Ok(None);
        };
        let metadata = file
            .metadata()
            .map_err(|error| Refusal::os("look at it", &error))?;
        if metadata.file_type().is_socket() {
            Ok(Some((file, Identity::of_socket(&metadata))))
        } else {
            let found = describe(metadata.file_type()).to_owned();
            Err(Refusal::NotASocket { found })
        }
    }

    /// Listens here; a socket that nobody listens on any more is replaced.
    pub(super) fn bind(&self) -> Result<(UnixListener, Identity), Refusal> {
        if let Some((file, identity)) = self.socket()? {
            match connect_at_once(&by_descriptor(&file)) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.remove(identity)?;
                }
                Ok(_) => return Err(Refusal::InUse),
                // Its backlog is full, or it is of another type: somebody is there.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        || error.raw_os_error() == Some(libc::EPROTOTYPE) =>
                {
                    return Err(Refusal::InUse);
                }
                Err(error) => return Err(Refusal::os("try the socket that is there", &error)),
            }
        }
        // The address is what `ss` shows, so it is the real path where that fits.
        let listener = if self.real.as_os_str().len() <= ADDRESS_MAX {
            UnixListener::bind(&self.real)
        } else {
            UnixListener::bind(self.path())
        };
        let listener = listener.map_err(|error| Refusal::os("bind", &error))?;
        // It was free before, so a socket there now is ours; none means that the directory was moved
        // away under the path, and what we have made elsewhere is not handed out.
        match self.socket()? {
            Some((_, identity)) => Ok((listener, identity)),
            None => Err(Refusal::os(
                "bind",
                &io::Error::from_raw_os_error(libc::ENOENT),
            )),
        }
    }

    /// Connects to the socket that is here.
    pub(super) fn connect(&self) -> Result<UnixStream, Refusal> {
        match self.socket()? {
            Some((file, _)) => connect_at_once(&by_descriptor(&file)),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
        .map_err(|error| Refusal::os("connect", &error))
    }

    /// Opens the file that is here, or makes it. It has to be of this user alone, by this name alone.
    pub(super) fn keep(&self) -> Result<(File, Identity), Refusal> {
        let open = |error| Refusal::os("open", &error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o600)
            // Not waiting for the other end of a pipe.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.path())
            .map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        let own = fs::metadata("/proc/self").map_err(open)?.uid();
        let kind = metadata.file_type();
        let found = if !kind.is_file() {
            describe(kind)
        } else if metadata.uid() != own {
            "a file of another user"
        } else if metadata.mode() & 0o077 != 0 {
            "a file that others may use"
        } else if metadata.nlink() != 1 {
            "a file that has another name, too"
        } else {
            return Ok((file, Identity::of_file(&metadata)));
        };
        Err(Refusal::NotOurs {
            found: found.to_owned(),
        })
    }

    /// Removes what is here if it is still what has this identity. That it is gone, or another's by now, is no error:
    /// ours is not there.
    pub(super) fn remove(&self, identity: Identity) -> Result<(), Refusal> {
        let Some(file) = self.look()? else {
            return Ok(());
        };
        let metadata = file
            .metadata()
            .map_err(|error| Refusal::os("look at it", &error))?;
        if !identity.fits(&metadata) {
            return Ok(());
        }
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Refusal::os("remove", &error))
            }
            _ => Ok(()),
        }
    }
}

/// The path by which this process reaches a file that it holds.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

fn describe(kind: FileType) -> &'static str {
    if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}
