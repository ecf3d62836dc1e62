//! The operating system and the allocator: the lowest floor, where unsafe code may live.
#![allow(unsafe_code)]

pub mod zeroed;
