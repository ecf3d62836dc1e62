//! The packed ring from the driver's side (VIRTIO 1.2, 2.8).
//!
//! A buffer is named by an id of its own; descriptors are taken in ring order. What was posted stays
//! invisible until `publish` writes the flags of the first descriptor of the lot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use virtio_bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_PACKED_DESC_F_AVAIL,
    VRING_PACKED_DESC_F_USED, VRING_PACKED_EVENT_FLAG_DESC, VRING_PACKED_EVENT_FLAG_DISABLE,
    VRING_PACKED_EVENT_FLAG_ENABLE,
};

use super::memory::{Carve, DriverMemory, MemoryError};
use super::ring::{
    Access, Areas, DeviceError, DriverFeatures, Part, RingLayout, Table, Used, event_crossed,
};

const AVAIL: u16 = 1 << VRING_PACKED_DESC_F_AVAIL;
const USED: u16 = 1 << VRING_PACKED_DESC_F_USED;
const WRAP: u16 = 1 << 15;

/// A place in the ring and the wrap counter there.
#[derive(Debug, Clone, Copy)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    const START: Self = Self {
        index: 0,
        wrap: true,
    };

    fn advance(&mut self, by: u16, size: u16) {
        self.index += by;
        if self.index >= size {
            self.index -= size;
            self.wrap = !self.wrap;
        }
    }

    /// As it stands in the event structures and in a vring base.
    fn encoded(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }
}

/// A buffer that the device holds; `descriptors` is 0 where it holds none.
#[derive(Debug, Clone, Copy, Default)]
struct Buffer {
    token: u16,
    descriptors: u16,
}

#[derive(Debug)]
pub(super) struct Packed {
    areas: Areas,
    size: u16,
    event_idx: bool,
    in_order: bool,
    room: u16,
    /// Where the next descriptor goes, and where the next used one will be found.
    avail: Position,
    used: Position,
    /// First descriptor that was posted since the last `publish`, and its flags.
    staged: Option<(u16, u16)>,
    /// Descriptors published since the device's wish for kicks was last read.
    published: u16,
    posted: u16,
    buffers: Box<[Buffer]>,
    free_ids: Vec<u16>,
    /// Ids in the order in which they were posted, for an in-order device: `order_from..order_to`.
    order: Box<[u16]>,
    order_from: u16,
    order_to: u16,
    /// What is left of the used descriptor read last: buffers, the last one's id and its length.
    batch: u16,
    batch_end: u16,
    batch_len: u32,
}

impl Packed {
    pub fn new(
        memory: &Arc<DriverMemory>,
        size: u16,
        features: DriverFeatures,
    ) -> Result<Self, MemoryError> {
        // VIRTIO wants that of split rings only; here it keeps `order` a mask away.
        assert!(size.is_power_of_two());
        let areas = Areas::new(memory, (16 * u64::from(size), 16), (4, 4), (4, 4))?;
        let slots = usize::from(size);
        let mut ring = Self {
            areas,
            size,
            event_idx: features.event_idx,
            in_order: features.in_order,
            room: size,
            avail: Position::START,
            used: Position::START,
            staged: None,
            published: 0,
            posted: 0,
            buffers: vec![Buffer::default(); slots].into(),
            free_ids: (0..size).rev().collect(),
            order: vec![0; slots].into(),
            order_from: 0,
            order_to: 0,
            batch: 0,
            batch_end: 0,
            batch_len: 0,
        };
        ring.disable_calls();
        Ok(ring)
    }

    pub fn layout(&self) -> RingLayout {
        self.areas.layout(self.size)
    }

    pub fn room(&self) -> u16 {
        self.room
    }

    pub fn outstanding(&self) -> u16 {
        self.order_to.wrapping_sub(self.order_from)
    }

    fn order_slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Writes everything of a descriptor but its flags.
    fn write_descriptor(table: *mut u8, index: u16, part: Part, id: u16) {
        // SAFETY: the callers pass an index below the number of descriptors that the table has room
        // for; it is 16-byte aligned and no reference to these bytes exists.
        unsafe {
            let at = table.add(usize::from(index) * 16);
            at.cast::<u64>().write(part.addr.to_le());
            at.add(8).cast::<u32>().write(part.len.to_le());
            at.add(12).cast::<u16>().write(id.to_le());
        }
    }

    /// A field of descriptor `index` of the ring itself: its length at 8, its id at 12, its flags at 14.
    fn field(&self, index: u16, offset: usize) -> *mut u8 {
        debug_assert!(index < self.size && offset < 16);
        // SAFETY: inside the area of `size` descriptors.
        unsafe {
            self.areas
                .desc
                .pointer()
                .add(usize::from(index) * 16 + offset)
        }
    }

    fn flags(&self, index: u16) -> &AtomicU16 {
        // SAFETY: aligned, in an area that lives as long as `self`; both sides access it atomically.
        unsafe { AtomicU16::from_ptr(self.field(index, 14).cast()) }
    }

    /// Takes the next descriptor: its index and the flags that make it available.
    fn take(&mut self) -> (u16, u16) {
        let Position { index, wrap } = self.avail;
        self.avail.advance(1, self.size);
        self.room -= 1;
        self.posted += 1;
        (index, if wrap { AVAIL } else { USED })
    }

    /// Makes a descriptor available, or keeps its flags back if it is the first since `publish`.
    fn set_flags(&mut self, index: u16, flags: u16) {
        if self.staged.is_none() {
            self.staged = Some((index, flags));
        } else {
            self.flags(index).store(flags.to_le(), Ordering::Release);
        }
    }

    pub fn post(&mut self, parts: &[Part], access: Access, token: u16, table: Option<Table>) {
        let own = if access == Access::DeviceWrites {
            VRING_DESC_F_WRITE as u16
        } else {
            0
        };
        // There are as many ids as descriptors, and a buffer uses at least one of these.
        let Some(id) = self.free_ids.pop() else {
            return;
        };
        let ring = self.areas.desc.pointer();
        let descriptors = if let Some(table) = table {
            for (i, part) in (0u16..).zip(parts) {
                Self::write_descriptor(table.pointer, i, *part, 0);
                // SAFETY: the table has room for `parts`, see `write_descriptor`.
                unsafe {
                    table
                        .pointer
                        .add(usize::from(i) * 16 + 14)
                        .cast::<u16>()
                        .write(own.to_le());
                };
            }
            let whole = Part {
                addr: table.addr,
                len: 16 * parts.len() as u32,
            };
            let (index, flags) = self.take();
            Self::write_descriptor(ring, index, whole, id);
            self.set_flags(index, flags | VRING_DESC_F_INDIRECT as u16);
            1
        } else {
            for (i, part) in parts.iter().enumerate() {
                let more = if i + 1 < parts.len() {
                    VRING_DESC_F_NEXT as u16
                } else {
                    0
                };
                let (index, flags) = self.take();
                Self::write_descriptor(ring, index, *part, id);
                self.set_flags(index, flags | own | more);
            }
            parts.len() as u16
        };
        self.buffers[usize::from(id)] = Buffer { token, descriptors };
        let at = self.order_slot(self.order_to);
        self.order[at] = id;
        self.order_to = self.order_to.wrapping_add(1);
    }

    pub fn publish(&mut self) {
        if let Some((index, flags)) = self.staged.take() {
            self.flags(index).store(flags.to_le(), Ordering::Release);
            self.published += std::mem::take(&mut self.posted);
        }
    }

    pub fn has_used(&self) -> bool {
        if self.batch > 0 {
            return true;
        }
        let flags = u16::from_le(self.flags(self.used.index).load(Ordering::Acquire));
        let both = (flags & AVAIL != 0, flags & USED != 0);
        // Before the first round trip of the ring its flags are zero, which is "not used" with the
        // wrap counter at one; in all later ones a descriptor of ours has exactly one of the two.
        both == (self.used.wrap, self.used.wrap) && self.outstanding() > 0
    }

    /// Takes buffers for ones of a single descriptor: what has more is guessed wrong.
    #[inline]
    pub fn upcoming(&self, ahead: u16) -> Option<u16> {
        if ahead >= self.outstanding() {
            return None;
        }
        let mut at = self.used;
        at.advance(ahead, self.size);
        let flags = u16::from_le(self.flags(at.index).load(Ordering::Acquire));
        let there = (flags & AVAIL != 0, flags & USED != 0) == (at.wrap, at.wrap);
        let id = self.order[self.order_slot(self.order_from.wrapping_add(ahead))];
        there.then(|| self.buffers[usize::from(id)].token)
    }

    pub fn pop(&mut self) -> Result<Option<Used>, DeviceError> {
        if self.batch == 0 && !self.next_batch()? {
            return Ok(None);
        }
        self.batch -= 1;
        let last = self.batch == 0;
        let id = if self.in_order {
            self.order[self.order_slot(self.order_from)]
        } else {
            self.batch_end
        };
        self.order_from = self.order_from.wrapping_add(1);
        let Buffer { token, descriptors } = std::mem::take(&mut self.buffers[usize::from(id)]);
        self.free_ids.push(id);
        self.room += descriptors;
        self.used.advance(descriptors, self.size);
        Ok(Some(Used {
            token,
            len: last.then_some(self.batch_len),
        }))
    }

    fn next_batch(&mut self) -> Result<bool, DeviceError> {
        if !self.has_used() {
            return Ok(false);
        }
        // SAFETY: both fields are inside the descriptor and aligned; each is read once, after the flags.
        let (len, id) = unsafe {
            let len = AtomicU32::from_ptr(self.field(self.used.index, 8).cast());
            let id = AtomicU16::from_ptr(self.field(self.used.index, 12).cast());
            (len.load(Ordering::Relaxed), id.load(Ordering::Relaxed))
        };
        let (len, id) = (u32::from_le(len), u16::from_le(id));
        if id >= self.size || self.buffers[usize::from(id)].descriptors == 0 {
            return Err(DeviceError::UnknownBuffer(id.into()));
        }
        self.batch = 1;
        if self.in_order {
            // VIRTIO 1.2, 2.8.7: the used descriptor names the last buffer of a batch.
            let ahead = (0..self.outstanding())
                .find(|&k| self.order[self.order_slot(self.order_from.wrapping_add(k))] == id)
                .ok_or(DeviceError::UnknownBuffer(id.into()))?;
            self.batch += ahead;
        }
        self.batch_end = id;
        self.batch_len = len;
        Ok(true)
    }

    /// An event structure: the driver's (the avail area) or the device's (the used area).
    fn event(area: &Carve) -> &AtomicU32 {
        // SAFETY: both areas are 4 bytes with that alignment; position and flags are accessed as
        // one, atomically, for as long as the carve lives.
        unsafe { AtomicU32::from_ptr(area.pointer().cast()) }
    }

    pub fn wants_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let count = std::mem::take(&mut self.published);
        if count == 0 {
            return false;
        }
        let pair = u32::from_le(Self::event(&self.areas.used).load(Ordering::Relaxed));
        let (position, flags) = (pair as u16, (pair >> 16) & 3);
        if flags != VRING_PACKED_EVENT_FLAG_DESC || !self.event_idx {
            return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
        }
        let new = self.avail.index;
        let old = new.wrapping_sub(count);
        let mut event = position & !WRAP;
        if (position & WRAP != 0) != self.avail.wrap {
            event = event.wrapping_sub(self.size);
        }
        event_crossed(event, new, old)
    }

    fn set_event(&mut self, position: u16, flags: u32) {
        let pair = u32::from(position) | flags << 16;
        Self::event(&self.areas.avail).store(pair.to_le(), Ordering::Release);
    }

    pub fn enable_calls(&mut self) -> bool {
        let flags = if self.event_idx {
            VRING_PACKED_EVENT_FLAG_DESC
        } else {
            VRING_PACKED_EVENT_FLAG_ENABLE
        };
        self.set_event(self.used.encoded(), flags);
        fence(Ordering::SeqCst);
        self.has_used()
    }

    pub fn disable_calls(&mut self) {
        self.set_event(0, VRING_PACKED_EVENT_FLAG_DISABLE);
    }

    pub fn base(&self, consumed: bool) -> u32 {
        let avail = if consumed { self.used } else { self.avail };
        u32::from(avail.encoded()) | u32::from(self.used.encoded()) << 16
    }
}
