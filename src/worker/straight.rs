//! The straight way from a device of the host to the guest of a passthrough relay: the kernel writes frames into the
//! guest's buffers, and only their first bytes come by the worker.
//!
//! Here alone it is known who receives a frame before it is read. What becomes of it is the relay's decision as
//! always, and it is made from the worker's own copy of the first bytes, which the kernel has written and the guest
//! never sees until it is delivered.
//!
//! Buffers are reserved for one read after the other, and no read waits: a reservation that comes to nothing is taken
//! back at once. A frame that is longer than expected, or that the guest cannot take as it is, goes the usual way, by
//! a buffer of the worker.

use std::io;
use std::os::fd::BorrowedFd;

use super::Fault;
use super::count::{Account, Counts};
use super::egress::{Burst, Outcome};
use super::frame::{Frame, HEAD, MAX_FRAME};
use super::ingress::{Moment, Path, Tally, Turn};
use super::payload::Payload;
use super::ring_out::RingOut;
use super::route::{Entrance, Routes};
use super::snapshot::{Port, PortId, PortRings, Snapshot};
use crate::frame::offloads::{Offloads, Repair};
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;
use crate::uplink::{BATCH, Link};
use crate::virtqueue::{self, Grant, RxBatch, RxRing, Scatter, Segment};

#[cfg(test)]
mod tests;

/// From this many bytes on, a copy less is worth a reservation for each frame: see docs/performance.md.
const LARGE: usize = 16_384;
/// What the front of a frame is read into: its header, and what decisions are made from.
const FRONT: usize = VnetHeader::LEN + HEAD;
/// Bytes that a read can have, and one more, by which a frame that was cut off is known.
const MOST: usize = MAX_FRAME + 1;

/// How long the frames of a queue are that its receiver takes as they are.
#[derive(Debug, Default)]
pub struct Sizes(usize);

impl Sizes {
    /// Notes a frame, unless it has to be repaired; whether it can go as it is.
    #[inline]
    pub fn note(&mut self, frame: &Frame, accepts: Offloads) -> bool {
        let whole = frame.repair(accepts) == Repair::None;
        if whole {
            // Up at once, and down bit by bit.
            self.0 = frame.len.max(self.0 - self.0 / 16);
        }
        whole
    }

    /// Whether it is worthwhile to spare them a copy.
    #[inline]
    pub fn are_large(&self) -> bool {
        self.0 >= LARGE
    }

    /// Bytes that the next one hardly exceeds.
    fn expected(&self) -> usize {
        (self.0 + self.0 / 4).min(MAX_FRAME)
    }
}

/// A device and the one ring that all its frames go to.
pub struct Straight<'a> {
    file: BorrowedFd<'a>,
    from: (PortId, Counts<'a>),
    to: (PortId, Counts<'a>),
    rings: &'a PortRings,
    ring: &'a RxRing,
}

impl<'a> Straight<'a> {
    /// The ring that all frames of `link`, which is behind the port `from`, go to, if there is one and no
    /// other device writes to it: others would have to wait for each read.
    pub fn find(
        (snapshot, worker): (&'a Snapshot, usize),
        from: (PortId, Counts<'a>),
        (port, link): (&Port, &'a Link),
    ) -> Option<Self> {
        let view = snapshot.relay(port.relay)?;
        let local = view.relay.passthrough()?;
        let ([queue], true) = (link.queues(), local != port.slot) else {
            return None;
        };
        let id = view.port(local)?;
        let rings = snapshot.port(id)?.attachment.rings()?;
        let [ring] = &rings.rx[..] else {
            return None;
        };
        Some(Self {
            file: queue.readable()?,
            from,
            to: (id, Counts::of(snapshot, id, worker)?),
            rings,
            ring,
        })
    }

    /// What the receiver takes without repair.
    pub fn accepts(&self) -> Offloads {
        self.rings.accepts
    }
}

impl Path {
    /// Serves a device once. `None` says that it is to be served the usual way.
    ///
    /// While the guest has too few buffers for a large frame, frames stay where they are, as long as any frame
    /// waits for its receiver. After that the usual way takes those that fit and drops the others.
    pub(super) fn straight_turn(
        &mut self,
        snapshot: &Snapshot,
        way: &Straight<'_>,
        at: Moment,
        sizes: &mut Sizes,
    ) -> Option<Turn> {
        let Straight {
            from: (_, counts),
            to,
            rings,
            ring,
            ..
        } = *way;
        let (here, header_len) = ((snapshot, at.worker), rings.header_len);
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, None);
        let mut out = RingOut::new(to, (rings, ring), at.patience);
        self.spill.resize(HEAD + MOST, 0);
        let mut batch = RxBatch::new();
        let mut turn = Some(Turn::Idle);
        for _ in 0..BATCH {
            let want = header_len + sizes.expected();
            let reserved = match ring.reserve(&[want as u32], &mut batch) {
                Ok(reserved) => reserved,
                Err(error) => {
                    tally.failed(to.0, Fault::of(error, ring.memory()));
                    break;
                }
            };
            let Some(Grant::Buffers { segments, .. }) = batch.grants().next() else {
                let (now_ns, limit_ns) = (at.patience.now_ns, at.patience.limit_ns);
                let waits = reserved.starved && !ring.stalled(now_ns, limit_ns);
                turn = waits.then_some(Turn::Busy);
                break;
            };
            let skip = header_len + HEAD;
            let room = segments.iter().map(Segment::len).sum::<usize>() - skip;
            let mut front = [0; FRONT];
            let scatter = Scatter {
                front: &mut front,
                dst: segments,
                skip,
                spill: self.spill.get_mut(HEAD + room..).unwrap_or_default(),
            };
            let read = match ring.readv(way.file, scatter) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    if error.raw_os_error() == Some(libc::EFAULT) {
                        tally.dropped(Account { port: to.0, vid: 0 }, DropReason::RxChain);
                    }
                    // Whatever else it is, the usual way meets it, too.
                    turn = None;
                    break;
                }
            };
            turn = Some(Turn::Busy);
            let len = read.saturating_sub(VnetHeader::LEN);
            decide(&mut self.routes, here, (way, at.now_s), &front, read);
            let [job] = &self.routes.jobs[..] else {
                continue;
            };
            let frame = &self.routes.frames[job.frame];
            if sizes.note(frame, rings.accepts) && frame.rest_len() <= room {
                ring.shrink_last(&mut batch, (header_len + len) as u32);
                for grant in batch.grants() {
                    if let Err(reason) = out.copy(&grant, job, frame, Payload::Frames(&[])) {
                        tally.dropped(job.account(), reason);
                    }
                }
                out.count();
                ring.complete(&mut batch);
                continue;
            }
            let there = frame.rest_len().min(room);
            virtqueue::read(segments, skip, &mut self.spill[HEAD..HEAD + there]);
            ring.cancel(&mut batch);
            let whole = [Segment::of(&mut self.spill[..len])];
            let burst = Burst {
                frames: &self.routes.frames,
                jobs: &self.routes.jobs,
                payload: Payload::Frames(&whole),
                sole: 0,
            };
            self.egress.deliver(here, burst, at.patience, &mut tally);
        }
        ring.cancel(&mut batch);
        out.finish(&mut tally);
        turn
    }
}

/// Has the relay decide about what was read: `read` bytes, the first of them in `front`.
fn decide(
    routes: &mut Routes,
    here: (&Snapshot, usize),
    (way, now_s): (&Straight<'_>, u32),
    front: &[u8; FRONT],
    read: usize,
) {
    let (from, counts) = way.from;
    routes.clear();
    let Some(entrance) = Entrance::of(here, from, now_s) else {
        return;
    };
    let (header, head) = front.split_at(VnetHeader::LEN);
    let mut fields = [0; VnetHeader::LEN];
    fields.copy_from_slice(header);
    let frame = match read.checked_sub(VnetHeader::LEN) {
        Some(len) if len < MOST => routes.frames.add(|frame| {
            let vnet = VnetHeader::decode(&fields);
            frame.read_bytes(0, vnet, &head[..len.min(HEAD)], len)
        }),
        _ => Err(DropReason::TooLong),
    };
    match frame {
        Ok(frame) => routes.add(&entrance, frame),
        Err(reason) => counts.drop_frames(0, reason, 1),
    }
    routes.count(here, |_| true);
}
