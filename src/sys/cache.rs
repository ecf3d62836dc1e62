//! Hints to the caches of the processor.

/// Bytes of a line.
pub const LINE: usize = 64;

/// Hints that a cache line is about to be read, or written. Never faults, whatever the address.
#[inline]
pub fn prefetch<const WRITE: bool>(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint without architectural effect, at any address. The intrinsic has no
    // form for writing that needs no target feature; where PREFETCHW is unknown it does nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        if WRITE {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        } else {
            _mm_prefetch::<_MM_HINT_T0>(line.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// The same for the lines of `len` bytes that begin with a line; of others the last may be missing.
#[inline]
pub fn prefetch_all<const WRITE: bool>(start: *const u8, len: usize) {
    // Several in a round: the loop would be most of the work.
    const ROUND: usize = 4;
    let mut line = start;
    let lines = len.div_ceil(LINE);
    for _ in 0..lines / ROUND {
        for number in 0..ROUND {
            prefetch::<WRITE>(line.wrapping_add(number * LINE));
        }
        line = line.wrapping_add(ROUND * LINE);
    }
    for _ in 0..lines % ROUND {
        prefetch::<WRITE>(line);
        line = line.wrapping_add(LINE);
    }
}
