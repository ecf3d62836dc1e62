//! A reserved range of an RX ring, as its writer holds it.
//!
//! It is made on a worker's stack and used for one reservation after another. Dropping it with a
//! reservation inside cancels that: otherwise the ring would wait for it for ever.

use std::fmt;

use arrayvec::ArrayVec;

use super::copy::Segment;
use super::format::{Segments, Used};
use super::order::Claim;
use super::ring::MAX_QUEUE_SIZE;
use super::rx::RxRing;
use super::tx::MAX_BATCH;

/// A reserved chain and the end of its segments in the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct RxChain {
    pub used: Used,
    pub end: u32,
}

/// Buffers of each frame of a batch; 0 for one that is too big.
pub(super) type Buffers = ArrayVec<u16, MAX_BATCH>;

pub(super) type Chains = ArrayVec<RxChain, { MAX_QUEUE_SIZE as usize }>;

/// A reservation, and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Held<'m> {
    pub ring: &'m RxRing,
    pub claim: Claim,
}

/// Buffers for a burst of frames, in the order of the frames asked for.
pub struct RxBatch<'m> {
    pub(super) frames: Buffers,
    pub(super) chains: Chains,
    pub(super) segments: Segments<'m>,
    /// Each frame has one buffer, in one segment.
    pub(super) single: bool,
    pub(super) held: Option<Held<'m>>,
}

/// What one frame was granted.
#[derive(Debug, Clone, Copy)]
pub enum Grant<'a, 'm> {
    /// Room for the frame.
    Buffers {
        /// How many chains it has: `num_buffers` of its header.
        buffers: u16,
        /// Their segments one after the other, at least as many bytes as asked for.
        segments: &'a [Segment<'m>],
    },
    /// This ring can never hold the frame.
    TooBig,
}

impl<'m> RxBatch<'m> {
    /// An empty batch.
    pub fn new() -> RxBatch<'m> {
        RxBatch {
            frames: ArrayVec::new_const(),
            chains: ArrayVec::new_const(),
            segments: ArrayVec::new_const(),
            single: true,
            held: None,
        }
    }

    /// The grants, in the order of `wants`.
    #[inline]
    pub fn grants<'a>(&'a self) -> impl Iterator<Item = Grant<'a, 'm>> {
        let mut chain = 0;
        let mut start = 0;
        self.frames.iter().map(move |&buffers| {
            if buffers == 0 {
                return Grant::TooBig;
            }
            chain += usize::from(buffers);
            let end = self.chains[chain - 1].end as usize;
            let segments = &self.segments[start..end];
            start = end;
            Grant::Buffers { buffers, segments }
        })
    }

    /// The segments of the grants if each has one: a buffer in one piece.
    #[inline]
    pub fn singles(&self) -> Option<&[Segment<'m>]> {
        self.single.then_some(&self.segments)
    }

    /// Whether there is nothing to complete.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    pub(super) fn belongs_to(&self, ring: &RxRing) -> bool {
        self.held.is_none_or(|held| std::ptr::eq(held.ring, ring))
    }

    pub(super) fn chain_segments(&self, index: usize) -> &[Segment<'m>] {
        let start = match index.checked_sub(1) {
            Some(before) => self.chains[before].end,
            None => 0,
        };
        &self.segments[start as usize..self.chains[index].end as usize]
    }

    #[inline]
    pub(super) fn finish(&mut self) {
        if let Some(held) = self.held.take() {
            held.ring.give_back(self, &held);
        }
        self.clear();
    }

    #[inline]
    pub(super) fn release(&mut self) {
        if let Some(held) = self.held.take() {
            held.ring.withdraw(self, &held);
        }
        self.clear();
    }

    /// Forgets everything. The caller has given back what was held.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.chains.clear();
        self.segments.clear();
        self.single = true;
    }

    /// Makes the last frame `len` bytes long, at least `least`, if it was longer. Its buffers are
    /// recounted; chains beyond them stay in the batch.
    pub(super) fn cut_last(&mut self, len: u32, least: usize) -> u16 {
        let Some(last) = self.frames.last_mut() else {
            return 0;
        };
        let first = self.chains.len() - usize::from(*last);
        let mut missing = len.max(least as u32);
        let mut buffers = 0;
        for chain in &mut self.chains[first..] {
            if missing == 0 {
                break;
            }
            chain.used.written = chain.used.written.min(missing);
            missing -= chain.used.written;
            buffers += 1;
        }
        *last = buffers;
        buffers
    }
}

impl Default for RxBatch<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for RxBatch<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

impl fmt::Debug for RxBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RxBatch")
            .field("frames", &self.frames)
            .field("chains", &self.chains.len())
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}
