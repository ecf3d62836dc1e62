//! What the database counts per port.
//!
//! One word a port for what it learned: the generation above the number of entries, so that both change
//! at once when the port goes down. And one for its static entries, so that nobody looks for them where
//! there are none.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::relay::port::{MAX_PORTS, Slot};
use crate::sys::zeroed::CacheLines;

/// Lines of eight words, one word a port.
const LINES: usize = MAX_PORTS / 8;

/// The words of all ports.
#[derive(Debug)]
pub struct Seats {
    learned: CacheLines,
    fixed: CacheLines,
}

impl Seats {
    /// All ports in generation 0, with nothing learned.
    pub fn new() -> Seats {
        Seats {
            learned: CacheLines::new(LINES),
            fixed: CacheLines::new(LINES),
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.learned) + size_of_val(&*self.fixed)
    }

    /// How many entries a port has learned.
    pub fn count(&self, slot: Slot) -> u32 {
        count(self.word(slot).load(Ordering::Relaxed))
    }

    /// The generation of a port, modulo 256.
    #[inline]
    pub fn generation(&self, slot: Slot) -> u8 {
        generation(self.word(slot).load(Ordering::Relaxed))
    }

    /// Whether the next generation equals an older one modulo 256.
    pub fn generation_wraps(&self, slot: Slot) -> bool {
        self.generation(slot) == u8::MAX
    }

    /// Counts one more entry if there are fewer than `limit`; the generation it belongs to.
    pub fn take(&self, slot: Slot, limit: u32) -> Option<u8> {
        let one_more = |word: u64| (count(word) < limit).then_some(word + 1);
        self.word(slot)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(generation)
    }

    /// Counts one entry of a generation less, unless the generation has passed.
    pub fn give_back(&self, slot: Slot, of: u8) -> bool {
        let one_less = |word: u64| (generation(word) == of && count(word) != 0).then(|| word - 1);
        self.word(slot)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    /// Begins a generation with nothing learned; how many entries the last one had.
    pub fn next_generation(&self, slot: Slot) -> u32 {
        let next = |word: u64| Some(((word >> 32) + 1) << 32);
        let last = self
            .word(slot)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        count(last.unwrap_or_else(|word| word))
    }

    /// Counts one more static entry.
    pub fn take_static(&self, slot: Slot) {
        word(&self.fixed, slot).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one static entry less.
    pub fn give_back_static(&self, slot: Slot) {
        word(&self.fixed, slot).fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a port has static entries.
    pub fn has_static(&self, slot: Slot) -> bool {
        word(&self.fixed, slot).load(Ordering::Relaxed) != 0
    }

    #[inline]
    fn word(&self, slot: Slot) -> &AtomicU64 {
        word(&self.learned, slot)
    }
}

#[inline]
fn word(words: &CacheLines, slot: Slot) -> &AtomicU64 {
    &words[slot.index() / 8 % LINES].0[slot.index() % 8]
}

fn count(word: u64) -> u32 {
    word as u32
}

fn generation(word: u64) -> u8 {
    (word >> 32) as u8
}
