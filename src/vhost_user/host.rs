//! What a session needs of the daemon, and tells it.

use std::sync::Arc;

use crate::frame::mac::Mac;
use crate::virtqueue::Positions;
use crate::worker::PortRings;

/// The port that a session serves, as the daemon sees it.
pub trait PortHost: Send + Sync {
    /// Makes `rings` the rings that workers serve for this port, and returns once no worker uses
    /// those from before.
    fn set_rings(&self, rings: PortRings);
    /// Tells what happened apart from the rings.
    fn report(&self, update: Update);
    /// Where the positions of the port's packed rings are kept, for all of its sessions. Asked for when the first
    /// driver accepts such rings.
    fn positions(&self) -> Arc<Positions>;
}

/// News from a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The driver accepted these virtio features.
    Negotiated(u64),
    /// The front end asks to announce an address after a migration (SEND_RARP).
    Announce(Mac),
    /// The front end tells the MTU that the guest uses (NET_SET_MTU).
    Mtu(u16),
    /// A ring cannot start, and no other will be served until the guest resets the device.
    Stuck(String),
}
