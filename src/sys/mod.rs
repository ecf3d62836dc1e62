//! The operating system and the allocator: the lowest floor, where unsafe code may live.
#![allow(unsafe_code)]

pub mod connect;
pub mod fdpass;
pub mod process;
pub mod rate_limit;
pub mod zeroed;
