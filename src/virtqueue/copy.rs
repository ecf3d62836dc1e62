//! Segments of guest memory, and the one routine that moves bytes in and out of them.
//!
//! A [`Segment`] is a checked piece of guest memory: it can be copied from and to, which is left out where a header stands
//! there already, and nothing else, because a reference to it would promise that the guest leaves the bytes alone. Copies
//! behave like `memmove`: two segments may be the same memory (a frame from a guest to itself), also through different
//! mappings. A guest that writes while we copy gets a mixture of old and new bytes.

use std::marker::PhantomData;
use std::ptr;

use super::dirty::DirtyLog;
use super::start::{self, Start, copy_front, copy_start};
use crate::sys::cache;

/// A piece of one buffer of a descriptor chain, or a buffer of our own.
///
/// `'m` borrows the ring it was walked from, and the ring holds the mapping; or it borrows the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'m> {
    ptr: *mut u8,
    len: u32,
    guest: u64,
    memory: PhantomData<&'m ()>,
}

impl<'m> Segment<'m> {
    /// `ptr` must be valid for reads and writes of `len` bytes for as long as `'m`; `guest` is its
    /// guest address.
    ///
    /// # Safety
    ///
    /// The caller took `ptr` from a look-up in the memory that the ring borrowed for `'m` holds.
    #[inline]
    pub(super) unsafe fn new(ptr: *mut u8, len: u32, guest: u64) -> Self {
        Segment {
            ptr,
            len,
            guest,
            memory: PhantomData,
        }
    }

    /// A frame in a buffer of our own, to be read from where it lies.
    #[inline]
    pub fn of(bytes: &'m mut [u8]) -> Self {
        // Longer ones than guests can describe do not exist.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Segment {
            ptr: bytes.as_mut_ptr(),
            len,
            guest: 0,
            memory: PhantomData,
        }
    }

    /// Length in bytes, never 0 in a chain.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    #[cfg(test)]
    pub(super) fn guest(&self) -> u64 {
        self.guest
    }

    #[inline]
    pub(super) fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Whether a header of `len` bytes need not be written where it stands there already, which
    /// [`copy_start`](super::RxRing::copy_start) looks at.
    #[inline]
    pub fn keeps_header(&self, len: usize) -> bool {
        start::is_apart(self.ptr, len)
    }

    /// Marks the part `from..from + len` as written.
    #[inline]
    pub(super) fn mark(&self, log: Option<&DirtyLog>, from: usize, len: usize) {
        if let Some(log) = log {
            log.mark(self.guest.wrapping_add(from as u64), len as u64);
        }
    }

    /// Reads one byte of each page, so that a mapping whose file was cut off raises its SIGBUS here.
    #[cold]
    pub(super) fn touch(&self) {
        for offset in (0..self.len())
            .step_by(4096)
            .chain(self.len().checked_sub(1))
        {
            // SAFETY: `offset` is below `len`, for which `new`'s caller guarantees validity; a fault
            // is resolved by the SIGBUS handler.
            unsafe { self.ptr.add(offset).read_volatile() };
        }
    }
}

/// A frame to be written: our own header, our own copy of its first bytes, and the remainder where
/// it lies in the sender's memory.
#[derive(Debug, Clone, Copy)]
pub struct Gather<'a> {
    /// The virtio-net header for this receiver.
    pub header: &'a [u8],
    /// The first bytes of the frame as they were classified.
    pub head: &'a [u8],
    /// The sender's chain or buffer.
    pub rest: &'a [Segment<'a>],
    /// How many bytes of `rest` the header and `head` stand for.
    pub rest_skip: usize,
    /// How many bytes of `rest` follow after these.
    pub rest_len: usize,
}

impl Gather<'_> {
    /// Bytes in all, if `rest` has as many as `rest_len` says.
    #[inline]
    pub fn len(&self) -> usize {
        self.header.len() + self.head.len() + self.rest_len
    }

    /// Whether there is nothing to write.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes that are fetched ahead of a copy, at most. A longer copy has its own way to fetch, and lines of both sides fetched
/// early push out what the copy before is at: see docs/performance.md.
const FETCHED: usize = 1 << 10;

/// Bytes of a chain's next buffer that are fetched while one is copied, at most. The processor by itself looks ahead within
/// a page, but not into another buffer.
const FETCHED_NEXT: usize = 2 << 10;

/// Hints that the bytes of `from` behind its header and head are about to be read, and as many of `to`
/// to be written. A copy that follows some hundred nanoseconds later does not wait for them, nor for the first ones of
/// a large frame.
#[inline(never)]
pub fn prefetch(from: &Gather<'_>, to: &[Segment<'_>]) {
    let len = from.rest_len.min(FETCHED);
    for (segment, at, count) in pieces(from.rest, from.rest_skip, len) {
        cache::prefetch_all::<false>(segment.ptr.wrapping_add(at), count);
    }
    // The first lines were fetched when the buffers were reserved.
    let known = from.header.len() + from.head.len();
    for (segment, at, count) in pieces(to, known, len) {
        cache::prefetch_all::<true>(segment.ptr.wrapping_add(at), count);
    }
}

/// The parts of `segments` after the first `skip` bytes, at most `len` bytes in all.
#[inline]
pub(super) fn pieces<'s, 'm>(
    segments: &'s [Segment<'m>],
    skip: usize,
    len: usize,
) -> Pieces<'s, 'm> {
    Pieces {
        behind: segments,
        skip,
        left: len,
    }
}

/// What [`pieces`] returns: segments, each with the first byte that is meant and how many, at least one.
pub(super) struct Pieces<'s, 'm> {
    behind: &'s [Segment<'m>],
    skip: usize,
    left: usize,
}

impl Pieces<'_, '_> {
    /// Hints that the next one is about to be read.
    #[inline]
    fn expect_next(&self) {
        if let Some(next) = self.behind.first() {
            cache::prefetch_all::<false>(next.ptr, next.len().min(self.left).min(FETCHED_NEXT));
        }
    }
}

impl<'s, 'm> Iterator for Pieces<'s, 'm> {
    type Item = (&'s Segment<'m>, usize, usize);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.left != 0 {
            let (segment, behind) = self.behind.split_first()?;
            self.behind = behind;
            if self.skip < segment.len() {
                let from = std::mem::take(&mut self.skip);
                let count = (segment.len() - from).min(self.left);
                self.left -= count;
                return Some((segment, from, count));
            }
            self.skip -= segment.len();
        }
        None
    }
}

/// Copies out of a chain, starting at byte `offset`. Returns how many bytes there were.
#[inline]
pub fn read(segments: &[Segment<'_>], offset: usize, out: &mut [u8]) -> usize {
    if let [segment, ..] = segments
        && offset <= segment.len()
        && out.len() <= segment.len() - offset
    {
        // Nearly always: everything is in the first buffer.
        // SAFETY: `offset + out.len()` is within the segment, which is valid for `'m`.
        unsafe { copy_bytes(out.as_mut_ptr(), segment.ptr.add(offset), out.len()) };
        return out.len();
    }
    read_scattered(segments, offset, out)
}

/// Copies the first four bytes out of a chain, and what begins at byte `offset`, which is behind them. Returns these four
/// and how many others there were.
#[inline]
pub fn read_start(segments: &[Segment<'_>], offset: usize, out: &mut [u8]) -> ([u8; 4], usize) {
    if let [segment, ..] = segments
        && offset >= 4
        && offset <= segment.len()
        && out.len() <= segment.len() - offset
    {
        // SAFETY: `offset + out.len()` is within the segment, which is valid for `'m`, and so are the first four bytes;
        // an array of bytes has no alignment.
        return unsafe {
            let first = segment.ptr.cast::<[u8; 4]>().read();
            copy_bytes(out.as_mut_ptr(), segment.ptr.add(offset), out.len());
            (first, out.len())
        };
    }
    let first = read_array(segments, 0);
    (first, read_scattered(segments, offset, out))
}

/// Copies `N` bytes out of a chain, starting at byte `offset`; zeros where there are none.
#[inline]
pub fn read_array<const N: usize>(segments: &[Segment<'_>], offset: usize) -> [u8; N] {
    if let [segment, ..] = segments
        && offset <= segment.len()
        && N <= segment.len() - offset
    {
        // SAFETY: `offset + N` is within the segment, which is valid for `'m`; an array of bytes has no
        // alignment.
        return unsafe { segment.ptr.add(offset).cast::<[u8; N]>().read() };
    }
    let mut bytes = [0; N];
    read_scattered(segments, offset, &mut bytes);
    bytes
}

fn read_scattered(segments: &[Segment<'_>], offset: usize, out: &mut [u8]) -> usize {
    let mut done = 0;
    for (segment, from, count) in pieces(segments, offset, out.len()) {
        // SAFETY: `from + count` is within the segment, which is valid for `'m`; `done + count` is
        // within `out`, because `pieces` yields `out.len()` bytes at most.
        unsafe { copy_bytes(out.as_mut_ptr().add(done), segment.ptr.add(from), count) };
        done += count;
    }
    done
}

/// Writes a frame into a chain and marks what was written. Returns how many bytes fitted.
#[inline]
pub(super) fn copy(dst: &[Segment<'_>], src: &Gather<'_>, log: Option<&DirtyLog>) -> usize {
    let done = copy_front(dst, src.header, src.head, log);
    append(dst, done, src, log)
}

/// The same for a frame that begins with `start`; `src` has neither header nor head.
#[inline]
pub(super) fn copy_behind(
    dst: &[Segment<'_>],
    start: &Start<'_>,
    src: &Gather<'_>,
    log: Option<&DirtyLog>,
) -> usize {
    let done = copy_start(dst, start, log);
    append(dst, done, src, log)
}

/// Appends what is behind the head to the `done` bytes that are written. Returns how many bytes were written in all.
#[inline]
fn append(dst: &[Segment<'_>], done: usize, src: &Gather<'_>, log: Option<&DirtyLog>) -> usize {
    if src.rest_len == 0 {
        return done;
    }
    if let ([to], [from]) = (dst, src.rest)
        && done <= to.len()
        && src.rest_len <= to.len() - done
        && src.rest_skip <= from.len()
        && src.rest_len <= from.len() - src.rest_skip
    {
        // Most often: one buffer on either side.
        // SAFETY: `rest_len` bytes behind `done` are within the one segment, and as many behind `rest_skip` within
        // the other. Both are valid for `'m`.
        unsafe {
            let from = from.ptr.add(src.rest_skip);
            copy_bytes(to.ptr.add(done), from, src.rest_len);
        }
        to.mark(log, done, src.rest_len);
        return done + src.rest_len;
    }
    copy_rest(dst, done, src, log)
}

/// The same from and to any number of buffers.
#[inline(never)]
fn copy_rest(dst: &[Segment<'_>], done: usize, src: &Gather<'_>, log: Option<&DirtyLog>) -> usize {
    let mut to = Writer::new(dst, done);
    let mut end = done;
    let mut parts = pieces(src.rest, src.rest_skip, src.rest_len);
    while let Some((segment, from, count)) = parts.next() {
        parts.expect_next();
        // SAFETY: `from + count` is within the segment, which is valid for `'m`.
        end += unsafe { to.put(segment.ptr.add(from), count) };
    }
    if let Some(log) = log {
        mark_all(dst, done, end - done, log);
    }
    end
}

/// Marks `len` bytes behind the first `skip` as written.
#[cold]
pub(super) fn mark_all(segments: &[Segment<'_>], skip: usize, len: usize, log: &DirtyLog) {
    for (segment, from, count) in pieces(segments, skip, len) {
        segment.mark(Some(log), from, count);
    }
}

/// A place in a chain that is being filled.
pub(super) struct Writer<'s, 'm> {
    /// Valid for writes of `here` bytes.
    ptr: *mut u8,
    /// Bytes from there to the end of the segment; none at the end of the chain.
    here: usize,
    behind: &'s [Segment<'m>],
}

impl<'s, 'm> Writer<'s, 'm> {
    /// Behind the first `skip` bytes.
    #[inline]
    pub fn new(segments: &'s [Segment<'m>], skip: usize) -> Self {
        let mut parts = pieces(segments, skip, usize::MAX);
        let first = parts.next();
        let (ptr, here) = first.map_or((ptr::null_mut(), 0), |(segment, from, count)| {
            (segment.ptr.wrapping_add(from), count)
        });
        Writer {
            ptr,
            here,
            behind: parts.behind,
        }
    }

    /// Appends `len` bytes, or what there is room for; how many.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes.
    #[inline]
    pub unsafe fn put(&mut self, from: *const u8, len: usize) -> usize {
        let mut done = 0;
        loop {
            let count = (len - done).min(self.here);
            if count == 0 {
                return done;
            }
            // SAFETY: the place has `count` bytes, in a segment that is valid for `'m`; the caller guarantees `len` bytes,
            // of which `count` is at most what is left.
            unsafe { copy_part(self.ptr, from.add(done), count) };
            done += count;
            self.ptr = self.ptr.wrapping_add(count);
            self.here -= count;
            if self.here == 0
                && let Some((segment, behind)) = self.behind.split_first()
            {
                (self.ptr, self.here) = (segment.ptr, segment.len());
                self.behind = behind;
            }
        }
    }
}

/// 16 bytes that move as one register.
#[derive(Clone, Copy)]
#[repr(C)]
struct Block([u64; 2]);

/// Copies `len` bytes; the ranges may overlap. Short copies, which most frames consist of, are a
/// handful of overlapping register moves without a call; longer ones are the C library's.
///
/// # Safety
///
/// `src` must be valid for reads and `dst` for writes of `len` bytes. Either may be memory that
/// somebody else writes at the same time: each byte is loaded once, and no value is acted upon.
#[inline]
pub(super) unsafe fn copy_bytes(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: each arm touches bytes below `len` only, as its condition shows. All loads of an arm
    // come before its stores, so overlapping ranges are right.
    unsafe {
        // By how often they come: heads of short frames, then those of longer ones; no jump table.
        if len > 32 {
            if len <= 64 {
                ends::<[Block; 2]>(dst, src, len);
            } else if len <= 128 {
                ends::<[Block; 4]>(dst, src, len);
            } else if len <= 256 {
                ends::<[Block; 8]>(dst, src, len);
            } else {
                ptr::copy(src, dst, len);
            }
        } else if len >= 16 {
            ends::<Block>(dst, src, len);
        } else if len >= 8 {
            ends::<u64>(dst, src, len);
        } else if len >= 4 {
            ends::<u32>(dst, src, len);
        } else if len != 0 {
            let (first, middle, last) = (*src, *src.add(len / 2), *src.add(len - 1));
            *dst = first;
            *dst.add(len / 2) = middle;
            *dst.add(len - 1) = last;
        }
    }
}

/// The same for a part of a large frame, which is long most often.
///
/// # Safety
///
/// As for [`copy_bytes`].
#[inline]
unsafe fn copy_part(dst: *mut u8, src: *const u8, len: usize) {
    /// [`copy_bytes`] out of the way, and as unsafe.
    #[inline(never)]
    unsafe fn copy_short(dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: the same is asked of the caller.
        unsafe { copy_bytes(dst, src, len) }
    }
    // SAFETY: the caller guarantees what both ask for.
    unsafe {
        if len > 256 {
            ptr::copy(src, dst, len);
        } else {
            copy_short(dst, src, len);
        }
    }
}

/// Copies between one and two `T`s: the first and the last, overlapping in the middle. The first is written last: what
/// is read back soon are the first bytes, and a processor that finds them in two writes waits until both are done.
///
/// # Safety
///
/// As for [`copy_bytes`], and `len` must be at least the size of a `T`.
#[inline(always)]
#[allow(clippy::inline_always)]
unsafe fn ends<T: Copy>(dst: *mut u8, src: *const u8, len: usize) {
    let tail = len - size_of::<T>();
    // SAFETY: the caller guarantees `len` bytes on both sides and `len >= size_of::<T>()`.
    unsafe {
        let first = src.cast::<T>().read_unaligned();
        let last = src.add(tail).cast::<T>().read_unaligned();
        dst.add(tail).cast::<T>().write_unaligned(last);
        dst.cast::<T>().write_unaligned(first);
    }
}
