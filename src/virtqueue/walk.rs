//! RX: finding buffers for frames, in the order in which the guest posted them.
//!
//! Most frames take one buffer, which has one descriptor, or several such: these have a short way each. What is neither is
//! looked at once more on the long way, which also tells what is wrong with it.

use super::batch::{Buffers, Chains, RxChain};
use super::error::RingError;
use super::format::{Cursor, Format, Sink, Spot, Take, Used, prefetch};
use super::ring::RingFeatures;
use super::start::prefetch_start;

/// A walk through the available chains, frame by frame.
pub(super) struct Walk<'w, 'm, F> {
    pub features: RingFeatures,
    /// Of the ring.
    pub size: u16,
    pub format: &'w F,
    pub sink: Sink<'w, 'm, true>,
    /// The next chain.
    pub cursor: Cursor,
    pub chains: &'w mut Chains,
    /// Slots of the ring that the chains take.
    pub slots: u16,
}

/// What looking for the buffers of a frame came to.
pub(super) enum Outcome {
    /// It has them.
    Fits,
    /// No chain at this spot.
    Starved(Spot),
    /// The ring can never hold it.
    TooBig,
    /// The batch has no room for more.
    NoRoom,
}

impl<F: Format> Walk<'_, '_, F> {
    /// Takes a chain for each of the first of `wants`, up to the one that takes more than one buffer, or another look;
    /// how many.
    #[inline]
    pub fn singles(&mut self, wants: &[u32], frames: &mut Buffers) -> usize {
        let least = self.features.header_len as u32;
        let room = self
            .room()
            .min(wants.len())
            .min(frames.remaining_capacity());
        let end = self.sink.segments() as u32 + 1;
        let first = (self.chains.len(), frames.len());
        let places = (
            self.chains.as_mut_ptr().wrapping_add(first.0),
            frames.as_mut_ptr().wrapping_add(first.1),
        );
        let (format, cursor) = (self.format, &mut self.cursor);
        let taken =
            self.sink
                .take_singles(format, cursor, room, prefetch_start, |number, single| {
                    let want = wants[number].max(least);
                    if single.len < want {
                        return None;
                    }
                    let used = Used {
                        id: single.id,
                        slots: 1,
                        written: want,
                    };
                    let end = end + number as u32;
                    // SAFETY: `take_singles` numbers its calls from 0 to below `room`, which both have behind their `first`
                    // elements.
                    unsafe {
                        places.0.add(number).write(RxChain { used, end });
                        places.1.add(number).write(1);
                    }
                    Some(want)
                });
        // SAFETY: `take_singles` has taken those, and all those, of which both elements were written behind the `first`.
        unsafe {
            self.chains.set_len(first.0 + taken);
            frames.set_len(first.1 + taken);
        }
        self.slots += taken as u16;
        taken
    }

    /// Chains that can be taken yet.
    #[inline]
    fn room(&self) -> usize {
        usize::from(self.size - self.slots).min(self.chains.remaining_capacity())
    }

    /// Takes as many chains as `want` bytes need if all of them are of the simplest kind and available, as far as is
    /// known; if not, takes none and says false.
    #[inline]
    fn merge(&mut self, want: u32) -> bool {
        let least = self.features.header_len as u32;
        let mut missing = want.max(least);
        let (cursor, room) = (self.cursor, self.room());
        let (chains, segments) = (self.chains.len(), self.sink.segments());
        let places = self.chains.as_mut_ptr().wrapping_add(chains);
        let taken = self.sink.take_singles(
            self.format,
            &mut self.cursor,
            room,
            prefetch::<true>,
            |number, single| {
                // Each could carry a frame of its own, see `collect`.
                if missing == 0 || single.len < least {
                    return None;
                }
                let written = single.len.min(missing);
                missing -= written;
                let used = Used {
                    id: single.id,
                    slots: 1,
                    written,
                };
                let end = (segments + number + 1) as u32;
                // SAFETY: `take_singles` numbers its calls from 0 to below `room`, which `self.chains` has behind its first
                // `chains` elements.
                unsafe { places.add(number).write(RxChain { used, end }) };
                Some(written.max(least))
            },
        );
        if missing != 0 {
            self.cursor = cursor;
            self.sink.truncate(segments);
            return false;
        }
        // SAFETY: `take_singles` has taken those, and all those, whose element was written behind the first `chains`.
        unsafe { self.chains.set_len(chains + taken) };
        self.slots += taken as u16;
        true
    }

    /// Takes as many chains as `want` bytes need, or none.
    #[inline(never)]
    pub fn frame(&mut self, want: u32) -> Result<Outcome, RingError> {
        if self.features.mergeable && self.merge(want) {
            return Ok(Outcome::Fits);
        }
        let (spot, slots) = (self.cursor.spot, self.slots);
        let (chains, segments) = (self.chains.len(), self.sink.segments());
        let outcome = self.collect(want)?;
        if !matches!(outcome, Outcome::Fits) {
            self.cursor.spot = spot;
            self.slots = slots;
            self.chains.truncate(chains);
            self.sink.truncate(segments);
        }
        Ok(outcome)
    }

    #[inline]
    fn collect(&mut self, want: u32) -> Result<Outcome, RingError> {
        let header = self.features.header_len as u64;
        let mut missing = u64::from(want).max(header);
        for _ in 0..self.size {
            // A header's worth of every chain, so that each could carry a frame of its own.
            self.sink.begin(missing.max(header));
            let start = self.cursor.spot;
            let mut used = match self.format.take(&mut self.cursor, &mut self.sink)? {
                Take::Chain(used) => used,
                Take::Empty => return Ok(Outcome::Starved(self.cursor.spot)),
                Take::NoRoom(_) => return Ok(Outcome::NoRoom),
            };
            if self.slots + used.slots > self.size {
                // More than the ring has: some were made available a second time.
                return Ok(Outcome::Starved(start));
            }
            let found = self.sink.len();
            if found < header {
                return Err(RingError::Runt {
                    head: used.id,
                    found,
                    expected: self.features.header_len,
                });
            }
            used.written = found.min(missing) as u32;
            missing -= u64::from(used.written);
            let end = self.sink.segments() as u32;
            if self.chains.try_push(RxChain { used, end }).is_err() {
                return Ok(Outcome::NoRoom);
            }
            self.slots += used.slots;
            if missing == 0 {
                return Ok(Outcome::Fits);
            }
            if !self.features.mergeable {
                break;
            }
        }
        Ok(Outcome::TooBig)
    }
}
