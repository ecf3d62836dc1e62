//! From jobs to receive rings: one reservation, one publication and at most one call for each
//! receiver and burst, and one copy of the payload for each receiver.
//!
//! Copies go from guest to guest. Only a frame that its receiver cannot take as it is (a checksum
//! left out, a segment too large) passes through a buffer of the worker.

use arrayvec::ArrayVec;

use super::frame::{Frame, HEAD};
use super::route::Job;
use super::snapshot::{Attachment, Port, PortId, PortRings, Snapshot};
use crate::frame::{Repair, TagAction, VnetHeader, flow_hash};
use crate::stats::DropReason;
use crate::virtqueue::{self, Gather, RingError, RxBatch, RxRing, Segment, TxBatch};

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
    fn failed(&mut self, port: PortId, error: RingError);
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
            let Group { port: id, ring, first, .. } = self.groups[g];
            let Some(port) = snapshot.port(id) else { continue };
            let Attachment::Rings(rings) = &port.attachment else { continue };
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
                match frame.vnet.repair_needed(rings.accepts) {
                    Repair::None => receiver.push(job, frame, waits, frames, batch, outcome),
                    repair => {
                        receiver.flush(frames, batch, outcome);
                        self.repair(&mut receiver, repair, job, frame, waits, batch, outcome);
                    }
                }
            }
            receiver.flush(frames, batch, outcome);
            ring.notify();
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
                    self.groups.push(Group { port: job.port, ring, first: index, last: index });
                }
            }
        }
    }

    /// The slow way, for a receiver that lacks an offload: the frame is put together in a buffer,
    /// completed or segmented there, and copied out.
    #[expect(clippy::too_many_arguments, reason = "one call site, all of them differ in type")]
    fn repair(
        &mut self,
        receiver: &mut Receiver<'_>,
        repair: Repair,
        job: &Job,
        frame: &Frame,
        waits: bool,
        batch: &TxBatch<'_>,
        outcome: &mut impl Outcome,
    ) {
        if receiver.closed {
            receiver.refuse(frame, waits, outcome);
            return;
        }
        self.linear.resize(frame.len + 4, 0);
        let mut vnet = frame.vnet;
        let Some(head_len) = job.action.apply(frame.head(), &mut self.linear) else {
            outcome.dropped(receiver.id, DropReason::TooManyTags);
            return;
        };
        vnet.retag(job.action);
        let rest = &mut self.linear[head_len..head_len + frame.rest_len()];
        virtqueue::read(batch.segments(frame.chain), frame.rest_at, rest);
        self.linear.truncate(head_len + frame.rest_len());
        self.repaired.clear();
        self.lengths.clear();
        let done = match repair {
            Repair::Segment => vnet.segment(&self.linear, &mut self.repaired, &mut self.lengths),
            Repair::Checksum | Repair::None => {
                self.lengths.push(self.linear.len() as u32);
                std::mem::swap(&mut self.linear, &mut self.repaired);
                vnet.complete_checksum(&mut self.repaired)
            }
        };
        match done {
            Ok(()) => receiver.send_private(&self.repaired, &self.lengths, (frame, waits), outcome),
            Err(reason) => outcome.dropped(receiver.id, reason),
        }
    }
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
    (first..count).chain(0..first).find(|&ring| rings.rx[ring].has_buffers()).unwrap_or(first)
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
        let len = frame.len.wrapping_add_signed(job.action.growth());
        self.wants.push((self.rings.header_len + len) as u32);
        self.run.push((job.frame, job.action, waits));
        if self.run.is_full() {
            self.flush(frames, batch, outcome);
        }
    }

    /// Copies what `push` has gathered.
    fn flush(&mut self, frames: &[Frame], batch: &TxBatch<'_>, outcome: &mut impl Outcome) {
        let mut sent = 0;
        if !self.closed && !self.run.is_empty() {
            let mut reserved = RxBatch::new();
            match self.ring.reserve(&self.wants, &mut reserved) {
                Ok(granted) => {
                    for (place, &(form, action, _)) in self.run[..granted].iter().enumerate() {
                        let frame = &frames[form];
                        self.copy(&reserved, place, frame, action, batch, outcome);
                    }
                    self.ring.complete(&mut reserved);
                    sent = granted;
                    self.closed = granted < self.run.len();
                }
                Err(error) => {
                    outcome.failed(self.id, error);
                    self.closed = true;
                }
            }
        }
        let run = std::mem::take(&mut self.run);
        self.wants.clear();
        for &(form, _, waits) in &run[sent..] {
            self.refuse(&frames[form], waits, outcome);
        }
    }

    /// Writes one frame into the buffers reserved at `place`.
    fn copy(
        &self,
        reserved: &RxBatch<'_>,
        place: usize,
        frame: &Frame,
        action: TagAction,
        batch: &TxBatch<'_>,
        outcome: &mut impl Outcome,
    ) {
        let Some(buffers) = reserved.frame(place) else {
            outcome.dropped(self.id, DropReason::RxBufferTooSmall);
            return;
        };
        let mut vnet = frame.vnet;
        vnet.for_receiver(self.rings.accepts);
        let rest = batch.segments(frame.chain);
        if action.is_none() {
            self.write(reserved, place, buffers, vnet, frame.head(), (rest, frame.rest_at, frame.rest_len()));
        } else {
            let mut head = [0; HEAD + 32];
            let Some(len) = action.apply(frame.head(), &mut head) else {
                outcome.dropped(self.id, DropReason::TooManyTags);
                return;
            };
            vnet.retag(action);
            let rest = (rest, frame.rest_at, frame.rest_len());
            self.write(reserved, place, buffers, vnet, &head[..len], rest);
        }
        self.count(frame);
    }

    fn write(
        &self,
        reserved: &RxBatch<'_>,
        place: usize,
        buffers: u16,
        mut vnet: VnetHeader,
        head: &[u8],
        (rest, rest_skip, rest_len): (&[Segment<'_>], usize, usize),
    ) {
        vnet.num_buffers = buffers;
        let header = vnet.encode();
        let header = &header[..self.rings.header_len];
        self.ring.write(reserved, place, &Gather { header, head, rest, rest_skip, rest_len });
    }

    /// Sends frames that lie one behind the other in a buffer of the worker, made from `frame`.
    fn send_private(
        &mut self,
        bytes: &[u8],
        lengths: &[u32],
        (frame, waits): (&Frame, bool),
        outcome: &mut impl Outcome,
    ) {
        let mut at = 0;
        let mut left = lengths;
        while !left.is_empty() {
            let now = &left[..left.len().min(RUN)];
            let wants: ArrayVec<u32, RUN> =
                now.iter().map(|len| len + self.rings.header_len as u32).collect();
            let mut reserved = RxBatch::new();
            let granted = match self.ring.reserve(&wants, &mut reserved) {
                Ok(granted) => granted,
                Err(error) => {
                    outcome.failed(self.id, error);
                    0
                }
            };
            if granted < now.len() && at == 0 && self.may_wait(waits) {
                // Nothing of this frame is out yet: all of it can be tried again.
                self.ring.cancel(&mut reserved);
                self.closed = true;
                outcome.wait(frame.chain);
                return;
            }
            for (place, &len) in now[..granted].iter().enumerate() {
                let head = &bytes[at..at + len as usize];
                at += len as usize;
                if let Some(buffers) = reserved.frame(place) {
                    let vnet = VnetHeader::default();
                    self.write(&reserved, place, buffers, vnet, head, (&[], 0, 0));
                    self.port.counters[self.worker].count_rx(frame.header.dst, head.len());
                } else {
                    outcome.dropped(self.id, DropReason::RxBufferTooSmall);
                }
            }
            self.ring.complete(&mut reserved);
            if granted < now.len() {
                self.closed = true;
                outcome.dropped(self.id, DropReason::RingFull);
                return;
            }
            left = &left[now.len()..];
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
        waits && !self.ring.stalled(self.patience.now_ns, self.patience.limit_ns)
    }

    fn count(&self, frame: &Frame) {
        self.port.counters[self.worker].count_rx(frame.header.dst, frame.len);
    }
}
