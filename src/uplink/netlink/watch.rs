//! News of devices: carrier, MTU and removal.
//!
//! Invariant: a change is told once, and the last one told of a device is true of it, also after news
//! were lost because too many came at once. What is there at the start is told first.
//!
//! Needs no capability. Knows only the network namespace in which it was made.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

use super::client::errno;

/// What is known of a device that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// It is switched on and has a carrier.
    pub up: bool,
    /// Its MTU.
    pub mtu: u32,
}

/// News of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The device.
    pub ifindex: u32,
    /// What is true of it now; `None` once it is gone.
    pub now: Option<State>,
}

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// A stream of news.
pub struct Watch {
    handle: Handle,
    messages: Box<dyn Stream<Item = Message> + Send + Unpin>,
    connection: JoinHandle<()>,
    known: BTreeMap<u32, State>,
    /// Not told yet.
    pending: VecDeque<Change>,
    /// `known` may miss something.
    stale: bool,
}

impl Watch {
    /// Begins to watch, on the runtime of the calling thread and in its network namespace.
    ///
    /// # Errors
    ///
    /// The error of the socket.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        Ok(Self {
            handle,
            messages: Box::new(messages.map(|(message, _)| message)),
            connection: tokio::spawn(connection),
            known: BTreeMap::new(),
            pending: VecDeque::new(),
            stale: true,
        })
    }

    /// Waits for the next change. Nothing is lost if the wait is given up.
    ///
    /// # Errors
    ///
    /// The connection to the kernel broke: [`Watch::renew`] makes another.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            if self.stale {
                self.list().await?;
                continue;
            }
            let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
            let message = self.messages.next().await.ok_or_else(broken)?;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    if let Some((ifindex, state)) = read(&link) {
                        self.note(ifindex, Some(state));
                    }
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                    if is_about_a_device(&link) =>
                {
                    self.note(link.header.index, None);
                }
                NetlinkPayload::Overrun(_) => self.stale = true,
                _ => {}
            }
        }
    }

    /// All that is known by now and was not told yet, without waiting for more.
    ///
    /// # Errors
    ///
    /// As for [`Watch::next`].
    pub async fn stock(&mut self) -> io::Result<Vec<Change>> {
        if self.stale {
            self.list().await?;
        }
        Ok(self.pending.drain(..).collect())
    }

    /// Begins anew after an error of [`Watch::next`], which then tells what was missed.
    ///
    /// # Errors
    ///
    /// The error of the socket.
    pub fn renew(&mut self) -> io::Result<()> {
        let mut fresh = Self::new()?;
        std::mem::swap(&mut fresh.known, &mut self.known);
        std::mem::swap(&mut fresh.pending, &mut self.pending);
        *self = fresh;
        Ok(())
    }

    /// Takes stock of all devices.
    async fn list(&mut self) -> io::Result<()> {
        let mut all = self.handle.link().get().execute();
        let mut found = BTreeMap::new();
        while let Some(link) = all.try_next().await.map_err(|error| errno(&error))? {
            found.extend(read(&link));
        }
        self.stale = false;
        let gone: Vec<u32> = self
            .known
            .keys()
            .filter(|ifindex| !found.contains_key(ifindex))
            .copied()
            .collect();
        for ifindex in gone {
            self.note(ifindex, None);
        }
        for (ifindex, state) in found {
            self.note(ifindex, Some(state));
        }
        Ok(())
    }

    fn note(&mut self, ifindex: u32, now: Option<State>) {
        let before = match now {
            Some(state) => self.known.insert(ifindex, state),
            None => self.known.remove(&ifindex),
        };
        if before != now {
            self.pending.push_back(Change { ifindex, now });
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A bridge tells of its ports in messages of the same type: one that leaves a bridge is not gone.
fn is_about_a_device(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn read(link: &LinkMessage) -> Option<(u32, State)> {
    if !is_about_a_device(link) {
        return None;
    }
    let mtu = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    // Running is switched on, with a carrier, and not waiting for anything else.
    let up = link
        .header
        .flags
        .contains(LinkFlags::Up | LinkFlags::Running);
    Some((link.header.index, State { up, mtu: mtu? }))
}
