//! Where a frame goes.

use super::Seconds;
use super::port::{PortSet, Slot};
use super::tables::Relay;
use super::vlan::Class;
use crate::frame::ethernet::{Header, TagAction};
use crate::stats::DropReason;

/// A frame as the relay sees it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its parsed header.
    pub header: &'a Header,
    /// Its length in bytes.
    pub len: u32,
    /// Length of the longest frame that segmentation will make of it; `None` without segmentation.
    pub segment_len: Option<u32>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody receives it. It counts at the port it came from.
    Drop(DropReason),
    /// One port receives it.
    One(Slot),
    /// The ports in the set of targets receive it, one or more.
    Many,
}

/// A relay together with the ports that take part at the moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The tables.
    pub relay: &'a Relay,
    /// Ports whose rings run or whose carrier is up. The others neither send nor receive nor own
    /// addresses.
    pub active: &'a PortSet,
}

impl View<'_> {
    /// Decides where a frame that came from port `from` goes, and learns its source. `targets` is
    /// scratch space, meaningful only after [`Verdict::Many`].
    pub fn forward(
        &self,
        from: Slot,
        frame: &Frame<'_>,
        now: Seconds,
        targets: &mut PortSet,
    ) -> (Verdict, Class) {
        let _ = (frame, now);
        targets.clear();
        for (index, port) in self.relay.ports.iter().enumerate() {
            if let (Some(slot), Some(_)) = (Slot::new(index), port) {
                targets.insert(slot);
            }
        }
        targets.and(self.active);
        targets.remove(from);
        let verdict = if targets.is_empty() {
            Verdict::Drop(DropReason::NoReceiver)
        } else {
            Verdict::Many
        };
        (verdict, Class::default())
    }

    /// Decides how the copy for port `to` is tagged, or that the port must not get it. A refusal
    /// counts at `to`.
    pub fn egress(
        &self,
        to: Slot,
        class: &Class,
        frame: &Frame<'_>,
    ) -> Result<TagAction, DropReason> {
        let _ = (to, class, frame);
        Ok(TagAction::default())
    }
}
