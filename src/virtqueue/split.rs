//! The split format: descriptor table, available ring, used ring (VIRTIO 1.2, 2.7).
//!
//! Positions are free-running 16-bit indices; a slot is an index modulo the queue size, which is a
//! power of two. The available index is read again only when all chains it announced are taken.

use std::sync::atomic::{AtomicU16, Ordering};

use super::descriptor::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, Table, WRITE, words};
use super::error::{Part, Place, RingError};
use super::format::{Cursor, Format, Single, Sink, Spot, Stop, Take, Used, passed};
use super::memory::GuestMemory;
use super::ring::{Area, Marks, RingConfig};
use crate::sys::cache;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`.
const SUPPRESS: u16 = 1;

/// Pointers into one split ring.
#[derive(Debug)]
pub(super) struct Split {
    size: u16,
    indirect: bool,
    event_idx: bool,
    /// `size` descriptors.
    desc: *const u8,
    /// `flags`, `idx`, `ring`, `used_event`.
    avail: *mut u16,
    /// `flags`, `idx`, `ring` of (id: u32, len: u32), `avail_event`.
    used: *mut u16,
    marks: Marks,
}

impl Split {
    pub fn new(
        config: &RingConfig,
        memory: &GuestMemory,
        marks: &Marks,
    ) -> Result<Split, RingError> {
        let size = usize::from(config.size);
        let area = |part, address, align, len| {
            let area = Area {
                part,
                address,
                align,
                len,
            };
            area.locate(memory).map(|(ptr, _)| ptr)
        };
        Ok(Split {
            size: config.size,
            indirect: config.features.indirect,
            event_idx: config.features.event_idx,
            desc: area(Part::Descriptors, config.desc, 16, DESCRIPTOR * size)?,
            avail: area(Part::Available, config.avail, 2, 6 + 2 * size)?.cast(),
            used: area(Part::Used, config.used, 4, 6 + 8 * size)?.cast(),
            marks: marks.at(config.log_used.unwrap_or_default()),
        })
    }

    /// The used index in memory: where a ring resumes.
    pub fn used_idx(&self) -> u16 {
        u16::from_le(self.word(self.used, 1).load(Ordering::Acquire))
    }

    /// Word `index` of the available or used ring, which the guest accesses at the same time.
    #[inline]
    fn word(&self, ring: *mut u16, index: usize) -> &AtomicU16 {
        debug_assert!(index < 3 + 4 * usize::from(self.size));
        // SAFETY: `ring` is `avail` or `used`, aligned to at least 2 and mapped for 3 + size or
        // 3 + 4 * size words (checked by `new`) while the memory that the ring holds lives; callers
        // pass constants or slots below `size`. Concurrent access by the guest is what atomics are for.
        unsafe { AtomicU16::from_ptr(ring.add(index)) }
    }

    #[inline]
    fn slot(&self, index: u16) -> u16 {
        index & (self.size - 1)
    }

    /// Word of `avail_event` in the used ring; `used_event` is the word behind the available ring.
    fn avail_event(&self) -> usize {
        2 + 4 * usize::from(self.size)
    }

    #[inline]
    fn refresh(&self, cursor: &mut Cursor) -> Result<(), RingError> {
        // Acquire: what the guest wrote before it moved the index is visible after this.
        let found = u16::from_le(self.word(self.avail, 1).load(Ordering::Acquire));
        let next = cursor.spot.index;
        if found.wrapping_sub(next) > self.size {
            return Err(RingError::AvailIndex {
                found,
                next,
                size: self.size,
            });
        }
        cursor.seen = found;
        Ok(())
    }

    #[inline]
    fn walk<const W: bool>(&self, head: u16, sink: &mut Sink<'_, '_, W>) -> Result<(), Stop> {
        let mut index = head;
        let mut left = self.size;
        loop {
            // SAFETY: `index` is below `size`: `take` checked the head, and the check below every
            // further one; `desc` is valid for `size` descriptors while the ring's memory lives.
            let d = unsafe { words(self.desc.add(usize::from(index) * DESCRIPTOR)) };
            let d = Descriptor::split(d);
            if d.flags & INDIRECT != 0 {
                return sink.aside(|sink| self.walk_table(head, index, d, left, sink));
            }
            sink.push(d.addr, d.len, d.flags & WRITE != 0, Place::Ring(index))?;
            if d.flags & NEXT == 0 || sink.satisfied() {
                return Ok(());
            }
            left -= 1;
            if left == 0 {
                return Err(self.too_long(head).into());
            }
            if d.extra >= self.size {
                return Err(RingError::Next {
                    place: Place::Ring(index),
                    found: d.extra,
                    limit: self.size,
                }
                .into());
            }
            index = d.extra;
        }
    }

    /// Walks the indirect table that descriptor `of` refers to, `left` descriptors at most.
    fn walk_table<const W: bool>(
        &self,
        head: u16,
        of: u16,
        d: Descriptor,
        left: u16,
        sink: &mut Sink<'_, '_, W>,
    ) -> Result<(), Stop> {
        let table = Table::find(sink, d, of, self.indirect, self.size)?;
        let mut entry = 0;
        let mut left = left.min(table.entries);
        loop {
            let d = Descriptor::split(table.words(entry));
            let place = Place::Indirect { of, entry };
            if d.flags & INDIRECT != 0 {
                return Err(RingError::IndirectNested { place }.into());
            }
            sink.push(d.addr, d.len, d.flags & WRITE != 0, place)?;
            if d.flags & NEXT == 0 || sink.satisfied() {
                return Ok(());
            }
            left -= 1;
            if left == 0 {
                return Err(self.too_long(head).into());
            }
            if d.extra >= table.entries {
                return Err(RingError::Next {
                    place,
                    found: d.extra,
                    limit: table.entries,
                }
                .into());
            }
            entry = d.extra;
        }
    }

    #[cold]
    fn too_long(&self, head: u16) -> RingError {
        RingError::ChainLength {
            head,
            limit: self.size,
        }
    }
}

impl Format for Split {
    #[inline]
    fn take<const W: bool>(
        &self,
        cursor: &mut Cursor,
        sink: &mut Sink<'_, '_, W>,
    ) -> Result<Take, RingError> {
        let next = cursor.spot.index;
        if next == cursor.seen {
            self.refresh(cursor)?;
            if next == cursor.seen {
                return Ok(Take::Empty);
            }
        }
        let slot = self.slot(next);
        let head = u16::from_le(
            self.word(self.avail, 2 + usize::from(slot))
                .load(Ordering::Relaxed),
        );
        if head >= self.size {
            return Err(RingError::Head {
                slot,
                found: head,
                size: self.size,
            });
        }
        match self.walk(head, sink) {
            Ok(()) => {
                cursor.spot.index = next.wrapping_add(1);
                Ok(Take::Chain(Used {
                    id: head,
                    slots: 1,
                    written: 0,
                }))
            }
            Err(Stop::NoRoom) => Ok(Take::NoRoom(head)),
            Err(Stop::Bad(error)) => Err(error),
        }
    }

    #[inline]
    fn reach(&self, cursor: Cursor) -> u16 {
        cursor.seen.wrapping_sub(cursor.spot.index)
    }

    #[inline]
    fn single<const W: bool>(&self, cursor: Cursor, ahead: u16) -> Option<Single> {
        let slot = usize::from(self.slot(cursor.spot.index.wrapping_add(ahead)));
        let head = u16::from_le(self.word(self.avail, 2 + slot).load(Ordering::Relaxed));
        if head >= self.size {
            return None;
        }
        // SAFETY: `head` is below `size`, and `desc` is valid for `size` descriptors while the ring's
        // memory lives.
        let d = unsafe { words(self.desc.add(usize::from(head) * DESCRIPTOR)) };
        let d = Descriptor::split(d);
        let flags = if W { WRITE } else { 0 };
        (d.flags & (NEXT | INDIRECT | WRITE) == flags).then_some(Single {
            addr: d.addr,
            len: d.len,
            id: head,
        })
    }

    #[inline]
    fn is_silent(&self, at: Spot) -> bool {
        u16::from_le(self.word(self.avail, 1).load(Ordering::Relaxed)) == at.index
    }

    fn available(&self, cursor: &mut Cursor) -> Result<bool, RingError> {
        if cursor.spot.index == cursor.seen {
            self.refresh(cursor)?;
        }
        Ok(cursor.spot.index != cursor.seen)
    }

    #[inline]
    fn advance(&self, spot: Spot, slots: u16) -> Spot {
        Spot {
            index: spot.index.wrapping_add(slots),
            wrap: spot.wrap,
        }
    }

    #[inline]
    fn fill(&self, at: Spot, chains: impl Iterator<Item = Used>) {
        let mut index = at.index;
        for chain in chains {
            let element = u64::from(chain.id) | u64::from(chain.written) << 32;
            let slot = usize::from(self.slot(index));
            // SAFETY: `slot` is below `size`, and `used` is mapped for 3 + 4 * size words while the
            // ring's memory lives. Nobody else writes this slot: it belongs to this chain.
            unsafe {
                let place = self.used.add(2 + 4 * slot).cast::<[u8; 8]>();
                place.write(element.to_le_bytes());
            }
            index = index.wrapping_add(chain.slots);
        }
    }

    #[inline]
    fn publish(&self, from: Spot, to: Spot) {
        // Release: elements and payload become visible before the index does.
        self.word(self.used, 1)
            .store(to.index.to_le(), Ordering::Release);
        if self.marks.on() {
            let (first, count) = (self.slot(from.index), to.index.wrapping_sub(from.index));
            let before_wrap = count.min(self.size - first);
            for (slot, count) in [(first, before_wrap), (0, count - before_wrap)] {
                self.marks
                    .mark(4 + 8 * u64::from(slot), 8 * u64::from(count));
            }
            self.marks.mark(2, 2);
        }
    }

    #[inline]
    fn expect_used(&self, at: Spot) {
        let place = self
            .used
            .wrapping_add(2 + 4 * usize::from(self.slot(at.index)));
        cache::prefetch::<true>(place.cast());
    }

    #[inline]
    fn expect_next(&self, at: Spot, id: u16) {
        let entry = 2 + usize::from(self.slot(at.index));
        cache::prefetch::<false>(self.avail.wrapping_add(entry).cast());
        // Drivers take descriptors in turn, or the one again that came back last.
        for id in [id, self.slot(id.wrapping_add(1))] {
            let place = self.desc.wrapping_add(usize::from(id) * DESCRIPTOR);
            cache::prefetch::<false>(place.cast());
        }
    }

    #[inline]
    fn wants_call(&self, signalled: u64, published: u64) -> bool {
        if self.event_idx {
            let event = self.word(self.avail, 2 + usize::from(self.size));
            let event = u16::from_le(event.load(Ordering::Relaxed));
            passed(event, published as u16, signalled as u16)
        } else {
            let flags = self.word(self.avail, 0).load(Ordering::Relaxed);
            u16::from_le(flags) & SUPPRESS == 0
        }
    }

    fn disable_kicks(&self, at: Spot) {
        if self.event_idx {
            // There is no "never": the index just passed comes round again after 65,535 chains.
            let never = at.index.wrapping_sub(1);
            let word = self.avail_event();
            self.word(self.used, word)
                .store(never.to_le(), Ordering::Relaxed);
            self.marks.mark(2 * word as u64, 2);
        } else {
            self.word(self.used, 0)
                .store(SUPPRESS.to_le(), Ordering::Relaxed);
            self.marks.mark(0, 2);
        }
    }

    fn enable_kicks(&self, at: Spot) {
        if self.event_idx {
            let word = self.avail_event();
            self.word(self.used, word)
                .store(at.index.to_le(), Ordering::Relaxed);
            self.marks.mark(2 * word as u64, 2);
        } else {
            self.word(self.used, 0).store(0, Ordering::Relaxed);
            self.marks.mark(0, 2);
        }
    }
}
