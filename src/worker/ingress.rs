//! One turn of one transmit queue: take a burst, decide, deliver, give back what is done.

use std::slice;

use super::Fault;
use super::count::{Account, Counts, Sum, drop_at};
use super::egress::{Burst, Egress, Outcome, Patience, deliver_alone};
use super::flood::{Flood, Progress, Sent};
use super::frame::{Frame, Frames, HEAD};
use super::payload::Payload;
use super::route::{Entrance, Mark, Routes};
use super::snapshot::{Port, PortId, Snapshot};
use crate::frame::mac::Mac;
use crate::frame::vnet::{Origin, VnetHeader};
use crate::stats::DropReason;
use crate::uplink::Inbox;
use crate::virtqueue::{TxBatch, TxGuard, TxRing};

/// Frames taken from a queue in one turn.
pub const BURST: usize = 32;
/// Copies of one frame made in one turn.
const SLICE: usize = 64;

/// The address counted where there is none.
const NOBODY: Mac = Mac::new([0; 6]);

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do.
    Idle,
    /// Frames were handled: there may be more.
    Busy,
    /// Frames wait for receivers, and nothing else could be done.
    Waits,
    /// The queue is broken and must not be looked at again.
    Failed(Fault),
}

/// The buffers of one worker's frame path.
#[derive(Default)]
pub struct Path {
    pub(super) routes: Routes,
    pub(super) egress: Egress,
    /// What links are read into.
    pub(super) inbox: Inbox,
    /// What overflows buffers of a guest that a link is read into.
    pub(super) spill: Vec<u8>,
    /// Receivers found broken in this turn.
    pub failed: Vec<(PortId, Fault)>,
}

/// Where and when a turn happens.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The worker.
    pub worker: usize,
    /// The epoch of the snapshot.
    pub snapshot: u64,
    /// For the FDB: seconds since the daemon started.
    pub now_s: u32,
    /// For full rings.
    pub patience: Patience,
}

impl Path {
    /// Serves queue number `index` among the transmit rings of the port `id` once.
    // Not in the round, which would have to find room for a burst on the stack to look at silent rings.
    #[inline(never)]
    pub fn turn(&mut self, snapshot: &Snapshot, id: PortId, index: usize, at: Moment) -> Turn {
        let here = (snapshot, at.worker);
        let rings = snapshot.port(id).and_then(|port| port.attachment.rings());
        let Some((rings, queue)) = rings.and_then(|rings| Some((rings, rings.tx.get(index)?)))
        else {
            return Turn::Idle;
        };
        // Held by another worker only while the queue moves from it to this one.
        let Some(mut guard) = queue.ring.try_lock() else {
            return Turn::Busy;
        };
        let mut batch = TxBatch::new();
        let taken = match guard.peek(&mut batch, BURST) {
            // A guest that has filled its ring says nothing more before the call that is owed to it.
            Ok(0) => {
                let counts = Counts::of(snapshot, id, at.worker);
                let called = counts.map_or(Ok(()), |counts| call_guest(&queue.ring, counts));
                return called.map_or_else(Turn::Failed, |()| Turn::Idle);
            }
            Ok(taken) => taken,
            Err(error) => return Turn::Failed(Fault::of(error, queue.ring.memory())),
        };
        // Most turns find nothing and end before this.
        let Some(entrance) = Entrance::of(here, id, at.now_s) else {
            return Turn::Idle;
        };
        let counts = entrance.counts;
        let origin = origin_of(snapshot, entrance.port);
        let mut under_way = queue.progress.under_way.lock();
        let Progress {
            flood,
            sent,
            budget,
        } = &mut *under_way;
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, Some(sent));
        self.routes.clear();
        let end = if flood.is_active() {
            flood.chain.min(taken)
        } else {
            taken
        };
        let before = guard.finished();
        let header = (rings.header_len, origin);
        let refused = read_frames(&mut self.routes.frames, &batch, end, header, counts);
        let may_wait = budget.may_wait(at.patience);
        let alone = taken == 1
            && !flood.is_active()
            && send_alone(
                here,
                (&entrance, &self.routes.frames, &batch),
                at.patience,
                &mut tally,
            );
        let routed = if alone {
            first_chains(1)
        } else {
            let routed = route(
                &mut self.routes,
                &entrance,
                (flood, &batch),
                &mut tally,
                (end, at),
            );
            let burst = Burst {
                frames: &self.routes.frames,
                jobs: &self.routes.jobs,
                payload: Payload::Chains(&batch),
                sole: if may_wait { tally.sole } else { 0 },
            };
            self.egress.deliver(here, burst, at.patience, &mut tally);
            // What waits comes again; a flood counts when it begins.
            let waiting = tally.waiting;
            self.routes.count(here, |chain| waiting >> chain & 1 == 0);
            routed
        };
        let (waiting, at_flood) = (tally.waiting, tally.flooded);
        let finished = (refused | routed) & !before & !waiting;
        let stands = waiting != 0 && finished == 0 && at_flood == 0 && !flood.is_active();
        guard.finish_set(finished);
        budget.note(taken, waiting, guard.finished());
        if at_flood == 0 && flood.is_active() && flood.chain < taken {
            continue_flood(&mut self.egress, flood, &mut guard, &batch, &mut tally, at);
        }
        let consumed = usize::from(guard.publish());
        under_way.advance(consumed);
        drop(under_way);
        drop(guard);
        match end_turn(&queue.ring, consumed, counts) {
            Turn::Busy if stands => Turn::Waits,
            turn => turn,
        }
    }

    /// Sends a frame of at most [`HEAD`] bytes in the name of the port `id`.
    pub fn inject(&mut self, snapshot: &Snapshot, id: PortId, bytes: &[u8], at: Moment) {
        let here = (snapshot, at.worker);
        let Some(entrance) = Entrance::of(here, id, at.now_s) else {
            return;
        };
        let counts = entrance.counts;
        let bytes = &bytes[..bytes.len().min(HEAD)];
        self.routes.clear();
        let frames = &mut self.routes.frames;
        match frames.add(|frame| frame.read_bytes(0, VnetHeader::PLAIN, bytes, bytes.len())) {
            Ok(frame) => self.routes.add(&entrance, frame),
            Err(reason) => counts.drop_frames(0, reason, 1),
        }
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, None);
        let burst = Burst {
            frames: &self.routes.frames,
            jobs: &self.routes.jobs,
            payload: Payload::Frames(&[]),
            sole: 0,
        };
        self.egress.deliver(here, burst, at.patience, &mut tally);
    }
}

/// Finds the copies of all frames, which are in the first `end` chains, up to one that has too many for a turn: that is
/// what the flood is from now on. The chains that were looked at, one bit each.
fn route(
    routes: &mut Routes,
    entrance: &Entrance<'_>,
    (flood, batch): (&mut Flood, &TxBatch<'_>),
    tally: &mut Tally<'_>,
    (end, at): (usize, Moment),
) -> u64 {
    routes.expect(entrance);
    // Chains with other than one copy, and how far they were looked at.
    let (mut several, mut looked_at) = (0, end);
    let (mut next, count) = (0, routes.frames.len());
    while next < count {
        let (frame, mark) = (next, routes.mark());
        routes.add(entrance, frame);
        next += 1;
        let copies = routes.jobs.len() - mark.jobs;
        if copies == 1 {
            next += routes.add_like(entrance, next..count);
            continue;
        }
        let chain = routes.frames[frame].chain;
        several |= 1 << chain;
        if copies > 1 && routes.jobs.len() > SLICE {
            begin_flood(at.snapshot, flood, routes, mark, (frame, batch));
            tally.flooded = 1 << chain;
            // Those behind it are read again when it is done.
            looked_at = chain;
            break;
        }
    }
    let routed = first_chains(looked_at);
    tally.sole = routed & !several;
    routed
}

/// Sends the frame of a turn that has no other; false if that takes the long way, and nothing was done.
#[inline]
fn send_alone(
    here: (&Snapshot, usize),
    (entrance, frames, batch): (&Entrance<'_>, &[Frame], &TxBatch<'_>),
    patience: Patience,
    tally: &mut Tally<'_>,
) -> bool {
    let [frame] = frames else { return false };
    let Some(job) = entrance.only_job(frame) else {
        return false;
    };
    let burst = Burst {
        frames,
        jobs: slice::from_ref(&job),
        payload: Payload::Chains(batch),
        sole: 0,
    };
    let sent = deliver_alone(here, burst, patience, tally);
    if sent {
        let sum = Sum::one(frame.header.dst, frame.len);
        entrance.counts.tx(job.vid, sum);
    }
    sent
}

/// The bits of the first `count` chains of a burst.
fn first_chains(count: usize) -> u64 {
    1_u64
        .checked_shl(count as u32)
        .map_or(u64::MAX, |end| end - 1)
}

/// Reads the frames in the first `end` chains; returns the chains in which there is none, and which
/// were counted as dropped.
#[inline(never)]
fn read_frames(
    frames: &mut Frames,
    batch: &TxBatch<'_>,
    end: usize,
    header: (usize, Origin),
    counts: Counts<'_>,
) -> u64 {
    let mut refused = 0;
    let chains = batch.chains()[..end].iter().enumerate();
    frames.add_all(chains, |frame, (chain, described)| {
        if described.done {
            return false;
        }
        let segments = batch.segments(described);
        let Err(reason) = frame.read_chain((chain, described.len), segments, header) else {
            return true;
        };
        refused |= 1 << chain;
        counts.tx(0, Sum::one(NOBODY, described.len as usize));
        counts.drop_frames(0, reason, 1);
        false
    });
    refused
}

/// Calls the guest if it wants to know that `consumed` chains came back, and looks whether its memory is
/// still there.
fn end_turn(ring: &TxRing, consumed: usize, counts: Counts<'_>) -> Turn {
    if consumed > 0
        && let Err(fault) = call_guest(ring, counts)
    {
        return Turn::Failed(fault);
    }
    if ring.poisoned() {
        return Turn::Failed(Fault::Memory);
    }
    Turn::Busy
}

/// Calls the guest if it wants to know, or is owed a call.
#[inline]
fn call_guest(ring: &TxRing, counts: Counts<'_>) -> Result<(), Fault> {
    let called = ring.notify().map_err(Fault::Ring)?;
    counts.port.calls(called.into());
    Ok(())
}

/// Makes the next slice of the copies of a flood.
fn continue_flood(
    egress: &mut Egress,
    flood: &mut Flood,
    guard: &mut TxGuard<'_>,
    batch: &TxBatch<'_>,
    tally: &mut Tally<'_>,
    at: Moment,
) {
    let chain = flood.chain;
    // The descriptors were read again. If the guest changed them meanwhile, the rest of the
    // payload may be missing: no copy is made of what is not there.
    if flood.snapshot != at.snapshot {
        // Ports may have come and gone, and their numbers with them.
        let left = flood.jobs.len() - flood.made;
        tally
            .counts
            .drop_frames(flood.vid, DropReason::PortDown, left as u64);
        flood.made = flood.jobs.len();
    } else if batch.chains()[chain].len == flood.chain_len {
        flood.frames.move_to(chain);
        let slice = flood.made..flood.jobs.len().min(flood.made + SLICE);
        flood.made = slice.end;
        let jobs = &flood.jobs[slice];
        let burst = Burst {
            frames: &flood.frames,
            jobs,
            payload: Payload::Chains(batch),
            sole: 0,
        };
        let here = (tally.snapshot, at.worker);
        egress.deliver(here, burst, at.patience, tally);
    } else {
        let counts = tally.counts;
        counts.drop_frames(flood.vid, DropReason::BadChain, 1);
        flood.clear();
    }
    if !flood.is_active() {
        flood.clear();
        guard.finish(chain);
    }
}

/// Moves the copies of frame number `frame`, all that was routed since `before`, out of the burst. None of
/// them is made yet, so frames before it keep their place.
fn begin_flood(
    snapshot: u64,
    flood: &mut Flood,
    routes: &mut Routes,
    before: Mark,
    (frame, batch): (usize, &TxBatch<'_>),
) {
    flood.clear();
    let chain = routes.frames[frame].chain;
    flood.frames.push(&routes.frames[frame]);
    for form in &routes.frames[before.frames..] {
        flood.frames.push(form);
    }
    flood.jobs.extend(routes.jobs.drain(before.jobs..));
    for job in &mut flood.jobs {
        job.frame = match job.frame.checked_sub(before.frames) {
            Some(form) => form + 1,
            None => 0,
        };
    }
    flood.vid = routes.vid_of(frame);
    flood.snapshot = snapshot;
    flood.chain = chain;
    flood.chain_len = batch.chains()[chain].len;
}

/// Whose word a header of a frame from this port is.
fn origin_of(snapshot: &Snapshot, port: &Port) -> Origin {
    match snapshot.relay(port.relay) {
        Some(view) if view.relay.uplink() == Some(port.slot) => Origin::Uplink,
        _ => Origin::Guest,
    }
}

/// What is known of the frames of a burst, each chain being one bit or place.
pub(super) struct Tally<'a> {
    counts: Counts<'a>,
    snapshot: &'a Snapshot,
    worker: usize,
    failed: &'a mut Vec<(PortId, Fault)>,
    /// How far frames came that were sent in part; none for frames that do not wait.
    progress: Option<&'a mut Sent>,
    /// Chains whose frame waits for its receiver.
    waiting: u64,
    /// Chains whose frame has one receiver.
    sole: u64,
    /// The chain that is being flooded.
    flooded: u64,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        counts: Counts<'a>,
        worker: usize,
        failed: &'a mut Vec<(PortId, Fault)>,
        progress: Option<&'a mut Sent>,
    ) -> Self {
        Self {
            counts,
            snapshot,
            worker,
            failed,
            progress,
            waiting: 0,
            sole: 0,
            flooded: 0,
        }
    }
}

impl Outcome for Tally<'_> {
    fn dropped(&mut self, at: Account, reason: DropReason) {
        drop_at(self.snapshot, self.worker, at, reason);
    }

    fn wait(&mut self, chain: usize, sent: usize) {
        self.waiting |= 1 << chain;
        if let Some(progress) = &mut self.progress {
            progress.note(chain, sent);
        }
    }

    fn sent(&self, chain: usize) -> usize {
        let progress = self.progress.as_ref();
        progress.map_or(0, |progress| progress.of(chain))
    }

    fn failed(&mut self, port: PortId, error: Fault) {
        self.failed.push((port, error));
    }
}
