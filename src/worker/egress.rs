//! From jobs to receivers: one reservation, one publication and at most one call for each receive
//! ring and burst, and one copy of the payload for each receiver.
//!
//! Copies go from guest to guest, also those of frames that have to be repaired.

use std::ops::Range;

use super::Fault;
use super::count::{Account, Counts};
use super::frame::Frame;
use super::link_out::LinkOut;
use super::mend::Mender;
use super::payload::Payload;
use super::ring_out::RingOut;
use super::route::Job;
use super::snapshot::{Attachment, PortId, Snapshot};
use crate::frame::flow::flow_hash;
use crate::frame::offloads::Repair;
use crate::stats::DropReason;

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

/// The jobs of one burst that go to one receive ring.
struct Group {
    port: PortId,
    queue: usize,
    /// Its part of [`Egress::sorted`].
    jobs: Range<usize>,
}

/// Buffers of a worker's egress, kept from burst to burst.
#[derive(Default)]
pub struct Egress {
    groups: Vec<Group>,
    /// Which group each job belongs to.
    member: Vec<u32>,
    /// The jobs, group by group; not used where there is one group.
    sorted: Vec<Job>,
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

impl Burst<'_, '_> {
    /// Whether a frame waits for its receiver, or has been dropped by the time it has room.
    #[inline]
    pub fn waits(&self, frame: &Frame) -> bool {
        self.sole >> frame.chain & 1 != 0
    }
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
        let Self {
            groups,
            sorted,
            mender,
            ..
        } = self;
        let sorted = if groups.len() == 1 {
            burst.jobs
        } else {
            sorted
        };
        for Group {
            port: id,
            queue,
            jobs,
        } in groups
        {
            let (id, queue) = (*id, *queue);
            let burst = Burst {
                jobs: &sorted[jobs.clone()],
                ..burst
            };
            let (Some(port), Some(counts)) = (snapshot.port(id), Counts::of(snapshot, id, worker))
            else {
                continue;
            };
            match &port.attachment {
                Attachment::Rings(rings) => match rings.rx.get(queue) {
                    Some(ring) => {
                        let out = RingOut::new((id, counts), (rings, ring), patience);
                        fill_ring(out, burst, mender, outcome);
                    }
                    None => drop_all(burst.jobs, outcome),
                },
                Attachment::Link(Some(link)) => match link.queues().get(queue) {
                    Some(queue) => {
                        let accepts = link.accepts();
                        let out = LinkOut {
                            counts,
                            queue,
                            accepts,
                        };
                        fill_link(&out, burst, mender, outcome);
                    }
                    None => drop_all(burst.jobs, outcome),
                },
                Attachment::Load(load) => load.take(burst, counts),
                Attachment::Link(None) | Attachment::Patch(_) => {
                    drop_all(burst.jobs, outcome);
                }
            }
        }
    }

    /// Sorts the jobs by receive ring, keeping their order within each.
    #[inline]
    fn group(&mut self, snapshot: &Snapshot, frames: &[Frame], jobs: &[Job]) {
        self.groups.clear();
        let Some(first) = jobs.first() else { return };
        let rings = queues(snapshot, first.port);
        if rings < 2 && jobs.iter().all(|job| job.port == first.port) {
            self.groups.push(Group {
                port: first.port,
                queue: 0,
                jobs: 0..jobs.len(),
            });
            return;
        }
        self.member.clear();
        let table = snapshot.ports.len() * MAX_QUEUES;
        if self.group_of.len() < table {
            self.group_of.resize(table, 0);
        }
        for job in jobs {
            let queue = choose_queue(snapshot, job.port, &frames[job.frame]);
            let place = &mut self.group_of[job.port.index() * MAX_QUEUES + queue];
            match self.groups.get_mut(*place as usize) {
                Some(group) if group.port == job.port && group.queue == queue => {
                    group.jobs.end += 1;
                }
                _ => {
                    *place = self.groups.len() as u32;
                    self.groups.push(Group {
                        port: job.port,
                        queue,
                        jobs: 0..1,
                    });
                }
            }
            self.member.push(*place);
        }
        let mut start = 0;
        for group in &mut self.groups {
            let count = group.jobs.end;
            group.jobs = start..start;
            start += count;
        }
        // What stands there is overwritten.
        self.sorted.resize(jobs.len(), *first);
        for (job, member) in jobs.iter().zip(&self.member) {
            let jobs = &mut self.groups[*member as usize].jobs;
            self.sorted[jobs.end] = *job;
            jobs.end += 1;
        }
    }
}

/// Makes the copy of a burst that is one plain frame for a guest with one receive ring. False where it is something else,
/// or no buffer can be had: then nothing was done.
#[inline]
pub fn deliver_alone(
    (snapshot, worker): (&Snapshot, usize),
    burst: Burst<'_, '_>,
    patience: Patience,
    outcome: &mut impl Outcome,
) -> bool {
    let [job] = burst.jobs else { return false };
    let (Some(port), Some(counts)) = (
        snapshot.port(job.port),
        Counts::of(snapshot, job.port, worker),
    ) else {
        return false;
    };
    let Some((rings, [ring])) = port.attachment.rings().map(|rings| (rings, &rings.rx[..])) else {
        return false;
    };
    let mut out = RingOut::new((job.port, counts), (rings, ring), patience);
    let sent = out.send_alone(burst, outcome);
    if sent {
        out.finish(outcome);
    }
    sent
}

/// The copies of one group into a receive ring.
#[inline]
fn fill_ring(
    mut out: RingOut<'_>,
    mut burst: Burst<'_, '_>,
    mender: &mut Mender,
    outcome: &mut impl Outcome,
) {
    while !burst.jobs.is_empty() {
        let sent = out.send(burst, mender, outcome);
        let [job, behind @ ..] = &burst.jobs[sent..] else {
            break;
        };
        // The next one has to be cut.
        burst.jobs = behind;
        let frame = &burst.frames[job.frame];
        let waits = burst.waits(frame);
        if out.is_closed() {
            out.refuse(job, frame, waits, outcome);
            continue;
        }
        let repair = (Repair::Segment, out.accepts());
        match mender.begin(repair, frame, job.action, burst.payload) {
            Ok(mut mending) => out.send_mended(&mut mending, (job, frame, waits), outcome),
            Err(reason) => outcome.dropped(job.account(), reason),
        }
    }
    out.finish(outcome);
}

/// The copies of one group to a device.
fn fill_link(
    out: &LinkOut<'_>,
    burst: Burst<'_, '_>,
    mender: &mut Mender,
    outcome: &mut impl Outcome,
) {
    for job in burst.jobs {
        let frame = &burst.frames[job.frame];
        let repair = frame.repair(out.accepts);
        if repair == Repair::None {
            out.send(job, frame, burst.payload, outcome);
            continue;
        }
        let repair = (repair, out.accepts);
        match mender.begin(repair, frame, job.action, burst.payload) {
            Ok(mut mending) => out.send_mended(&mut mending, (job, frame), outcome),
            Err(reason) => outcome.dropped(job.account(), reason),
        }
    }
    out.finish();
}

/// The receiver went away between the decision and the copy.
fn drop_all(jobs: &[Job], outcome: &mut impl Outcome) {
    for job in jobs {
        outcome.dropped(job.account(), DropReason::PortDown);
    }
}

/// The receive ring for a frame: by its flow, so that a flow keeps its order whichever worker
/// carries it. A ring that the guest has never given a buffer is passed over (cloud-hypervisor
/// enables all queue pairs, whatever the guest uses).
fn choose_queue(snapshot: &Snapshot, port: PortId, frame: &Frame) -> usize {
    let count = queues(snapshot, port).min(MAX_QUEUES);
    if count < 2 {
        return 0;
    }
    let first = flow_hash(frame.head()) as usize % count;
    let Some(Attachment::Rings(rings)) = snapshot.port(port).map(|port| &port.attachment) else {
        return first;
    };
    (first..count)
        .chain(0..first)
        .find(|&ring| rings.rx[ring].has_buffers())
        .unwrap_or(first)
}

/// How many queues there are to choose from.
#[inline]
fn queues(snapshot: &Snapshot, port: PortId) -> usize {
    match snapshot.port(port).map(|port| &port.attachment) {
        Some(Attachment::Rings(rings)) => rings.rx.len(),
        Some(Attachment::Link(Some(link))) => link.queues().len(),
        Some(Attachment::Link(None) | Attachment::Patch(_) | Attachment::Load(_)) | None => 0,
    }
}
