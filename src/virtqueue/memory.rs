//! A guest's memory as the front end described it: checked regions, and the way from guest and
//! front-end addresses to pointers.
//!
//! A `GuestMemory` is immutable; a change makes a new one which shares the untouched mappings. A
//! pointer that a look-up returned is valid as long as the `GuestMemory` (or one that shares the
//! region) lives; rings hold it by `Arc`. What lies behind is the guest's and changes at any time:
//! no reference to it is ever formed, and each value is read once.

use std::fs::File;
use std::sync::Arc;

use super::error::MemoryError;
use super::mapping::{FileId, Mapping, PAGE};

/// How many regions a table may have; what QEMU calls memory slots.
pub const MAX_SLOTS: usize = 509;

/// One region as a front end announces it.
#[derive(Debug)]
pub struct Region {
    /// Guest physical address.
    pub guest_addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address in the front end's own address space, which ring addresses refer to.
    pub user_addr: u64,
    /// Where the region starts in the file.
    pub offset: u64,
    /// The memory.
    pub file: File,
}

#[derive(Debug, Clone)]
struct Mapped {
    guest: u64,
    size: u64,
    user: u64,
    host: *mut u8,
    mapping: Arc<Mapping>,
}

// SAFETY: `host` points into `mapping`, which this struct keeps alive and which belongs to no thread;
// it is only ever used for raw accesses that expect concurrent change.
unsafe impl Send for Mapped {}
// SAFETY: as above; the struct itself is never written after its creation.
unsafe impl Sync for Mapped {}

/// A table of mapped guest memory.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    /// Sorted by guest address, not overlapping.
    regions: Box<[Mapped]>,
}

impl GuestMemory {
    /// Checks and maps a whole table. An empty one is allowed: front ends with memory slots start
    /// there.
    pub fn new(regions: Vec<Region>) -> Result<GuestMemory, MemoryError> {
        if regions.len() > MAX_SLOTS {
            return Err(MemoryError::TooManyRegions {
                found: regions.len(),
                max: MAX_SLOTS,
            });
        }
        // Addresses first: they cost nothing to refuse.
        let mut spans = regions
            .iter()
            .map(Span::check)
            .collect::<Result<Vec<_>, _>>()?;
        check_overlap(&mut spans)?;
        let mapped = regions
            .into_iter()
            .map(map)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(GuestMemory::sorted(mapped))
    }

    /// The same memory with one region more.
    pub fn with_added(&self, region: Region) -> Result<GuestMemory, MemoryError> {
        if self.regions.len() == MAX_SLOTS {
            return Err(MemoryError::TooManyRegions {
                found: MAX_SLOTS + 1,
                max: MAX_SLOTS,
            });
        }
        let mut spans: Vec<_> = self.regions.iter().map(Span::of).collect();
        spans.push(Span::check(&region)?);
        check_overlap(&mut spans)?;
        let mut regions = self.regions.to_vec();
        regions.push(map(region)?);
        Ok(GuestMemory::sorted(regions))
    }

    /// The same memory without the region that has exactly these addresses and this size.
    pub fn with_removed(
        &self,
        guest_addr: u64,
        size: u64,
        user_addr: u64,
    ) -> Result<GuestMemory, MemoryError> {
        let mut regions = self.regions.to_vec();
        let index = regions
            .iter()
            .position(|r| r.guest == guest_addr && r.size == size && r.user == user_addr)
            .ok_or(MemoryError::NotFound {
                guest_addr,
                user_addr,
                size,
            })?;
        regions.remove(index);
        Ok(GuestMemory::sorted(regions))
    }

    fn sorted(mut regions: Vec<Mapped>) -> GuestMemory {
        regions.sort_unstable_by_key(|r| r.guest);
        GuestMemory {
            regions: regions.into_boxed_slice(),
        }
    }

    /// Whether the front end took memory away under us: a SIGBUS hit one of the mappings.
    pub fn poisoned(&self) -> bool {
        self.regions.iter().any(|r| r.mapping.poisoned())
    }

    /// Maps in what the guest has allocated already, and nothing else. It may take long for a big
    /// guest and is never needed: what is not mapped in costs a worker a page fault at first touch.
    /// Returns how many bytes that were.
    pub fn populate(&self) -> std::io::Result<u64> {
        self.regions.iter().map(|r| r.mapping.populate()).sum()
    }

    /// Number of regions.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// Where `len` bytes at a front-end address are mapped, if one region holds all of them, and
    /// their guest address.
    pub(super) fn user(&self, address: u64, len: usize) -> Option<(*mut u8, u64)> {
        self.regions.iter().find_map(|r| {
            let offset = address.wrapping_sub(r.user);
            (offset < r.size && len as u64 <= r.size - offset)
                .then(|| (r.host.wrapping_add(offset as usize), r.guest + offset))
        })
    }

    /// Which byte of which file is at a front-end address: what outlasts the front end's connection, and ours.
    pub(super) fn origin(&self, address: u64) -> Option<(FileId, u64)> {
        self.regions.iter().find_map(|r| {
            let offset = address.wrapping_sub(r.user);
            (offset < r.size).then(|| (r.mapping.file(), r.mapping.offset() + offset))
        })
    }

    /// Index of the region that holds a guest address.
    fn region_of(&self, address: u64) -> Option<usize> {
        let index = self
            .regions
            .partition_point(|r| r.guest <= address)
            .checked_sub(1)?;
        (address - self.regions[index].guest < self.regions[index].size).then_some(index)
    }
}

/// Guest address translation that remembers the region it last found. Nearly all buffers of a guest
/// lie in one region, so the usual case is a subtraction and two comparisons.
#[derive(Clone, Copy)]
pub(super) struct Lookup<'m> {
    memory: &'m GuestMemory,
    index: usize,
    guest: u64,
    size: u64,
    host: *mut u8,
}

impl<'m> Lookup<'m> {
    /// `hint` is what [`Lookup::hint`] said last time, of this or any other table.
    #[inline]
    pub fn new(memory: &'m GuestMemory, hint: usize) -> Lookup<'m> {
        let mut lookup = Lookup {
            memory,
            index: hint,
            guest: 0,
            size: 0,
            host: std::ptr::null_mut(),
        };
        if let Some(region) = memory.regions.get(hint) {
            lookup.guest = region.guest;
            lookup.size = region.size;
            lookup.host = region.host;
        }
        lookup
    }

    #[inline]
    pub fn hint(&self) -> usize {
        self.index
    }

    /// Pointer to the first of at most `len` bytes at `address`, and how many of them are contiguous
    /// here (fewer where a buffer continues in a neighbouring region). `None` outside guest memory.
    #[inline]
    pub fn find(&mut self, address: u64, len: u32) -> Option<(*mut u8, u32)> {
        if let Some(ptr) = self.find_here(address, len) {
            return Some((ptr, len));
        }
        *self = Lookup::containing(self.memory, address)?;
        let offset = address - self.guest;
        let here = u64::from(len).min(self.size - offset) as u32;
        Some((self.host.wrapping_add(offset as usize), here))
    }

    /// Pointer to `len` bytes at `address`, if they lie in the region that was found last.
    #[inline]
    pub fn find_here(&self, address: u64, len: u32) -> Option<*mut u8> {
        let offset = address.wrapping_sub(self.guest);
        (offset < self.size && u64::from(len) <= self.size - offset)
            .then(|| self.host.wrapping_add(offset as usize))
    }

    #[cold]
    fn containing(memory: &'m GuestMemory, address: u64) -> Option<Lookup<'m>> {
        Some(Lookup::new(memory, memory.region_of(address)?))
    }
}

/// The addresses of a region, without its memory.
struct Span {
    guest: u64,
    user: u64,
    size: u64,
}

impl Span {
    fn of(region: &Mapped) -> Span {
        Span {
            guest: region.guest,
            user: region.user,
            size: region.size,
        }
    }

    fn check(region: &Region) -> Result<Span, MemoryError> {
        let guest_addr = region.guest_addr;
        if region.size == 0 {
            return Err(MemoryError::Empty { guest_addr });
        }
        for (field, found) in [
            ("guest address", guest_addr),
            ("user address", region.user_addr),
            ("size", region.size),
            ("file offset", region.offset),
        ] {
            if found % PAGE != 0 {
                return Err(MemoryError::Misaligned {
                    field,
                    guest_addr,
                    found,
                    expected: PAGE,
                });
            }
        }
        for (field, start) in [
            ("guest address", guest_addr),
            ("user address", region.user_addr),
        ] {
            if start.checked_add(region.size).is_none() {
                return Err(MemoryError::Overflow {
                    field,
                    start,
                    size: region.size,
                });
            }
        }
        Ok(Span {
            guest: guest_addr,
            user: region.user_addr,
            size: region.size,
        })
    }
}

fn check_overlap(spans: &mut [Span]) -> Result<(), MemoryError> {
    type Start = fn(&Span) -> u64;
    let fields: [(&'static str, Start); 2] =
        [("guest address", |s| s.guest), ("user address", |s| s.user)];
    for (field, start) in fields {
        spans.sort_unstable_by_key(start);
        for pair in spans.windows(2) {
            let (first, second) = (start(&pair[0]), start(&pair[1]));
            if second - first < pair[0].size {
                return Err(MemoryError::Overlap {
                    field,
                    first,
                    second,
                });
            }
        }
    }
    Ok(())
}

fn map(region: Region) -> Result<Mapped, MemoryError> {
    let Region {
        guest_addr,
        size,
        user_addr,
        offset,
        file,
    } = region;
    let mapping = Mapping::new(file, offset, size).map_err(|source| MemoryError::Region {
        guest_addr,
        size,
        source,
    })?;
    Ok(Mapped {
        guest: guest_addr,
        size,
        user: user_addr,
        host: mapping.base(),
        mapping: Arc::new(mapping),
    })
}
