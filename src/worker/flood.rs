//! What a queue has begun and not ended: a flood, and frames sent in part.
//!
//! A frame with many receivers is copied a slice at a time, so that its sender cannot keep a worker
//! from everybody else. Meanwhile its chain stays unused, and the copies that are left stand here.

use super::frame::Frames;
use super::patience::Budget;
use super::route::Job;

use super::ingress::BURST;

/// What is under way in a queue.
#[derive(Default)]
pub struct Progress {
    /// The flood that the queue is in the middle of, if any.
    pub flood: Flood,
    /// How many pieces of its frames are sent.
    pub sent: Sent,
    /// How long it may still wait for receivers.
    pub budget: Budget,
}

impl Progress {
    /// The oldest `count` chains are used now.
    pub fn advance(&mut self, count: usize) {
        self.flood.chain = self.flood.chain.saturating_sub(count);
        self.sent.advance(count);
    }
}

/// How many of the frames that repair makes of a frame are sent, for each chain from the oldest that is not used.
#[derive(Default)]
pub struct Sent {
    counts: [u16; BURST],
    /// One of them is not zero, perhaps.
    any: bool,
}

impl Sent {
    /// Those of the frame in `chain`.
    pub fn of(&self, chain: usize) -> usize {
        self.counts[chain].into()
    }

    /// `count` of those of the frame in `chain` are sent.
    pub fn note(&mut self, chain: usize, count: usize) {
        self.counts[chain] = count as u16;
        self.any |= count != 0;
    }

    fn advance(&mut self, count: usize) {
        if self.any {
            let count = count.min(BURST);
            self.counts.copy_within(count.., 0);
            self.counts[BURST - count..].fill(0);
            self.any = self.counts.iter().any(|&count| count != 0);
        }
    }
}

/// The copies of one frame that have not been made yet. The buffers are kept for the next flood.
#[derive(Default)]
pub struct Flood {
    /// The forms of the frame.
    pub frames: Frames,
    /// All its copies.
    pub jobs: Vec<Job>,
    /// The frame's VLAN in its sender's relay.
    pub vid: u16,
    /// The epoch of the snapshot that they were decided in.
    pub snapshot: u64,
    /// How many of them are made.
    pub made: usize,
    /// Where its chain stands, counted from the oldest chain that is not used.
    pub chain: usize,
    /// Readable bytes of the chain when the flood began.
    pub chain_len: u32,
}

impl Flood {
    /// Whether copies are left to make.
    pub fn is_active(&self) -> bool {
        self.made < self.jobs.len()
    }

    /// Gives up the copies that are left.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.jobs.clear();
        self.made = 0;
    }
}
