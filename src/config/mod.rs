//! From what a user writes to a [`Config`] that cannot be wrong.
//!
//! Two types: the file form (what may be written, with the place of every word) and [`Config`] (all
//! defaults filled in, all contradictions refused). The conversion between them reports as many
//! mistakes as it can find at once, each with its place in the text and with what would be right.
//!
//! Invariants: a `Config` names no relay, port or group that it does not hold; its relays obey the
//! rules that `relay/` relies on; arbitrary input yields an error, never a panic. Everything but
//! [`Config::load`] is pure.
//!
//! Does not know: whether a socket can be bound, a NIC exists or a CPU is there; that is found out
//! by those who open them.

mod file;
mod model;
mod read;
mod report;

pub use model::{
    Attachment, Backend, Config, Daemon, End, Link, LinkKind, MacvtapMode, Member, Patch, Poll,
    Port, Relay, StaticEntry, Tap, Uplink, Via,
};
pub use report::{ConfigErrors, Fault, Span};
