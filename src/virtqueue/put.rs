//! RX: one short frame into one buffer, by the shortest way.
//!
//! All of it happens while the ring's lock is held. What is read is the worker's own copy, so that the sender cannot make it
//! take long. The receiver can, by a page that is not there: then it is its own frames that wait, and whoever has some for it.

use std::iter;
use std::slice;
use std::sync::atomic::Ordering;

use super::copy::Segment;
use super::format::{Format, Single, Used};
use super::memory::{GuestMemory, Lookup};
use super::ring::with_format;
use super::rx::RxRing;
use super::start::{self, Start};

impl RxRing {
    /// Writes a frame of which there is no more than `start` into the next buffer, calls `delivered`, and shows the frame to the
    /// guest. False where it takes more: somebody has a reservation, there is no buffer or was none lately, or the next
    /// chain is not of the simplest kind, large enough, and in the region of the one before. Then nothing was done, and
    /// [`RxRing::reserve`] finds out what it is.
    #[inline]
    pub fn put(&self, start: &Start<'_>, delivered: impl FnOnce()) -> bool {
        with_format!(&self.window.layout, f => self.put_in(f, start, delivered))
    }

    #[inline]
    fn put_in<F: Format>(&self, format: &F, start: &Start<'_>, delivered: impl FnOnce()) -> bool {
        let memory: &GuestMemory = &self.window.memory;
        // A drought ends by `complete`.
        if self.shared.starved_at.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let mut state = self.shared.state.lock();
        let hint = state.hint;
        let mut next = state.order.next;
        if !state.order.is_idle() || !format.available(&mut next).unwrap_or(false) {
            return false;
        }
        let Some(Single { addr, len, id }) = format.single::<true>(next, 0) else {
            return false;
        };
        let written = start.len();
        let Some(ptr) = Lookup::new(memory, hint)
            .find_here(addr, len)
            .filter(|_| written <= len as usize)
        else {
            return false;
        };
        let from = state.order.used;
        format.expect_used(from);
        let written = written as u32;
        // SAFETY: `ptr` was just looked up for `len` bytes, of which `written` are no more, in the memory that this ring
        // holds; `buffer` does not outlive `self`.
        let buffer = unsafe { Segment::new(ptr, written, addr) };
        let log = self.window.log.as_deref();
        start::copy_start(slice::from_ref(&buffer), start, log);
        delivered();
        let used = Used {
            id,
            slots: 1,
            written,
        };
        format.fill(from, iter::once(used));
        let to = format.advance(from, 1);
        format.publish(from, to);
        next.spot = format.advance(next.spot, 1);
        state.order.step_over(next, to);
        self.shared.progress.add(1);
        drop(state);
        self.note_posted();
        self.expect(format, next, hint);
        true
    }
}
