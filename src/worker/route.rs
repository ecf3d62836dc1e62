//! From a frame to its copies: who gets it, with which tags.
//!
//! Asks the relay, follows patch links into further relays, and writes one [`Job`] for each copy.
//! It touches no ring.

use super::frame::Frame;
use super::snapshot::{Attachment, PortId, Snapshot};
use crate::frame::ethernet::TagAction;
use crate::relay::{self, PortSet, Verdict};
use crate::stats::DropReason;

/// Patch links that a frame may cross. A configuration without loops cannot need more.
const MAX_HOPS: usize = 64;

/// One copy to be made.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The receiver.
    pub port: PortId,
    /// Index of the form of the frame that it gets.
    pub frame: usize,
    /// How that form is changed for it.
    pub action: TagAction,
}

/// The copies of the frames of one burst. All buffers are kept from burst to burst.
#[derive(Default)]
pub struct Routes {
    /// The forms of the frames.
    pub frames: Vec<Frame>,
    /// The copies, in the order of the frames.
    pub jobs: Vec<Job>,
    targets: PortSet,
    /// Frames that entered a relay and have not been forwarded: the port they came in by, and the form.
    entered: Vec<(PortId, usize, usize)>,
}

impl Routes {
    /// Forgets the last burst.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.jobs.clear();
    }

    /// Adds the jobs of `frame`, which came in by `port`.
    ///
    /// Each drop, at that port or at a later one, is passed to `dropped`.
    pub fn add(
        &mut self,
        snapshot: &Snapshot,
        port: PortId,
        frame: Frame,
        now: u32,
        mut dropped: impl FnMut(PortId, DropReason),
    ) {
        self.frames.push(frame);
        self.entered.push((port, self.frames.len() - 1, 0));
        while let Some((port, frame, hops)) = self.entered.pop() {
            if let Err(reason) = self.forward(snapshot, port, frame, hops, now, &mut dropped) {
                dropped(port, reason);
            }
        }
    }

    /// One relay's decision on one form of a frame.
    fn forward(
        &mut self,
        snapshot: &Snapshot,
        from: PortId,
        index: usize,
        hops: usize,
        now: u32,
        dropped: &mut impl FnMut(PortId, DropReason),
    ) -> Result<(), DropReason> {
        let port = snapshot.port(from).ok_or(DropReason::PortDown)?;
        let in_relay = snapshot.relay(port.relay).ok_or(DropReason::PortDown)?;
        let view = relay::View {
            relay: &in_relay.relay,
            active: &in_relay.active,
        };
        let mut targets = std::mem::take(&mut self.targets);
        let frame = &self.frames[index];
        let (verdict, class) = view.forward(port.slot, &facts(frame), now, &mut targets);
        let mut deliver = |routes: &mut Self, slot| {
            let Some(to) = in_relay.port(slot) else {
                return;
            };
            let done = view
                .egress(slot, &class, &facts(&routes.frames[index]))
                .and_then(|action| routes.hand_over(snapshot, to, index, action, hops));
            if let Err(reason) = done {
                dropped(to, reason);
            }
        };
        let result = match verdict {
            Verdict::Drop(reason) => Err(reason),
            Verdict::One(slot) => {
                deliver(self, slot);
                Ok(())
            }
            Verdict::Many => {
                for slot in targets.iter() {
                    deliver(self, slot);
                }
                Ok(())
            }
        };
        self.targets = targets;
        result
    }

    /// A copy for `to`: a job, or the way through a patch link.
    fn hand_over(
        &mut self,
        snapshot: &Snapshot,
        to: PortId,
        frame: usize,
        action: TagAction,
        hops: usize,
    ) -> Result<(), DropReason> {
        match snapshot.port(to).map(|port| &port.attachment) {
            None => Err(DropReason::PortDown),
            Some(Attachment::Patch(peer)) => {
                if hops == MAX_HOPS {
                    return Err(DropReason::TooManyHops);
                }
                let frame = if action.is_keep() {
                    frame
                } else {
                    self.frames.push(self.frames[frame].retagged(action)?);
                    self.frames.len() - 1
                };
                self.entered.push((*peer, frame, hops + 1));
                Ok(())
            }
            Some(_) => {
                self.jobs.push(Job {
                    port: to,
                    frame,
                    action,
                });
                Ok(())
            }
        }
    }
}

/// What a relay looks at.
fn facts(frame: &Frame) -> relay::Frame<'_> {
    relay::Frame {
        header: &frame.header,
        len: frame.len as u32,
        segment_len: frame.segment_len,
    }
}
