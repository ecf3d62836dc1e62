//! Counters, and the reasons why frames are dropped.
//!
//! Purpose: one list of drop reasons from which counter, name and documentation follow, and one
//! block of counters per (port, worker) and per (relay, VLAN, worker). TX is what the port sent into
//! `evb`, RX what was delivered to it; in and out are the same seen from a VLAN.
//!
//! Invariants: a [`PortCounters`] or [`VlanCounters`] has a single writer, its worker; anyone may read it at any
//! time. Every frame that is not delivered is counted under exactly one [`DropReason`] at the
//! port that caused it: the source for what ingress and the relay refuse, the destination for
//! what egress refuses.
//!
//! Threads: relaxed atomics, load and store only; a reader may see a frame counted before its
//! bytes.
//!
//! Does not know: ports, relays, or how counters are exposed.

mod counters;
mod drop;
mod vlan;

pub use counters::{PortCounters, Totals};
pub use drop::DropReason;
pub use vlan::{VlanCounters, VlanTotals};
