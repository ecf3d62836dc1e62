//! The slow way, for a receiver that lacks an offload: the frame is put together in a buffer,
//! completed or segmented there, and only then given its tags.

use super::frame::Frame;
use super::payload::Payload;
use crate::frame::checksum::complete_checksum;
use crate::frame::ethernet::{TAG_LEN, TagAction};
use crate::frame::offloads::{Offloads, Repair};
use crate::frame::segment::Segmenter;
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;

/// The buffers of repair, kept from frame to frame.
#[derive(Default)]
pub struct Mender {
    /// A frame made whole.
    whole: Vec<u8>,
    /// The frames that are made of it, one behind the other.
    made: Vec<u8>,
    /// One of them in the making.
    segment: Vec<u8>,
    lengths: Vec<u32>,
}

/// Frames that repair has made, one behind the other, and the header that goes before each.
pub struct Mended<'a> {
    /// The bytes of all of them.
    pub bytes: &'a [u8],
    /// The length of each.
    pub lengths: &'a [u32],
    /// What goes before each.
    pub header: VnetHeader,
}

impl Mended<'_> {
    /// The frames one by one.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        self.lengths.iter().map(move |len| {
            let start = at;
            at += *len as usize;
            &self.bytes[start..at]
        })
    }
}

impl Mender {
    /// Makes of `frame` what a receiver that `accepts` no more takes, and changes the tags.
    ///
    /// # Errors
    ///
    /// Why the frame cannot be repaired.
    pub fn mend(
        &mut self,
        repair: Repair,
        frame: &Frame,
        action: TagAction,
        payload: Payload<'_, '_>,
        accepts: Offloads,
    ) -> Result<Mended<'_>, DropReason> {
        self.whole.clear();
        self.whole.extend_from_slice(frame.head());
        payload.append(frame, &mut self.whole);
        self.lengths.clear();
        self.made.clear();
        // The checksums do not cover the tags, and a frame with one more might be too deep.
        let mut add = |frame: &[u8]| {
            let at = self.made.len();
            self.made.resize(at + frame.len() + TAG_LEN, 0);
            let len = action.apply(frame, &mut self.made[at..]);
            let len = len.ok_or(DropReason::TooManyTags)?;
            self.made.truncate(at + len);
            self.lengths.push(len as u32);
            Ok(())
        };
        if repair == Repair::Segment {
            self.segment.resize(self.whole.len(), 0);
            let mut segments = Segmenter::new(&self.whole, &frame.vnet, &mut self.segment)?;
            while let Some(segment) = segments.next() {
                add(segment)?;
            }
        } else {
            complete_checksum(&mut self.whole, &frame.vnet)?;
            add(&self.whole)?;
        }
        Ok(Mended {
            bytes: &self.made,
            lengths: &self.lengths,
            header: frame.vnet.for_receiver(repair, accepts),
        })
    }
}
