//! What is asked of the kernel over netlink: devices made, changed and removed, what a host needs of
//! a device, and news of devices ([`Watch`]).

mod client;
mod function;
mod occupied;
mod watch;

pub(super) use client::{Client, Device, Settings, with_client};
pub use watch::{Change, State, Watch};
