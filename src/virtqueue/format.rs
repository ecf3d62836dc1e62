//! What the split and the packed format have in common, as the ring code sees them.
//!
//! A [`Format`] is a window on one ring in guest memory: pointers that were checked at activation,
//! and no position of its own. Positions are passed in and out, so that they can live under a ring's
//! lock and outlast a change of the memory table. Everything it reads is the guest's: read once,
//! checked, and answered with an error when it is impossible.

use arrayvec::ArrayVec;

use super::copy::Segment;
use super::error::{Place, RingError};
use super::memory::Lookup;
pub(super) use super::spot::{Cursor, Spot};
use crate::sys::cache;

/// How many segments a batch holds. At least [`MAX_QUEUE_SIZE`](super::MAX_QUEUE_SIZE), so that any
/// chain within one region fits alone.
pub(super) const MAX_SEGMENTS: usize = 1024;

/// Segments of a batch.
pub(super) type Segments<'m> = ArrayVec<Segment<'m>, MAX_SEGMENTS>;

/// A chain as it is given back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    /// Head descriptor (split) or buffer id (packed).
    pub id: u16,
    /// Ring slots that the chain takes: 1 in a split ring.
    pub slots: u16,
    /// Bytes that the device wrote.
    pub written: u32,
}

/// A chain of one buffer, as it lies in the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single {
    pub addr: u64,
    pub len: u32,
    /// As in [`Used`].
    pub id: u16,
}

/// What taking the next chain came to.
#[derive(Debug)]
pub(super) enum Take {
    /// A valid chain; its segments were appended to the sink. `written` is 0.
    Chain(Used),
    /// There is none.
    Empty,
    /// There is one, starting at this descriptor, but the batch has no room for its segments.
    NoRoom(u16),
}

/// One ring format. `WRITE` says which way buffers go: true for RX, where the device writes.
pub(super) trait Format {
    /// Walks the chain at the cursor and moves the cursor behind it.
    fn take<const WRITE: bool>(
        &self,
        cursor: &mut Cursor,
        sink: &mut Sink<'_, '_, WRITE>,
    ) -> Result<Take, RingError>;

    /// How many chains from the cursor on [`Format::single`] may be asked for.
    fn reach(&self, cursor: Cursor) -> u16;

    /// The buffer of the chain `ahead` places behind the cursor, fewer than [`Format::reach`] says, if the chain is
    /// available, has no other descriptor, and goes the way that `WRITE` says. Moves nothing and checks no more than
    /// that.
    fn single<const WRITE: bool>(&self, cursor: Cursor, ahead: u16) -> Option<Single>;

    /// Whether the ring looks as it does while no chain is available at the next spot to take.
    fn is_silent(&self, at: Spot) -> bool;

    /// Whether a chain is available at the cursor.
    fn available(&self, cursor: &mut Cursor) -> Result<bool, RingError>;

    /// The spot `slots` further.
    fn advance(&self, spot: Spot, slots: u16) -> Spot;

    /// Prepares used elements from `at` on, without making them visible.
    fn fill(&self, at: Spot, chains: impl Iterator<Item = Used>);

    /// Makes the elements from `from` to `to` visible to the guest.
    fn publish(&self, from: Spot, to: Spot);

    /// Whether the guest wants a call for `published`, having been told of `signalled`; both count
    /// slots. The caller has issued a full fence after the last publication.
    fn wants_call(&self, signalled: u64, published: u64) -> bool;

    /// Hints that the used element at `at` is about to be written.
    fn expect_used(&self, at: Spot);

    /// Hints that the chain at `at` is about to be taken; the one before it was `id`.
    fn expect_next(&self, at: Spot, id: u16);

    /// Asks the guest not to kick. `at` is the next spot to take.
    fn disable_kicks(&self, at: Spot);

    /// Asks the guest to kick when a chain appears at `at`.
    fn enable_kicks(&self, at: Spot);
}

/// Collects the segments of a chain while it is walked.
pub(super) struct Sink<'s, 'm, const WRITE: bool> {
    state: SinkState<'m>,
    segments: &'s mut Segments<'m>,
}

#[derive(Clone, Copy)]
struct SinkState<'m> {
    lookup: Lookup<'m>,
    /// Bytes of the chain so far.
    len: u64,
    /// Bytes of the chain that are wanted; the walk may stop there.
    want: u64,
}

/// Why a walk ended early.
pub(super) enum Stop {
    /// The batch is full.
    NoRoom,
    /// The guest is at fault.
    Bad(RingError),
}

impl From<RingError> for Stop {
    fn from(error: RingError) -> Stop {
        Stop::Bad(error)
    }
}

impl<'s, 'm, const WRITE: bool> Sink<'s, 'm, WRITE> {
    #[inline]
    pub fn new(lookup: Lookup<'m>, segments: &'s mut Segments<'m>) -> Self {
        let state = SinkState {
            lookup,
            len: 0,
            want: u64::MAX,
        };
        Sink { state, segments }
    }

    /// Starts a chain of which `want` bytes will be used.
    #[inline]
    pub fn begin(&mut self, want: u64) {
        self.state.len = 0;
        self.state.want = want;
    }

    /// Bytes collected since `begin`.
    #[inline]
    pub fn len(&self) -> u64 {
        self.state.len
    }

    /// Segments collected since the batch was empty.
    #[inline]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Forgets the segments from index `count` on.
    #[inline]
    pub fn truncate(&mut self, count: usize) {
        self.segments.truncate(count);
    }

    #[inline]
    pub fn hint(&self) -> usize {
        self.state.lookup.hint()
    }

    /// Whether the chain has as many bytes as are wanted, so that the rest of it need not be read.
    #[inline]
    pub fn satisfied(&self) -> bool {
        WRITE && self.state.len >= self.state.want
    }

    /// Runs a rare path on a copy of this sink. The address of the copy may go where it likes, so
    /// that of the original does not, and the usual path keeps its fields in registers.
    #[inline]
    pub fn aside<R>(&mut self, path: impl FnOnce(&mut Sink<'_, 'm, WRITE>) -> R) -> R {
        let mut copy = Sink {
            state: self.state,
            segments: &mut *self.segments,
        };
        let result = path(&mut copy);
        self.state = copy.state;
        result
    }

    /// Takes at most `room` chains from the cursor on that are of the simplest kind, as most are: one buffer, in the
    /// same region as the last. Each is shown to `accept`, which says how many of its bytes are used, at least one, or that
    /// it is not taken. Returns how many. It ends before the first that is none or not taken, and [`Format::take`] looks
    /// at that as if nobody had.
    ///
    /// `accept` is called with the numbers 0, 1 and so on below `room`, each once, and no more after it has said no. Taken
    /// are exactly those to which it has said yes. `hint` is called with where each of these begins.
    #[inline]
    pub fn take_singles<F: Format>(
        &mut self,
        format: &F,
        cursor: &mut Cursor,
        room: usize,
        hint: impl Fn(*mut u8),
        mut accept: impl FnMut(usize, Single) -> Option<u32>,
    ) -> usize {
        let at = *cursor;
        let lookup = self.state.lookup;
        let room = room
            .min(self.segments.remaining_capacity())
            .min(format.reach(at).into());
        let first = self.segments.len();
        let places = self.segments.as_mut_ptr().wrapping_add(first);
        let mut count = 0;
        while count < room {
            let Some(single) = format.single::<WRITE>(at, count as u16) else {
                break;
            };
            let Single { addr, len, .. } = single;
            let Some(ptr) = lookup.find_here(addr, len) else {
                break;
            };
            let Some(used) = accept(count, single) else {
                break;
            };
            hint(ptr);
            // SAFETY: `ptr` was just looked up for `len` bytes, of which no more are used, in the memory that `lookup`
            // borrows for `'m`. There are no more rounds than `segments` has room behind its `first` elements.
            unsafe {
                let segment = Segment::new(ptr, used.min(len), addr);
                places.add(count).write(segment);
            }
            count += 1;
        }
        // SAFETY: `count` elements were written behind the `first`.
        unsafe { self.segments.set_len(first + count) };
        cursor.spot = format.advance(at.spot, count as u16);
        count
    }

    /// Adds one buffer. Bytes beyond those wanted are checked but not collected.
    #[inline]
    pub fn push(
        &mut self,
        address: u64,
        len: u32,
        writable: bool,
        place: Place,
    ) -> Result<(), Stop> {
        if writable != WRITE {
            return Err(wrong_direction::<WRITE>(place).into());
        }
        if len == 0 {
            return Err(RingError::ZeroLength { place }.into());
        }
        match self.state.lookup.find(address, len) {
            Some((ptr, here)) if here == len => self.add(ptr, len, address),
            Some(_) => self.aside(|sink| sink.push_across(address, len, place)),
            None => Err(RingError::Outside {
                place,
                address,
                len,
            }
            .into()),
        }
    }

    /// A buffer that continues in the region behind.
    #[cold]
    fn push_across(&mut self, address: u64, len: u32, place: Place) -> Result<(), Stop> {
        let mut done = 0;
        while done < len {
            let (next, ptr, here) = address
                .checked_add(u64::from(done))
                .and_then(|next| {
                    let (ptr, here) = self.state.lookup.find(next, len - done)?;
                    Some((next, ptr, here))
                })
                .ok_or(RingError::Outside {
                    place,
                    address,
                    len,
                })?;
            if !self.satisfied() {
                self.add(ptr, here, next)?;
            }
            done += here;
        }
        Ok(())
    }

    #[inline]
    fn add(&mut self, ptr: *mut u8, len: u32, guest: u64) -> Result<(), Stop> {
        let used = if WRITE {
            u64::from(len).min(self.state.want - self.state.len) as u32
        } else {
            len
        };
        self.state.len += u64::from(used);
        prefetch::<WRITE>(ptr);
        // SAFETY: `ptr` was just looked up for at least `used` bytes in the memory that `lookup`
        // borrows for `'m`.
        let segment = unsafe { Segment::new(ptr, used, guest) };
        self.segments.try_push(segment).map_err(|_| Stop::NoRoom)
    }

    /// A contiguous piece of guest memory that is no buffer: an indirect table.
    #[inline]
    pub fn table(&mut self, address: u64, len: u32) -> Option<*const u8> {
        match self.state.lookup.find(address, len) {
            Some((ptr, here)) if here == len => Some(ptr.cast_const()),
            _ => None,
        }
    }
}

#[cold]
fn wrong_direction<const WRITE: bool>(place: Place) -> RingError {
    if WRITE {
        RingError::Readable { place }
    } else {
        RingError::Writable { place }
    }
}

/// Hints that the first bytes of a buffer are about to be read, or written.
#[inline]
pub(super) fn prefetch<const WRITE: bool>(ptr: *mut u8) {
    cache::prefetch::<WRITE>(ptr);
    cache::prefetch::<WRITE>(ptr.wrapping_add(cache::LINE));
}

/// `vring_need_event` of VIRTIO 1.2, 2.7.10: whether moving from `old` to `new` passed `event`.
#[inline]
pub(super) fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
