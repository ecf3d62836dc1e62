//! A flood in progress.
//!
//! A frame with many receivers is copied a slice at a time, so that its sender cannot keep a worker
//! from everybody else. Meanwhile its chain stays unused, and the copies that are left stand here.

use super::frame::Frame;
use super::route::Job;

/// The copies of one frame that have not been made yet. The buffers are kept for the next flood.
#[derive(Default)]
pub struct Flood {
    /// The forms of the frame.
    pub frames: Vec<Frame>,
    /// All its copies.
    pub jobs: Vec<Job>,
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
