//! Frames: addresses, Ethernet headers and tags.
//!
//! Pure functions over bytes that were copied out of guest memory; nothing here holds state.

pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod gso;
mod layers;
pub mod mac;
pub mod offloads;
mod retag;
pub mod segment;
pub mod vnet;

#[cfg(test)]
pub(crate) mod testing;
