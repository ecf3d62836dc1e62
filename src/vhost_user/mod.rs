//! vhost-user, both sides of it.
//!
//! The back end of a port: what is offered, the protocol's state machine, and the connection that
//! carries it. Messages are decoded by the `vhost` crate; the few that it does not know, or judges
//! too strictly, are taken off the socket before it sees them. Each connection has a thread of its
//! own, which may block for as long as its peer likes. What a session finds out reaches the daemon
//! through [`PortHost`]; this room does not know what the daemon makes of it.
//!
//! [`front_end`] is the other side, for those who drive a back end; [`Peer`] makes a link of it.

mod connection;
mod features;
pub mod front_end;
mod host;
mod peer;
mod ring;
mod session;

pub use connection::{Connection, Refusal};
pub use features::{DevicePolicy, names as feature_names};
pub use host::{PortHost, Update};
pub use peer::{Peer, PeerError, speaks_first};
pub use session::SHARE_HINT;
