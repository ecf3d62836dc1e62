//! Delivery into one receive ring of a guest.

use std::slice;

use arrayvec::ArrayVec;

use super::Fault;
use super::count::{Counts, Sum};
use super::egress::{Burst, Outcome, Patience};
use super::frame::Frame;
use super::front::Front;
use super::mend::{Mender, Mending};
use super::payload::Payload;
use super::route::Job;
use super::snapshot::{PortId, PortRings};
use crate::frame::mac::Mac;
use crate::frame::offloads::{Offloads, Repair};
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;
use crate::virtqueue::{self, Gather, Grant, Reserved, RxBatch, RxRing, Segment};

/// Frames given to a ring at once.
const RUN: usize = 64;
/// Bytes given to a ring at once, about: with large frames the receiver takes the first, and posts their buffers anew,
/// while the next are being copied.
const PORTION: usize = 128 << 10;

/// Copies that are made at once.
#[derive(Default)]
struct Run {
    /// The bytes of each, with the virtio-net header.
    wants: ArrayVec<u32, RUN>,
    /// The frames are all [plain](Frame::is_plain), and have their tags changed in the same way.
    simple: bool,
    /// Some are more than a head.
    rest: bool,
}

/// One receive ring during one burst.
pub struct RingOut<'a> {
    id: PortId,
    counts: Counts<'a>,
    rings: &'a PortRings,
    ring: &'a RxRing,
    patience: Patience,
    /// A frame found no room: those behind it must not overtake it.
    closed: bool,
    /// What was delivered and not counted yet, in VLAN `vid`.
    sum: Sum,
    vid: u16,
}

impl<'a> RingOut<'a> {
    /// Begins a burst for `ring` of the port `id`.
    pub fn new(
        (id, counts): (PortId, Counts<'a>),
        (rings, ring): (&'a PortRings, &'a RxRing),
        patience: Patience,
    ) -> Self {
        Self {
            id,
            counts,
            rings,
            ring,
            patience,
            closed: false,
            sum: Sum::default(),
            vid: 0,
        }
    }

    /// What the receiver takes without repair.
    pub fn accepts(&self) -> Offloads {
        self.rings.accepts
    }

    /// Makes the copies of a burst, up to the first that has to be cut; how many.
    #[inline]
    pub fn send(
        &mut self,
        burst: Burst<'_, '_>,
        mender: &mut Mender,
        outcome: &mut impl Outcome,
    ) -> usize {
        let mut done = 0;
        let mut run = Run::default();
        loop {
            self.look(&mut run, burst.frames, &burst.jobs[done..]);
            if run.wants.is_empty() {
                return done;
            }
            let jobs = &burst.jobs[done..done + run.wants.len()];
            done += jobs.len();
            self.send_run(&run, Burst { jobs, ..burst }, mender, outcome);
        }
    }

    /// Makes the copy of a burst that is one plain frame. False where it is something else, or no buffer can be had: then
    /// nothing was done.
    #[inline]
    pub fn send_alone(&mut self, burst: Burst<'_, '_>, outcome: &mut impl Outcome) -> bool {
        let [job] = burst.jobs else { return false };
        let frame = &burst.frames[job.frame];
        if !frame.is_plain() {
            return false;
        }
        let short = frame.rest_len() == 0;
        short && self.send_short(job, frame)
            || self.send_reserved(job, frame, burst.payload, outcome)
    }

    /// The same with a reservation.
    // Not where it is called, which would have to find room for one on the stack for short frames too.
    #[inline(never)]
    fn send_reserved(
        &mut self,
        job: &Job,
        frame: &Frame,
        payload: Payload<'_, '_>,
        outcome: &mut impl Outcome,
    ) -> bool {
        let want = self.rings.header_len + job.len_of(frame);
        let mut reserved = RxBatch::new();
        // An error comes again, and is reported then.
        let Ok(Reserved { granted: 1, .. }) = self.ring.reserve(&[want as u32], &mut reserved)
        else {
            return false;
        };
        for grant in reserved.grants() {
            if let Err(reason) = self.copy(&grant, job, frame, payload) {
                outcome.dropped(job.account(), reason);
            }
        }
        self.count();
        self.ring.complete(&mut reserved);
        true
    }

    /// The same in one step, for a frame that is no more than a head. False also where that takes more.
    #[inline]
    fn send_short(&self, job: &Job, frame: &Frame) -> bool {
        let header = (VnetHeader::PLAIN, self.rings.header_len);
        let front = Front::new(header, job.action);
        let Some(start) = front.of(frame.head()) else {
            return false;
        };
        self.ring.put(&start, || {
            let sum = Sum::one(frame.header.dst, job.len_of(frame));
            self.counts.rx(job.vid, sum);
        })
    }

    /// Looks at the first jobs, as many as are done at once.
    #[inline]
    fn look(&self, run: &mut Run, frames: &[Frame], jobs: &[Job]) {
        run.wants.clear();
        (run.simple, run.rest) = (true, false);
        let action = jobs.first().map(|job| job.action).unwrap_or_default();
        let mut bytes = 0;
        for job in &jobs[..jobs.len().min(RUN)] {
            let frame = &frames[job.frame];
            if !frame.is_plain() || job.action != action {
                if frame.repair(self.rings.accepts) == Repair::Segment {
                    break;
                }
                run.simple = false;
            }
            run.rest |= frame.rest_len() != 0;
            let len = self.rings.header_len + job.len_of(frame);
            run.wants.push(len as u32);
            bytes += frame.len;
            if bytes >= PORTION {
                break;
            }
        }
    }

    /// Makes the copies of a run, which is all of `burst`.
    #[inline]
    fn send_run(
        &mut self,
        run: &Run,
        burst: Burst<'_, '_>,
        mender: &mut Mender,
        outcome: &mut impl Outcome,
    ) {
        let mut left = burst;
        let mut reserved = RxBatch::new();
        while !self.closed && !left.jobs.is_empty() {
            let wants = &run.wants[burst.jobs.len() - left.jobs.len()..];
            match self.ring.reserve(wants, &mut reserved) {
                Ok(reservation) => {
                    match reserved.singles() {
                        Some(buffers) if run.simple && run.rest => {
                            self.copy_simple::<true>(buffers, left, outcome);
                        }
                        Some(buffers) if run.simple => {
                            self.copy_simple::<false>(buffers, left, outcome);
                        }
                        _ => self.copy_all(&reserved, left, mender, outcome),
                    }
                    self.count();
                    self.ring.complete(&mut reserved);
                    left.jobs = &left.jobs[reservation.granted..];
                    self.closed = reservation.starved || reservation.granted == 0;
                }
                Err(error) => {
                    outcome.failed(self.id, Fault::of(error, self.ring.memory()));
                    self.closed = true;
                }
            }
        }
        for job in left.jobs {
            let frame = &burst.frames[job.frame];
            self.refuse(job, frame, burst.waits(frame), outcome);
        }
    }

    /// Makes copies of frames that need no repair and have their tags changed in the same way, into a buffer each.
    /// `REST` says whether some have more than a head.
    #[inline]
    fn copy_simple<const REST: bool>(
        &mut self,
        buffers: &[Segment<'_>],
        burst: Burst<'_, '_>,
        outcome: &mut impl Outcome,
    ) {
        let Some(first) = burst.jobs.first() else {
            return;
        };
        let header = (VnetHeader::PLAIN, self.rings.header_len);
        let front = Front::new(header, first.action);
        let (ring, payload, header) = (self.ring, burst.payload, front.header());
        // Drivers place all their buffers alike. Where no header can be kept and no tag changes, a look at each would be some
        // thirty instructions for nothing.
        let apart = buffers
            .first()
            .is_some_and(|to| to.keeps_header(header.len()));
        if first.action.is_keep() && !apart {
            self.copy_each::<REST>(buffers, burst, outcome, |to, frame| {
                if REST {
                    ring.copy(to, &payload.gather(frame, header, frame.head()));
                } else {
                    ring.copy_front(to, header, frame.head());
                }
                Some(())
            });
        } else {
            self.copy_each::<REST>(buffers, burst, outcome, |to, frame| {
                let start = front.of(frame.head())?;
                if REST {
                    ring.copy_behind(to, &start, &payload.rest(frame));
                } else {
                    ring.copy_start(to, &start);
                }
                Some(())
            });
        }
    }

    /// Has `copy` make the copies, into a buffer each; it returns none for a frame that cannot be tagged so.
    #[inline]
    fn copy_each<const REST: bool>(
        &mut self,
        buffers: &[Segment<'_>],
        burst: Burst<'_, '_>,
        outcome: &mut impl Outcome,
        copy: impl Fn(&[Segment<'_>], &Frame) -> Option<()>,
    ) {
        let mut copies = buffers.iter().zip(burst.jobs).peekable();
        while let Some((buffer, job)) = copies.next() {
            if REST && let Some((buffer, next)) = copies.peek() {
                let next = &burst.frames[next.frame];
                prefetch(burst.payload, next, slice::from_ref(buffer));
            }
            let frame = &burst.frames[job.frame];
            if copy(slice::from_ref(buffer), frame).is_some() {
                self.note(job.vid, frame.header.dst, job.len_of(frame));
            } else {
                outcome.dropped(job.account(), DropReason::TooManyTags);
            }
        }
    }

    /// Makes copies into what was reserved for them.
    #[inline]
    fn copy_all(
        &mut self,
        reserved: &RxBatch<'_>,
        burst: Burst<'_, '_>,
        mender: &mut Mender,
        outcome: &mut impl Outcome,
    ) {
        let jobs = burst.jobs.iter();
        let copies = jobs.map(|job| (job, &burst.frames[job.frame]));
        let mut grants = reserved.grants().zip(copies).peekable();
        while let Some((grant, (job, frame))) = grants.next() {
            if let Some((Grant::Buffers { segments, .. }, (_, next))) = grants.peek() {
                prefetch(burst.payload, next, segments);
            }
            let repair = (frame.repair(self.rings.accepts), self.rings.accepts);
            let done = match repair.0 {
                Repair::None => self.copy(&grant, job, frame, burst.payload),
                _ => mender
                    .begin(repair, frame, job.action, burst.payload)
                    .and_then(|mut mending| self.copy_mended(&grant, job, &mut mending, 0)),
            };
            if let Err(reason) = done {
                outcome.dropped(job.account(), reason);
            }
        }
    }

    /// Ends the burst: calls the guest if it wants to know.
    pub fn finish(self, outcome: &mut impl Outcome) {
        match self.ring.notify() {
            Ok(called) => self.counts.port.calls(called.into()),
            Err(error) => outcome.failed(self.id, Fault::Ring(error)),
        }
        if self.ring.poisoned() {
            outcome.failed(self.id, Fault::Memory);
        }
    }

    /// Writes one frame into its buffers; of one without a payload, what is to stand before that. It is
    /// counted with the next [`RingOut::count`].
    #[inline]
    pub fn copy(
        &mut self,
        grant: &Grant<'_, '_>,
        job: &Job,
        frame: &Frame,
        payload: Payload<'_, '_>,
    ) -> Result<(), DropReason> {
        let Grant::Buffers { buffers, segments } = grant else {
            return Err(DropReason::RxChain);
        };
        let mut vnet = frame.header_for(self.rings.accepts);
        vnet.retag(job.action.growth().into());
        vnet.num_buffers = *buffers;
        let front = Front::new((vnet, self.rings.header_len), job.action);
        let start = front.of(frame.head()).ok_or(DropReason::TooManyTags)?;
        self.ring
            .copy_behind(segments, &start, &payload.rest(frame));
        self.note(job.vid, frame.header.dst, job.len_of(frame));
        Ok(())
    }

    /// Notes a frame to be counted.
    #[inline]
    fn note(&mut self, vid: u16, dst: Mac, len: usize) {
        if vid != self.vid {
            self.count();
            self.vid = vid;
        }
        self.sum.add(dst, len);
    }

    /// Counts what was copied; before it is shown to the guest.
    #[inline]
    pub fn count(&mut self) {
        if !self.sum.is_empty() {
            self.counts.rx(self.vid, std::mem::take(&mut self.sum));
        }
    }

    /// Makes frame number `index` of those that repair makes of one, in its buffers.
    fn copy_mended(
        &mut self,
        grant: &Grant<'_, '_>,
        job: &Job,
        mending: &mut Mending<'_>,
        index: usize,
    ) -> Result<(), DropReason> {
        let Grant::Buffers { buffers, segments } = grant else {
            return Err(DropReason::RxChain);
        };
        let header_len = self.rings.header_len;
        let header = VnetHeader {
            num_buffers: *buffers,
            ..mending.header()
        };
        let dst = mending.dst();
        let ring = self.ring;
        let made = mending.make(index, |at, rest| {
            ring.copy_summed(segments, header_len + at, rest)
        })?;
        let len = made.head.len() + made.rest.rest_len;
        let whole = Gather {
            header: &header.encode()[..header_len],
            head: made.head,
            rest_len: 0,
            ..made.rest
        };
        ring.copy(segments, &whole);
        self.note(job.vid, dst, len);
        Ok(())
    }

    /// Sends the frames that repair makes of `frame`, from where the last turn left off. What finds no room
    /// waits, if it may, and the frame goes on with it in its next turn.
    pub fn send_mended(
        &mut self,
        mending: &mut Mending<'_>,
        (job, frame, waits): (&Job, &Frame, bool),
        outcome: &mut impl Outcome,
    ) {
        let count = mending.frames();
        let mut sent = if waits { outcome.sent(frame.chain) } else { 0 };
        while sent < count {
            let wants: ArrayVec<u32, RUN> = (sent..count.min(sent + RUN))
                .map(|index| (self.rings.header_len + mending.len_of(index)) as u32)
                .collect();
            let mut reserved = RxBatch::new();
            let reservation = match self.ring.reserve(&wants, &mut reserved) {
                Ok(reservation) => reservation,
                Err(error) => {
                    outcome.failed(self.id, Fault::of(error, self.ring.memory()));
                    self.closed = true;
                    return;
                }
            };
            for (grant, index) in reserved.grants().zip(sent..) {
                if let Err(reason) = self.copy_mended(&grant, job, mending, index) {
                    outcome.dropped(job.account(), reason);
                }
            }
            self.count();
            self.ring.complete(&mut reserved);
            sent += reservation.granted;
            if reservation.starved || reservation.granted == 0 {
                self.closed = true;
                if self.may_wait(waits) {
                    outcome.wait(frame.chain, sent);
                } else {
                    outcome.dropped(job.account(), DropReason::RingFull);
                }
                return;
            }
        }
    }

    /// Whether there is room at all, as far as is known.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// A frame for which there was no room: it waits, or is dropped.
    pub fn refuse(&self, job: &Job, frame: &Frame, waits: bool, outcome: &mut impl Outcome) {
        if self.may_wait(waits) {
            outcome.wait(frame.chain, outcome.sent(frame.chain));
        } else {
            outcome.dropped(job.account(), DropReason::RingFull);
        }
    }

    fn may_wait(&self, waits: bool) -> bool {
        let Patience { now_ns, limit_ns } = self.patience;
        waits && !self.ring.stalled(now_ns, limit_ns)
    }
}

/// Hints that the rest of `frame` is about to be copied into these buffers.
#[inline]
fn prefetch(payload: Payload<'_, '_>, frame: &Frame, buffers: &[Segment<'_>]) {
    if frame.rest_len() != 0 {
        virtqueue::prefetch(&payload.gather(frame, &[], frame.head()), buffers);
    }
}
