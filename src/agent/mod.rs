//! Protocols that the bridge speaks for itself.
//!
//! Each is pure: it makes frames, and others send them.

pub mod announce;
