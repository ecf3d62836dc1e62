//! One turn of one transmit queue: take a burst, decide, deliver, give back what is done.

use super::Fault;
use super::count::{Account, Counts, drop_at};
use super::egress::{Burst, Egress, Outcome, Patience};
use super::flood::{Flood, Progress};
use super::frame::{Frame, HEAD};
use super::lock;
use super::payload::Payload;
use super::route::Routes;
use super::snapshot::{Port, PortId, Snapshot};
use crate::frame::mac::Mac;
use crate::frame::vnet::{Origin, VnetHeader};
use crate::stats::DropReason;
use crate::uplink::Inbox;
use crate::virtqueue::{self, TxBatch, TxGuard, TxRing};

/// Frames taken from a queue in one turn.
pub const BURST: usize = 32;
/// Copies of one frame made in one turn.
const SLICE: usize = 64;

/// Bytes of the longest frame: 64 KiB of IP packet, its Ethernet header, and tags.
pub(super) const MAX_FRAME: usize = 65_535 + 14 + 8;
/// The address counted where there is none.
const NOBODY: Mac = Mac::new([0; 6]);

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do.
    Idle,
    /// Frames were handled, or wait for a receiver: there may be more.
    Busy,
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
    pub fn turn(&mut self, snapshot: &Snapshot, id: PortId, index: usize, at: Moment) -> Turn {
        let (Some(port), Some(counts)) = (snapshot.port(id), Counts::of(snapshot, id, at.worker))
        else {
            return Turn::Idle;
        };
        let Some(rings) = port.attachment.rings() else {
            return Turn::Idle;
        };
        let Some(queue) = rings.tx.get(index) else {
            return Turn::Idle;
        };
        // Held by another worker only while the queue moves from it to this one.
        let Some(mut guard) = queue.ring.try_lock() else {
            return Turn::Busy;
        };
        let mut under_way = lock(&queue.progress.under_way);
        let origin = origin_of(snapshot, port);
        let Progress { flood, sent } = &mut *under_way;
        let mut batch = TxBatch::new();
        let taken = match guard.peek(&mut batch, BURST) {
            // A guest that has filled its ring says nothing more before the call that is owed to it.
            Ok(0) => {
                return call_guest(&queue.ring, counts).map_or_else(Turn::Failed, |()| Turn::Idle);
            }
            Ok(taken) => taken,
            Err(error) => return Turn::Failed(Fault::of(error, queue.ring.memory())),
        };
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, Some(sent));
        self.routes.clear();
        let end = if flood.is_active() {
            flood.chain.min(taken)
        } else {
            taken
        };
        let mut finished: u64 = 0;
        for chain in 0..end {
            if batch.chains()[chain].done {
                continue;
            }
            finished |= 1 << chain;
            let first = self.routes.jobs.len();
            match read_frame(&batch, chain, (rings.header_len, origin)) {
                Ok(frame) => {
                    let forms = self.routes.frames.len();
                    let entries = self.routes.entries.len();
                    self.routes
                        .add(snapshot, id, frame, at.now_s, |to, reason| {
                            drop_at(snapshot, at.worker, to, reason);
                        });
                    let copies = self.routes.jobs.len() - first;
                    if copies == 1 {
                        tally.sole |= 1 << chain;
                    } else if copies > 1 && self.routes.jobs.len() > SLICE {
                        begin_flood(
                            at.snapshot,
                            flood,
                            &mut self.routes,
                            (first, forms, entries),
                            (chain, &batch),
                        );
                        tally.flooded = 1 << chain;
                        break;
                    }
                }
                Err(reason) => {
                    counts.tx(0, NOBODY, batch.chains()[chain].len as usize);
                    counts.drop_frames(0, reason, 1);
                }
            }
        }
        let at_flood = tally.flooded;
        let burst = Burst {
            frames: &self.routes.frames,
            jobs: &self.routes.jobs,
            payload: Payload::Chains(&batch),
            sole: tally.sole,
        };
        let here = (snapshot, at.worker);
        self.egress.deliver(here, burst, at.patience, &mut tally);
        finished &= !(tally.waiting | at_flood);
        // What waits comes again; a flood counts when it begins.
        let waiting = tally.waiting;
        self.routes.count(here, |chain| waiting >> chain & 1 == 0);
        for chain in bits(finished) {
            guard.finish(chain);
        }
        if at_flood == 0 && flood.is_active() && flood.chain < taken {
            continue_flood(&mut self.egress, flood, &mut guard, &batch, &mut tally, at);
        }
        let consumed = usize::from(guard.publish());
        under_way.advance(consumed);
        drop(guard);
        end_turn(&queue.ring, consumed, counts)
    }

    /// Sends a frame of at most [`HEAD`] bytes in the name of the port `id`.
    pub fn inject(&mut self, snapshot: &Snapshot, id: PortId, bytes: &[u8], at: Moment) {
        let Some(counts) = Counts::of(snapshot, id, at.worker) else {
            return;
        };
        let drop_frame = |to, reason| drop_at(snapshot, at.worker, to, reason);
        let bytes = &bytes[..bytes.len().min(HEAD)];
        self.routes.clear();
        match Frame::new(0, VnetHeader::PLAIN, bytes, bytes.len(), 0) {
            Ok(frame) => self.routes.add(snapshot, id, frame, at.now_s, drop_frame),
            Err(reason) => counts.drop_frames(0, reason, 1),
        }
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, None);
        let burst = Burst {
            frames: &self.routes.frames,
            jobs: &self.routes.jobs,
            payload: Payload::Frames(&[]),
            sole: 0,
        };
        let here = (snapshot, at.worker);
        self.egress.deliver(here, burst, at.patience, &mut tally);
    }
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
        for frame in &mut flood.frames {
            frame.chain = chain;
        }
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

/// Moves the copies of the last frame out of the tally. None of them is made yet, so frames before
/// it keep their place.
fn begin_flood(
    snapshot: u64,
    flood: &mut Flood,
    routes: &mut Routes,
    (first_job, first_form, first_entry): (usize, usize, usize),
    (chain, batch): (usize, &TxBatch<'_>),
) {
    flood.clear();
    flood.frames.extend(routes.frames.drain(first_form..));
    flood.jobs.extend(routes.jobs.drain(first_job..));
    for job in &mut flood.jobs {
        job.frame -= first_form;
    }
    flood.vid = routes.entries.get(first_entry).map_or(0, |e| e.at.vid);
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

/// Reads the virtio-net header and the first bytes of the frame in `chain`, once, and checks them.
fn read_frame(
    batch: &TxBatch<'_>,
    chain: usize,
    (header_len, origin): (usize, Origin),
) -> Result<Frame, DropReason> {
    let described = &batch.chains()[chain];
    let len = (described.len as usize)
        .checked_sub(header_len)
        .ok_or(DropReason::BadHeader)?;
    if len > MAX_FRAME {
        return Err(DropReason::TooLong);
    }
    // A legacy header is two bytes shorter; the field that it lacks stays zero.
    let mut bytes = [0; VnetHeader::LEN + HEAD];
    let read = virtqueue::read(
        batch.segments(described),
        0,
        &mut bytes[..header_len + HEAD],
    );
    let (header, behind) = bytes.split_at_mut(header_len);
    let mut fields = [0; VnetHeader::LEN];
    fields[..header_len].copy_from_slice(header);
    let head = &mut behind[..read.saturating_sub(header_len)];
    let vnet = VnetHeader::decode(&fields).check(len, head, origin)?;
    Frame::new(chain, vnet, head, len, header_len + head.len())
}

/// The positions of the bits set in `set`.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros();
        (bit < u64::BITS).then(|| {
            set &= set - 1;
            bit as usize
        })
    })
}

/// What is known of the frames of a burst, each chain being one bit or place.
pub(super) struct Tally<'a> {
    counts: Counts<'a>,
    snapshot: &'a Snapshot,
    worker: usize,
    failed: &'a mut Vec<(PortId, Fault)>,
    /// How far frames came that were sent in part; none for frames that do not wait.
    progress: Option<&'a mut [u16; BURST]>,
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
        progress: Option<&'a mut [u16; BURST]>,
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
            progress[chain] = sent as u16;
        }
    }

    fn sent(&self, chain: usize) -> usize {
        let progress = self.progress.as_ref();
        progress.map_or(0, |progress| progress[chain].into())
    }

    fn failed(&mut self, port: PortId, error: Fault) {
        self.failed.push((port, error));
    }
}
