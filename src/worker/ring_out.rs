//! Delivery into one receive ring of a guest.

use arrayvec::ArrayVec;

use super::Fault;
use super::count::Counts;
use super::egress::{Outcome, Patience};
use super::frame::{Frame, MAX_HEAD};
use super::mend::Mended;
use super::payload::Payload;
use super::route::Job;
use super::snapshot::{PortId, PortRings};
use crate::frame::ethernet::TAG_LEN;
use crate::frame::offloads::Repair;
use crate::stats::DropReason;
use crate::virtqueue::{Gather, Grant, RxBatch, RxRing};

/// Frames given to a ring at once.
const RUN: usize = 64;

/// One receive ring during one burst.
pub struct RingOut<'a> {
    id: PortId,
    counts: Counts<'a>,
    rings: &'a PortRings,
    ring: &'a RxRing,
    patience: Patience,
    /// A frame found no room: those behind it must not overtake it.
    closed: bool,
    /// The copies to make, and whether each may wait.
    run: ArrayVec<(Job, bool), RUN>,
    wants: ArrayVec<u32, RUN>,
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
            run: ArrayVec::new(),
            wants: ArrayVec::new(),
        }
    }

    /// Adds a frame that needs no repair.
    #[inline]
    pub fn push(
        &mut self,
        job: &Job,
        waits: bool,
        (frames, payload): (&[Frame], Payload<'_, '_>),
        outcome: &mut impl Outcome,
    ) {
        let growth = job.action.growth().into();
        let len = frames[job.frame].len.saturating_add_signed(growth);
        self.wants.push((self.rings.header_len + len) as u32);
        self.run.push((*job, waits));
        if self.run.is_full() {
            self.flush((frames, payload), outcome);
        }
    }

    /// Copies what `push` has gathered.
    pub fn flush(
        &mut self,
        (frames, payload): (&[Frame], Payload<'_, '_>),
        outcome: &mut impl Outcome,
    ) {
        let mut sent = 0;
        let mut reserved = RxBatch::new();
        while !self.closed && sent < self.run.len() {
            match self.ring.reserve(&self.wants[sent..], &mut reserved) {
                Ok(reservation) => {
                    let now = &self.run[sent..sent + reservation.granted];
                    for (grant, (job, _)) in reserved.grants().zip(now) {
                        let done = self.copy(&grant, job, &frames[job.frame], payload);
                        if let Err(reason) = done {
                            outcome.dropped(job.account(), reason);
                        }
                    }
                    self.ring.complete(&mut reserved);
                    sent += reservation.granted;
                    self.closed = reservation.starved || reservation.granted == 0;
                }
                Err(error) => {
                    outcome.failed(self.id, Fault::of(error, self.ring.memory()));
                    self.closed = true;
                }
            }
        }
        for (job, waits) in &self.run[sent..] {
            self.refuse(job, &frames[job.frame], *waits, outcome);
        }
        self.run.clear();
        self.wants.clear();
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

    /// Writes one frame into its buffers.
    #[inline]
    fn copy(
        &self,
        grant: &Grant<'_, '_>,
        job: &Job,
        frame: &Frame,
        payload: Payload<'_, '_>,
    ) -> Result<(), DropReason> {
        let Grant::Buffers { buffers, segments } = grant else {
            return Err(DropReason::RxChain);
        };
        let mut vnet = frame.vnet.for_receiver(Repair::None, self.rings.accepts);
        let mut tagged = [0; MAX_HEAD + TAG_LEN];
        let action = job.action;
        let head = if action.is_keep() {
            frame.head()
        } else {
            let len = action.apply(frame.head(), &mut tagged);
            vnet.retag(action.growth().into());
            &tagged[..len.ok_or(DropReason::TooManyTags)?]
        };
        vnet.num_buffers = *buffers;
        let header = vnet.encode();
        let header = &header[..self.rings.header_len];
        let whole = payload.gather(frame, header, head);
        self.ring.copy(segments, &whole);
        let len = head.len() + frame.rest_len();
        self.counts.rx(job.vid, frame.header.dst, len);
        Ok(())
    }

    /// Sends what repair has made of `frame`, from where the last turn left off. What finds no room
    /// waits, if it may, and the frame goes on with it in its next turn.
    pub fn send_mended(
        &mut self,
        mended: &Mended<'_>,
        (job, frame, waits): (&Job, &Frame, bool),
        outcome: &mut impl Outcome,
    ) {
        let header_len = self.rings.header_len;
        let mut sent = if waits { outcome.sent(frame.chain) } else { 0 };
        let mut frames = mended.frames().skip(sent);
        while sent < mended.lengths.len() {
            let now = &mended.lengths[sent..mended.lengths.len().min(sent + RUN)];
            let wants: ArrayVec<u32, RUN> = now.iter().map(|len| len + header_len as u32).collect();
            let mut reserved = RxBatch::new();
            let reservation = match self.ring.reserve(&wants, &mut reserved) {
                Ok(reservation) => reservation,
                Err(error) => {
                    outcome.failed(self.id, Fault::of(error, self.ring.memory()));
                    self.closed = true;
                    return;
                }
            };
            for (grant, head) in reserved.grants().zip(&mut frames) {
                let Grant::Buffers { buffers, segments } = grant else {
                    outcome.dropped(job.account(), DropReason::RxChain);
                    continue;
                };
                let mut vnet = mended.header;
                vnet.num_buffers = buffers;
                let header = vnet.encode();
                let whole = Gather {
                    header: &header[..header_len],
                    head,
                    rest: &[],
                    rest_skip: 0,
                    rest_len: 0,
                };
                self.ring.copy(segments, &whole);
                self.counts.rx(job.vid, frame.header.dst, head.len());
            }
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
