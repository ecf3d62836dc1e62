//! A device that does nothing but copy: what goes into one queue comes out of another.
//!
//! It is the ceiling that the benchmark compares a switch with: the same rings and buffers, one copy of each byte, and no
//! decision, check or protocol. Both queues are this process's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use virtio_bindings::virtio_ring::VRING_USED_F_NO_NOTIFY;

use super::memory::{DriverMemory, MemoryError};
use super::ring::{Index, RingLayout};
use crate::sys::cache;
use crate::virtqueue::copy::copy_bytes;

/// Frames copied in one turn.
const BURST: usize = 64;
/// How many buffers ahead the beginning of one is fetched into the cache.
const AHEAD: u16 = 8;
/// Where `num_buffers` lies in a header.
const NUM_BUFFERS: usize = 10;

/// One ring as its device sees it.
struct End {
    memory: Arc<DriverMemory>,
    mask: usize,
    desc: *const u8,
    avail: *mut u8,
    used: *mut u8,
    /// The next entry of the avail ring to take, which is the next used element to write as well.
    next: Index,
    /// The avail index as it was read last.
    limit: Index,
}

/// Copies from one queue to another. Nothing that another thread writes is near it.
#[repr(align(128))]
pub struct Wire {
    from: End,
    to: End,
}

// SAFETY: the pointers belong to mappings that `memory` keeps; all access to what a driver on another thread sees
// goes through atomics or raw copies.
unsafe impl Send for End {}

impl Wire {
    /// From a transmit queue in `from` to a receive queue in `to`, both split, whose buffers are single descriptors.
    /// It starts with the first buffer and wants no kicks, so neither queue has negotiated `EVENT_IDX`.
    ///
    /// # Errors
    ///
    /// A ring does not lie in its memory.
    pub fn new(
        (from, tx): (&Arc<DriverMemory>, RingLayout),
        (to, rx): (&Arc<DriverMemory>, RingLayout),
    ) -> Result<Self, MemoryError> {
        Ok(Self {
            from: End::new(from, tx)?,
            to: End::new(to, rx)?,
        })
    }

    /// Copies what there is, a burst at most, and returns the number of frames.
    pub fn turn(&mut self) -> usize {
        let mut frames = 0;
        while frames < BURST && self.from.available() > 0 {
            self.from.fetch::<false>();
            self.to.fetch::<true>();
            let (head, (source, len)) = self.from.buffer(self.from.next.get());
            if !self.to.receive(source, len) {
                break;
            }
            self.from.give_back(head, 0);
            frames += 1;
        }
        if frames > 0 {
            self.to.publish();
            self.from.publish();
        }
        frames
    }
}

impl End {
    fn new(memory: &Arc<DriverMemory>, layout: RingLayout) -> Result<Self, MemoryError> {
        let n = u64::from(layout.size);
        let end = Self {
            desc: memory.checked(layout.desc, 16 * n as usize)?,
            avail: memory.checked(layout.avail, 6 + 2 * n as usize)?,
            used: memory.checked(layout.used, 6 + 8 * n as usize)?,
            memory: Arc::clone(memory),
            mask: usize::from(layout.size) - 1,
            next: Index::default(),
            limit: Index::default(),
        };
        let flags = VRING_USED_F_NO_NOTIFY as u16;
        end.used(0).store(flags.to_le(), Ordering::Relaxed);
        Ok(end)
    }

    /// Field `index` of the avail ring, in 16-bit words.
    fn avail(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index <= self.mask + 2);
        // SAFETY: `new` checked the area; it is aligned, and both sides access it atomically.
        unsafe { AtomicU16::from_ptr(self.avail.cast::<u16>().add(index)) }
    }

    /// Flags or index of the used ring.
    fn used(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < 2);
        // SAFETY: as for `avail`.
        unsafe { AtomicU16::from_ptr(self.used.cast::<u16>().add(index)) }
    }

    fn mask(&self, index: u16) -> usize {
        usize::from(index) & self.mask
    }

    /// Reads how many buffers there are.
    fn ask(&mut self) {
        let index = self.avail(1).load(Ordering::Acquire);
        self.limit = Index::new(u16::from_le(index));
    }

    /// Buffers that were not taken yet.
    fn available(&mut self) -> u16 {
        if self.limit.since(self.next) == 0 {
            self.ask();
        }
        self.limit.since(self.next)
    }

    /// Fetches the beginning of a later buffer into the cache.
    fn fetch<const WRITE: bool>(&self) {
        if AHEAD < self.limit.since(self.next) {
            let (_, (place, _)) = self.buffer(self.next.ahead(AHEAD));
            cache::prefetch::<WRITE>(place);
        }
    }

    /// The buffer of entry `index` of the avail ring: its head, where it lies here, and its length.
    fn buffer(&self, index: u16) -> (u16, (*mut u8, usize)) {
        let head = u16::from_le(self.avail(2 + self.mask(index)).load(Ordering::Relaxed));
        // SAFETY: the descriptor table holds `size` descriptors; the driver wrote this one before it published it, and
        // writes it again only when it has the buffer back.
        let (addr, len) = unsafe {
            let at = self.desc.add(16 * self.mask(head));
            (at.cast::<u64>().read(), at.add(8).cast::<u32>().read())
        };
        let (addr, len) = (u64::from_le(addr), u32::from_le(len) as usize);
        let place = self.memory.checked(addr, len);
        // Our own driver describes no buffer that is not in its memory.
        (
            head,
            place.map_or((std::ptr::null_mut(), 0), |place| (place, len)),
        )
    }

    /// Copies `len` bytes into as many buffers as they need; false if there are not enough.
    fn receive(&mut self, source: *const u8, len: usize) -> bool {
        if self.available() == 0 {
            return false;
        }
        let (_, (first, room)) = self.buffer(self.next.get());
        let needed = len.div_ceil(room.max(1)) as u16;
        if self.available() < needed {
            // There may be more than was known.
            self.ask();
            if self.available() < needed {
                return false;
            }
        }
        let mut done = 0;
        for _ in 0..needed {
            let (head, (to, room)) = self.buffer(self.next.get());
            let now = room.min(len - done);
            // SAFETY: `source` is valid for `len` bytes and `to` for `room` (`buffer` checked both); neither driver
            // touches a buffer that the device holds.
            unsafe { copy_bytes(to, source.add(done), now) };
            done += now;
            self.give_back(head, now as u32);
        }
        if room > NUM_BUFFERS + 2 {
            // SAFETY: the first buffer has room for a header.
            unsafe {
                let field = first.add(NUM_BUFFERS).cast::<u16>();
                field.write_unaligned(needed.to_le());
            }
        }
        true
    }

    /// Writes a used element; the driver sees it at the next `publish`.
    fn give_back(&mut self, head: u16, len: u32) {
        let slot = self.mask(self.next.get());
        // SAFETY: the used area holds `size` aligned elements of 8 bytes behind 4 bytes of flags and index.
        unsafe {
            let at = self.used.add(4 + 8 * slot).cast::<u32>();
            AtomicU32::from_ptr(at).store(u32::from(head).to_le(), Ordering::Relaxed);
            AtomicU32::from_ptr(at.add(1)).store(len.to_le(), Ordering::Relaxed);
        }
        self.next.advance();
    }

    fn publish(&self) {
        self.used(1)
            .store(self.next.get().to_le(), Ordering::Release);
    }
}
