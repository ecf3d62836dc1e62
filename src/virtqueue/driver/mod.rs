//! The driver side of virtio-net queues, over memory that this process owns.
//!
//! The rest of the room is the device side. This half plays the guest: it owns the memory, posts
//! buffers and takes them back. Its users are the tests' front end, the built-in benchmark and an uplink
//! that plays the front end towards another daemon; so the device at the other end is not trusted
//! either, and what it writes into a ring is checked before it is used.
//!
//! *Invariants.* Only descriptors and buffers carved from a [`DriverMemory`] are ever posted. A slot of
//! a queue belongs to the device from the moment it is published until the device hands it back, and
//! the driver touches neither its bytes nor its descriptors meanwhile.
//!
//! *Threads.* A queue belongs to one thread at a time (it is `Send`, and its methods take `&mut self`).
//!
//! It does not know Ethernet, vhost-user messages, or the device side's code.
#![allow(unsafe_code)]
// Ring areas and slots are carved with the alignment of what is put there.
#![allow(clippy::cast_ptr_alignment)]

mod memory;
mod packed;
mod ring;
mod rx;
mod slots;
mod split;
mod tx;
mod wake;
mod wire;

pub use memory::{Carve, DriverMemory, DriverRegion, MemoryError, RegionSpec};
pub use ring::{DeviceError, DriverFeatures, RingLayout};
pub use rx::RxQueue;
pub use slots::{Layout, QueueError, QueueOptions};
pub use tx::{SendError, TxQueue};
pub use wire::Wire;

/// A virtio-net header as it lies in guest memory: 12 bytes, of which a device without
/// `VERSION_1` and `MRG_RXBUF` sees the first 10.
pub type HeaderBytes = [u8; 12];

#[cfg(test)]
mod tests;
