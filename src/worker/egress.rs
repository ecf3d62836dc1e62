//! From jobs to receive rings: one reservation, one publication and at most one call for each
//! receiver and burst, and one copy of the payload for each receiver.
//!
//! Copies go from guest to guest. Only a frame that its receiver cannot take as it is (a checksum
//! left out, a segment too large) passes through a buffer of the worker.

use arrayvec::ArrayVec;

use super::Fault;
use super::count;
use super::frame::{Frame, HEAD};
use super::route::Job;
use super::snapshot::{Attachment, Port, PortId, PortRings, Snapshot};
use crate::frame::checksum::complete_checksum;
use crate::frame::ethernet::{TAG_LEN, TagAction};
use crate::frame::flow::flow_hash;
use crate::frame::offloads::{Repair, repair_needed};
use crate::frame::segment::Segmenter;
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;
use crate::virtqueue::{self, Gather, Grant, RxBatch, RxRing, Segment, TxBatch};

/// Frames given to a receiver at once.
const RUN: usize = 64;
/// Receive rings that a port can have: the stride of the table of groups.
pub const MAX_RX_RINGS: usize = 8;

/// What became of copies that could not be made.
pub trait Outcome {
    /// The copy was dropped at `port`.
    fn dropped(&mut self, port: PortId, reason: DropReason);
    /// The receiver has no buffer yet: the frame in `chain` is to be tried again.
    fn wait(&mut self, chain: usize);
    /// The receiver's ring is broken.
    fn failed(&mut self, port: PortId, error: Fault);
}

/// Time, and how long a frame may wait for its receiver.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Nanoseconds since the worker started.
    pub now_ns: u64,
    /// A ring that has been full for longer than this many nanoseconds is not waited for.
    pub limit_ns: u64,
}

/// The jobs of one burst that go to one receive ring, as a list through [`Egress::next`].
struct Group {
    port: PortId,
    ring: usize,
    first: usize,
    last: usize,
}

const END: usize = usize::MAX;

/// Buffers of a worker's egress, kept from burst to burst.
#[derive(Default)]
pub struct Egress {
    groups: Vec<Group>,
    next: Vec<usize>,
    /// Which group a ring has, if `groups` confirms it: never cleared.
    group_of: Vec<u32>,
    /// A frame made whole for repair.
    linear: Vec<u8>,
    /// The frames that repair makes of it, one behind the other.
    repaired: Vec<u8>,
    /// One of them in the making.
    segment: Vec<u8>,
    lengths: Vec<u32>,
}

impl Egress {
    /// Makes the copies `jobs` of the forms in `frames`, whose payload lies in `batch`.
    ///
    /// A frame with `sole_receiver` waits for a full ring; others are dropped there.
    pub fn deliver(
        &mut self,
        (snapshot, worker): (&Snapshot, usize),
        (frames, jobs): (&[Frame], &[Job]),
        batch: &TxBatch<'_>,
        sole_receiver: impl Fn(&Frame) -> bool,
        patience: Patience,
        outcome: &mut impl Outcome,
    ) {
        self.group(snapshot, frames, jobs);
        for g in 0..self.groups.len() {
            let Group {
                port: id,
                ring,
                first,
                ..
            } = self.groups[g];
            let Some(port) = snapshot.port(id) else {
                continue;
            };
            let Attachment::Rings(rings) = &port.attachment else {
                continue;
            };
            let Some(ring) = rings.rx.get(ring) else {
                let mut job = first;
                while job != END {
                    outcome.dropped(id, DropReason::PortDown);
                    job = self.next[job];
                }
                continue;
            };
            let mut receiver = Receiver {
                id,
                port,
                rings,
                ring,
                worker,
                patience,
                closed: false,
                run: ArrayVec::new(),
                wants: ArrayVec::new(),
            };
            let mut index = first;
            while index != END {
                let job = &jobs[index];
                let frame = &frames[job.frame];
                index = self.next[index];
                let waits = sole_receiver(frame);
                match repair_needed(&frame.vnet, frame.head(), rings.accepts) {
                    Repair::None => receiver.push(job, frame, waits, frames, batch, outcome),
                    repair => {
                        receiver.flush(frames, batch, outcome);
                        self.repair(&mut receiver, repair, job, (frame, waits), batch, outcome);
                    }
                }
            }
            receiver.flush(frames, batch, outcome);
            if ring.notify() {
                port.counters[worker].calls(1);
            }
            if ring.memory().poisoned() {
                outcome.failed(id, Fault::Memory);
            }
        }
    }

    /// Sorts the jobs by receive ring, keeping their order within each.
    fn group(&mut self, snapshot: &Snapshot, frames: &[Frame], jobs: &[Job]) {
        self.groups.clear();
        self.next.clear();
        self.next.resize(jobs.len(), END);
        let table = snapshot.ports.len() * MAX_RX_RINGS;
        if self.group_of.len() < table {
            self.group_of.resize(table, 0);
        }
        for (index, job) in jobs.iter().enumerate() {
            let ring = choose_ring(snapshot, job.port, &frames[job.frame]);
            let place = job.port.index() * MAX_RX_RINGS + ring;
            let g = self.group_of[place] as usize;
            match self.groups.get_mut(g) {
                Some(group) if group.port == job.port && group.ring == ring => {
                    self.next[group.last] = index;
                    group.last = index;
                }
                _ => {
                    self.group_of[place] = self.groups.len() as u32;
                    self.groups.push(Group {
                        port: job.port,
                        ring,
                        first: index,
                        last: index,
                    });
                }
            }
        }
    }

    /// The slow way, for a receiver that lacks an offload: the frame is put together in a buffer,
    /// completed or segmented there, and copied out.
    fn repair(
        &mut self,
        receiver: &mut Receiver<'_>,
        repair: Repair,
        job: &Job,
        (frame, waits): (&Frame, bool),
        batch: &TxBatch<'_>,
        outcome: &mut impl Outcome,
    ) {
        if receiver.closed {
            receiver.refuse(frame, waits, outcome);
            return;
        }
        self.make_whole(frame, batch);
        match self.mend(repair, &frame.vnet, job.action) {
            Ok(()) => {
                let header = frame.vnet.for_receiver(repair, receiver.rings.accepts);
                let frames = Mended {
                    bytes: &self.repaired,
                    lengths: &self.lengths,
                    header,
                };
                receiver.send_mended(&frames, (frame, waits), outcome);
            }
            Err(reason) => outcome.dropped(receiver.id, reason),
        }
    }

    /// Puts the whole frame, as it came, into `linear`.
    fn make_whole(&mut self, frame: &Frame, batch: &TxBatch<'_>) {
        let head = frame.head();
        self.linear.clear();
        self.linear.extend_from_slice(head);
        self.linear.resize(frame.len, 0);
        virtqueue::read(
            rest(batch, frame),
            frame.rest_at,
            &mut self.linear[head.len()..],
        );
    }

    /// Makes of `linear` what a receiver without offloads takes, and then changes the tags: the
    /// checksums do not cover them.
    fn mend(
        &mut self,
        repair: Repair,
        vnet: &VnetHeader,
        action: TagAction,
    ) -> Result<(), DropReason> {
        self.lengths.clear();
        self.repaired.clear();
        let mut add = |frame: &[u8]| {
            let at = self.repaired.len();
            self.repaired.resize(at + frame.len() + TAG_LEN, 0);
            let len = action.apply(frame, &mut self.repaired[at..]);
            let len = len.ok_or(DropReason::TooManyTags)?;
            self.repaired.truncate(at + len);
            self.lengths.push(len as u32);
            Ok(())
        };
        if repair != Repair::Segment {
            complete_checksum(&mut self.linear, vnet)?;
            return add(&self.linear);
        }
        self.segment.resize(self.linear.len(), 0);
        let mut segments = Segmenter::new(&self.linear, vnet, &mut self.segment)?;
        while let Some(segment) = segments.next() {
            add(segment)?;
        }
        Ok(())
    }
}

/// The segments in which the rest of a frame lies; none for a frame that is all head.
fn rest<'b, 'm>(batch: &'b TxBatch<'m>, frame: &Frame) -> &'b [Segment<'m>] {
    match batch.chains().get(frame.chain) {
        Some(chain) if frame.rest_len() > 0 => batch.segments(chain),
        _ => &[],
    }
}

/// Frames that repair has made, one behind the other, and the header that goes before each.
struct Mended<'a> {
    bytes: &'a [u8],
    lengths: &'a [u32],
    header: VnetHeader,
}

/// The receive ring for a frame: by its flow, so that a flow keeps its order whichever worker
/// carries it. A ring that the guest has never given a buffer is passed over (cloud-hypervisor
/// enables all queue pairs, whatever the guest uses).
fn choose_ring(snapshot: &Snapshot, port: PortId, frame: &Frame) -> usize {
    let Some(Attachment::Rings(rings)) = snapshot.port(port).map(|port| &port.attachment) else {
        return 0;
    };
    let count = rings.rx.len().min(MAX_RX_RINGS);
    if count < 2 {
        return 0;
    }
    let first = flow_hash(frame.head()) as usize % count;
    (first..count)
        .chain(0..first)
        .find(|&ring| rings.rx[ring].has_buffers())
        .unwrap_or(first)
}

/// One receive ring during one burst.
struct Receiver<'a> {
    id: PortId,
    port: &'a Port,
    rings: &'a PortRings,
    ring: &'a RxRing,
    worker: usize,
    patience: Patience,
    /// A frame found no room: those behind it must not overtake it.
    closed: bool,
    /// Form of the frame, its tag action, and whether it may wait.
    run: ArrayVec<(usize, TagAction, bool), RUN>,
    wants: ArrayVec<u32, RUN>,
}

impl Receiver<'_> {
    fn push(
        &mut self,
        job: &Job,
        frame: &Frame,
        waits: bool,
        frames: &[Frame],
        batch: &TxBatch<'_>,
        outcome: &mut impl Outcome,
    ) {
        let len = frame.len.saturating_add_signed(job.action.growth().into());
        self.wants.push((self.rings.header_len + len) as u32);
        self.run.push((job.frame, job.action, waits));
        if self.run.is_full() {
            self.flush(frames, batch, outcome);
        }
    }

    /// Copies what `push` has gathered.
    fn flush(&mut self, frames: &[Frame], batch: &TxBatch<'_>, outcome: &mut impl Outcome) {
        let mut sent = 0;
        let mut reserved = RxBatch::new();
        while !self.closed && sent < self.run.len() {
            match self.ring.reserve(&self.wants[sent..], &mut reserved) {
                Ok(reservation) => {
                    let now = &self.run[sent..sent + reservation.granted];
                    for (grant, &(form, action, _)) in reserved.grants().zip(now) {
                        let done = self.copy(&grant, &frames[form], action, batch);
                        if let Err(reason) = done {
                            outcome.dropped(self.id, reason);
                        }
                    }
                    self.ring.complete(&mut reserved);
                    sent += reservation.granted;
                    self.closed = reservation.starved || reservation.granted == 0;
                }
                Err(error) => {
                    outcome.failed(self.id, error.into());
                    self.closed = true;
                }
            }
        }
        for &(form, _, waits) in &self.run[sent..] {
            self.refuse(&frames[form], waits, outcome);
        }
        self.run.clear();
        self.wants.clear();
    }

    /// Writes one frame into its buffers.
    fn copy(
        &self,
        grant: &Grant<'_, '_>,
        frame: &Frame,
        action: TagAction,
        batch: &TxBatch<'_>,
    ) -> Result<(), DropReason> {
        let mut vnet = frame.vnet.for_receiver(Repair::None, self.rings.accepts);
        let mut tagged = [0; HEAD + 32];
        let head = if action.is_keep() {
            frame.head()
        } else {
            let len = action
                .apply(frame.head(), &mut tagged)
                .ok_or(DropReason::TooManyTags)?;
            vnet.retag(action.growth().into());
            &tagged[..len]
        };
        let rest_len = frame.rest_len();
        self.write(
            grant,
            vnet,
            head,
            (rest(batch, frame), frame.rest_at, rest_len),
        )?;
        count::rx(
            &self.port.counters[self.worker],
            frame.header.dst,
            head.len() + rest_len,
        );
        Ok(())
    }

    fn write(
        &self,
        grant: &Grant<'_, '_>,
        mut vnet: VnetHeader,
        head: &[u8],
        (rest, rest_skip, rest_len): (&[Segment<'_>], usize, usize),
    ) -> Result<(), DropReason> {
        let Grant::Buffers { buffers, segments } = grant else {
            return Err(DropReason::RxChain);
        };
        vnet.num_buffers = *buffers;
        let header = vnet.encode();
        let header = &header[..self.rings.header_len];
        self.ring.copy(
            segments,
            &Gather {
                header,
                head,
                rest,
                rest_skip,
                rest_len,
            },
        );
        Ok(())
    }

    /// Sends what repair has made of `frame`.
    fn send_mended(
        &mut self,
        mended: &Mended<'_>,
        (frame, waits): (&Frame, bool),
        outcome: &mut impl Outcome,
    ) {
        let header_len = self.rings.header_len as u32;
        let mut at = 0;
        let mut sent = 0;
        while sent < mended.lengths.len() {
            let now = &mended.lengths[sent..mended.lengths.len().min(sent + RUN)];
            let wants: ArrayVec<u32, RUN> = now.iter().map(|len| len + header_len).collect();
            let mut reserved = RxBatch::new();
            let reservation = match self.ring.reserve(&wants, &mut reserved) {
                Ok(reservation) => reservation,
                Err(error) => {
                    outcome.failed(self.id, error.into());
                    self.closed = true;
                    return;
                }
            };
            if reservation.starved && sent == 0 && self.may_wait(waits) {
                // Nothing of this frame is out yet: all of it can be tried again.
                self.ring.cancel(&mut reserved);
                self.closed = true;
                outcome.wait(frame.chain);
                return;
            }
            for (grant, &len) in reserved.grants().zip(now) {
                let bytes = &mended.bytes[at..at + len as usize];
                at += len as usize;
                match self.write(&grant, mended.header, bytes, (&[], 0, 0)) {
                    Ok(()) => {
                        let counters = &self.port.counters[self.worker];
                        count::rx(counters, frame.header.dst, bytes.len());
                    }
                    Err(reason) => outcome.dropped(self.id, reason),
                }
            }
            self.ring.complete(&mut reserved);
            sent += reservation.granted;
            if reservation.starved || reservation.granted == 0 {
                self.closed = true;
                outcome.dropped(self.id, DropReason::RingFull);
                return;
            }
        }
    }

    /// A frame for which there was no room: it waits, or is dropped.
    fn refuse(&self, frame: &Frame, waits: bool, outcome: &mut impl Outcome) {
        if self.may_wait(waits) {
            outcome.wait(frame.chain);
        } else {
            outcome.dropped(self.id, DropReason::RingFull);
        }
    }

    fn may_wait(&self, waits: bool) -> bool {
        waits
            && !self
                .ring
                .stalled(self.patience.now_ns, self.patience.limit_ns)
    }
}
