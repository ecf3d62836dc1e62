//! The split ring from the driver's side (VIRTIO 1.2, 2.7).
//!
//! Descriptors are handed out first in, first out: with an in-order device that is the ring order which
//! `IN_ORDER` demands, and with any other it does no harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use virtio_bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    VRING_USED_F_NO_NOTIFY,
};

use super::memory::{DriverMemory, MemoryError};
use super::ring::{
    Access, Areas, DeviceError, DriverFeatures, Index, Part, RingLayout, Table, Used, event_crossed,
};

/// A descriptor as it stands in a table. New tables hold zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Writes one descriptor, little endian.
fn write_descriptor(table: *mut u8, index: u16, descriptor: Descriptor) {
    let Descriptor {
        addr,
        len,
        flags,
        next,
    } = descriptor;
    // SAFETY: the callers pass an index below the number of descriptors that `table` has room for; the
    // table is 16-byte aligned and no reference to it exists.
    unsafe {
        let at = table.add(usize::from(index) * 16);
        at.cast::<u64>().write(addr.to_le());
        at.add(8).cast::<u32>().write(len.to_le());
        at.add(12).cast::<u16>().write(flags.to_le());
        at.add(14).cast::<u16>().write(next.to_le());
    }
}

impl Descriptor {
    fn new(part: Part, flags: u16, next: Option<u16>) -> Self {
        let more = if next.is_some() {
            VRING_DESC_F_NEXT as u16
        } else {
            0
        };
        Self {
            addr: part.addr,
            len: part.len,
            flags: flags | more,
            next: next.unwrap_or(0),
        }
    }
}

/// A chain that the device holds, by its head; `descriptors` is 0 where it holds none.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    token: u16,
    descriptors: u16,
}

#[derive(Debug)]
pub(super) struct Split {
    areas: Areas,
    size: u16,
    /// `size - 1`.
    mask: usize,
    event_idx: bool,
    in_order: bool,
    /// Indices of free descriptors, a queue of which `free_from..free_to` is filled.
    free: Box<[u16]>,
    free_from: Index,
    free_to: Index,
    /// What stands in the table in shared memory, which is never read back.
    written: Box<[Descriptor]>,
    chains: Box<[Chain]>,
    /// Heads in the order in which they were posted, by avail index.
    order: Box<[u16]>,
    avail_idx: Index,
    kicked_idx: Index,
    used_idx: Index,
    /// The device's used index as it was read last.
    used_seen: Index,
    outstanding: Index,
    /// What is left of the used element read last: chains, the last one's head and its length.
    batch: Index,
    batch_end: u16,
    batch_len: u32,
}

impl Split {
    pub fn new(
        memory: &Arc<DriverMemory>,
        size: u16,
        features: DriverFeatures,
    ) -> Result<Self, MemoryError> {
        assert!(
            size.is_power_of_two(),
            "a split ring's size is a power of two"
        );
        let n = u64::from(size);
        let areas = Areas::new(memory, (16 * n, 16), (6 + 2 * n, 2), (6 + 8 * n, 4))?;
        let slots = usize::from(size);
        let mut ring = Self {
            areas,
            size,
            mask: usize::from(size) - 1,
            event_idx: features.event_idx,
            in_order: features.in_order,
            free: (0..size).collect(),
            free_from: Index::default(),
            free_to: Index::new(size),
            written: vec![Descriptor::default(); slots].into(),
            chains: vec![Chain::default(); slots].into(),
            order: vec![0; slots].into(),
            avail_idx: Index::default(),
            kicked_idx: Index::default(),
            used_idx: Index::default(),
            used_seen: Index::default(),
            outstanding: Index::default(),
            batch: Index::default(),
            batch_end: 0,
            batch_len: 0,
        };
        ring.disable_calls();
        Ok(ring)
    }

    pub fn layout(&self) -> RingLayout {
        self.areas.layout(self.size)
    }

    #[inline]
    pub fn room(&self) -> u16 {
        self.free_to.since(self.free_from)
    }

    pub fn outstanding(&self) -> u16 {
        self.outstanding.get()
    }

    #[inline]
    fn mask(&self, index: u16) -> usize {
        usize::from(index) & self.mask
    }

    /// Field `index` of the avail ring: 0 flags, 1 idx, 2.. the ring, 2 + size `used_event`.
    fn avail(&self, index: u16) -> &AtomicU16 {
        debug_assert!(index <= self.size + 2);
        // SAFETY: the area holds `size + 3` aligned u16; it lives as long as `self`, and both sides
        // access it atomically.
        unsafe { AtomicU16::from_ptr(self.areas.avail.pointer().cast::<u16>().add(index.into())) }
    }

    /// u16 number `index` of the used ring: 0 flags, 1 idx, 2 + 4 * size `avail_event`.
    fn used(&self, index: u32) -> &AtomicU16 {
        debug_assert!(index <= 4 * u32::from(self.size) + 2);
        // SAFETY: as for `avail`; the area holds `4 * size + 3` u16.
        unsafe { AtomicU16::from_ptr(self.areas.used.pointer().cast::<u16>().add(index as usize)) }
    }

    #[inline]
    fn take_free(&mut self) -> u16 {
        let index = self.free[self.mask(self.free_from.get())];
        self.free_from.advance();
        index
    }

    #[inline]
    fn give_free(&mut self, index: u16) {
        let at = self.mask(self.free_to.get());
        self.free[at] = index;
        self.free_to.advance();
    }

    #[inline]
    pub fn post(&mut self, parts: &[Part], access: Access, token: u16, table: Option<Table>) {
        let own = if access == Access::DeviceWrites {
            VRING_DESC_F_WRITE as u16
        } else {
            0
        };
        let head = self.take_free();
        let descriptors = if let Some(table) = table {
            for (i, part) in (0u16..).zip(parts) {
                let more = (usize::from(i) + 1 < parts.len()).then_some(i + 1);
                write_descriptor(table.pointer, i, Descriptor::new(*part, own, more));
            }
            let whole = Part {
                addr: table.addr,
                len: 16 * parts.len() as u32,
            };
            let flags = VRING_DESC_F_INDIRECT as u16;
            self.describe(head, Descriptor::new(whole, flags, None));
            1
        } else {
            let mut index = head;
            for (i, part) in parts.iter().enumerate() {
                let following = (i + 1 < parts.len()).then(|| self.take_free());
                self.describe(index, Descriptor::new(*part, own, following));
                index = following.unwrap_or(index);
            }
            parts.len() as u16
        };
        self.chains[usize::from(head)] = Chain { token, descriptors };
        let slot = self.mask(self.avail_idx.get());
        // As for descriptors.
        if self.order[slot] != head {
            self.order[slot] = head;
            self.avail(2 + slot as u16)
                .store(head.to_le(), Ordering::Relaxed);
        }
        self.avail_idx.advance();
        self.outstanding.advance();
    }

    /// Makes a descriptor of the ring what it is to be. One that is so already stays in the device's cache.
    #[inline]
    fn describe(&mut self, index: u16, descriptor: Descriptor) {
        let written = &mut self.written[usize::from(index)];
        if *written != descriptor {
            *written = descriptor;
            write_descriptor(self.areas.desc.pointer(), index, descriptor);
        }
    }

    pub fn publish(&mut self) {
        self.avail(1)
            .store(self.avail_idx.get().to_le(), Ordering::Release);
    }

    pub fn has_used(&self) -> bool {
        self.batch.get() > 0
            || u16::from_le(self.used(1).load(Ordering::Acquire)) != self.used_idx.get()
    }

    #[inline]
    pub fn upcoming(&self, ahead: u16) -> Option<u16> {
        let there = ahead < self.used_seen.since(self.used_idx);
        let head = self.order[self.mask(self.used_idx.ahead(ahead))];
        there.then(|| self.chains[usize::from(head)].token)
    }

    #[inline]
    pub fn pop(&mut self) -> Result<Option<Used>, DeviceError> {
        if self.batch.get() == 0 && !self.next_batch()? {
            return Ok(None);
        }
        self.batch.step_back();
        let last = self.batch.get() == 0;
        let head = if last {
            self.batch_end
        } else {
            self.order[self.mask(self.used_idx.get())]
        };
        self.used_idx.advance();
        Ok(Some(Used {
            token: self.release(head),
            len: last.then_some(self.batch_len),
        }))
    }

    /// Reads one used element and notes the chains that it stands for; false where there is none.
    #[inline]
    fn next_batch(&mut self) -> Result<bool, DeviceError> {
        // The index lies in a cache line that the device writes: it is read when it must be.
        if self.used_seen.since(self.used_idx) == 0 {
            let used = u16::from_le(self.used(1).load(Ordering::Acquire));
            self.used_seen = Index::new(used);
        }
        let published = self.used_seen.since(self.used_idx);
        if published == 0 {
            return Ok(false);
        }
        if published > self.outstanding.get() {
            return Err(DeviceError::UsedIndex {
                used: self.used_seen.get(),
                last: self.used_idx.get(),
                outstanding: self.outstanding.get(),
            });
        }
        let (id, len) = self.element(self.mask(self.used_idx.get()));
        let head = u16::try_from(id)
            .ok()
            .filter(|&h| h < self.size && self.chains[usize::from(h)].descriptors > 0)
            .ok_or(DeviceError::UnknownBuffer(id))?;
        let mut batch = 1;
        if self.in_order {
            // VIRTIO 1.2, 2.7.9: the element names the last chain of a batch.
            let ahead = (0..published)
                .find(|&k| self.order[self.mask(self.used_idx.ahead(k))] == head)
                .ok_or(DeviceError::UnknownBuffer(id))?;
            batch += ahead;
        }
        self.batch = Index::new(batch);
        self.batch_end = head;
        self.batch_len = len;
        Ok(true)
    }

    /// Used element number `slot`: id and length, each read once.
    #[inline]
    fn element(&self, slot: usize) -> (u32, u32) {
        debug_assert!(slot < usize::from(self.size));
        // SAFETY: the used area is 4-byte aligned and holds `size` elements of 8 bytes behind 4 bytes
        // of flags and index; both sides access it atomically.
        let (id, len) = unsafe {
            let at = self.areas.used.pointer().add(4 + 8 * slot).cast::<u32>();
            (
                AtomicU32::from_ptr(at).load(Ordering::Relaxed),
                AtomicU32::from_ptr(at.add(1)).load(Ordering::Relaxed),
            )
        };
        (u32::from_le(id), u32::from_le(len))
    }

    #[inline]
    fn release(&mut self, head: u16) -> u16 {
        let Chain { token, descriptors } = std::mem::take(&mut self.chains[usize::from(head)]);
        let mut index = head;
        for _ in 0..descriptors {
            let following = self.written[usize::from(index)].next;
            self.give_free(index);
            index = following;
        }
        self.outstanding.step_back();
        token
    }

    pub fn wants_kick(&mut self) -> bool {
        // The index must be visible before the device's wish is read, or both sides may sleep.
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked_idx, self.avail_idx).get();
        let new = self.avail_idx.get();
        if old == new {
            return false;
        }
        if self.event_idx {
            let event = self
                .used(2 + 4 * u32::from(self.size))
                .load(Ordering::Relaxed);
            event_crossed(u16::from_le(event), new, old)
        } else {
            let flags = self.used(0).load(Ordering::Relaxed);
            u32::from(u16::from_le(flags)) & VRING_USED_F_NO_NOTIFY == 0
        }
    }

    pub fn enable_calls(&mut self) -> bool {
        if self.event_idx {
            self.avail(2 + self.size)
                .store(self.used_idx.get().to_le(), Ordering::Relaxed);
        } else {
            self.avail(0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.has_used()
    }

    pub fn disable_calls(&mut self) {
        if self.event_idx {
            // Half the index space away: no device gets there before calls are enabled again.
            let never = self.used_idx.ahead(1 << 15);
            self.avail(2 + self.size)
                .store(never.to_le(), Ordering::Relaxed);
        } else {
            let flags = VRING_AVAIL_F_NO_INTERRUPT as u16;
            self.avail(0).store(flags.to_le(), Ordering::Relaxed);
        }
    }

    pub fn base(&self, consumed: bool) -> u32 {
        if consumed {
            u16::from_le(self.used(1).load(Ordering::Acquire)).into()
        } else {
            self.avail_idx.get().into()
        }
    }
}
