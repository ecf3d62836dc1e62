//! Rings written by hand, for guests that break their rules.

use std::sync::Arc;

use evb::virtqueue::driver::{DriverMemory, RingLayout};

/// `VRING_DESC_F_NEXT`
pub const NEXT: u16 = 1;
/// `VRING_DESC_F_WRITE`
pub const WRITE: u16 = 2;
/// `VRING_DESC_F_INDIRECT`
pub const INDIRECT: u16 = 4;

/// A descriptor as it stands in memory.
#[derive(Debug, Clone, Copy)]
pub struct Desc {
    /// Guest address.
    pub addr: u64,
    /// Length.
    pub len: u32,
    /// Flags.
    pub flags: u16,
    /// Next descriptor of the chain.
    pub next: u16,
}

/// Shorthand for a descriptor.
pub const fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc {
        addr,
        len,
        flags,
        next,
    }
}

/// Writes to a ring that a queue of the driver laid out, behind the driver's back.
pub struct RawRing {
    memory: Arc<DriverMemory>,
    layout: RingLayout,
}

impl RawRing {
    /// The ring at `layout`.
    pub fn new(memory: &Arc<DriverMemory>, layout: RingLayout) -> Self {
        Self {
            memory: Arc::clone(memory),
            layout,
        }
    }

    /// Writes descriptors from number `first` on.
    pub fn descriptors(&self, first: u16, descs: &[Desc]) {
        self.table(self.layout.desc + 16 * u64::from(first), descs);
    }

    /// Writes an indirect table, or any other.
    pub fn table(&self, at: u64, descs: &[Desc]) {
        for (i, d) in (0u64..).zip(descs) {
            let bytes = [
                &d.addr.to_le_bytes()[..],
                &d.len.to_le_bytes(),
                &d.flags.to_le_bytes(),
                &d.next.to_le_bytes(),
            ];
            self.memory.write(at + 16 * i, &bytes.concat()).unwrap();
        }
    }

    /// Writes entry `slot` of the avail ring.
    pub fn avail_entry(&self, slot: u16, head: u16) {
        let slot = u64::from(slot % self.layout.size);
        self.memory
            .write(self.layout.avail + 4 + 2 * slot, &head.to_le_bytes())
            .unwrap();
    }

    /// The avail index.
    pub fn avail_idx(&self) -> u16 {
        self.u16(self.layout.avail + 2)
    }

    /// Sets the avail index.
    pub fn set_avail_idx(&self, idx: u16) {
        self.memory
            .write(self.layout.avail + 2, &idx.to_le_bytes())
            .unwrap();
    }

    /// Makes chain `head` available.
    pub fn offer(&self, head: u16) {
        let idx = self.avail_idx();
        self.avail_entry(idx, head);
        self.set_avail_idx(idx.wrapping_add(1));
    }

    /// The used index.
    pub fn used_idx(&self) -> u16 {
        self.u16(self.layout.used + 2)
    }

    /// The whole used ring, to see whether anyone still writes to it.
    pub fn used_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 6 + 8 * usize::from(self.layout.size)];
        self.memory.read(self.layout.used, &mut bytes).unwrap();
        bytes
    }

    fn u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read(at, &mut bytes).unwrap();
        u16::from_le_bytes(bytes)
    }
}

/// The same for a packed ring, in which the `next` of a descriptor is its buffer id.
pub struct RawPacked(RawRing);

impl RawPacked {
    /// The ring at `layout`.
    pub fn new(memory: &Arc<DriverMemory>, layout: RingLayout) -> Self {
        Self(RawRing::new(memory, layout))
    }

    /// Makes descriptors available from a position on, as half a vring base has it; the first last.
    pub fn offer(&self, position: u16, descs: &[Desc]) {
        let size = self.0.layout.size;
        let (first, wrap) = (position & 0x7fff, position & 0x8000 != 0);
        for (i, d) in (0..descs.len() as u16).zip(descs).rev() {
            let wrap = wrap == ((first + i) / size).is_multiple_of(2);
            let flags = d.flags | if wrap { 1 << 7 } else { 1 << 15 };
            let flagged = desc(d.addr, d.len, flags, d.next);
            self.raw((first + i) % size, flagged);
        }
    }

    /// Writes a descriptor as it is.
    pub fn raw(&self, index: u16, d: Desc) {
        // Flags and id are the other way round than flags and next.
        let swapped = desc(d.addr, d.len, d.next, d.flags);
        self.0.descriptors(index, &[swapped]);
    }

    /// Whether the place was used in this round.
    pub fn is_used(&self, position: u16) -> bool {
        let flags = self
            .0
            .u16(self.0.layout.desc + 16 * u64::from(position & 0x7fff) + 14);
        let both = 1 << 7 | 1 << 15;
        flags & both == if position & 0x8000 != 0 { both } else { 0 }
    }
}
