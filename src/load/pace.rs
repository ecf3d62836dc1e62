//! When the next frame may leave.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

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

/// Why a rate cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a rate is a number of frames a second such as 500k or 2M, of bits such as 10Gbit, or `max`"
)]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "the value was checked against its limits, of which a float holds both"
    )]
    fn from_str(text: &str) -> Result<Self, RateError> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let (number, bits) = match text.strip_suffix("bit") {
            Some(number) => (number, true),
            None => (text, false),
        };
        let digits = number.trim_end_matches(['k', 'M', 'G']);
        let factor = match &number[digits.len()..] {
            "" => 1.0,
            "k" => 1e3,
            "M" => 1e6,
            "G" => 1e9,
            _ => return Err(RateError),
        };
        let value = digits.parse::<f64>().map_err(|_| RateError)? * factor;
        if !(1.0..=Self::MOST as f64).contains(&value) {
            return Err(RateError);
        }
        let value = value as u64;
        Ok(if bits {
            Self::Bits(value)
        } else {
            Self::Frames(value)
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self {
            Self::Max => return f.pad("max"),
            Self::Frames(number) => (number, ""),
            Self::Bits(number) => (number, "bit"),
        };
        let (divisor, prefix) = match number {
            n if n.is_multiple_of(1_000_000_000) => (1_000_000_000, "G"),
            n if n.is_multiple_of(1_000_000) => (1_000_000, "M"),
            n if n.is_multiple_of(1000) => (1000, "k"),
            _ => (1, ""),
        };
        f.pad(&format!("{}{prefix}{unit}", number / divisor))
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
        let most = rate * CATCH_UP_NS + self.dearest();
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
