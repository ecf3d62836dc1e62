//! Memory for rings and buffers: sealed memfds at guest addresses, and a carve-out allocator.
//!
//! All regions of one [`DriverMemory`] lie in one reserved range of the address space at the distances
//! that they have in the guest's, so a translation is one addition and a buffer may span two
//! adjacent regions. A [`Carve`] gives its range back when it is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// Why memory could not be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A region is empty, unaligned, wraps, or overlaps another.
    #[error("region {guest_addr:#x}+{size:#x} is empty, not page aligned, or overlaps another")]
    Region {
        /// Guest address of the region.
        guest_addr: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// No region has a free range of this size.
    #[error("no region has {0:#x} bytes left")]
    Exhausted(u64),
    /// The guest address range is not inside the memory.
    #[error("guest range {guest_addr:#x}+{len:#x} is outside the memory")]
    Outside {
        /// Start of the range.
        guest_addr: u64,
        /// Its length.
        len: u64,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Os {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Where a region lies and how large it is; both are multiples of the page size.
#[derive(Debug, Clone, Copy)]
pub struct RegionSpec {
    /// Guest physical address.
    pub guest_addr: u64,
    /// Size in bytes.
    pub size: u64,
}

/// One region, as a front end announces it.
#[derive(Debug)]
pub struct DriverRegion {
    guest_addr: u64,
    size: u64,
    user_addr: u64,
    file: File,
}

impl DriverRegion {
    /// Guest physical address.
    #[inline]
    pub fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Address in this process, which is what ring addresses are expressed in.
    pub fn user_addr(&self) -> u64 {
        self.user_addr
    }

    /// The memfd behind it; the region starts at its offset 0.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn end(&self) -> u64 {
        self.guest_addr + self.size
    }
}

/// Memory that is shared with a device, in one or more regions.
#[derive(Debug)]
pub struct DriverMemory {
    base: *mut u8,
    span: usize,
    first: u64,
    regions: Vec<DriverRegion>,
    /// Free ranges, start → length; a range never spans two regions.
    free: Mutex<BTreeMap<u64, u64>>,
}

// SAFETY: `base` is a mapping that this object owns until it is dropped; every access goes through raw
// pointers, and the allocator behind `free` hands a range to one owner at a time.
unsafe impl Send for DriverMemory {}
// SAFETY: as above; `&self` methods copy bytes through raw pointers and form no reference.
unsafe impl Sync for DriverMemory {}

const PAGE: u64 = 4096;

impl DriverMemory {
    /// Memory whose files can neither shrink nor grow.
    pub fn new(specs: &[RegionSpec]) -> Result<Arc<Self>, MemoryError> {
        Self::build(specs, true)
    }

    /// The same without seals: a file that the peer must expect to be truncated.
    pub fn unsealed(specs: &[RegionSpec]) -> Result<Arc<Self>, MemoryError> {
        Self::build(specs, false)
    }

    /// One region of `mebibytes` MiB at guest address 0.
    pub fn with_mib(mebibytes: u64) -> Result<Arc<Self>, MemoryError> {
        Self::new(&[RegionSpec {
            guest_addr: 0,
            size: mebibytes << 20,
        }])
    }

    fn build(specs: &[RegionSpec], seal: bool) -> Result<Arc<Self>, MemoryError> {
        let (first, last) = check(specs)?;
        let span = usize::try_from(last - first).map_err(|_| MemoryError::Region {
            guest_addr: first,
            size: last - first,
        })?;
        // SAFETY: an anonymous reservation at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                span,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(os("reserve address space"));
        }
        let mut memory = Self {
            base: base.cast(),
            span,
            first,
            regions: Vec::with_capacity(specs.len()),
            free: Mutex::new(specs.iter().map(|s| (s.guest_addr, s.size)).collect()),
        };
        for spec in specs {
            let region = memory.map(*spec, seal)?;
            memory.regions.push(region);
        }
        Ok(Arc::new(memory))
    }

    fn map(&self, spec: RegionSpec, seal: bool) -> Result<DriverRegion, MemoryError> {
        // SAFETY: the name is a C string literal.
        let fd = unsafe {
            libc::memfd_create(
                c"evb-driver".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            )
        };
        if fd < 0 {
            return Err(os("memfd_create"));
        }
        // SAFETY: `fd` was just made and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(spec.size).map_err(|source| MemoryError::Os {
            what: "set the memfd's length",
            source,
        })?;
        if seal {
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            // SAFETY: a plain fcntl on a descriptor that we own.
            if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
                return Err(os("seal the memfd"));
            }
        }
        let offset = (spec.guest_addr - self.first) as usize;
        // SAFETY: the range lies in our own reservation (`check` computed its ends from all regions),
        // and regions do not overlap, so MAP_FIXED replaces nothing but PROT_NONE pages.
        let at = unsafe {
            libc::mmap(
                self.base.add(offset).cast(),
                spec.size as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(os("map the memfd"));
        }
        Ok(DriverRegion {
            guest_addr: spec.guest_addr,
            size: spec.size,
            user_addr: at as u64,
            file,
        })
    }

    /// The regions, in the order in which they were given.
    pub fn regions(&self) -> &[DriverRegion] {
        &self.regions
    }

    /// The address in this process of a guest address, if that lies in a region.
    pub fn user_addr(&self, guest_addr: u64) -> Option<u64> {
        self.pointer(guest_addr, 1).map(|p| p as u64)
    }

    /// Copies out of guest memory.
    pub fn read(&self, guest_addr: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.checked(guest_addr, out.len())?;
        // SAFETY: `checked` proved the whole range mapped; `out` is ours and cannot overlap a mapping
        // to which no reference exists.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    /// Copies into guest memory.
    pub fn write(&self, guest_addr: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let to = self.checked(guest_addr, bytes.len())?;
        // SAFETY: as in `read`, with the roles exchanged.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// A pointer to a range that is wholly mapped, for as long as this object lives.
    pub(super) fn checked(&self, guest_addr: u64, len: usize) -> Result<*mut u8, MemoryError> {
        self.pointer(guest_addr, len as u64)
            .ok_or(MemoryError::Outside {
                guest_addr,
                len: len as u64,
            })
    }

    /// A pointer to a range that lies wholly in mapped regions, perhaps in several adjacent ones.
    fn pointer(&self, guest_addr: u64, len: u64) -> Option<*mut u8> {
        let end = guest_addr.checked_add(len)?;
        let mut at = guest_addr;
        while at < end {
            let region = self
                .regions
                .iter()
                .find(|r| r.guest_addr <= at && at < r.end())?;
            at = region.end();
        }
        let offset = usize::try_from(guest_addr.checked_sub(self.first)?).ok()?;
        if offset > self.span {
            return None;
        }
        // SAFETY: `offset` is inside the reservation of `span` bytes.
        Some(unsafe { self.base.add(offset) })
    }

    /// Takes `len` zeroed bytes, aligned to `align` (a power of two), within one region.
    pub fn carve(self: &Arc<Self>, len: u64, align: u64) -> Result<Carve, MemoryError> {
        let everywhere = (0, u64::MAX);
        self.carve_within(len, align, everywhere)
    }

    /// The same inside region number `region`.
    pub fn carve_in(
        self: &Arc<Self>,
        region: usize,
        len: u64,
        align: u64,
    ) -> Result<Carve, MemoryError> {
        let region = self
            .regions
            .get(region)
            .ok_or(MemoryError::Exhausted(len))?;
        self.carve_within(len, align, (region.guest_addr, region.end()))
    }

    fn carve_within(
        self: &Arc<Self>,
        len: u64,
        align: u64,
        within: (u64, u64),
    ) -> Result<Carve, MemoryError> {
        let len = len.max(1);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, room, guest_addr) = free
            .range(within.0..within.1)
            .map(|(&start, &room)| (start, room, start.next_multiple_of(align)))
            .find(|&(start, room, at)| at - start + len <= room)
            .ok_or(MemoryError::Exhausted(len))?;
        free.remove(&start);
        if guest_addr > start {
            free.insert(start, guest_addr - start);
        }
        let rest = start + room - (guest_addr + len);
        if rest > 0 {
            free.insert(guest_addr + len, rest);
        }
        drop(free);
        let pointer = self.checked(guest_addr, len as usize)?;
        // SAFETY: `checked` proved the range mapped, and the allocator gave it to nobody else.
        unsafe { std::ptr::write_bytes(pointer, 0, len as usize) };
        Ok(Carve {
            memory: Arc::clone(self),
            guest_addr,
            len,
            pointer,
        })
    }

    fn give_back(&self, guest_addr: u64, len: u64) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut start, mut len) = (guest_addr, len);
        let seam = |at: u64| self.regions.iter().any(|r| r.guest_addr == at);
        if let Some((&before, &room)) = free.range(..start).next_back()
            && before + room == start
            && !seam(start)
        {
            free.remove(&before);
            start = before;
            len += room;
        }
        if let Some(&room) = free.get(&(start + len))
            && !seam(start + len)
        {
            free.remove(&(start + len));
            len += room;
        }
        free.insert(start, len);
    }
}

impl Drop for DriverMemory {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and every `Carve` holds an `Arc` to this object, so no
        // pointer into it is left.
        unsafe { libc::munmap(self.base.cast(), self.span) };
    }
}

/// A range of a [`DriverMemory`] with one owner.
#[derive(Debug)]
pub struct Carve {
    memory: Arc<DriverMemory>,
    guest_addr: u64,
    len: u64,
    pointer: *mut u8,
}

// SAFETY: the pointer belongs to the mapping that `memory` keeps alive; moving it between threads is fine.
unsafe impl Send for Carve {}

impl Carve {
    /// Guest address of its first byte.
    #[inline]
    pub fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a carve has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory that it was taken from.
    pub fn memory(&self) -> &Arc<DriverMemory> {
        &self.memory
    }

    /// Its first byte; valid for `len` bytes as long as the carve lives.
    #[inline]
    pub(super) fn pointer(&self) -> *mut u8 {
        self.pointer
    }
}

impl Drop for Carve {
    fn drop(&mut self) {
        self.memory.give_back(self.guest_addr, self.len);
    }
}

/// The lowest and the highest guest address of regions that are each valid and do not overlap.
fn check(specs: &[RegionSpec]) -> Result<(u64, u64), MemoryError> {
    let mut sorted = specs.to_vec();
    sorted.sort_by_key(|s| s.guest_addr);
    let mut first = None;
    let mut last = 0;
    for s in sorted {
        let bad = MemoryError::Region {
            guest_addr: s.guest_addr,
            size: s.size,
        };
        let aligned = s.guest_addr.is_multiple_of(PAGE) && s.size.is_multiple_of(PAGE);
        match s.guest_addr.checked_add(s.size) {
            Some(end) if aligned && s.size > 0 && s.guest_addr >= last => last = end,
            _ => return Err(bad),
        }
        first.get_or_insert(s.guest_addr);
    }
    let first = first.ok_or(MemoryError::Region {
        guest_addr: 0,
        size: 0,
    })?;
    Ok((first, last))
}

fn os(what: &'static str) -> MemoryError {
    MemoryError::Os {
        what,
        source: io::Error::last_os_error(),
    }
}

/// Waits until `fd` is readable; false when the time is over.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, timeout: std::time::Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one valid pollfd and a valid timespec, both on this stack.
    let ready = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
    match ready {
        0 => Ok(false),
        n if n > 0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            e => Err(e),
        },
    }
}
