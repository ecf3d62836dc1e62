//! Zeroed cache lines of atomics, allocated lazily.
//!
//! Large tables start empty, and an allocation that is zeroed by the kernel costs no memory until
//! it is touched. There is no safe way to ask for one that holds atomics.
//!
//! Threads: what is returned is shared freely, as any slice of atomics.

use std::sync::atomic::AtomicU64;

/// Eight atomics in a cache line of their own.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct CacheLine(pub [AtomicU64; 8]);

/// Allocates `count` lines of zeros.
pub fn cache_lines(count: usize) -> Box<[CacheLine]> {
    let lines = Box::<[CacheLine]>::new_zeroed_slice(count);
    // SAFETY: `new_zeroed_slice` guarantees that every byte is zero, and eight `AtomicU64` of zero
    // bytes without padding are a valid `CacheLine`.
    unsafe { lines.assume_init() }
}

/// Allocates `count` pairs of lines of zeros.
pub fn cache_line_pairs(count: usize) -> Box<[[CacheLine; 2]]> {
    let pairs = Box::<[[CacheLine; 2]]>::new_zeroed_slice(count);
    // SAFETY: as above; an array has no padding between its elements.
    unsafe { pairs.assume_init() }
}

#[cfg(test)]
mod tests {
    use super::{cache_line_pairs, cache_lines};
    use std::sync::atomic::Ordering;

    #[test]
    fn lines_are_zero_aligned_and_independent() {
        let lines = cache_line_pairs(500);
        assert_eq!(lines.as_ptr() as usize % 64, 0);
        lines[499][1].0[7].store(7, Ordering::Relaxed);
        let sum: u64 = lines
            .iter()
            .flatten()
            .flat_map(|line| &line.0)
            .map(|word| word.load(Ordering::Relaxed))
            .sum();
        assert_eq!(sum, 7);
        assert!(cache_lines(0).is_empty());
    }
}
