//! Delivery into one receive ring of a guest.

use arrayvec::ArrayVec;

use super::Fault;
use super::count::{Counts, Sum};
use super::egress::{Burst, Outcome, Patience};
use super::frame::{Frame, MAX_HEAD};
use super::mend::Mended;
use super::payload::Payload;
use super::route::Job;
use super::snapshot::{PortId, PortRings};
use crate::frame::ethernet::TAG_LEN;
use crate::frame::mac::Mac;
use crate::frame::offloads::{Offloads, Repair};
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

    /// Copies the frames of the jobs in `order`, up to the first that needs repair; how many.
    #[inline]
    pub fn send(
        &mut self,
        order: &[u32],
        burst: Burst<'_, '_>,
        outcome: &mut impl Outcome,
    ) -> usize {
        let mut done = 0;
        loop {
            let mut wants = ArrayVec::<u32, RUN>::new();
            for index in order[done..].iter().take(RUN) {
                let job = &burst.jobs[*index as usize];
                let frame = &burst.frames[job.frame];
                if frame.repair(self.rings.accepts) != Repair::None {
                    break;
                }
                let mut len = frame.len;
                if !job.action.is_keep() {
                    len = len.saturating_add_signed(job.action.growth().into());
                }
                wants.push((self.rings.header_len + len) as u32);
            }
            if wants.is_empty() {
                return done;
            }
            let run = &order[done..done + wants.len()];
            done += wants.len();
            self.send_run(run, &wants, burst, outcome);
        }
    }

    /// Copies frames of so many bytes each.
    #[inline]
    fn send_run(
        &mut self,
        run: &[u32],
        wants: &[u32],
        burst: Burst<'_, '_>,
        outcome: &mut impl Outcome,
    ) {
        let mut sent = 0;
        let mut reserved = RxBatch::new();
        while !self.closed && sent < run.len() {
            match self.ring.reserve(&wants[sent..], &mut reserved) {
                Ok(reservation) => {
                    for (grant, index) in reserved.grants().zip(&run[sent..]) {
                        let job = &burst.jobs[*index as usize];
                        let frame = &burst.frames[job.frame];
                        if let Err(reason) = self.copy(&grant, job, frame, burst.payload) {
                            outcome.dropped(job.account(), reason);
                        }
                    }
                    self.count();
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
        for index in &run[sent..] {
            let job = &burst.jobs[*index as usize];
            let frame = &burst.frames[job.frame];
            self.refuse(job, frame, burst.waits(frame), outcome);
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
        let mut tagged;
        let action = job.action;
        let head = if action.is_keep() {
            frame.head()
        } else {
            tagged = [0; MAX_HEAD + TAG_LEN];
            let len = action.apply(frame.head(), &mut tagged);
            vnet.retag(action.growth().into());
            &tagged[..len.ok_or(DropReason::TooManyTags)?]
        };
        vnet.num_buffers = *buffers;
        let header = vnet.encode();
        let header = &header[..self.rings.header_len];
        let whole = payload.gather(frame, header, head);
        self.ring.copy(segments, &whole);
        self.note(job.vid, frame.header.dst, head.len() + frame.rest_len());
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
                self.note(job.vid, frame.header.dst, head.len());
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
