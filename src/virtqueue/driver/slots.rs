//! Buffers of a queue: equal slots in one carve, and how a slot is cut into descriptors.

use std::collections::VecDeque;
use std::sync::Arc;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::memory::{Carve, DriverMemory, MemoryError};
use super::ring::{Part, Table};

/// Most descriptors that one buffer is ever cut into.
const MAX_PARTS: usize = 32;

/// How a virtio-net header and its frame are cut into descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One descriptor for both.
    #[default]
    Contiguous,
    /// The header in a descriptor of its own, as legacy devices want it.
    HeaderApart,
    /// This many pieces of equal length, cut without regard to header or frame; 32 at most.
    Pieces(u8),
}

/// A queue, before it exists.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// Descriptors in the ring.
    pub size: u16,
    /// Buffers; more than the ring holds are of no use.
    pub buffers: u16,
    /// Bytes per buffer, the header included.
    pub buffer_len: u32,
    /// How a buffer is described.
    pub layout: Layout,
    /// Describe it in an indirect table, if that was negotiated.
    pub indirect: bool,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            size: 256,
            buffers: 256,
            buffer_len: 2048,
            layout: Layout::Contiguous,
            indirect: false,
        }
    }
}

/// Why a queue could not be made.
#[derive(Debug, Error)]
pub enum QueueError {
    /// No memory for the ring or the buffers.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its size is not a power of two between 1 and 32768.
    #[error("a ring of {0} descriptors is not possible")]
    Size(u16),
    /// A buffer has no room for header and frame, or a layout has no pieces or more than the ring.
    #[error("buffers of {buffer_len} bytes cut as {layout:?} are not possible")]
    Buffers {
        /// Bytes per buffer.
        buffer_len: u32,
        /// The layout asked for.
        layout: Layout,
    },
}

pub(super) type Parts = ArrayVec<Part, MAX_PARTS>;

/// The slots of one queue, each with a table of its own where descriptors are indirect.
#[derive(Debug)]
pub(super) struct Slots {
    buffers: Carve,
    tables: Option<Carve>,
    ring_size: u16,
    stride: u64,
    len: u32,
    header_len: u32,
    layout: Layout,
    /// First in, first out: with a device that works in order, a place in the ring has the same slot for ever.
    free: VecDeque<u16>,
}

impl Slots {
    pub fn new(
        memory: &Arc<DriverMemory>,
        options: &QueueOptions,
        header_len: u8,
        indirect: bool,
    ) -> Result<Self, QueueError> {
        let QueueOptions {
            size,
            buffers,
            buffer_len,
            layout,
            ..
        } = *options;
        if !size.is_power_of_two() {
            return Err(QueueError::Size(size));
        }
        check(layout, buffer_len, size)?;
        let stride = stride(buffer_len);
        let tables = if indirect {
            let len = u64::from(buffers) * MAX_PARTS as u64 * 16;
            Some(memory.carve(len, 16)?)
        } else {
            None
        };
        Ok(Self {
            buffers: memory.carve(stride * u64::from(buffers), 64)?,
            tables,
            ring_size: size,
            stride,
            len: buffer_len,
            header_len: header_len.into(),
            layout,
            free: (0..buffers).collect(),
        })
    }

    /// Another way to cut the buffers that are posted from now on.
    pub fn set_layout(&mut self, layout: Layout) -> Result<(), QueueError> {
        check(layout, self.len, self.ring_size)?;
        self.layout = layout;
        Ok(())
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// The slot that `take` would take.
    #[inline]
    pub fn next(&self) -> Option<u16> {
        self.free.front().copied()
    }

    #[inline]
    pub fn take(&mut self) -> Option<u16> {
        self.free.pop_front()
    }

    #[inline]
    pub fn give(&mut self, slot: u16) {
        self.free.push_back(slot);
    }

    /// The slot that `take` takes after `count` others, as far as is known.
    #[inline]
    pub fn ahead(&self, count: usize) -> Option<u16> {
        self.free.get(count).copied()
    }

    pub fn free(&self) -> u16 {
        self.free.len() as u16
    }

    #[inline]
    fn offset(&self, slot: u16) -> u64 {
        u64::from(slot) * self.stride
    }

    /// First byte of a slot; valid for `len()` bytes.
    #[inline]
    pub fn pointer(&self, slot: u16) -> *mut u8 {
        // SAFETY: slots come from `free`, so the offset is inside the carve.
        unsafe { self.buffers.pointer().add(self.offset(slot) as usize) }
    }

    #[inline]
    pub fn table(&self, slot: u16) -> Option<Table> {
        let tables = self.tables.as_ref()?;
        let offset = u64::from(slot) * MAX_PARTS as u64 * 16;
        // SAFETY: as for `pointer`; there is one table per slot.
        let pointer = unsafe { tables.pointer().add(offset as usize) };
        Some(Table {
            addr: tables.guest_addr() + offset,
            pointer,
        })
    }

    /// Descriptors of the ring that a buffer of `len` bytes takes.
    #[inline]
    pub fn cost(&self, len: u32) -> u16 {
        if self.tables.is_some() {
            return 1;
        }
        match self.layout {
            Layout::Contiguous => 1,
            Layout::HeaderApart => 2,
            Layout::Pieces(n) => len.div_ceil(len.div_ceil(n.into())) as u16,
        }
    }

    /// Describes the first `len` bytes of a slot. The caller keeps `parts`, which is large, from call to call.
    #[inline]
    pub fn describe(&self, slot: u16, len: u32, parts: &mut Parts) {
        let start = self.buffers.guest_addr() + self.offset(slot);
        parts.clear();
        let first = match self.layout {
            Layout::Contiguous => len,
            Layout::HeaderApart => self.header_len,
            Layout::Pieces(n) => len.div_ceil(n.into()),
        };
        let following = match self.layout {
            Layout::Pieces(_) => first,
            Layout::Contiguous | Layout::HeaderApart => len - first,
        };
        let (mut at, mut piece) = (0, first);
        while at < len {
            let addr = start + u64::from(at);
            parts.push(Part {
                addr,
                len: piece.min(len - at),
            });
            (at, piece) = (at + piece, following);
        }
    }
}

/// Distance of slots: an odd number of cache lines, so that the starts of all slots do not compete for the same
/// few places in the cache.
fn stride(buffer_len: u32) -> u64 {
    (u64::from(buffer_len).div_ceil(64) | 1) * 64
}

fn check(layout: Layout, buffer_len: u32, ring_size: u16) -> Result<(), QueueError> {
    let pieces = match layout {
        Layout::Contiguous => 1,
        Layout::HeaderApart => 2,
        Layout::Pieces(n) => n.into(),
    };
    let most = MAX_PARTS.min(ring_size.into());
    // 12 bytes of header and 14 of Ethernet header; more than 1 MiB is no frame.
    if (1..=most).contains(&pieces) && (26..=1 << 20).contains(&buffer_len) {
        Ok(())
    } else {
        Err(QueueError::Buffers { buffer_len, layout })
    }
}
