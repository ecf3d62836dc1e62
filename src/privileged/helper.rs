//! The helper's side: one request after the other, until the daemon is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::place::{Identity, Place};
use super::protocol::{LinkRefusal, Refusal, Reply, Request};
use super::renounce;
use crate::sys::fdpass::{Channel, MESSAGE_MAX};
use crate::sys::process;
use crate::uplink::{self, Created, Opened, Spec};

/// Sockets are for the owner and the group: `rw-rw----`.
const UMASK: u32 = 0o117;

/// Serves the daemon whose channel is standard input; returns when the daemon has closed it, by
/// intention or by dying, and all sockets and devices are removed.
///
/// For the hidden subcommand [`super::SUBCOMMAND`], before the process has threads.
///
/// # Errors
///
/// `NotASocket` and the like where standard input is no such channel; `InvalidData` for a message
/// that is no request.
pub fn serve() -> io::Result<()> {
    process::ignore_stop_signals()?;
    renounce::all_but_those_of_the_helper().map_err(io::Error::other)?;
    process::set_umask(UMASK);
    std::env::set_current_dir("/")?;
    let channel = Channel::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut helper = Helper::default();
    let served = helper.run(&channel);
    helper.remove_all();
    served
}

/// What the helper knows. It reads no configuration and no environment: only what it was told.
#[derive(Default)]
struct Helper {
    /// Real paths of the directories in which sockets may be.
    allowed: BTreeSet<PathBuf>,
    /// Names of network devices that may be touched.
    devices: BTreeSet<String>,
    sealed: bool,
    /// Network devices that it made or changed, what does not end by itself, by their number.
    made: BTreeMap<u32, Made>,
    /// Sockets that it made, by their real path.
    bound: BTreeMap<PathBuf, Identity>,
    /// Files that it opened, by their real path.
    kept: BTreeMap<PathBuf, Identity>,
}

/// A network device that is to be removed, or made as it was.
struct Made {
    name: String,
    created: Created,
}

/// The answer to a request, and the descriptors that go with it.
type Answer = (Reply, Vec<OwnedFd>);

impl Helper {
    fn run(&mut self, channel: &Channel) -> io::Result<()> {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let (length, _) = channel.receive(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let request = serde_json::from_slice(&buffer[..length])?;
            let (reply, descriptors) = self.answer(request);
            let message = serde_json::to_vec(&reply)?;
            let descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
            match channel.send(&message, &descriptors) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                done => done?,
            }
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        match request {
            Request::AllowDevice { .. } if self.sealed => refused_link(LinkRefusal::Order),
            Request::AllowDevice { name } => {
                self.devices.insert(name);
                (Reply::Done, vec![])
            }
            Request::OpenLink { .. } | Request::RemoveLink { .. } if !self.sealed => {
                refused_link(LinkRefusal::Order)
            }
            Request::OpenLink { spec } => match self.open_link(&spec) {
                Ok(Opened { facts, queues, .. }) => (Reply::Link(facts), queues),
                Err(refusal) => refused_link(refusal),
            },
            Request::RemoveLink { ifindex } => match self.remove_link(ifindex) {
                Ok(()) => (Reply::Done, vec![]),
                Err(refusal) => refused_link(refusal),
            },
            request => match self.answer_for_path(request) {
                Ok(None) => (Reply::Done, vec![]),
                Ok(Some(opened)) => (Reply::Opened, vec![opened]),
                Err(refusal) => (Reply::Refused(refusal), vec![]),
            },
        }
    }

    fn answer_for_path(&mut self, request: Request) -> Result<Option<OwnedFd>, Refusal> {
        match request {
            Request::Allow { .. } | Request::Seal if self.sealed => Err(Refusal::Order),
            Request::Allow { directory } => {
                self.allow(&directory)?;
                Ok(None)
            }
            Request::Seal => {
                self.sealed = true;
                Ok(None)
            }
            Request::Bind { path } if self.sealed => self.bind(&path).map(Some),
            Request::Connect { path } if self.sealed => {
                let stream = Place::open(&self.allowed, &path)?.connect()?;
                Ok(Some(stream.into()))
            }
            Request::Keep { path } if self.sealed => {
                let place = Place::open(&self.allowed, &path)?;
                let (file, identity) = place.keep()?;
                self.kept.insert(place.real().to_owned(), identity);
                Ok(Some(file.into()))
            }
            Request::Unlink { path } if self.sealed => {
                self.unlink(&path)?;
                Ok(None)
            }
            _ => Err(Refusal::Order),
        }
    }

    fn open_link(&mut self, spec: &Spec) -> Result<Opened, LinkRefusal> {
        if let Some(other) = spec.devices().find(|name| !self.devices.contains(*name)) {
            let device = other.to_owned();
            return Err(LinkRefusal::NotAllowed { device });
        }
        let mut opened = uplink::open(spec)?;
        if let Some(created) = opened.created.take() {
            let name = opened.facts.name.clone();
            let made = Made { name, created };
            self.made.insert(opened.facts.ifindex, made);
        }
        Ok(opened)
    }

    fn remove_link(&mut self, ifindex: u32) -> Result<(), LinkRefusal> {
        let made = self.made.get(&ifindex).ok_or(LinkRefusal::NotMade)?;
        made.created.remove()?;
        if let Some(Made { created, .. }) = self.made.remove(&ifindex) {
            created.bequeath(self.made.values_mut().map(|other| &mut other.created));
        }
        Ok(())
    }

    fn allow(&mut self, directory: &Path) -> Result<(), Refusal> {
        if !directory.is_absolute() {
            return Err(Refusal::NotAbsolute);
        }
        // One that does not exist yet is allowed by the name that it has now: if it turns out to be
        // a link to elsewhere, its real path is not in the set.
        let real = fs::canonicalize(directory).unwrap_or_else(|_| directory.components().collect());
        self.allowed.insert(real);
        Ok(())
    }

    fn bind(&mut self, path: &Path) -> Result<OwnedFd, Refusal> {
        let place = Place::open(&self.allowed, path)?;
        let (listener, identity) = place.bind()?;
        self.bound.insert(place.real().to_owned(), identity);
        Ok(listener.into())
    }

    fn unlink(&mut self, path: &Path) -> Result<(), Refusal> {
        let place = Place::open(&self.allowed, path)?;
        let real = place.real();
        let made = self.bound.get(real).or_else(|| self.kept.get(real));
        place.remove(*made.ok_or(Refusal::NotMade)?)?;
        self.bound.remove(real);
        self.kept.remove(real);
        Ok(())
    }

    /// Removes every socket and every device that is still ours.
    fn remove_all(&mut self) {
        while let Some((_, Made { name, created })) = self.made.pop_first() {
            if let Err(error) = created.remove() {
                eprintln!("evb: the device {name} is not as it was: {error}");
            }
            created.bequeath(self.made.values_mut().map(|other| &mut other.created));
        }
        for (path, identity) in std::mem::take(&mut self.bound) {
            let removed =
                Place::open(&self.allowed, &path).and_then(|place| place.remove(identity));
            if let Err(refusal) = removed {
                eprintln!("evb: {} stays behind: {refusal}", path.display());
            }
        }
    }
}

fn refused_link(refusal: LinkRefusal) -> Answer {
    (Reply::LinkRefused(refusal), vec![])
}
