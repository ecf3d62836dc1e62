//! The device that a vhost-user port shows to its front end, as the daemon keeps it.

use std::path::PathBuf;
use std::sync::Arc;

use super::endpoint::{Address, EndpointHandle};
use super::event::SessionId;
use crate::uplink::Link;
use crate::worker::{Attachment, PortRings};

/// A vhost-user port's device.
pub struct Device {
    pub address: Address,
    pub queue_pairs: u16,
    /// Keeps the socket open.
    pub endpoint: Option<EndpointHandle>,
    pub session: Option<SessionId>,
    /// What the driver accepted.
    pub features: u64,
    pub rings: Arc<PortRings>,
    /// What there is instead of rings where the other end is a back end, too.
    pub link: Option<Arc<Link>>,
    /// The life of the device in which a ring broke, and how.
    pub failure: Option<(u64, String)>,
}

impl Device {
    /// A device that nobody has connected to.
    pub fn new(address: Address, queue_pairs: u16) -> Self {
        Self {
            address,
            queue_pairs,
            endpoint: None,
            session: None,
            features: 0,
            rings: Arc::new(PortRings::none(0)),
            link: None,
            failure: None,
        }
    }

    /// What workers are to use.
    pub fn attachment(&self) -> Attachment {
        match &self.link {
            Some(link) => Attachment::Link(Some(Arc::clone(link))),
            None => Attachment::Rings(self.usable()),
        }
    }

    /// Whether frames can come and go.
    pub fn is_active(&self) -> bool {
        self.link.is_some() || !self.usable().is_empty()
    }

    /// Queue pairs in use.
    pub fn queues(&self) -> usize {
        match &self.link {
            Some(link) => link.queues().len(),
            None => self.rings.tx.len(),
        }
    }

    /// The rings that may be used: none in the life in which one of them broke.
    fn usable(&self) -> Arc<PortRings> {
        match &self.failure {
            Some((life, _)) if *life == self.rings.life => Arc::new(PortRings::none(*life)),
            _ => Arc::clone(&self.rings),
        }
    }

    /// Why the device is out of use, if it is.
    pub fn failed(&self) -> Option<&str> {
        match &self.failure {
            Some((life, why)) if *life == self.rings.life => Some(why),
            _ => None,
        }
    }

    /// Whether its socket has to be closed before its path is free again.
    pub fn is_open(&self) -> bool {
        self.endpoint.is_some()
    }

    /// The socket.
    pub fn path(&self) -> &PathBuf {
        match &self.address {
            Address::Listen(path) | Address::Connect(path) => path,
        }
    }
}
