//! The operating system, as little of it as the rest needs.
//!
//! Each file wraps one kind of call that no crate in use offers safely. This room knows nothing of
//! bridges, rings or protocols. Together with `virtqueue` it is the only place that may hold
//! `unsafe` code.
#![allow(unsafe_code)]

pub mod bpf;
pub mod cache;
mod call;
pub mod connect;
pub mod cpu;
pub mod ethtool;
pub mod eventfd;
pub mod fdpass;
pub mod handed;
pub mod interrupt;
pub mod limits;
mod mapping;
#[cfg(test)]
pub mod namespace;
pub mod node;
pub mod packet;
pub mod poller;
pub mod process;
pub mod rate_limit;
pub mod socket;
pub mod tun;
pub mod xsk;
pub mod zeroed;
