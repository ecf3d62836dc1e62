//! The vhost-user back end of one port: what is offered, the protocol's state machine, and the
//! connection that carries it.
//!
//! Messages are decoded by the `vhost` crate; the few that it does not know, or judges too strictly,
//! are taken off the socket before it sees them. Each connection has a thread of its own, which may
//! block for as long as its peer likes. What a session finds out reaches the daemon as a
//! [`SessionEvent`]; this room does not know what the daemon makes of it.

mod connection;
mod features;
mod ring;
mod session;

pub use connection::{Connection, Refusal};
pub use features::{DevicePolicy, names as feature_names};
pub use session::{PortHost, Update};
