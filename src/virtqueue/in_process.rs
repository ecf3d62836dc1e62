//! Both ends of a ring in one process: what a front end would tell a back end of a driver's queue.
//!
//! For measurements and tests of the data path without sockets. The device maps the driver's memory a second time,
//! as it would map another process's.

use std::io;
use std::sync::Arc;

use super::driver::{DriverFeatures, DriverMemory, RingLayout};
use super::memory::{GuestMemory, Region};
use super::ring::{RingConfig, RingFeatures};

impl GuestMemory {
    /// The memory of a driver in this process, as a device sees it.
    ///
    /// # Errors
    ///
    /// The error of duplicating a descriptor or of mapping.
    pub fn of_driver(memory: &DriverMemory) -> io::Result<Arc<GuestMemory>> {
        let regions = memory.regions().iter().map(|region| {
            Ok(Region {
                guest_addr: region.guest_addr(),
                size: region.size(),
                user_addr: region.user_addr(),
                offset: 0,
                file: region.file().try_clone()?,
            })
        });
        let mapped = GuestMemory::new(regions.collect::<io::Result<_>>()?);
        mapped.map(Arc::new).map_err(io::Error::other)
    }
}

impl RingConfig {
    /// The ring of a driver's queue in this process, which nobody is called for.
    ///
    /// # Errors
    ///
    /// That the ring does not lie in `memory`.
    pub fn of_driver(
        memory: &DriverMemory,
        layout: RingLayout,
        features: DriverFeatures,
    ) -> io::Result<RingConfig> {
        let user = |guest| {
            let outside = || io::Error::other("the ring is not in the driver's memory");
            memory.user_addr(guest).ok_or_else(outside)
        };
        Ok(RingConfig {
            size: layout.size,
            desc: user(layout.desc)?,
            avail: user(layout.avail)?,
            used: user(layout.used)?,
            log_used: None,
            features: RingFeatures {
                packed: features.packed,
                indirect: features.indirect,
                event_idx: features.event_idx,
                in_order: features.in_order,
                mergeable: features.mergeable,
                header_len: features.header_len.into(),
            },
            call: None,
            position: None,
        })
    }
}
