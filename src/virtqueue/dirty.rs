//! The dirty log of a live migration: one bit for each 4 KiB page that was written.
//!
//! The log is shared with the front end, which takes bits away at any time with an atomic exchange.
//! Marks are atomic read-modify-writes, never skipped because a bit seems to be set already: on our
//! side that look would not be ordered behind the data, and the page could be missed. A mark comes
//! after the write it stands for. Any thread may mark.

use std::fs::File;
use std::sync::atomic::{AtomicU8, Ordering};

use super::error::MemoryError;
use super::mapping::Mapping;

/// The log counts in pages of 4 KiB, whatever pages the guest uses.
const LOG_PAGE_SHIFT: u32 = 12;

/// A mapped dirty log.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    size: u64,
}

impl DirtyLog {
    /// Maps the log that `SET_LOG_BASE` hands over.
    pub fn new(file: File, offset: u64, size: u64) -> Result<DirtyLog, MemoryError> {
        Mapping::new(file, offset, size)
            .map(|mapping| DirtyLog { mapping, size })
            .map_err(|source| MemoryError::Log { size, source })
    }

    /// Marks the pages of `len` bytes at a guest address. Pages beyond the end of the log have no
    /// bit; they are ignored.
    // A guest has a log only while it migrates.
    #[cold]
    #[inline(never)]
    pub fn mark(&self, guest_addr: u64, len: u64) {
        let Some(last) = len.checked_sub(1) else {
            return;
        };
        let first = guest_addr >> LOG_PAGE_SHIFT;
        let last = guest_addr.saturating_add(last) >> LOG_PAGE_SHIFT;
        for byte in first / 8..=(last / 8).min(self.size.saturating_sub(1)) {
            if byte >= self.size {
                return;
            }
            let from = first.saturating_sub(byte * 8).min(7) as u32;
            let to = (last - byte * 8).min(7) as u32;
            let mask = (0xff_u8 << from) & (0xff_u8 >> (7 - to));
            // SAFETY: `byte` is below `size`, for which `mapping` is valid; a byte is always aligned
            // and the front end accesses the log atomically.
            let cell = unsafe { AtomicU8::from_ptr(self.mapping.base().add(byte as usize)) };
            cell.fetch_or(mask, Ordering::SeqCst);
        }
    }

    /// Whether a SIGBUS hit the log.
    pub fn poisoned(&self) -> bool {
        self.mapping.poisoned()
    }
}
