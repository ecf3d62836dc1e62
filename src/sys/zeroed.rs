//! Zeroed cache lines of atomics, which occupy memory page by page as they are written.
//!
//! Large tables start empty. The allocator fills what has to be aligned with zeros itself, and so touches all of it;
//! pages of the kernel are zero and aligned as they are.
//!
//! Threads: what is returned is shared freely, as any slice of atomics.

use std::ffi::c_void;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::{alloc, ptr, slice};

use super::cache;
use super::mapping::Mapping;

/// Bytes of the huge pages of x86-64, and of AArch64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;

/// Eight atomics in a cache line of their own.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct CacheLine(pub [AtomicU64; 8]);

impl CacheLine {
    /// Hints that it is about to be read.
    #[inline]
    pub fn prefetch(&self) {
        cache::prefetch::<false>(ptr::from_ref(self).cast());
    }
}

/// Cache lines, all zero at first. They stay where they are when this moves.
#[derive(Debug)]
pub struct CacheLines {
    memory: Mapping,
    count: usize,
}

impl CacheLines {
    /// Allocates `count` lines. Ends the process, as any allocation, where there is no memory.
    ///
    /// # Panics
    ///
    /// If they would be half of all memory that can be addressed.
    pub fn new(count: usize) -> CacheLines {
        let layout =
            alloc::Layout::array::<CacheLine>(count).expect("less than half of all memory");
        // The kernel maps no less than a byte.
        let memory = Mapping::zeroed(layout.size().max(1))
            .unwrap_or_else(|_| alloc::handle_alloc_error(layout));
        let lines = CacheLines { memory, count };
        lines.ask_for_huge_pages();
        lines
    }

    /// Asks for huge pages where they fit: in a large table, most look-ups would otherwise miss the translation of
    /// the address as well. A wish: where the kernel has none, or none at the moment, pages are as always.
    fn ask_for_huge_pages(&self) {
        let start = self.as_ptr().addr().next_multiple_of(HUGE_PAGE);
        let end = self.as_ptr_range().end.addr() / HUGE_PAGE * HUGE_PAGE;
        if start < end {
            // SAFETY: the range lies in this mapping, and MADV_HUGEPAGE leaves contents and rights of its pages as
            // they are.
            unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
}

impl Deref for CacheLines {
    type Target = [CacheLine];

    #[inline]
    fn deref(&self) -> &[CacheLine] {
        // SAFETY: the mapping has room for as many lines, at the start of a page, and lives as long as this; new
        // pages are zero, and zeros are atomics.
        unsafe { slice::from_raw_parts(self.memory.base().cast(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::CacheLines;
    use std::sync::atomic::Ordering;

    #[test]
    fn lines_are_zero_aligned_and_independent() {
        let lines = CacheLines::new(1000);
        assert_eq!(lines.as_ptr() as usize % 64, 0);
        lines[999].0[7].store(7, Ordering::Relaxed);
        let words = lines.iter().flat_map(|line| &line.0);
        let sum: u64 = words.map(|word| word.load(Ordering::Relaxed)).sum();
        assert_eq!(sum, 7);
        assert!(CacheLines::new(0).is_empty());
    }

    #[test]
    fn pages_that_nobody_wrote_to_occupy_nothing() {
        let lines = CacheLines::new(256 << 10 >> 6);
        lines[0].0[0].store(1, Ordering::Relaxed);
        let page = 4096;
        let mut resident = [0; 64];
        // SAFETY: the vector has a byte for each page of the range.
        let rc = unsafe {
            let start = lines.as_ptr().cast_mut().cast();
            libc::mincore(start, resident.len() * page, resident.as_mut_ptr())
        };
        assert_eq!(rc, 0);
        assert_eq!(resident.iter().filter(|page| **page & 1 != 0).count(), 1);
    }
}
