//! From a frame to its copies: who gets it, with which tags.
//!
//! Asks the relay, follows patch links into further relays, and writes one [`Job`] for each copy.
//! It touches no ring.

use std::ops::Range;

use super::count::{Account, Counts, Sum, drop_at};
use super::frame::{Frame, Frames};
use super::snapshot::{Attachment, Port, PortId, RelayView, Snapshot};
use crate::frame::ethernet::{Header, TagAction};
use crate::relay::{self, Class, PortSet, Sender, Slot, Verdict};
use crate::stats::DropReason;

/// Patch links that a frame may cross. A configuration without loops cannot need more.
const MAX_HOPS: usize = 64;

/// One copy to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Bytes of the copy; `frame` is its form. No frame is shorter than its addresses, and none whose tag is taken out
    /// lacks it.
    #[inline]
    pub fn len_of(&self, frame: &Frame) -> usize {
        frame.len.wrapping_add_signed(self.action.growth().into())
    }

    /// Where it is counted.
    pub fn account(&self) -> Account {
        Account {
            port: self.port,
            vid: self.vid,
        }
    }
}

/// Frames that came into a relay in the same way, to be counted once they are done.
#[derive(Clone, Debug)]
pub struct Entry {
    /// By which port, and in which VLAN.
    at: Account,
    /// The port at the other end of the patch link that they came through, and the VLAN there.
    left: Option<Account>,
    /// Their forms.
    frames: Range<usize>,
}

/// The last frame that went to one port of its relay. Most frames of a burst go where the one before went: what
/// decides is in their headers, and in a relay that is the same for a burst.
struct Beaten {
    header: Header,
    /// That port, if frames to other addresses there go the same way: none where the long way led to it.
    to: Option<Slot>,
    class: Class,
    /// How long a frame may be that takes it.
    longest: usize,
    job: Job,
}

/// The port that frames enter a relay by, looked up once for all of them.
#[derive(Clone, Copy)]
pub struct Entrance<'a> {
    snapshot: &'a Snapshot,
    worker: usize,
    id: PortId,
    /// The port itself.
    pub port: &'a Port,
    /// Its counters.
    pub counts: Counts<'a>,
    relay: &'a RelayView,
    sender: Sender<'a>,
    now: u32,
}

impl<'a> Entrance<'a> {
    /// The port `id`, for frames that arrive within the second `now`. A snapshot has the relay of each of
    /// its ports, and no patch link that ends nowhere.
    #[inline]
    pub fn of((snapshot, worker): (&'a Snapshot, usize), id: PortId, now: u32) -> Option<Self> {
        let port = snapshot.port(id)?;
        let relay = snapshot.relay(port.relay)?;
        Some(Self {
            snapshot,
            worker,
            id,
            port,
            counts: Counts::of(snapshot, id, worker)?,
            relay,
            sender: view(relay).sender(port.slot, now),
            now,
        })
    }
}

impl Entrance<'_> {
    /// The copy of a frame that is by itself, if there is one and finding it takes no more than a look at its
    /// addresses. Nothing is counted.
    #[inline]
    pub fn only_job(&self, frame: &Frame) -> Option<Job> {
        let (to, class) = self.sender.locate(&frame.header)?;
        if !self.sender.reaches(to, class) {
            return None;
        }
        let port = self.relay.port(to)?;
        let egress = view(self.relay).egress(to, &class, &facts(frame));
        egress.ok().map(|action| Job {
            port,
            vid: class.vid,
            frame: 0,
            action,
        })
    }

    /// Frames from the port whose source was not learned.
    fn unlearned(&self) -> u64 {
        let port = self.relay.relay.port(self.port.slot);
        port.map_or(0, |port| port.state().unlearned())
    }
}

fn view(relay: &RelayView) -> relay::View<'_> {
    relay::View {
        relay: &relay.relay,
        active: &relay.active,
    }
}

/// A frame that is to enter a relay.
struct Entering {
    port: PortId,
    way: Way,
    /// Its form.
    frame: usize,
}

/// How a frame came to the relay that it enters.
#[derive(Clone, Copy, Default)]
struct Way {
    /// The port at the other end of the last patch link, and the VLAN there.
    left: Option<Account>,
    /// Patch links it has crossed.
    hops: usize,
}

/// The copies of the frames of one burst. All buffers are kept from burst to burst.
#[derive(Default)]
pub struct Routes {
    /// The forms of the frames.
    pub frames: Frames,
    /// The copies, in the order of the frames.
    pub jobs: Vec<Job>,
    /// Where the frames came into relays, in their order.
    entries: Vec<Entry>,
    targets: PortSet,
    beaten: Option<Beaten>,
    /// Frames at a port of a relay that have not been forwarded.
    entering: Vec<Entering>,
}

/// How much there is at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Forms of frames.
    pub frames: usize,
    /// Copies.
    pub jobs: usize,
}

impl Routes {
    /// How much there is now.
    #[inline]
    pub fn mark(&self) -> Mark {
        Mark {
            frames: self.frames.len(),
            jobs: self.jobs.len(),
        }
    }

    /// Forgets the last burst.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.jobs.clear();
        self.entries.clear();
        self.beaten = None;
    }

    /// Counts the frames that came into relays, those whose chain, or buffer, is done.
    #[inline]
    pub fn count(&self, (snapshot, worker): (&Snapshot, usize), done: impl Fn(usize) -> bool) {
        let count = |at: Account, left: Option<Account>, sum| {
            if let Some(counts) = Counts::of(snapshot, at.port, worker) {
                counts.tx(at.vid, sum);
            }
            if let Some(left) = left
                && let Some(counts) = Counts::of(snapshot, left.port, worker)
            {
                counts.rx(left.vid, sum);
            }
        };
        for Entry { at, left, frames } in &self.entries {
            let mut sum = Sum::default();
            for frame in &self.frames[frames.clone()] {
                if done(frame.chain) {
                    sum.add(frame.header.dst, frame.len);
                }
            }
            count(*at, *left, sum);
        }
    }

    /// The VLAN in which frame number `frame` came into its first relay.
    pub fn vid_of(&self, frame: usize) -> u16 {
        let entry = self.entries.iter().find(|e| e.frames.contains(&frame));
        entry.map_or(0, |entry| entry.at.vid)
    }

    /// Hints that the frames are about to be added.
    #[inline]
    pub fn expect(&self, here: &Entrance<'_>) {
        // What one alone needs is looked for at once.
        if self.frames.len() > 1 {
            let headers = self.frames.iter().map(|frame| &frame.header);
            here.sender.expect(headers);
        }
    }

    /// Adds the jobs of frame number `frame`, which came in by the port of `here`. Between two calls of
    /// [`Routes::clear`] that is always the same port.
    ///
    /// Each drop, at that port or at a later one, is counted.
    #[inline]
    pub fn add(&mut self, here: &Entrance<'_>, frame: usize) {
        let Frame { header, len, .. } = &self.frames[frame];
        if let Some(beaten) = &self.beaten
            && beaten.header == *header
            && *len <= beaten.longest
        {
            let job = Job {
                frame,
                ..beaten.job
            };
            self.jobs.push(job);
            self.enter(here.id, job.vid, None, frame..frame + 1);
        } else {
            self.add_another(here, frame);
        }
    }

    /// Adds the jobs of the first of `frames` that have the addresses and tags of the one that is remembered, as
    /// [`Routes::add`] would; how many.
    #[inline]
    pub fn add_like(&mut self, here: &Entrance<'_>, frames: Range<usize>) -> usize {
        let Some(Beaten {
            header,
            longest,
            job,
            ..
        }) = &self.beaten
        else {
            return 0;
        };
        let like = |frame: &&Frame| frame.header == *header && frame.len <= *longest;
        let count = self.frames[frames.clone()].iter().take_while(like).count();
        if count == 0 {
            return 0;
        }
        let job = *job;
        let frames = frames.start..frames.start + count;
        let jobs = frames.clone().map(|frame| Job { frame, ..job });
        self.jobs.extend(jobs);
        self.enter(here.id, job.vid, None, frames);
        count
    }

    /// The same for a frame with other addresses or tags than the last.
    #[inline(never)]
    fn add_another(&mut self, here: &Entrance<'_>, frame: usize) {
        let Frame { header, len, .. } = &self.frames[frame];
        if let Some((to, class)) = here.sender.locate(header) {
            if let Some(beaten) = &mut self.beaten
                && beaten.to == Some(to)
                && beaten.class == class
                && beaten.header.tag == header.tag
                && *len <= beaten.longest
            {
                beaten.header = *header;
                let job = beaten.job;
                self.jobs.push(Job { frame, ..job });
                self.enter(here.id, class.vid, None, frame..frame + 1);
                return;
            }
            if here.sender.reaches(to, class) {
                self.enter(here.id, class.vid, None, frame..frame + 1);
                let before = self.jobs.len();
                self.deliver(here, to, class, frame, 0);
                if self.goes_on(frame) {
                    self.beat(here, (to, class), frame, before);
                    if let Some(beaten) = &mut self.beaten {
                        beaten.to = Some(to);
                    }
                }
                self.follow(here);
                return;
            }
        }
        // It may learn where an address has moved, so that what was remembered no longer holds.
        self.beaten = None;
        let (before, unlearned) = (self.jobs.len(), here.unlearned());
        // Each frame whose source is not learned is counted, on the long way.
        if let Some(to) = self.forward(here, frame, Way::default())
            && self.goes_on(frame)
            && here.unlearned() == unlearned
        {
            self.beat(here, to, frame, before);
        }
        self.follow(here);
    }

    /// Whether there are frames behind this one.
    #[inline]
    fn goes_on(&self, frame: usize) -> bool {
        frame + 1 < self.frames.len()
    }

    /// Notes a frame that went to the port in slot `to`, by one job behind the first `before`, unless that leads through
    /// a patch link.
    #[inline(never)]
    fn beat(
        &mut self,
        here: &Entrance<'_>,
        (to, class): (Slot, Class),
        frame: usize,
        before: usize,
    ) {
        self.beaten = self.jobs.get(before).map(|job| Beaten {
            to: None,
            class,
            header: self.frames[frame].header,
            longest: view(here.relay).passes(to, job.action),
            job: *job,
        });
    }

    /// Takes the frames that are in patch links to where they go.
    #[inline]
    fn follow(&mut self, here: &Entrance<'_>) {
        while let Some(Entering { port, way, frame }) = self.entering.pop() {
            if let Some(there) = Entrance::of((here.snapshot, here.worker), port, here.now) {
                self.forward(&there, frame, way);
            }
        }
    }

    /// Notes where frames came into a relay.
    #[inline]
    fn enter(&mut self, port: PortId, vid: u16, left: Option<Account>, frames: Range<usize>) {
        let at = Account { port, vid };
        match self.entries.last_mut() {
            Some(last) if last.at == at && last.left == left && last.frames.end == frames.start => {
                last.frames.end = frames.end;
            }
            _ => self.entries.push(Entry { at, left, frames }),
        }
    }

    /// One relay's decision on one form of a frame; the port that it goes to where that is one.
    #[inline(never)]
    fn forward(&mut self, here: &Entrance<'_>, index: usize, way: Way) -> Option<(Slot, Class)> {
        let (verdict, class) = {
            let facts = facts(&self.frames[index]);
            here.sender.forward(&facts, &mut self.targets)
        };
        self.enter(here.id, class.vid, way.left, index..index + 1);
        match verdict {
            Verdict::Drop(reason) => {
                let at = Account {
                    port: here.id,
                    vid: class.vid,
                };
                drop_at(here.snapshot, here.worker, at, reason);
            }
            Verdict::One(slot) => {
                self.deliver(here, slot, class, index, way.hops);
                return Some((slot, class));
            }
            Verdict::Many => {
                let targets = self.targets.clone();
                for slot in targets.iter() {
                    self.deliver(here, slot, class, index, way.hops);
                }
            }
        }
        None
    }

    /// The copy for the port in `slot`.
    fn deliver(
        &mut self,
        here: &Entrance<'_>,
        slot: Slot,
        class: Class,
        frame: usize,
        hops: usize,
    ) {
        let Some(port) = here.relay.port(slot) else {
            return;
        };
        let to = Account {
            port,
            vid: class.vid,
        };
        let done = view(here.relay)
            .egress(slot, &class, &facts(&self.frames[frame]))
            .and_then(|action| self.hand_over(here.snapshot, to, frame, action, hops));
        if let Err(reason) = done {
            drop_at(here.snapshot, here.worker, to, reason);
        }
    }

    /// A copy for `to`: a job, or the way through a patch link.
    #[inline]
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
            Some(Attachment::Patch(peer)) => self.cross((to, *peer), frame, action, hops),
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

    /// The way through the patch link that leads from `to` to the port `peer`.
    fn cross(
        &mut self,
        (to, peer): (Account, PortId),
        frame: usize,
        action: TagAction,
        hops: usize,
    ) -> Result<(), DropReason> {
        if hops == MAX_HOPS {
            return Err(DropReason::TooManyHops);
        }
        let frame = if action.is_keep() {
            frame
        } else {
            let retagged = self.frames[frame].retagged(action)?;
            self.frames.push(&retagged)
        };
        let way = Way {
            left: Some(to),
            hops: hops + 1,
        };
        self.entering.push(Entering {
            port: peer,
            way,
            frame,
        });
        Ok(())
    }
}

/// What a relay looks at.
#[inline]
fn facts(frame: &Frame) -> relay::Frame<'_> {
    relay::Frame {
        header: &frame.header,
        len: frame.len as u32,
        segment_len: frame.segment_len,
    }
}
