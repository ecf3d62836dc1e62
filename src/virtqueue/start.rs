//! RX: what a frame begins with in its first buffer. All of it is ours: the header, the first bytes of the frame, and what takes
//! the place of some of them.

use super::copy::{Segment, Writer, copy_bytes, mark_all};
use super::dirty::DirtyLog;
use super::ring::MAX_HEADER;
use crate::sys::cache;

/// What a frame begins with, all of it ours: its parts stand one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The virtio-net header for this receiver.
    pub header: &'a [u8],
    /// What takes the place of the first bytes of the frame; nothing where these stay.
    pub changed: Option<Changed<'a>>,
    /// The first bytes of the frame as they were classified, but for those whose place is taken.
    pub head: &'a [u8],
}

/// What stands between a header and a head that has changed: of a fixed length, so that it is moved without a question.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'a> {
    /// Always there.
    pub first: &'a [u8; 12],
    /// Behind that, if at all.
    pub second: Option<&'a [u8; 4]>,
}

impl<'a> Start<'a> {
    /// A header, and a head of which everything stays.
    #[inline]
    pub fn new(header: &'a [u8], head: &'a [u8]) -> Self {
        Self {
            header,
            changed: None,
            head,
        }
    }

    #[inline]
    fn parts(&self) -> [&'a [u8]; 4] {
        let first = self.changed.map(|changed| &changed.first[..]);
        let second = self.changed.and_then(|changed| changed.second);
        let second = second.map(|second| &second[..]);
        [
            self.header,
            first.unwrap_or_default(),
            second.unwrap_or_default(),
            self.head,
        ]
    }

    /// Bytes in all.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        let changed = self.changed.map_or(0, |changed| {
            changed.first.len() + changed.second.map_or(0, |second| second.len())
        });
        self.header.len() + changed + self.head.len()
    }
}

/// Writes a header and a head, without a look at what stands there.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn copy_front(
    dst: &[Segment<'_>],
    header: &[u8],
    head: &[u8],
    log: Option<&DirtyLog>,
) -> usize {
    let known = header.len() + head.len();
    if let [segment, ..] = dst
        && known <= segment.len()
    {
        // Nearly always: both are in the first buffer.
        // SAFETY: header and head are slices, and `known` is the length of both together, which is
        // within the segment that is valid for `'m`.
        unsafe {
            copy_bytes(segment.ptr(), header.as_ptr(), header.len());
            copy_bytes(segment.ptr().add(header.len()), head.as_ptr(), head.len());
        }
        segment.mark(log, 0, known);
        return known;
    }
    scatter(dst, &Start::new(header, head), log)
}

/// Writes what a frame begins with, but for a header that stands there already.
#[inline(always)]
#[allow(clippy::inline_always)]
pub(super) fn copy_start(dst: &[Segment<'_>], start: &Start<'_>, log: Option<&DirtyLog>) -> usize {
    let known = start.len();
    if let [segment, ..] = dst
        && known <= segment.len()
    {
        // Nearly always: all of it is in the first buffer.
        let Start {
            header,
            changed,
            head,
        } = *start;
        // SAFETY: all parts are slices or arrays, and `known` is the length of them together, which is within the segment that
        // is valid for `'m`; arrays of bytes have no alignment.
        unsafe {
            let mut at = segment.ptr();
            if !stands_there(at, header) {
                copy_bytes(at, header.as_ptr(), header.len());
            }
            at = at.add(header.len());
            if let Some(Changed { first, second }) = changed {
                at.cast::<[u8; 12]>().write(*first);
                at = at.add(first.len());
                if let Some(second) = second {
                    at.cast::<[u8; 4]>().write(*second);
                    at = at.add(second.len());
                }
            }
            copy_bytes(at, head.as_ptr(), head.len());
        }
        segment.mark(log, 0, known);
        return known;
    }
    scatter(dst, start, log)
}

/// Hints that the first bytes of a frame's first buffer are about to be written: a header, which most often need not be where
/// it [is apart](is_apart), and what is behind it. It is one of a modern driver.
#[inline]
pub(super) fn prefetch_start(ptr: *mut u8) {
    if is_apart(ptr, MAX_HEADER) {
        cache::prefetch::<false>(ptr);
    } else {
        cache::prefetch::<true>(ptr);
    }
    cache::prefetch::<true>(ptr.wrapping_add(cache::LINE));
}

/// Whether a header of `len` bytes at `ptr` does not share a line of the cache with what is behind it.
/// Buffers that drivers use over and over still have the header of the frame before, which is the same most often: as long
/// as nobody writes to that line, both sides keep it, and neither has to wait for it.
#[inline]
pub(super) fn is_apart(ptr: *const u8, len: usize) -> bool {
    (ptr.addr() + len).is_multiple_of(cache::LINE)
}

/// Whether `header` [is apart](is_apart), and what stands there already.
///
/// # Safety
///
/// `dst` must be valid for reads of as many bytes as `header` has.
#[inline]
pub(super) unsafe fn stands_there(dst: *const u8, header: &[u8]) -> bool {
    // Two words that overlap cover no more.
    const { assert!(MAX_HEADER <= 16) };
    if header.len() > MAX_HEADER || !is_apart(dst, header.len()) {
        return false;
    }
    let (Some(first), Some(last)) = (header.first_chunk::<8>(), header.last_chunk::<8>()) else {
        return false;
    };
    // SAFETY: both are within `header.len()` bytes, for which the caller guarantees validity; arrays of bytes have no
    // alignment. Somebody else may write there at the same time: what is read decides only whether the header is written, and
    // who changes it after that is the guest that it is for.
    unsafe {
        dst.cast::<[u8; 8]>().read() == *first
            && dst.add(header.len() - 8).cast::<[u8; 8]>().read() == *last
    }
}

#[inline(never)]
fn scatter(dst: &[Segment<'_>], start: &Start<'_>, log: Option<&DirtyLog>) -> usize {
    let mut to = Writer::new(dst, 0);
    let mut done = 0;
    for part in start.parts() {
        // SAFETY: `part` is a slice, valid for its length.
        done += unsafe { to.put(part.as_ptr(), part.len()) };
    }
    if let Some(log) = log {
        mark_all(dst, 0, done, log);
    }
    done
}
