//! Where the payloads of a burst lie.

use super::frame::Frame;
use crate::virtqueue::{self, Gather, Segment, TxBatch};

/// The bytes behind the heads of the frames of a burst.
#[derive(Clone, Copy)]
pub enum Payload<'b, 'm> {
    /// In descriptor chains of a guest.
    Chains(&'b TxBatch<'m>),
    /// In buffers of the worker, into which a link was read.
    Buffers(&'b [Vec<u8>]),
}

impl<'b, 'm> Payload<'b, 'm> {
    /// Appends what is behind the head of `frame` to `whole`.
    pub fn append(&self, frame: &Frame, whole: &mut Vec<u8>) {
        let at = whole.len();
        match self {
            Self::Chains(_) => {
                whole.resize(at + frame.rest_len(), 0);
                virtqueue::read(self.segments(frame), frame.rest_at, &mut whole[at..]);
            }
            Self::Buffers(_) => whole.extend_from_slice(self.bytes(frame)),
        }
    }

    /// Passes `frame`, with `header` and `head` before its rest, to `write`. Bytes of a guest are
    /// handed on where they lie; those of a buffer are put behind the head in `scratch`.
    pub fn gather<R>(
        &self,
        frame: &Frame,
        header: &[u8],
        head: &[u8],
        scratch: &mut Vec<u8>,
        write: impl FnOnce(&Gather<'_>) -> R,
    ) -> R {
        let (head, rest) = match self {
            Self::Chains(_) => (head, self.segments(frame)),
            Self::Buffers(_) if frame.rest_len() == 0 => (head, [].as_slice()),
            Self::Buffers(_) => {
                scratch.clear();
                scratch.extend_from_slice(head);
                scratch.extend_from_slice(self.bytes(frame));
                (scratch.as_slice(), [].as_slice())
            }
        };
        let rest_len = if rest.is_empty() { 0 } else { frame.rest_len() };
        write(&Gather {
            header,
            head,
            rest,
            rest_skip: frame.rest_at,
            rest_len,
        })
    }

    /// The segments in which the rest of a frame lies; none for a frame that is all head.
    fn segments(&self, frame: &Frame) -> &'b [Segment<'m>] {
        match self {
            Self::Chains(batch) if frame.rest_len() > 0 => {
                let chain = batch.chains().get(frame.chain);
                chain.map_or(&[], |chain| batch.segments(chain))
            }
            _ => &[],
        }
    }

    /// The bytes of a buffer behind the head.
    fn bytes(&self, frame: &Frame) -> &'b [u8] {
        match self {
            Self::Buffers(buffers) => {
                let buffer = buffers.get(frame.chain).map_or(&[][..], Vec::as_slice);
                let end = frame.rest_at + frame.rest_len();
                buffer.get(frame.rest_at..end).unwrap_or_default()
            }
            Self::Chains(_) => &[],
        }
    }
}
