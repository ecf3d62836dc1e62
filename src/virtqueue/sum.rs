//! Moving bytes with their checksum taken on the way.
//!
//! A payload whose checksum has to be completed is read from its sender once: what is summed is what was
//! copied, whatever the sender writes meanwhile. With AVX2, where the processor has it, 32 bytes at a
//! time; the copy hides in the shadow of the sum, or the other way round.

use super::copy::{Gather, Segment, copy_bytes, pieces};
use super::dirty::DirtyLog;
use crate::frame::checksum::Sum;

/// Bytes that are summed at a time.
const BLOCK: usize = 32;

/// The sum of what is behind the head of a frame.
pub fn sum(frame: &Gather<'_>) -> Sum {
    let mut sum = Sum::new();
    for (segment, from, count) in pieces(frame.rest, frame.rest_skip, frame.rest_len) {
        let from = segment.ptr().wrapping_add(from);
        // SAFETY: `pieces` yields ranges within the segment, which is valid for as long as `frame`
        // borrows it. Nothing is written.
        sum.append(unsafe { pass::<false>(std::ptr::null_mut(), from, count) });
    }
    sum
}

/// Writes what is behind the head of a frame into a chain, behind its first `at` bytes, and marks what was
/// written; the sum of it.
pub(super) fn copy_summed(
    dst: &[Segment<'_>],
    at: usize,
    frame: &Gather<'_>,
    log: Option<&DirtyLog>,
) -> Sum {
    let mut sum = Sum::new();
    let mut to = pieces(dst, at, frame.rest_len);
    let mut room = to.next();
    for (segment, mut from, mut left) in pieces(frame.rest, frame.rest_skip, frame.rest_len) {
        while let Some((target, start, len)) = room
            && left != 0
        {
            let count = left.min(len);
            let (source, place) = (
                segment.ptr().wrapping_add(from),
                target.ptr().wrapping_add(start),
            );
            // SAFETY: `pieces` yields ranges within segments, which are valid while `frame` and `dst`
            // borrow them, and `count` is what is left of both.
            sum.append(unsafe { pass::<true>(place, source, count) });
            target.mark(log, start, count);
            (from, left) = (from + count, left - count);
            room = if count == len {
                to.next()
            } else {
                Some((target, start + count, len - count))
            };
        }
    }
    sum
}

/// Copies `len` bytes where `COPY` says so, and sums them.
///
/// # Safety
///
/// `src` must be valid for reads and, with `COPY`, `dst` for writes of `len` bytes. Either may be memory
/// that somebody else writes at the same time: each byte is loaded once. Where they overlap in part, what
/// arrives is a mixture, which only a guest that describes one buffer twice can bring about.
unsafe fn pass<const COPY: bool>(dst: *mut u8, src: *const u8, len: usize) -> Sum {
    let blocks = len / BLOCK;
    #[cfg(target_arch = "x86_64")]
    let words = if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; `blocks` blocks are at most `len` bytes.
        unsafe { wide::<COPY>(dst, src, blocks) }
    } else {
        // SAFETY: `blocks` blocks are at most `len` bytes.
        unsafe { narrow::<COPY>(dst, src, blocks) }
    };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: `blocks` blocks are at most `len` bytes.
    let words = unsafe { narrow::<COPY>(dst, src, blocks) };
    let (done, left) = (blocks * BLOCK, len % BLOCK);
    let mut tail = [0; BLOCK];
    // SAFETY: `done + left` is `len`, for which the caller vouches, and `left` is less than a block.
    unsafe {
        copy_bytes(tail.as_mut_ptr(), src.add(done), left);
        if COPY {
            copy_bytes(dst.add(done), tail.as_ptr(), left);
        }
    }
    let mut sum = Sum::of_words(words);
    sum.add(&tail[..left]);
    sum
}

/// The sum of the 16-bit words of `blocks` blocks, in memory order.
///
/// # Safety
///
/// As for [`pass`], for `blocks` blocks.
unsafe fn narrow<const COPY: bool>(dst: *mut u8, src: *const u8, blocks: usize) -> u64 {
    let mut sum = 0_u64;
    for index in 0..blocks * (BLOCK / 8) {
        // SAFETY: the caller guarantees so many words.
        let word = unsafe {
            let word = src.add(8 * index).cast::<u64>().read_unaligned();
            if COPY {
                dst.add(8 * index).cast::<u64>().write_unaligned(word);
            }
            word
        };
        let (added, carry) = sum.overflowing_add(word);
        sum = added + u64::from(carry);
    }
    (sum >> 32) + (sum & 0xffff_ffff)
}

/// The same with AVX2.
///
/// # Safety
///
/// As for [`narrow`], and the processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(clippy::cast_ptr_alignment)] // The accesses need none.
unsafe fn wide<const COPY: bool>(dst: *mut u8, src: *const u8, blocks: usize) -> u64 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_blend_epi16, _mm256_loadu_si256, _mm256_setzero_si256,
        _mm256_srli_epi32, _mm256_storeu_si256,
    };
    /// Each adds two words to a lane of 32 bits, which holds 65,537 of them.
    const AT_ONCE: usize = 32_768;
    let zero = _mm256_setzero_si256();
    let mut sum = 0;
    for start in (0..blocks).step_by(AT_ONCE) {
        let (mut low, mut high) = (zero, zero);
        for index in start..blocks.min(start + AT_ONCE) {
            // SAFETY: the caller guarantees so many blocks.
            let block = unsafe {
                let block = _mm256_loadu_si256(src.add(BLOCK * index).cast::<__m256i>());
                if COPY {
                    _mm256_storeu_si256(dst.add(BLOCK * index).cast::<__m256i>(), block);
                }
                block
            };
            low = _mm256_add_epi32(low, _mm256_blend_epi16::<0xaa>(block, zero));
            high = _mm256_add_epi32(high, _mm256_srli_epi32::<16>(block));
        }
        let mut lanes = [0_u32; 16];
        // SAFETY: the array has room for two blocks.
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(lanes.as_mut_ptr().add(8).cast(), high);
        }
        sum += lanes.into_iter().map(u64::from).sum::<u64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 151 + i / 256 + 7) as u8).collect()
    }

    #[test]
    fn each_way_sums_and_copies_every_length() {
        for len in (0..200).chain([1446, 1447, 8999, 65_000, 65_549]) {
            for value in [bytes(len), vec![0xff; len]] {
                let mut copy = vec![0; len];
                // SAFETY: both vectors have `len` bytes.
                let sum = unsafe { pass::<true>(copy.as_mut_ptr(), value.as_ptr(), len) };
                assert_eq!(sum.finish(), Sum::of(&value).finish(), "{len}");
                assert_eq!(copy, value);
                // SAFETY: as above.
                let words =
                    unsafe { narrow::<false>(std::ptr::null_mut(), value.as_ptr(), len / BLOCK) };
                let whole = &value[..len / BLOCK * BLOCK];
                assert_eq!(Sum::of_words(words).finish(), Sum::of(whole).finish());
            }
        }
    }

    #[test]
    fn lanes_do_not_overflow() {
        let value = vec![0xff; 3 << 20];
        // SAFETY: it is read for its length.
        let sum = unsafe { pass::<false>(std::ptr::null_mut(), value.as_ptr(), value.len()) };
        assert_eq!(sum.finish(), Sum::of(&value).finish());
    }

    #[test]
    fn pieces_of_any_length_are_summed_as_one() {
        let (mut from, mut to) = (bytes(4000), vec![0; 5000]);
        let expected = from.clone();
        for (cut_from, cut_to, skip, at) in
            [(1, 2000, 0, 0), (701, 12, 13, 12), (3999, 4999, 140, 66)]
        {
            let len = 4000 - skip - 100;
            let (a, b) = from.split_at_mut(cut_from);
            let rest = [Segment::of(a), Segment::of(b)];
            let (a, b) = to.split_at_mut(cut_to);
            let dst = [Segment::of(a), Segment::of(b)];
            let frame = Gather {
                header: &[],
                head: &[],
                rest: &rest,
                rest_skip: skip,
                rest_len: len,
            };
            let copied = copy_summed(&dst, at, &frame, None);
            let summed = sum(&frame);
            let payload = &expected[skip..skip + len];
            assert_eq!(copied.finish(), Sum::of(payload).finish());
            assert_eq!(summed.finish(), Sum::of(payload).finish());
            assert_eq!(&to[at..at + len], payload);
        }
    }
}
