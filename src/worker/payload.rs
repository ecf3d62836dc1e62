//! Where the payloads of a burst lie.

use std::ops::Range;

use super::frame::Frame;
use crate::virtqueue::{self, Gather, Segment, TxBatch};

/// The bytes behind the heads of the frames of a burst.
#[derive(Clone, Copy)]
pub enum Payload<'b, 'm> {
    /// In descriptor chains of a guest.
    Chains(&'b TxBatch<'m>),
    /// Where a link has put them, one segment for each frame.
    Frames(&'b [Segment<'m>]),
}

impl<'b, 'm> Payload<'b, 'm> {
    /// Appends the `len` bytes that are behind the head of `frame` to `whole`.
    pub fn append(&self, frame: &Frame, len: usize, whole: &mut Vec<u8>) {
        let at = whole.len();
        whole.resize(at + len, 0);
        virtqueue::read(self.segments(frame), frame.rest_at, &mut whole[at..]);
    }

    /// The bytes `range` of `frame`, all of them behind its head, where they lie.
    pub fn part(&self, frame: &Frame, range: Range<usize>) -> Gather<'b> {
        Gather {
            header: &[],
            head: &[],
            rest: self.segments(frame),
            rest_skip: frame.rest_at + range.start - frame.head().len(),
            rest_len: range.len(),
        }
    }

    /// `frame` with `header` and `head` before its rest, which is handed on where it lies.
    #[inline]
    pub fn gather<'a>(&self, frame: &Frame, header: &'a [u8], head: &'a [u8]) -> Gather<'a>
    where
        'b: 'a,
    {
        let rest = self.segments(frame);
        Gather {
            header,
            head,
            rest,
            rest_skip: frame.rest_at,
            rest_len: if rest.is_empty() { 0 } else { frame.rest_len() },
        }
    }

    /// What is behind the head of `frame`, where it lies.
    #[inline]
    pub fn rest(&self, frame: &Frame) -> Gather<'b> {
        self.gather(frame, &[], &[])
    }

    /// The segments in which the rest of a frame lies; none for a frame that is all head.
    fn segments(&self, frame: &Frame) -> &'b [Segment<'m>] {
        match self {
            _ if frame.rest_len() == 0 => &[],
            Self::Chains(batch) => {
                let chain = batch.chains().get(frame.chain);
                chain.map_or(&[], |chain| batch.segments(chain))
            }
            Self::Frames(frames) => frames.get(frame.chain..=frame.chain).unwrap_or_default(),
        }
    }
}
