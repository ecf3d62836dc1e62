//! Delivery to a device of the host.

use super::count::{Counts, Sum};
use super::egress::Outcome;
use super::frame::{Frame, MAX_HEAD};
use super::mend::Mending;
use super::payload::Payload;
use super::route::Job;
use crate::frame::ethernet::TAG_LEN;
use crate::frame::offloads::Offloads;
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;
use crate::uplink::{self, LinkQueue};
use crate::virtqueue::{self, Gather};

/// One queue of a device during one burst.
pub struct LinkOut<'a> {
    pub counts: Counts<'a>,
    pub queue: &'a LinkQueue,
    pub accepts: Offloads,
}

impl LinkOut<'_> {
    /// Sends a frame that needs no repair.
    pub fn send(
        &self,
        job: &Job,
        frame: &Frame,
        payload: Payload<'_, '_>,
        outcome: &mut impl Outcome,
    ) {
        let mut vnet = frame.header_for(self.accepts);
        let mut tagged = [0; MAX_HEAD + TAG_LEN];
        let head = if job.action.is_keep() {
            frame.head()
        } else {
            let Some(len) = job.action.apply(frame.head(), &mut tagged) else {
                outcome.dropped(job.account(), DropReason::TooManyTags);
                return;
            };
            vnet.retag(job.action.growth().into());
            &tagged[..len]
        };
        let header = header(vnet);
        let whole = payload.gather(frame, &header, head);
        if let Err(reason) = self.write(&whole, frame.rest_len() + head.len(), (job, frame)) {
            outcome.dropped(job.account(), reason);
        }
    }

    /// Sends the frames that repair makes of `frame`.
    pub fn send_mended(
        &self,
        mending: &mut Mending<'_>,
        (job, frame): (&Job, &Frame),
        outcome: &mut impl Outcome,
    ) {
        let header = header(mending.header());
        for index in 0..mending.frames() {
            let sent = mending
                .make(index, |_, rest| virtqueue::sum(rest))
                .and_then(|made| {
                    let len = made.head.len() + made.rest.rest_len;
                    let whole = Gather {
                        header: &header,
                        head: made.head,
                        ..made.rest
                    };
                    self.write(&whole, len, (job, frame))
                });
            if let Err(reason) = sent {
                outcome.dropped(job.account(), reason);
                return;
            }
        }
    }

    /// Ends the burst: what is still in line goes.
    pub fn finish(&self) {
        let lost = self.queue.flush();
        if lost > 0 {
            // In which VLAN they were is not known any more.
            self.counts
                .drop_frames(0, DropReason::UplinkBusy, lost.into());
        }
    }

    fn write(
        &self,
        whole: &Gather<'_>,
        len: usize,
        (job, frame): (&Job, &Frame),
    ) -> Result<(), DropReason> {
        match self.queue.send(whole) {
            Ok(()) => {
                self.counts.rx(job.vid, Sum::one(frame.header.dst, len));
                Ok(())
            }
            Err(error) if uplink::is_full(&error) => Err(DropReason::UplinkBusy),
            Err(_) => Err(DropReason::UplinkError),
        }
    }
}

/// The header as the kernel takes it: `num_buffers` means nothing to it.
fn header(vnet: VnetHeader) -> [u8; VnetHeader::LEN] {
    let vnet = VnetHeader {
        num_buffers: 0,
        ..vnet
    };
    vnet.encode()
}
