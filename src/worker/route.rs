//! From a frame to its copies: who gets it, with which tags.
//!
//! Asks the relay, follows patch links into further relays, and writes one [`Job`] for each copy.
//! It touches no ring.

use super::count::{Account, Counts};
use super::frame::Frame;
use super::snapshot::{Attachment, PortId, Snapshot};
use crate::frame::ethernet::TagAction;
use crate::frame::mac::Mac;
use crate::relay::{self, PortSet, Verdict};
use crate::stats::DropReason;

/// Patch links that a frame may cross. A configuration without loops cannot need more.
const MAX_HOPS: usize = 64;

/// One copy to be made.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The receiver.
    pub port: PortId,
    /// The VLAN in which it gets the frame; 0 where there are none.
    pub vid: u16,
    /// Index of the form of the frame that it gets.
    pub frame: usize,
    /// How that form is changed for it.
    pub action: TagAction,
}

impl Job {
    /// Where it is counted.
    pub fn account(&self) -> Account {
        Account {
            port: self.port,
            vid: self.vid,
        }
    }
}

/// A frame that came into a relay, to be counted once it is done.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// By which port, and in which VLAN.
    pub at: Account,
    /// The port at the other end of the patch link that it came through, and the VLAN there.
    left: Option<Account>,
    /// Which chain, or which buffer, of the burst it lies in.
    chain: usize,
    /// To whom.
    dst: Mac,
    /// Bytes.
    len: usize,
}

impl Entry {
    /// Counts it.
    #[inline]
    fn count(&self, snapshot: &Snapshot, worker: usize) {
        if let Some(counts) = Counts::of(snapshot, self.at.port, worker) {
            counts.tx(self.at.vid, self.dst, self.len);
        }
        if let Some(left) = self.left
            && let Some(counts) = Counts::of(snapshot, left.port, worker)
        {
            counts.rx(left.vid, self.dst, self.len);
        }
    }
}

/// A frame that is to enter a relay.
struct Entering {
    port: PortId,
    left: Option<Account>,
    /// Its form.
    frame: usize,
    /// Patch links it has crossed.
    hops: usize,
}

/// The copies of the frames of one burst. All buffers are kept from burst to burst.
#[derive(Default)]
pub struct Routes {
    /// The forms of the frames.
    pub frames: Vec<Frame>,
    /// The copies, in the order of the frames.
    pub jobs: Vec<Job>,
    /// Where the frames came into relays, in their order.
    pub entries: Vec<Entry>,
    targets: PortSet,
    /// Frames at a port of a relay that have not been forwarded.
    entering: Vec<Entering>,
}

impl Routes {
    /// Forgets the last burst.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.jobs.clear();
        self.entries.clear();
    }

    /// Counts the frames that came into relays, those whose chain, or buffer, is done.
    pub fn count(&self, (snapshot, worker): (&Snapshot, usize), done: impl Fn(usize) -> bool) {
        for entry in self.entries.iter().filter(|entry| done(entry.chain)) {
            entry.count(snapshot, worker);
        }
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
        mut dropped: impl FnMut(Account, DropReason),
    ) {
        self.frames.push(frame);
        self.entering.push(Entering {
            port,
            left: None,
            frame: self.frames.len() - 1,
            hops: 0,
        });
        while let Some(entering) = self.entering.pop() {
            self.forward(snapshot, &entering, now, &mut dropped);
        }
    }

    /// One relay's decision on one form of a frame.
    fn forward(
        &mut self,
        snapshot: &Snapshot,
        entering: &Entering,
        now: u32,
        dropped: &mut impl FnMut(Account, DropReason),
    ) {
        let (from, index) = (entering.port, entering.frame);
        // A snapshot has the relay of each of its ports, and no patch link that ends nowhere.
        let Some(port) = snapshot.port(from) else {
            return;
        };
        let Some(in_relay) = snapshot.relay(port.relay) else {
            return;
        };
        let view = relay::View {
            relay: &in_relay.relay,
            active: &in_relay.active,
        };
        let mut targets = std::mem::take(&mut self.targets);
        let frame = &self.frames[index];
        let (verdict, class) = view.forward(port.slot, &facts(frame), now, &mut targets);
        let vid = class.vid;
        let at = Account { port: from, vid };
        self.entries.push(Entry {
            at,
            left: entering.left,
            chain: frame.chain,
            dst: frame.header.dst,
            len: frame.len,
        });
        let mut deliver = |routes: &mut Self, slot| {
            let Some(to) = in_relay.port(slot) else {
                return;
            };
            let to = Account { port: to, vid };
            let done = view
                .egress(slot, &class, &facts(&routes.frames[index]))
                .and_then(|action| routes.hand_over(snapshot, to, index, action, entering.hops));
            if let Err(reason) = done {
                dropped(to, reason);
            }
        };
        match verdict {
            Verdict::Drop(reason) => dropped(at, reason),
            Verdict::One(slot) => deliver(self, slot),
            Verdict::Many => {
                for slot in targets.iter() {
                    deliver(self, slot);
                }
            }
        }
        self.targets = targets;
    }

    /// A copy for `to`: a job, or the way through a patch link.
    fn hand_over(
        &mut self,
        snapshot: &Snapshot,
        to: Account,
        frame: usize,
        action: TagAction,
        hops: usize,
    ) -> Result<(), DropReason> {
        match snapshot.port(to.port).map(|port| &port.attachment) {
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
                self.entering.push(Entering {
                    port: *peer,
                    left: Some(to),
                    frame,
                    hops: hops + 1,
                });
                Ok(())
            }
            Some(_) => {
                self.jobs.push(Job {
                    port: to.port,
                    vid: to.vid,
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
