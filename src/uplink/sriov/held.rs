//! A virtual function in use.

use std::fs::File;

use crate::uplink::error::LinkError;
use crate::uplink::netlink;

/// A virtual function in use. Nobody else takes it before this is dropped.
#[derive(Debug)]
pub struct HeldFunction {
    _lock: File,
    /// Number of its network device.
    ifindex: u32,
    /// Addresses of stations that its network device was told to receive for.
    pub(super) addresses: Vec<[u8; 6]>,
}

impl HeldFunction {
    pub(super) fn new(lock: File, ifindex: u32) -> Self {
        Self {
            _lock: lock,
            ifindex,
            addresses: vec![],
        }
    }

    /// Has its network device forget the addresses of stations: the NIC would keep their frames from
    /// wherever they are next.
    pub(in crate::uplink) fn let_go(&self) -> Result<(), LinkError> {
        if self.addresses.is_empty() {
            return Ok(());
        }
        netlink::with_client(async |client| {
            for mac in &self.addresses {
                client.remove_address(self.ifindex, *mac).await?;
            }
            Ok(())
        })
    }
}
