//! What the bridge does with a frame: modes, VLANs, addresses, reflection.
//!
//! Purpose: given the port a frame came from and its header, say which ports get a copy and with
//! which tag. The rules, their tables and their reasons are those of the project's relay
//! semantics; comments cite its sections as "§".
//!
//! Invariants:
//! - A [`Relay`] is immutable; a change of configuration builds a new one over the same [`Fdb`]
//!   and the same [`PortState`]s, in which a port keeps its [`Slot`].
//! - Each pair of local ports has at most one path through the relay, and nobody receives a
//!   duplicate.
//! - The cost of a unicast frame does not depend on the number of ports, VLANs or addresses.
//! - Nothing allocates, and nothing here waits for the control side, while forwarding.
//!
//! Threads: any number of workers forward through one relay at once; the [`Fdb`] and the port
//! states are shared between them and with the control side.
//!
//! Does not know: clocks (`now` is an argument, in seconds of any monotonic clock), descriptors,
//! guest memory, offloads, names of ports, and why a port is up or down.

mod address;
mod check;
mod config;
mod fdb;
mod forward;
mod lifecycle;
#[cfg(test)]
mod model;
mod passthrough;
mod port;
mod reserved;
mod shortcut;
mod tables;
mod vid_set;
mod vlan;

#[cfg(test)]
mod tests;

pub use check::RelayError;
pub use config::{
    DEFAULT_AGEING, DEFAULT_LEARN, DEFAULT_MAX_ENTRIES, DEFAULT_TRUSTED_LIMIT, MacPolicy, Mode,
    Multicast, PortConfig, RelayConfig, Role, StaticGroup, VlanConfig, default_flood_unknown,
    default_mac_policy, default_uplink_reflective,
};
pub use fdb::{Entry, EntryKind, Fdb};
pub use forward::{Frame, Verdict, View};
pub use lifecycle::{Announcement, StaticError};
pub use port::{MAX_PORTS, PortSet, PortState, Report, Slot};
pub use shortcut::Sender;
pub use tables::{Port, Relay};
pub use vid_set::VidSet;
pub use vlan::Class;

/// Seconds of a monotonic clock that starts anywhere.
pub type Seconds = u32;
