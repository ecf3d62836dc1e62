//! A dirty log of the front end's.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use evb::vhost_user::front_end::{FrontEnd, FrontEndError};
use evb::virtqueue::driver::{DriverMemory, RegionSpec};

/// One bit per 4 KiB page of guest address space, from 0.
pub struct DirtyLog {
    memory: Arc<DriverMemory>,
}

impl DirtyLog {
    /// A clean log of 256 KiB, which covers 8 GiB of guest.
    pub fn new() -> Self {
        let bits = RegionSpec {
            guest_addr: 0,
            size: 256 << 10,
        };
        Self {
            memory: DriverMemory::new(&[bits]).unwrap(),
        }
    }

    /// Hands it to the back end.
    pub fn give(&self, front_end: &mut FrontEnd) -> Result<(), FrontEndError> {
        let region = &self.memory.regions()[0];
        front_end.set_log_base(region.file().as_raw_fd(), region.size(), 0)
    }

    /// Whether the page of a guest address is marked.
    pub fn marked(&self, guest_addr: u64) -> bool {
        let page = guest_addr / 4096;
        let mut byte = [0];
        self.memory.read(page / 8, &mut byte).unwrap();
        byte[0] & 1 << (page % 8) != 0
    }

    /// The marked pages' addresses; the log is clean afterwards.
    pub fn take(&self) -> Vec<u64> {
        let mut bits = vec![0; self.memory.regions()[0].size() as usize];
        self.memory.read(0, &mut bits).unwrap();
        self.memory.write(0, &vec![0; bits.len()]).unwrap();
        // Nearly all bytes are zero, and there are many.
        let mut marked = Vec::new();
        for (byte, bits) in (0u64..).zip(bits).filter(|(_, bits)| *bits != 0) {
            marked.extend(
                (0..8)
                    .filter(|bit| bits & 1 << bit != 0)
                    .map(|bit| (8 * byte + bit) * 4096),
            );
        }
        marked
    }
}
