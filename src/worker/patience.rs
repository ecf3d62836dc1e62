//! How long a queue waits for receivers, all in all.
//!
//! A frame waits for a receiver that gives a buffer now and then, as long as each comes in time: that is how a fast
//! sender is slowed down to what its receiver takes. But all that stands behind that frame waits as well. So waiting
//! is limited by what it costs others: a queue has a *budget* of a tenth of a millisecond, or of the time that a frame
//! may wait if that is less. Of each moment in which frames wait it pays the share of frames for others among those in
//! reach, and when all is spent the queue waits for nobody until it has all of it again, which takes [`RECOVERY`]
//! times as long as it lasts at most.
//!
//! So a queue whose frames are all for one receiver waits for as long as that receiver's ring allows, and so does one
//! that has a frame for others now and then. One with a share of `s` for others is held up for no more than one part
//! in `1 + 8 s` of the time.

use super::egress::Patience;

/// A moment in which nobody is held up gains one part in so many of it.
const RECOVERY: u64 = 8;

/// The most that a frame waits at the expense of others, in nanoseconds, however long it may wait otherwise.
const AT_EXPENSE: u64 = 100_000;

/// What a queue has left to wait at the expense of others.
#[derive(Debug)]
pub struct Budget {
    /// Nanoseconds.
    left_ns: u64,
    /// When that was so.
    at_ns: u64,
    /// Frames in reach since then, and those for others than the ones that wait.
    reach: u32,
    held_up: u32,
    /// It was used up, and is not full yet.
    spent: bool,
}

impl Default for Budget {
    /// All there is.
    fn default() -> Self {
        Self {
            left_ns: u64::MAX,
            at_ns: 0,
            reach: 1,
            held_up: 0,
            spent: false,
        }
    }
}

impl Budget {
    /// Whether frames of the queue may wait now.
    pub fn may_wait(&mut self, Patience { now_ns, limit_ns }: Patience) -> bool {
        let elapsed = now_ns.saturating_sub(self.at_ns);
        self.at_ns = now_ns;
        let left = if self.held_up == 0 {
            self.left_ns.saturating_add(elapsed / RECOVERY)
        } else {
            let share = elapsed.saturating_mul(self.held_up.into()) / u64::from(self.reach);
            self.left_ns.saturating_sub(share)
        };
        let all_ns = limit_ns.min(AT_EXPENSE);
        self.left_ns = left.min(all_ns);
        self.spent = self.left_ns == 0 || self.spent && self.left_ns < all_ns;
        !self.spent
    }

    /// Ends a turn with `reach` chains, of which those of `waiting`, one bit each, have found no room, and those of
    /// `done` need none any more.
    pub fn note(&mut self, reach: usize, waiting: u64, done: u64) {
        // Those in front are given back. One behind a chain that waits, and yet done, was for somebody else.
        let behind = u64::MAX.checked_shl(waiting.trailing_zeros());
        self.held_up = (done & behind.unwrap_or(0)).count_ones();
        self.reach = reach.max(1) as u32;
    }
}
