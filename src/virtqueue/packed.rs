//! The packed format: one ring of descriptors that both sides write, and two event suppression
//! structures (VIRTIO 1.2, 2.8).
//!
//! A descriptor is available when its AVAIL flag equals the wrap counter of our position and its USED
//! flag does not; it is used when both equal it. Flags are the last thing either side writes. Chains
//! take consecutive descriptors, and come back as one descriptor at the place of their first.
//!
//! What a chain leaves behind in its other places still looks like it did when it was available, so
//! a position cannot be found by looking: it has to be known when a ring starts. It is kept in
//! [`positions`](super::positions).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use super::descriptor::{DESCRIPTOR, Descriptor, INDIRECT, NEXT, Table, WRITE};
use super::error::{Part, Place, RingError};
use super::format::{Cursor, Format, Single, Sink, Spot, Stop, Take, Used};
use super::memory::GuestMemory;
use super::positions::{Identity, Kept, Positions, RingPosition};
use super::ring::{Area, MAX_HEADER, Marks, RingConfig};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// `RING_EVENT_FLAGS_*`.
const EVENTS_ENABLE: u16 = 0;
const EVENTS_DISABLE: u16 = 1;
const EVENTS_DESC: u16 = 2;

/// Pointers into one packed ring.
#[derive(Debug)]
pub(super) struct Packed {
    size: u16,
    indirect: bool,
    event_idx: bool,
    /// What used descriptors have set beside AVAIL and USED: WRITE, where the device writes.
    written: u16,
    /// `size` descriptors.
    desc: *mut u8,
    /// Position, then flags: when the guest wants to be called.
    driver: *mut u32,
    /// Position, then flags: when we want to be kicked.
    device: *mut u32,
    desc_marks: Marks,
    device_marks: Marks,
    position: RingPosition,
    identity: Identity,
}

/// How the places of a ring look.
struct Look {
    /// What is available in a round with the wrap counter set is a first part of the ring.
    begun: bool,
    /// A place was used in such a round.
    used: bool,
    /// A place was used in such a round, or is available in the next.
    passed: bool,
    /// Places that are not available in such a round.
    vacant: u16,
    /// How many of these have an address: a driver that begins anew has zeroed them, and is about to write one.
    addresses: u16,
}

/// The position beside [`EVENTS_ENABLE`], where it means nothing: so the structure is never zero while we use it.
const UNUSED_POSITION: u16 = u16::MAX;

impl Packed {
    /// `writes` says whether the device writes to the buffers of this ring.
    pub fn new(
        config: &RingConfig,
        memory: &GuestMemory,
        marks: &Marks,
        writes: bool,
    ) -> Result<Packed, RingError> {
        let area = |part, address, align, len| {
            Area {
                part,
                address,
                align,
                len,
            }
            .locate(memory)
        };
        let len = DESCRIPTOR * usize::from(config.size);
        let (desc, desc_guest) = area(Part::Descriptors, config.desc, 16, len)?;
        let (driver, _) = area(Part::Available, config.avail, 4, 4)?;
        let (device, device_guest) = area(Part::Used, config.used, 4, 4)?;
        Ok(Packed {
            size: config.size,
            indirect: config.features.indirect,
            event_idx: config.features.event_idx,
            written: if writes { WRITE } else { 0 },
            desc,
            driver: driver.cast(),
            device: device.cast(),
            // Front ends log one address for "the used ring"; here it is two places.
            desc_marks: marks.at(desc_guest),
            device_marks: marks.at(device_guest),
            position: match &config.position {
                Some(position) => position.clone(),
                None => Arc::new(Positions::in_process(1)).ring(0),
            },
            identity: identity(config, memory),
        })
    }

    /// Where a ring starts of which the front end says that it stands at `base`; `None` if it has no such place.
    ///
    /// A front end that has lost its back end says what it said before (QEMU), and so does one whose driver has
    /// begun anew meanwhile, if both are the start. The ring tells these apart, and often tells that what is said is
    /// out of date where nothing is remembered.
    pub fn resume(&self, base: u32) -> Result<Option<Spot>, RingError> {
        let said = said(base);
        if said.index >= self.size {
            return Ok(None);
        }
        let kept = self.position.recall(&self.identity);
        let kept = kept.filter(|kept| kept.base == base);
        let right = if said == Spot::START {
            let look = self.look();
            match kept {
                Some(kept) => {
                    let looks_new = look.begun && !look.passed && look.addresses <= 1;
                    // A full ring looks the same, and so does one in which nothing was used, while the first
                    // publication may be on its way.
                    let is_new = look.vacant > look.addresses && kept.from != Spot::START;
                    looks_new && (is_new || self.is_untouched())
                }
                None => look.begun && !look.used,
            }
        } else {
            kept.is_none() && !self.is_used(said)
        };
        match kept {
            _ if right => Ok(Some(said)),
            Some(kept) => self.recover(kept).map(Some),
            None => Err(RingError::PositionLost),
        }
    }

    /// The ring runs from `spot` on.
    pub fn begin(&self, base: u32, spot: Spot) {
        self.position.begin(&self.identity, base, spot);
        // Later, for a ring that is touched goes on where the record says.
        fence(Ordering::Release);
        self.enable_kicks(spot);
    }

    /// Whether nobody has served the ring since its driver made it: drivers (Linux, DPDK) zero the structure that
    /// only the device writes together with the ring, and ours is never zero.
    fn is_untouched(&self) -> bool {
        self.events(self.device).load(Ordering::Relaxed) == 0
    }

    /// Takes over from the window before.
    pub fn succeed(&mut self, before: &Packed) {
        self.position = before.position.clone();
        if self.identity != before.identity {
            self.position.identify(&self.identity);
        }
    }

    /// Where a ring goes on whose last publication was this one, which is finished if it was begun.
    fn recover(&self, kept: Kept) -> Result<Spot, RingError> {
        let Kept { from, to, .. } = kept;
        if from.index >= self.size || to.index >= self.size {
            return Err(RingError::PositionLost);
        }
        if from != to && !self.was_used(from) {
            // Elements behind the first may be in the ring, which the guest does not see yet.
            self.show(from, to);
        }
        Ok(to)
    }

    /// Looks at all places, for whether the ring is at the start of a round with the wrap counter set.
    fn look(&self) -> Look {
        let mut look = Look {
            begun: true,
            used: false,
            passed: false,
            vacant: 0,
            addresses: 0,
        };
        // The driver may be about to write the flags of one chain's first descriptor.
        let (mut gap, mut gaps, mut blank) = (0, 0, true);
        for index in 0..self.size {
            let flags = u16::from_le(self.flags(index).load(Ordering::Acquire));
            let (avail, used) = (flags & AVAIL != 0, flags & USED != 0);
            look.used |= avail && used;
            look.passed |= used;
            if !avail {
                gap += 1;
                blank &= !used;
                look.vacant += 1;
                look.addresses += u16::from(self.addr(index) != 0);
            } else if gap != 0 {
                gaps += 1;
                look.begun &= gap == 1 && gaps == 1 && blank;
                gap = 0;
            }
        }
        look
    }

    /// Whether the place was used in the round of `spot`, and may be available in the next. Only for a place
    /// that begins a publication: of others the driver alone writes the flags.
    fn was_used(&self, spot: Spot) -> bool {
        let flags = u16::from_le(self.flags(spot.index).load(Ordering::Acquire));
        (flags & USED != 0) == spot.wrap
    }

    /// Whether the place is used in the round of `spot`.
    fn is_used(&self, spot: Spot) -> bool {
        let flags = u16::from_le(self.flags(spot.index).load(Ordering::Acquire));
        (flags & USED != 0) == spot.wrap && (flags & AVAIL != 0) == spot.wrap
    }

    /// A count of slots that leads to `spot`: they run through two rounds of the ring, the first with
    /// the wrap counter set.
    pub fn count(&self, spot: Spot) -> u64 {
        let round = if spot.wrap { 0 } else { self.size };
        u64::from(round) + u64::from(spot.index)
    }

    /// Pointer to byte `offset` of descriptor `index`.
    #[inline]
    fn at(&self, index: u16, offset: usize) -> *mut u8 {
        debug_assert!(index < self.size && offset < DESCRIPTOR);
        // SAFETY: `desc` is mapped for `size` descriptors while the ring's memory lives; spots are
        // below `size` by `spot` and `advance`.
        unsafe { self.desc.add(usize::from(index) * DESCRIPTOR + offset) }
    }

    /// Length, id and flags of a descriptor, which the guest accesses at the same time.
    #[inline]
    fn tail(&self, index: u16) -> &AtomicU64 {
        // SAFETY: within the ring, see `at`; aligned to 8, because `desc` is to 16.
        #[allow(clippy::cast_ptr_alignment)]
        unsafe {
            AtomicU64::from_ptr(self.at(index, 8).cast())
        }
    }

    /// Flags of a descriptor.
    #[inline]
    fn flags(&self, index: u16) -> &AtomicU16 {
        // SAFETY: within the ring, see `at`; aligned to 2, because `desc` is to 16.
        #[allow(clippy::cast_ptr_alignment)]
        unsafe {
            AtomicU16::from_ptr(self.at(index, 14).cast())
        }
    }

    /// One of the event suppression structures.
    #[inline]
    fn events(&self, area: *mut u32) -> &AtomicU32 {
        debug_assert!(area == self.driver || area == self.device);
        // SAFETY: both areas are mapped for 4 bytes and aligned to 4, checked by `new`.
        unsafe { AtomicU32::from_ptr(area) }
    }

    #[inline]
    fn addr(&self, index: u16) -> u64 {
        // SAFETY: within the ring, see `at`; aligned to 8, because `desc` is to 16. Volatile: the guest
        // may write meanwhile, and we want one value.
        #[allow(clippy::cast_ptr_alignment)]
        u64::from_le(unsafe { self.at(index, 0).cast::<u64>().read_volatile() })
    }

    /// The descriptor at `spot` if it is available.
    #[inline]
    fn first(&self, spot: Spot) -> Option<Descriptor> {
        // Acquire: what the guest wrote before the flags, in this and in the chain's other
        // descriptors, is visible after this. Length and id come with the flags, in one load.
        let tail = u64::from_le(self.tail(spot.index).load(Ordering::Acquire));
        is_available((tail >> 48) as u16, spot.wrap)
            .then(|| Descriptor::packed((self.addr(spot.index), tail)))
    }

    /// Walks the chain whose first descriptor is `first`, at `at`; returns its id and slots.
    #[inline]
    fn walk<const W: bool>(
        &self,
        at: u16,
        first: Descriptor,
        sink: &mut Sink<'_, '_, W>,
    ) -> Result<(u16, u16), Stop> {
        let (mut d, mut index, mut slots) = (first, at, 1);
        loop {
            if d.flags & INDIRECT != 0 {
                sink.aside(|sink| self.walk_table(index, d, slots, sink))?;
                return Ok((d.extra, slots));
            }
            // A satisfied walk goes on for the number of slots, and the id that is in the last.
            if !sink.satisfied() {
                sink.push(d.addr, d.len, d.flags & WRITE != 0, Place::Ring(index))?;
            }
            if d.flags & NEXT == 0 {
                return Ok((d.extra, slots));
            }
            if slots == self.size {
                return Err(self.too_long(at).into());
            }
            slots += 1;
            index = if index + 1 == self.size { 0 } else { index + 1 };
            let tail = u64::from_le(self.tail(index).load(Ordering::Relaxed));
            d = Descriptor::packed((self.addr(index), tail));
        }
    }

    /// Walks the indirect table of descriptor `of`: its entries follow one another.
    fn walk_table<const W: bool>(
        &self,
        of: u16,
        d: Descriptor,
        slots: u16,
        sink: &mut Sink<'_, '_, W>,
    ) -> Result<(), Stop> {
        let table = Table::find(sink, d, of, self.indirect, self.size)?;
        if table.entries > self.size - (slots - 1) {
            return Err(self.too_long(of).into());
        }
        for entry in 0..table.entries {
            if sink.satisfied() {
                break;
            }
            let d = Descriptor::packed(table.words(entry));
            let place = Place::Indirect { of, entry };
            // Of the other flags WRITE alone means something here (VIRTIO 1.2, 2.8.7).
            if d.flags & INDIRECT != 0 {
                return Err(RingError::IndirectNested { place }.into());
            }
            sink.push(d.addr, d.len, d.flags & WRITE != 0, place)?;
        }
        Ok(())
    }

    #[cold]
    fn too_long(&self, head: u16) -> RingError {
        RingError::ChainLength {
            head,
            limit: self.size,
        }
    }

    /// Flags of a used descriptor in the round that `spot` is in.
    #[inline]
    fn used_flags(&self, spot: Spot) -> u16 {
        self.written | if spot.wrap { AVAIL | USED } else { 0 }
    }

    /// Length, id and flags of a used descriptor.
    #[inline]
    fn used_tail(&self, spot: Spot, used: Used) -> u64 {
        let flags = self.used_flags(spot);
        (u64::from(used.written) | u64::from(used.id) << 32 | u64::from(flags) << 48).to_le()
    }

    /// How many slots it is from one spot to another, at most a round.
    fn distance(&self, from: Spot, to: Spot) -> u16 {
        if from.wrap == to.wrap {
            to.index.saturating_sub(from.index)
        } else {
            (self.size - from.index + to.index).min(self.size)
        }
    }

    /// Writes the elements that were noted from `from` to `to`, the first last: when the guest sees it, it sees
    /// all of them.
    #[inline]
    fn show(&self, from: Spot, to: Spot) {
        let mut left = self.distance(from, to);
        // The file of positions is ours, but this must end whatever becomes of it.
        let noted = |spot: Spot, left| {
            let used = self.position.noted(spot.index);
            (self.used_tail(spot, used), used.slots.clamp(1, left))
        };
        let (first, mut slots) = noted(from, left.max(1));
        let mut spot = from;
        loop {
            left = left.saturating_sub(slots);
            if left == 0 {
                break;
            }
            spot = self.advance(spot, slots);
            let tail;
            (tail, slots) = noted(spot, left);
            self.tail(spot.index).store(tail, Ordering::Relaxed);
        }
        // Release: payload and the other elements become visible before this does.
        self.tail(from.index).store(first, Ordering::Release);
        if self.desc_marks.on() {
            self.mark(from, to);
        }
    }

    /// Marks what `show` has written.
    fn mark(&self, from: Spot, to: Spot) {
        let mark = |from: u16, to: u16| {
            let (from, to) = (u64::from(from), u64::from(to));
            let size = DESCRIPTOR as u64;
            self.desc_marks.mark(size * from, size * (to - from));
        };
        if from.wrap == to.wrap {
            mark(from.index, to.index);
        } else {
            mark(from.index, self.size);
            mark(0, to.index);
        }
    }

    fn set_events(&self, position: u16, flags: u16) {
        let value = u32::from(position) | u32::from(flags) << 16;
        self.events(self.device)
            .store(value.to_le(), Ordering::Relaxed);
        self.device_marks.mark(0, 4);
    }
}

impl Format for Packed {
    #[inline]
    fn take<const W: bool>(
        &self,
        cursor: &mut Cursor,
        sink: &mut Sink<'_, '_, W>,
    ) -> Result<Take, RingError> {
        let index = cursor.spot.index;
        let Some(first) = self.first(cursor.spot) else {
            return Ok(Take::Empty);
        };
        match self.walk(index, first, sink) {
            Ok((id, slots)) => {
                cursor.spot = self.advance(cursor.spot, slots);
                Ok(Take::Chain(Used {
                    id,
                    slots,
                    written: 0,
                }))
            }
            Err(Stop::NoRoom) => Ok(Take::NoRoom(index)),
            Err(Stop::Bad(error)) => Err(error),
        }
    }

    #[inline]
    fn reach(&self, cursor: Cursor) -> u16 {
        self.size - cursor.spot.index
    }

    #[inline]
    fn single<const W: bool>(&self, cursor: Cursor, ahead: u16) -> Option<Single> {
        let Spot { index, wrap } = cursor.spot;
        let index = index + ahead;
        // Acquire: as in `first`.
        let tail = u64::from_le(self.tail(index).load(Ordering::Acquire));
        let expected = if wrap { AVAIL } else { USED } | if W { WRITE } else { 0 };
        let flags = (tail >> 48) as u16 & (AVAIL | USED | NEXT | INDIRECT | WRITE);
        if flags != expected {
            return None;
        }
        let d = Descriptor::packed((self.addr(index), tail));
        Some(Single {
            addr: d.addr,
            len: d.len,
            id: d.extra,
        })
    }

    #[inline]
    fn is_silent(&self, at: Spot) -> bool {
        let flags = u16::from_le(self.flags(at.index).load(Ordering::Acquire));
        !is_available(flags, at.wrap)
    }

    fn available(&self, cursor: &mut Cursor) -> Result<bool, RingError> {
        Ok(!self.is_silent(cursor.spot))
    }

    #[inline]
    fn advance(&self, spot: Spot, slots: u16) -> Spot {
        let index = spot.index + slots;
        if index >= self.size {
            Spot {
                index: index - self.size,
                wrap: !spot.wrap,
            }
        } else {
            Spot {
                index,
                wrap: spot.wrap,
            }
        }
    }

    #[inline]
    fn fill(&self, at: Spot, chains: impl Iterator<Item = Used>) {
        let mut spot = at;
        for chain in chains {
            self.position.note(spot.index, chain);
            spot = self.advance(spot, chain.slots);
        }
    }

    #[inline]
    fn publish(&self, from: Spot, to: Spot) {
        self.position.move_to(from, to);
        self.show(from, to);
    }

    /// Nothing: the guest looks at that very place again and again.
    fn expect_used(&self, _: Spot) {}

    /// Nothing: it is where the cursor stands.
    fn expect_next(&self, _: Spot, _: u16) {}

    fn wants_call(&self, signalled: u64, published: u64) -> bool {
        let events = u32::from_le(self.events(self.driver).load(Ordering::Relaxed));
        let (position, flags) = (events as u16, (events >> 16) as u16);
        match flags {
            EVENTS_DISABLE => false,
            EVENTS_DESC if self.event_idx => {
                // Whether the slot was among those published since (VIRTIO 1.2, 2.8.10).
                let rounds = 2 * u64::from(self.size);
                let event = self.count(Spot::from_bits(position)) % rounds;
                (published + rounds - 1 - event) % rounds < published - signalled
            }
            _ => true,
        }
    }

    fn disable_kicks(&self, at: Spot) {
        self.set_events(at.to_bits(), EVENTS_DISABLE);
    }

    fn enable_kicks(&self, at: Spot) {
        if self.event_idx {
            self.set_events(at.to_bits(), EVENTS_DESC);
        } else {
            self.set_events(UNUSED_POSITION, EVENTS_ENABLE);
        }
    }
}

fn is_available(flags: u16, wrap: bool) -> bool {
    (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
}

/// Where a front end says that a ring stands: at its used position, if it says that. DPDK, as either end, speaks of
/// the available position alone. All of our own are equal, as nothing is on the way when a ring stops.
fn said(base: u32) -> Spot {
    match (base >> 16) as u16 {
        0 => Spot::from_bits(base as u16),
        used => Spot::from_bits(used),
    }
}

fn identity(config: &RingConfig, memory: &GuestMemory) -> Identity {
    let features = &config.features;
    let bits = [
        features.indirect,
        features.event_idx,
        features.in_order,
        features.mergeable,
        features.header_len == MAX_HEADER,
    ];
    let shape = bits
        .iter()
        .fold(0, |shape, &bit| shape << 1 | u64::from(bit));
    let (file, offset) = memory.origin(config.desc).unwrap_or_default();
    Identity {
        device: file.device,
        inode: file.inode,
        offset,
        shape: shape << 16 | u64::from(config.size),
    }
}
