//! Frames: addresses, Ethernet headers and tags.
//!
//! Pure functions over bytes that were copied out of guest memory; nothing here holds state.

pub mod ethernet;
pub mod mac;
