//! Virtqueues, device side: descriptor chains in guest memory, taken, filled and given back.
//!
//! It knows rings, kicks, calls and dirty pages, and nothing of Ethernet. Guest memory is shared
//! with the guest and hostile: every index, address and length is read once and checked before use,
//! no reference to guest memory is ever formed, and whatever is wrong becomes a [`RingError`] or a
//! [`MemoryError`], never a panic. All raw pointers of the data path are in this room; what leaves it
//! are [`Segment`]s, which can only be copied, or compared with a header.
//!
//! - [`GuestMemory`] maps regions and survives their truncation ([`install_sigbus_handler`]).
//! - [`RingConfig`] is activated into a [`TxRing`] (one worker at a time) or an [`RxRing`] (any number
//!   of writers); `split` and `packed` hold the formats, [`TxBatch`] and [`RxBatch`] a burst.
//! - [`read`], [`RxRing::copy`] and [`writev`] move the bytes.
//!
//! Ring objects are immutable and keep their memory alive. Their positions are shared by the object
//! that a reconfiguration makes, so they go on where they were. Those of packed rings are written down in
//! [`Positions`], which outlive the ring and may outlive the process.
#![allow(unsafe_code)]

mod batch;
mod copy;
mod descriptor;
mod dirty;
pub mod driver;
mod error;
mod format;
mod in_process;
mod iovec;
mod ledger;
mod lock;
mod mapping;
mod memory;
mod order;
mod packed;
mod positions;
mod put;
mod ring;
mod rx;
mod sigbus;
mod split;
mod spot;
mod start;
mod sum;
mod sync;
mod tx;
mod walk;

#[cfg(test)]
mod tests;

pub use batch::{Grant, RxBatch};
pub use copy::{Gather, Segment, prefetch, read, read_array, read_start};
pub use dirty::DirtyLog;
pub use error::{MappingError, MemoryError, Part, Place, PositionsError, RingError};
pub use iovec::{Scatter, writev};
pub(crate) use lock::Lock;
pub use memory::{GuestMemory, MAX_SLOTS, Region};
pub use positions::{Positions, RingPosition};
pub use ring::{MAX_HEADER, MAX_QUEUE_SIZE, ResumeAt, RingConfig, RingFeatures, fresh_base};
pub use rx::{Reserved, RxRing};
pub use sigbus::{install_sigbus_handler, sigbus_count};
pub use start::{Changed, Start};
pub use sum::sum;
pub use tx::{Chain, MAX_BATCH, Silence, TxBatch, TxGuard, TxRing};
