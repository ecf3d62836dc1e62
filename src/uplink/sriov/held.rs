//! A virtual function in use.

use std::fs::File;

use super::error::SriovError;
use super::host::{Host, lock, lock_shared};
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

/// Holds the virtual function whose network device is used by name, alone or with others who share it; `None` if
/// there is no such function behind it.
pub fn hold(
    host: &impl Host,
    device: &str,
    alone: bool,
) -> Result<Option<HeldFunction>, SriovError> {
    let sysfs = host.sysfs();
    let Some(address) = sysfs.address(device) else {
        return Ok(None);
    };
    let Some((pf, vf)) = sysfs.virtual_function(&address)? else {
        return Ok(None);
    };
    let take = if alone { lock } else { lock_shared };
    let lock = take(sysfs, &address)?.ok_or_else(|| SriovError::InUse {
        pf: pf.name().to_owned(),
        vf: vf.number,
    })?;
    // Nothing is asked of it by its number, as it is told of no addresses.
    Ok(Some(HeldFunction::new(lock, 0)))
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
