//! From jobs to receivers: one reservation, one publication and at most one call for each receive
//! ring and burst, and one copy of the payload for each receiver.
//!
//! Copies go from guest to guest. Only a frame that its receiver cannot take as it is (a checksum
//! left out, a segment too large) passes through a buffer of the worker.

use std::sync::Arc;

use super::Fault;
use super::count::{Account, Counts};
use super::frame::Frame;
use super::link_out::LinkOut;
use super::mend::Mender;
use super::payload::Payload;
use super::ring_out::RingOut;
use super::route::Job;
use super::snapshot::{Attachment, Port, PortId, PortRings, Snapshot};
use crate::frame::flow::flow_hash;
use crate::frame::offloads::{Repair, repair_needed};
use crate::stats::DropReason;
use crate::uplink::Link;

/// Queues to choose from that a receiver can have: the stride of the table of groups.
const MAX_QUEUES: usize = 8;

/// What became of copies that could not be made.
pub trait Outcome {
    /// The copy was dropped.
    fn dropped(&mut self, at: Account, reason: DropReason);
    /// The receiver has no buffer yet: the frame in `chain` is to be tried again, without the first
    /// `sent` of the frames that repair makes of it.
    fn wait(&mut self, chain: usize, sent: usize);
    /// How many of the frames that repair makes of the frame in `chain` were sent in earlier turns.
    fn sent(&self, chain: usize) -> usize;
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
    queue: usize,
    first: usize,
    last: usize,
}

const END: usize = usize::MAX;

/// Buffers of a worker's egress, kept from burst to burst.
#[derive(Default)]
pub struct Egress {
    groups: Vec<Group>,
    next: Vec<usize>,
    /// Which group a queue has, if `groups` confirms it: never cleared.
    group_of: Vec<u32>,
    mender: Mender,
}

/// A burst to be delivered.
#[derive(Clone, Copy)]
pub struct Burst<'b, 'm> {
    /// The forms of its frames.
    pub frames: &'b [Frame],
    /// The copies to make.
    pub jobs: &'b [Job],
    /// Where the frames lie.
    pub payload: Payload<'b, 'm>,
    /// The chains, one bit each, whose frame has one receiver and waits for it if it is full.
    /// Other frames are dropped at a full receiver.
    pub sole: u64,
}

impl Egress {
    /// Makes the copies of a burst.
    pub fn deliver(
        &mut self,
        (snapshot, worker): (&Snapshot, usize),
        burst: Burst<'_, '_>,
        patience: Patience,
        outcome: &mut impl Outcome,
    ) {
        self.group(snapshot, burst.frames, burst.jobs);
        for g in 0..self.groups.len() {
            let Group {
                port: id,
                queue,
                first,
                ..
            } = self.groups[g];
            let (Some(port), Some(counts)) = (snapshot.port(id), Counts::of(snapshot, id, worker))
            else {
                continue;
            };
            match &port.attachment {
                Attachment::Rings(rings) => {
                    let Some(ring) = rings.rx.get(queue) else {
                        self.drop_all(first, burst.jobs, outcome);
                        continue;
                    };
                    let out = RingOut::new((id, counts), (rings, ring), patience);
                    self.fill_ring(out, rings, first, burst, outcome);
                }
                Attachment::Link(Some(link)) => {
                    let out = link.queues().get(queue).map(|queue| LinkOut {
                        counts,
                        queue,
                        accepts: link.accepts(),
                    });
                    match out {
                        Some(out) => self.fill_link(&out, first, burst, outcome),
                        None => self.drop_all(first, burst.jobs, outcome),
                    }
                }
                Attachment::Link(None) | Attachment::Patch(_) => {
                    self.drop_all(first, burst.jobs, outcome);
                }
            }
        }
    }

    /// The copies of one group, from job `index` on, into a receive ring.
    #[inline]
    fn fill_ring(
        &mut self,
        mut out: RingOut<'_>,
        rings: &PortRings,
        mut index: usize,
        burst: Burst<'_, '_>,
        outcome: &mut impl Outcome,
    ) {
        let Burst {
            frames, payload, ..
        } = burst;
        while index != END {
            let job = &burst.jobs[index];
            let frame = &frames[job.frame];
            index = self.next[index];
            let waits = burst.sole >> frame.chain & 1 != 0;
            let repair = repair_needed(&frame.vnet, frame.head(), rings.accepts);
            if repair == Repair::None {
                out.push(job, waits, (frames, payload), outcome);
                continue;
            }
            out.flush((frames, payload), outcome);
            if out.is_closed() {
                out.refuse(job, frame, waits, outcome);
                continue;
            }
            match self
                .mender
                .mend(repair, frame, job.action, payload, rings.accepts)
            {
                Ok(mended) => out.send_mended(&mended, (job, frame, waits), outcome),
                Err(reason) => outcome.dropped(job.account(), reason),
            }
        }
        out.flush((frames, payload), outcome);
        out.finish(outcome);
    }

    /// The copies of one group, from job `index` on, to a device.
    fn fill_link(
        &mut self,
        out: &LinkOut<'_>,
        mut index: usize,
        burst: Burst<'_, '_>,
        outcome: &mut impl Outcome,
    ) {
        while index != END {
            let job = &burst.jobs[index];
            let frame = &burst.frames[job.frame];
            index = self.next[index];
            let repair = repair_needed(&frame.vnet, frame.head(), out.accepts);
            if repair == Repair::None {
                out.send(job, frame, burst.payload, outcome);
                continue;
            }
            match self
                .mender
                .mend(repair, frame, job.action, burst.payload, out.accepts)
            {
                Ok(mended) => out.send_mended(&mended, (job, frame), outcome),
                Err(reason) => outcome.dropped(job.account(), reason),
            }
        }
        out.finish();
    }

    /// The receiver went away between the decision and the copy.
    fn drop_all(&self, mut index: usize, jobs: &[Job], outcome: &mut impl Outcome) {
        while index != END {
            outcome.dropped(jobs[index].account(), DropReason::PortDown);
            index = self.next[index];
        }
    }

    /// Sorts the jobs by receive ring, keeping their order within each.
    fn group(&mut self, snapshot: &Snapshot, frames: &[Frame], jobs: &[Job]) {
        self.groups.clear();
        self.next.clear();
        self.next.resize(jobs.len(), END);
        let table = snapshot.ports.len() * MAX_QUEUES;
        if self.group_of.len() < table {
            self.group_of.resize(table, 0);
        }
        for (index, job) in jobs.iter().enumerate() {
            let queue = choose_queue(snapshot, job.port, &frames[job.frame]);
            let place = job.port.index() * MAX_QUEUES + queue;
            let g = self.group_of[place] as usize;
            match self.groups.get_mut(g) {
                Some(group) if group.port == job.port && group.queue == queue => {
                    self.next[group.last] = index;
                    group.last = index;
                }
                _ => {
                    self.group_of[place] = self.groups.len() as u32;
                    self.groups.push(Group {
                        port: job.port,
                        queue,
                        first: index,
                        last: index,
                    });
                }
            }
        }
    }
}

/// The receive ring for a frame: by its flow, so that a flow keeps its order whichever worker
/// carries it. A ring that the guest has never given a buffer is passed over (cloud-hypervisor
/// enables all queue pairs, whatever the guest uses).
fn choose_queue(snapshot: &Snapshot, port: PortId, frame: &Frame) -> usize {
    let Some(attachment) = snapshot.port(port).map(|port: &Port| &port.attachment) else {
        return 0;
    };
    let count = match attachment {
        Attachment::Rings(rings) => rings.rx.len(),
        Attachment::Link(link) => link
            .as_ref()
            .map_or(0, |link: &Arc<Link>| link.queues().len()),
        Attachment::Patch(_) => 0,
    };
    let count = count.min(MAX_QUEUES);
    if count < 2 {
        return 0;
    }
    let first = flow_hash(frame.head()) as usize % count;
    let Attachment::Rings(rings) = attachment else {
        return first;
    };
    (first..count)
        .chain(0..first)
        .find(|&ring| rings.rx[ring].has_buffers())
        .unwrap_or(first)
}
