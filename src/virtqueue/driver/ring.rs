//! What the two ring formats have in common, seen by a queue: post, publish, pop, notify.

use std::sync::Arc;

use thiserror::Error;

use super::memory::{Carve, DriverMemory, MemoryError};
use super::packed::Packed;
use super::split::Split;

/// The device broke the rules of the ring; the queue is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// A used element names a buffer that the device does not hold.
    #[error("the device returned buffer {0}, which it does not hold")]
    UnknownBuffer(u32),
    /// The used index says that more came back than was given.
    #[error(
        "the device's used index is {used}, with {outstanding} buffers outstanding since {last}"
    )]
    UsedIndex {
        /// What the device wrote.
        used: u16,
        /// Up to where we had read.
        last: u16,
        /// Chains that the device holds.
        outstanding: u16,
    },
    /// A used length is greater than the buffer.
    #[error("the device wrote {len} bytes into a buffer of {room}")]
    TooLong {
        /// Length claimed.
        len: u32,
        /// Room that there was.
        room: u32,
    },
    /// A received frame is shorter than its virtio-net header.
    #[error("the device returned {0} bytes, less than a header")]
    ShortFrame(u32),
    /// `num_buffers` is zero, or names buffers that were not published with the first.
    #[error("the device announced {announced} buffers for a frame and published {published}")]
    Merge {
        /// `num_buffers` in the header.
        announced: u16,
        /// Buffers found.
        published: u16,
    },
    /// The kick descriptor, which the device shares, cannot be written without waiting.
    #[error("the device has made its kick descriptor block")]
    KickBlocks,
}

/// What was negotiated, as far as a driver's queue cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is one feature bit
pub struct DriverFeatures {
    /// Indirect descriptors may be used.
    pub indirect: bool,
    /// Notification suppression is by index.
    pub event_idx: bool,
    /// The device completes in order and may write one used element for several.
    pub in_order: bool,
    /// The ring is packed.
    pub packed: bool,
    /// A received frame may span several buffers.
    pub mergeable: bool,
    /// 10 or 12 bytes of virtio-net header.
    pub header_len: u8,
}

impl DriverFeatures {
    /// From the feature bits that were acknowledged.
    pub fn from_bits(bits: u64) -> Self {
        use virtio_bindings::virtio_config as config;
        let has = |bit: u32| bits & (1 << bit) != 0;
        let mergeable = has(virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF);
        Self {
            indirect: has(virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC),
            event_idx: has(virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX),
            in_order: has(config::VIRTIO_F_IN_ORDER),
            packed: has(config::VIRTIO_F_RING_PACKED),
            mergeable,
            header_len: if mergeable || has(config::VIRTIO_F_VERSION_1) {
                12
            } else {
                10
            },
        }
    }
}

/// Where a ring lies, in guest addresses. For a packed ring, `avail` is the driver's event structure and
/// `used` the device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table or packed ring.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

/// A free-running 16-bit index. It is stored as 32 bits: a processor that has just stored 16 cannot pass them on to a load of
/// 32, which compilers make of a load of 16, but waits until all that was stored before has reached the cache.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Index(u32);

impl Index {
    #[inline]
    pub fn new(index: u16) -> Self {
        Self(index.into())
    }

    #[inline]
    pub fn get(self) -> u16 {
        self.0 as u16
    }

    /// The index that follows after `count` others.
    #[inline]
    pub fn ahead(self, count: u16) -> u16 {
        self.get().wrapping_add(count)
    }

    /// How far it is ahead of another.
    #[inline]
    pub fn since(self, other: Self) -> u16 {
        self.get().wrapping_sub(other.get())
    }

    #[inline]
    pub fn advance(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }

    #[inline]
    pub fn step_back(&mut self) {
        self.0 = self.0.wrapping_sub(1);
    }
}

/// One piece of a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub addr: u64,
    pub len: u32,
}

/// Who may write a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    DeviceReads,
    DeviceWrites,
}

/// Room for an indirect table: guest address and where it lies here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub addr: u64,
    pub pointer: *mut u8,
}

/// A buffer that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    /// What `post` was called with.
    pub token: u16,
    /// Bytes written, where the device said so; `None` for a buffer that an in-order device skipped.
    pub len: Option<u32>,
}

/// A ring of either format.
#[derive(Debug)]
pub(super) enum Ring {
    Split(Split),
    Packed(Packed),
}

/// Calls the same method of whichever format the ring has.
macro_rules! either {
    ($ring:expr, $r:ident => $call:expr) => {
        match $ring {
            Ring::Split($r) => $call,
            Ring::Packed($r) => $call,
        }
    };
}

impl Ring {
    pub fn new(
        memory: &Arc<DriverMemory>,
        size: u16,
        features: DriverFeatures,
    ) -> Result<Self, MemoryError> {
        Ok(if features.packed {
            Self::Packed(Packed::new(memory, size, features)?)
        } else {
            Self::Split(Split::new(memory, size, features)?)
        })
    }

    pub fn layout(&self) -> RingLayout {
        either!(self, r => r.layout())
    }

    /// Descriptors that are free.
    #[inline]
    pub fn room(&self) -> u16 {
        either!(self, r => r.room())
    }

    /// Hands a buffer over; the device sees it at the next `publish`. The caller has checked that there
    /// is room for `parts.len()` descriptors, or for one with a table of at least that many.
    #[inline]
    pub fn post(&mut self, parts: &[Part], access: Access, token: u16, table: Option<Table>) {
        either!(self, r => r.post(parts, access, token, table));
    }

    pub fn publish(&mut self) {
        either!(self, r => r.publish());
    }

    #[inline]
    pub fn pop(&mut self) -> Result<Option<Used>, DeviceError> {
        either!(self, r => r.pop())
    }

    /// The buffer that `pop` will probably return after `ahead` others, if it is known to have come back. A guess, to
    /// be looked for in the cache.
    #[inline]
    pub fn upcoming(&self, ahead: u16) -> Option<u16> {
        either!(self, r => r.upcoming(ahead))
    }

    pub fn has_used(&self) -> bool {
        either!(self, r => r.has_used())
    }

    /// Whether the device wants a kick for what was published since this was last asked.
    pub fn wants_kick(&mut self) -> bool {
        either!(self, r => r.wants_kick())
    }

    /// Asks for a call at the next used buffer; true when there already is one.
    pub fn enable_calls(&mut self) -> bool {
        either!(self, r => r.enable_calls())
    }

    pub fn disable_calls(&mut self) {
        either!(self, r => r.disable_calls());
    }

    /// The position that vhost-user calls the vring base: what the device has used (`consumed`), or
    /// what is available. A packed ring does not hold the former; there it is what was taken back.
    pub fn base(&self, consumed: bool) -> u32 {
        either!(self, r => r.base(consumed))
    }

    /// Buffers that the device holds.
    pub fn outstanding(&self) -> u16 {
        either!(self, r => r.outstanding())
    }
}

/// Would an entry at `event` lie among those published between `old` and `new`? (VIRTIO 1.2, 2.7.7.1)
pub(super) fn event_crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A ring's memory: its three areas, each with the alignment that VIRTIO wants.
#[derive(Debug)]
pub(super) struct Areas {
    pub desc: Carve,
    pub avail: Carve,
    pub used: Carve,
}

impl Areas {
    pub fn new(
        memory: &Arc<DriverMemory>,
        desc: (u64, u64),
        avail: (u64, u64),
        used: (u64, u64),
    ) -> Result<Self, MemoryError> {
        Ok(Self {
            desc: memory.carve(desc.0, desc.1)?,
            avail: memory.carve(avail.0, avail.1)?,
            used: memory.carve(used.0, used.1)?,
        })
    }

    pub fn layout(&self, size: u16) -> RingLayout {
        RingLayout {
            size,
            desc: self.desc.guest_addr(),
            avail: self.avail.guest_addr(),
            used: self.used.guest_addr(),
        }
    }
}
