//! What happens to the daemon. It alone changes the world; everybody else sends one of these.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::links::SearchId;
use super::opening::Opened;
use crate::uplink::Link;
use crate::uplink::netlink::Change;
use crate::vhost_user::Update;
use crate::worker::{Fault, PortId, PortRings};

/// Tells the connections of a port apart, so that late news of an old one is not taken for the new
/// one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub u64);

/// News for the daemon.
#[derive(Debug)]
pub enum Event {
    /// A front end connected.
    Connected { port: PortId, session: SessionId },
    /// The rings of a port have changed; the answer is the number of the snapshot that has them.
    Rings {
        port: PortId,
        session: SessionId,
        rings: PortRings,
        reply: oneshot::Sender<u64>,
    },
    /// The other end of a port turned out to be a back end, to which there is now this link, or no longer one;
    /// the answer is as for rings.
    Link {
        port: PortId,
        session: SessionId,
        link: Option<Arc<Link>>,
        reply: oneshot::Sender<u64>,
    },
    /// Other news of a session.
    Update {
        port: PortId,
        session: SessionId,
        update: Update,
        /// Dropped when it has been dealt with: a session does not run ahead of the daemon.
        done: oneshot::Sender<()>,
    },
    /// A front end is gone, and all that was its with it.
    Disconnected { port: PortId, session: SessionId },
    /// No worker delivers to or takes from a port that went down.
    Quiet { port: PortId },
    /// A worker found a port broken.
    Failed { port: PortId, error: Fault },
    /// A guest kicks and there is never anything in its ring.
    Hollow { port: PortId },
    /// Workers have something to do again.
    Awake,
    /// Network devices of the host have changed.
    Devices(Vec<Change>),
    /// A device that was gone is back.
    Found { search: SearchId, link: Link },
    /// All workers use the link of a bond that has become the active one.
    Over { port: PortId },
    /// What a reload needs has been opened, or not.
    Opened(Opened),
    /// An endpoint or a device that was told to close has closed.
    EndpointGone,
}
