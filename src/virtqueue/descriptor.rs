//! Descriptors as they lie in guest memory, in either format, and the check of indirect ones.

use super::error::{Place, RingError};
use super::format::Sink;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Bytes of a descriptor, in a ring and in an indirect table, in both formats.
pub(super) const DESCRIPTOR: usize = 16;

/// A descriptor as it was read, each field once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    /// Next descriptor (split) or buffer id (packed).
    pub extra: u16,
}

impl Descriptor {
    /// From the two words of a split descriptor: address; length, flags, next.
    #[inline]
    pub fn split((addr, tail): (u64, u64)) -> Descriptor {
        Descriptor {
            addr,
            len: tail as u32,
            flags: (tail >> 32) as u16,
            extra: (tail >> 48) as u16,
        }
    }

    /// From the two words of a packed descriptor: address; length, id, flags.
    #[inline]
    pub fn packed((addr, tail): (u64, u64)) -> Descriptor {
        Descriptor {
            addr,
            len: tail as u32,
            flags: (tail >> 48) as u16,
            extra: (tail >> 32) as u16,
        }
    }
}

/// Reads the two words of a descriptor, each once.
///
/// # Safety
///
/// `ptr` must be valid for reads of 16 bytes, at any alignment.
#[inline]
pub(super) unsafe fn words(ptr: *const u8) -> (u64, u64) {
    #[derive(Clone, Copy)]
    #[repr(C, packed)]
    struct Unaligned(u64);
    let ptr = ptr.cast::<Unaligned>();
    // SAFETY: the caller guarantees 16 bytes, and the type has alignment 1. Volatile, so that the
    // guest cannot make us see two different values.
    let (addr, tail) = unsafe { (ptr.read_volatile().0, ptr.add(1).read_volatile().0) };
    (u64::from_le(addr), u64::from_le(tail))
}

/// A checked indirect table: valid for `entries` descriptors as long as the sink's memory lives.
pub(super) struct Table {
    pub start: *const u8,
    pub entries: u16,
}

impl Table {
    /// Finds the table that the indirect descriptor `d`, number `of` of the ring, refers to.
    pub fn find<const W: bool>(
        sink: &mut Sink<'_, '_, W>,
        d: Descriptor,
        of: u16,
        negotiated: bool,
        limit: u16,
    ) -> Result<Table, RingError> {
        let place = Place::Ring(of);
        if !negotiated {
            return Err(RingError::IndirectRefused { place });
        }
        if d.flags & NEXT != 0 {
            return Err(RingError::IndirectNext { place });
        }
        let entries = d.len / DESCRIPTOR as u32;
        if entries == 0
            || entries > u32::from(limit)
            || !(d.len as usize).is_multiple_of(DESCRIPTOR)
        {
            return Err(RingError::IndirectSize {
                place,
                found: d.len,
                limit,
            });
        }
        let start = sink.table(d.addr, d.len).ok_or(RingError::Outside {
            place,
            address: d.addr,
            len: d.len,
        })?;
        Ok(Table {
            start,
            entries: entries as u16,
        })
    }

    /// Reads the words of entry `index`.
    #[inline]
    pub fn words(&self, index: u16) -> (u64, u64) {
        assert!(index < self.entries);
        // SAFETY: the table was looked up for `entries` descriptors, in memory that the walk borrows,
        // and `index` is one of them.
        unsafe { words(self.start.add(usize::from(index) * DESCRIPTOR)) }
    }
}
