//! Repair, for a receiver that lacks an offload: the checksum completed, or the frame cut into segments.
//!
//! It happens on the way of the payload. That is moved where it goes, once, and summed as it passes; the headers,
//! which hold the sums, come after it and before it in the buffer. No frame is put together elsewhere.

use super::frame::Frame;
use super::payload::Payload;
use crate::frame::checksum::{Sum, complete_front};
use crate::frame::ethernet::{TAG_LEN, TagAction};
use crate::frame::mac::Mac;
use crate::frame::offloads::{Offloads, Repair};
use crate::frame::segment::SegmentPlan;
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;
use crate::virtqueue::Gather;

/// The buffers of repair, kept from frame to frame.
#[derive(Default)]
pub struct Mender {
    /// The first bytes of the frame, as far as headers and fields are in them.
    front: Vec<u8>,
    /// What is before the payload of one of the frames that it becomes.
    made: Vec<u8>,
    /// The same with its tags changed.
    tagged: Vec<u8>,
}

/// A frame under repair: the frames that it becomes, one by one.
pub struct Mending<'a> {
    frame: &'a Frame,
    action: TagAction,
    payload: Payload<'a, 'a>,
    /// How it is cut; not at all where only the checksum is missing.
    plan: Option<SegmentPlan>,
    front: &'a [u8],
    made: &'a mut Vec<u8>,
    tagged: &'a mut Vec<u8>,
    header: VnetHeader,
}

/// One of the frames that repair makes.
pub struct Made<'a> {
    /// Its first bytes.
    pub head: &'a [u8],
    /// Where the others were passed from.
    pub rest: Gather<'a>,
}

impl Mender {
    /// Begins to make of `frame` what a receiver that `accepts` no more takes, with its tags changed.
    ///
    /// # Errors
    ///
    /// Why the frame cannot be repaired.
    pub fn begin<'a>(
        &'a mut self,
        (repair, accepts): (Repair, Offloads),
        frame: &'a Frame,
        action: TagAction,
        payload: Payload<'a, 'a>,
    ) -> Result<Mending<'a>, DropReason> {
        let vnet = &frame.vnet;
        let needed = match repair {
            Repair::Segment => usize::from(vnet.hdr_len),
            Repair::None | Repair::Checksum => {
                usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2
            }
        };
        let Self {
            front,
            made,
            tagged,
        } = self;
        front.clear();
        front.extend_from_slice(frame.head());
        let missing = needed.min(frame.len).saturating_sub(front.len());
        if missing != 0 {
            payload.append(frame, missing, front);
        }
        let plan = match repair {
            Repair::Segment => Some(SegmentPlan::new(front, frame.len, vnet)?),
            Repair::None | Repair::Checksum => None,
        };
        Ok(Mending {
            frame,
            action,
            payload,
            plan,
            front,
            made,
            tagged,
            header: vnet.for_receiver(repair, accepts),
        })
    }
}

impl Mending<'_> {
    /// How many frames it becomes.
    pub fn frames(&self) -> usize {
        self.plan.as_ref().map_or(1, SegmentPlan::segments)
    }

    /// What goes before each.
    pub fn header(&self) -> VnetHeader {
        self.header
    }

    /// To whom they go.
    pub fn dst(&self) -> Mac {
        self.frame.header.dst
    }

    /// The length of frame number `index`.
    pub fn len_of(&self, index: usize) -> usize {
        let len = match &self.plan {
            Some(plan) => plan.header_len() + plan.payload(index).len(),
            None => self.frame.len,
        };
        len.saturating_add_signed(self.action.growth().into())
    }

    /// Makes frame number `index`. `pass` takes the part of its payload that it is given to where it goes,
    /// behind so many bytes of the frame, and returns the sum of it.
    ///
    /// # Errors
    ///
    /// Why it cannot be made.
    pub fn make(
        &mut self,
        index: usize,
        pass: impl FnOnce(usize, &Gather<'_>) -> Sum,
    ) -> Result<Made<'_>, DropReason> {
        let front = self.front;
        let body = match &self.plan {
            Some(plan) => plan.payload(index),
            None => front.len()..self.frame.len,
        };
        // Some of the payload is in the front already.
        let near = &front[body.start.min(front.len())..body.end.min(front.len())];
        let far = body.start.max(front.len())..body.end.max(front.len());
        let headers = match &self.plan {
            Some(plan) => &front[..plan.header_len()],
            None => front,
        };
        self.made.clear();
        self.made.extend_from_slice(headers);
        self.made.extend_from_slice(near);
        let rest = self.payload.part(self.frame, far);
        let growth = self.action.growth().into();
        let at = self.made.len().saturating_add_signed(growth);
        let passed = pass(at, &rest);
        match &self.plan {
            Some(plan) => {
                let mut sum = Sum::of(near);
                sum.append(passed);
                plan.write_headers(index, self.made, sum)?;
            }
            None => complete_front(self.made, &self.frame.vnet, passed)?,
        }
        // The checksums do not cover the tags, and a frame with one more might be too deep for them.
        let head = if self.action.is_keep() {
            &self.made[..]
        } else {
            self.tagged.resize(self.made.len() + TAG_LEN, 0);
            let len = self.action.apply(self.made, self.tagged);
            &self.tagged[..len.ok_or(DropReason::TooManyTags)?]
        };
        Ok(Made { head, rest })
    }
}
