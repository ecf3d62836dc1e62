//! When the next frame may leave.

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// What was missed for longer than this is not caught up with: it would be a burst that nobody asked for.
const CATCH_UP_NS: u64 = 1_000_000;

/// How fast frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as they are taken.
    Max,
    /// Frames per second.
    Frames(u64),
    /// Bits of frames per second.
    Bits(u64),
}

impl Rate {
    /// The largest number of either kind.
    pub const MOST: u64 = 1_000_000_000_000;

    /// Its number; none for the greatest.
    pub fn per_second(self) -> Option<u64> {
        match self {
            Self::Max => None,
            Self::Frames(rate) | Self::Bits(rate) => Some(rate),
        }
    }

    /// The same kind with another number.
    #[must_use]
    pub fn with(self, number: u64) -> Self {
        match self {
            Self::Bits(_) => Self::Bits(number),
            Self::Max | Self::Frames(_) => Self::Frames(number),
        }
    }
}

/// A token bucket: credit grows with time, a frame costs what it is worth.
#[derive(Clone, Debug)]
pub struct Pacer {
    rate: Rate,
    /// In billionths of a frame or of a bit.
    credit: u64,
    filled_ns: Option<u64>,
}

impl Pacer {
    /// A pacer without credit; its time begins with the first [`Pacer::refill`].
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            credit: 0,
            filled_ns: None,
        }
    }

    /// Gives the credit of the time until `now_ns`.
    #[inline]
    pub fn refill(&mut self, now_ns: u64) {
        let Some(rate) = self.rate.per_second() else {
            return;
        };
        let last = self.filled_ns.replace(now_ns).unwrap_or(now_ns);
        let passed = now_ns.saturating_sub(last).min(CATCH_UP_NS);
        // At most 10^18, and the same again for what was there.
        let rate = rate.min(Rate::MOST);
        let most = (rate * CATCH_UP_NS).max(self.dearest());
        self.credit = (self.credit + rate * passed).min(most);
    }

    /// Whether a frame of `len` bytes may leave; it has then been paid for.
    #[inline]
    pub fn take(&mut self, len: usize) -> bool {
        let cost = match self.rate {
            Rate::Max => return true,
            Rate::Frames(_) => SECOND,
            Rate::Bits(_) => len as u64 * 8 * SECOND,
        };
        let enough = self.credit >= cost;
        if enough {
            self.credit -= cost;
        }
        enough
    }

    /// The frame that did not leave in the end is not paid for.
    pub fn give_back(&mut self, len: usize) {
        self.credit += match self.rate {
            Rate::Max => 0,
            Rate::Frames(_) => SECOND,
            Rate::Bits(_) => len as u64 * 8 * SECOND,
        };
    }

    /// What the dearest frame costs: a slow bucket must hold it in the end.
    fn dearest(&self) -> u64 {
        match self.rate {
            Rate::Max => 0,
            Rate::Frames(_) => SECOND,
            Rate::Bits(_) => (1 << 17) * 8 * SECOND,
        }
    }
}
