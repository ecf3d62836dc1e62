//! Delivery to a device of the host.

use super::count;
use super::egress::Outcome;
use super::frame::{Frame, MAX_HEAD};
use super::mend::Mended;
use super::payload::Payload;
use super::route::Job;
use super::snapshot::{Port, PortId};
use crate::frame::ethernet::TAG_LEN;
use crate::frame::offloads::{Offloads, Repair};
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;
use crate::uplink::{self, LinkQueue};
use crate::virtqueue::Gather;

/// One queue of a device during one burst.
pub struct LinkOut<'a> {
    pub id: PortId,
    pub port: &'a Port,
    pub queue: &'a LinkQueue,
    pub accepts: Offloads,
    pub worker: usize,
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
        let mut vnet = frame.vnet.for_receiver(Repair::None, self.accepts);
        let mut tagged = [0; MAX_HEAD + TAG_LEN];
        let Some(len) = job.action.apply(frame.head(), &mut tagged) else {
            outcome.dropped(self.id, DropReason::TooManyTags);
            return;
        };
        vnet.retag(job.action.growth().into());
        let (header, head) = (header(vnet), &tagged[..len]);
        let whole = payload.gather(frame, &header, head);
        if let Err(reason) = self.write(&whole, frame.rest_len() + len, frame) {
            outcome.dropped(self.id, reason);
        }
    }

    /// Sends what repair has made of `frame`.
    pub fn send_mended(&self, mended: &Mended<'_>, frame: &Frame, outcome: &mut impl Outcome) {
        let header = header(mended.header);
        for head in mended.frames() {
            let whole = Gather {
                header: &header,
                head,
                rest: &[],
                rest_skip: 0,
                rest_len: 0,
            };
            if let Err(reason) = self.write(&whole, head.len(), frame) {
                outcome.dropped(self.id, reason);
                return;
            }
        }
    }

    /// Ends the burst: what is still in line goes.
    pub fn finish(&self) {
        let lost = self.queue.flush();
        if lost > 0 {
            let counters = &self.port.counters[self.worker];
            counters.drop_frames(DropReason::UplinkBusy, lost.into());
        }
    }

    fn write(&self, whole: &Gather<'_>, len: usize, frame: &Frame) -> Result<(), DropReason> {
        match self.queue.send(whole) {
            Ok(()) => {
                count::rx(&self.port.counters[self.worker], frame.header.dst, len);
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
