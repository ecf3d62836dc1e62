//! Frames that measure: how they are made, told apart and counted, how fast they leave, and how the fastest rate
//! without loss is found.
//!
//! Pure, like the relay: no descriptor, no clock, no thread, no guest memory. The benchmark and the generator and
//! sink ports of a worker are built on it, so that either understands the frames of the other.

mod pace;
mod search;
mod sequence;
mod stamp;
mod stream;

pub use pace::{Pacer, Rate, RateError};
pub use search::{Search, Trial};
pub use sequence::{Ledger, Tally};
pub use stamp::{Stamp, fill_body, is_sampled, is_whole};
pub use stream::{Flow, Frame, HEAD, Kind, MIN_LEN, Stream, StreamError, sent_at};

#[cfg(test)]
mod tests;
