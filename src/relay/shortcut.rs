//! The shortest way, for the frames that are nearly all: unicast from one bridge port to another,
//! both addresses known, the source seen within this second.
//!
//! It gives the answer of the long way or none, and changes nothing that the long way would not. It
//! exists because it takes a third of the instructions; the long way is the one to read.

use arrayvec::ArrayVec;

use super::Seconds;
use super::fdb::{Expected, Fid, Fresh};
use super::forward::{Frame, Verdict, View};
use super::port::{PortSet, Slot};
use super::tables::{Port, Relay, Sources, Vlan};
use super::vlan::Class;
use crate::frame::ethernet::{Header, TYPE_MAC_CONTROL};
use crate::frame::mac::Mac;

/// Frames whose addresses are fetched side by side.
const MANY: usize = 32;

/// A port whose frames come one after the other: what is the same for all of them, looked up once.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    view: View<'a>,
    from: Slot,
    now: Seconds,
    /// What the shortest way needs; `None` where it does not lead from this port.
    short: Option<Short<'a>>,
}

/// The sender's part of the shortest way.
#[derive(Clone, Copy, Debug)]
struct Short<'a> {
    port: &'a Port,
    source: Source,
    /// Whether any address of the relay is registered by configuration.
    registered: bool,
    /// Where its frames are in a relay without VLANs.
    flat: Option<Vlan<'a>>,
}

/// The sources that need no more than a look.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// This one.
    Only(Mac),
    /// Those that were learned here and seen within this second.
    Fresh(Fresh),
}

impl<'a> Sender<'a> {
    /// The sender in slot `from`, for frames that arrive within this second.
    pub(super) fn new(view: View<'a>, from: Slot, now: Seconds) -> Self {
        Self {
            view,
            from,
            now,
            short: Short::new(view, from, now),
        }
    }

    /// Decides where a frame of the sender goes, and learns its source. `targets` is scratch space,
    /// meaningful only after [`Verdict::Many`].
    #[inline]
    pub fn forward(&self, frame: &Frame<'_>, targets: &mut PortSet) -> (Verdict, Class) {
        match self.locate(frame.header) {
            Some((to, class)) if self.reaches(to, class) => (Verdict::One(to), class),
            _ => self.decide(frame, targets),
        }
    }

    /// The long way of [`Sender::forward`].
    pub fn decide(&self, frame: &Frame<'_>, targets: &mut PortSet) -> (Verdict, Class) {
        self.view.decide(self.from, frame.header, self.now, targets)
    }

    /// Where the destination of a frame is, if it takes no more than a look at both addresses. It is the
    /// receiver if the sender also [`reaches`](Sender::reaches) it.
    #[inline]
    pub fn locate(&self, header: &Header) -> Option<(Slot, Class)> {
        let short = self.short.as_ref()?;
        if header.dst.is_group() || header.outer_type() == TYPE_MAC_CONTROL {
            return None;
        }
        let relay = self.view.relay;
        let (class, fid) = short.classify(relay, header)?;
        match short.source {
            Source::Only(mac) if mac == header.src => short.port.state.note_vid(class.vid),
            Source::Fresh(fresh)
                if (!short.registered || relay.registered(header.src).is_empty())
                    && relay.fdb.is_fresh(fid, header.src, fresh) => {}
            _ => return None,
        }
        let to = self.receiver(fid, header.dst, short.registered)?;
        Some((to, class))
    }

    /// Hints that these frames are about to be forwarded: their addresses are then fetched side by side, and not
    /// one after the other.
    #[inline]
    pub fn expect<'h>(&self, headers: impl Iterator<Item = &'h Header>) {
        let relay = self.view.relay;
        let Some(short) = self.short.as_ref().filter(|_| relay.fdb.is_large()) else {
            return;
        };
        let fdb = &relay.fdb;
        let mut sources = ArrayVec::<Expected, MANY>::new();
        let (mut last, mut last_to) = (None, None);
        for header in headers.take(MANY) {
            // Most frames of a burst go where the one before went, and the others often to the same.
            if last.replace(header) != Some(header)
                && let Some((_, fid)) = short.classify(relay, header)
            {
                sources.push(fdb.expect(fid, header.src));
                let to = (fid, header.dst);
                if last_to.replace(to) != Some(to) {
                    fdb.expect(fid, header.dst);
                }
            }
        }
        // Frames to unknown addresses are few and dear anyway.
        for source in sources {
            fdb.expect_farther(source);
        }
    }

    /// Whether frames of this class go from the sender to slot `to` directly.
    #[inline]
    pub fn reaches(&self, to: Slot, class: Class) -> bool {
        let View { relay, active } = self.view;
        to != self.from
            && active.contains(to)
            && relay.masks.bridge.contains(to)
            && relay.vlan(class.vid).has(to)
    }

    #[inline]
    fn receiver(&self, fid: Fid, dst: Mac, registered: bool) -> Option<Slot> {
        let relay = self.view.relay;
        if registered {
            match relay.registered(dst) {
                [] => {}
                [to] if self.view.owns(*to) => return Some(*to),
                _ => return None,
            }
        }
        let (to, _) = relay.fdb.lookup(fid, dst, self.now)?;
        Some(to)
    }
}

impl<'a> Short<'a> {
    fn new(view: View<'a>, from: Slot, now: Seconds) -> Option<Self> {
        let View { relay, active } = view;
        let port = relay.port(from)?;
        // Registered addresses come first; pinned ones are left to the long way.
        if relay.fdb.has_pins() || !active.contains(from) {
            return None;
        }
        Some(Self {
            port,
            source: match port.sources {
                Sources::Other => return None,
                Sources::Only(mac) => Source::Only(mac),
                Sources::Learned => Source::Fresh(relay.fdb.fresh(from, now)?),
            },
            registered: relay.has_registered(),
            flat: relay.vids.is_none().then(|| relay.vlan(0)),
        })
    }

    /// The VLAN of a frame, and where its addresses are learned.
    #[inline]
    fn classify(&self, relay: &Relay, header: &Header) -> Option<(Class, Fid)> {
        if let Some(vlan) = &self.flat {
            return Some((Class::default(), vlan.fid));
        }
        let Port { vlan, config, .. } = self.port;
        let class = vlan
            .classify(header, config.default_pcp, relay.vids.as_ref()?)
            .ok()?;
        Some((class, relay.vlan(class.vid).fid))
    }
}
