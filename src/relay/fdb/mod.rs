//! The filtering database: which address is behind which port (§4).
//!
//! Purpose: learned and static addresses by (FID, MAC), and the addresses that ports without
//! configured ones pinned at first sight, by MAC alone. Addresses registered by configuration are
//! in the relay's own tables.
//!
//! Invariants:
//! - A key has at most one entry, and static entries never move.
//! - A learned entry counts at its port and in the relay from insertion until it is removed, even
//!   when it has aged out unnoticed in between; [`Fdb::sweep`] finds those.
//! - What a port learned before it went down is never seen again, although it is removed lazily:
//!   entries carry the port's generation.
//! - Memory is fixed at creation, below 32 bytes an entry, and costs nothing until touched.
//!
//! Threads: look-up and refresh are lock-free; learning takes the locks of two buckets.
//!
//! Does not know: VLANs, modes, and whether ports are up.

mod entry;
mod pins;
mod seats;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};

pub use entry::{Entry, EntryKind};
use entry::{Value, entry_key};
use seats::Seats;
pub(super) use table::Expected;
use table::{Bound, Place, Table};

use super::Seconds;
use super::port::{MAX_PORTS, Slot};
use crate::frame::mac::Mac;

/// A filtering identifier: VLANs with the same one learn together. 0 in a flat relay.
pub(super) type Fid = u16;

/// What became of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learning {
    /// It was there already.
    Known,
    /// It is new.
    New,
    /// It was at another port.
    Moved,
    /// It stays at another port, because it moved too often.
    Damped,
    /// It belongs to another port by a static entry.
    Taken,
    /// The port has as many as it may.
    PortLimit,
    /// The relay has as many as it may.
    RelayLimit,
    /// Learning is off.
    Off,
}

impl Learning {
    /// Whether the address was to be learned and could not be.
    pub(super) fn is_refused(self) -> bool {
        matches!(
            self,
            Learning::Damped | Learning::PortLimit | Learning::RelayLimit
        )
    }
}

/// What is known of an address that was seen within this second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fresh(Value);

/// Entries whose cache lines, about one for each, are 1 MiB: what a processor has for itself.
const LARGE: i64 = (1 << 20) / 64;

/// The filtering database of one relay.
#[derive(Debug)]
pub struct Fdb {
    table: Table,
    seats: Seats,
    /// Learned entries of current generations, and static ones.
    len: AtomicI64,
    max_entries: AtomicU32,
    ageing: AtomicU32,
    pins: AtomicUsize,
    pin_lock: Mutex<()>,
    cursor: AtomicUsize,
}

impl Fdb {
    /// An empty database with room for `max_entries` learned and static addresses.
    pub fn new(max_entries: u32) -> Fdb {
        Fdb {
            // Two choices among buckets of eight: at four sevenths full, that both are full has no
            // noticeable probability.
            table: Table::new(max_entries as usize * 7 / 4 + MAX_PORTS),
            seats: Seats::new(),
            len: AtomicI64::new(0),
            max_entries: AtomicU32::new(max_entries),
            ageing: AtomicU32::new(super::DEFAULT_AGEING),
            pins: AtomicUsize::new(0),
            pin_lock: Mutex::new(()),
            cursor: AtomicUsize::new(0),
        }
    }

    /// Takes over what a new configuration says.
    pub(super) fn configure(&self, ageing: Seconds, max_entries: u32) {
        self.ageing.store(ageing, Ordering::Relaxed);
        self.max_entries.store(max_entries, Ordering::Relaxed);
    }

    /// Number of learned and static addresses.
    pub fn len(&self) -> usize {
        usize::try_from(self.len.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether there are no learned or static addresses.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of addresses that a port has learned.
    pub fn learned_by(&self, slot: Slot) -> usize {
        self.seats.count(slot) as usize
    }

    /// Bytes of memory it occupies once all of it has been touched.
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.seats.bytes() + size_of::<Fdb>()
    }

    /// The live entries, as they are met: those added meanwhile may be missing.
    pub fn entries(&self, now: Seconds) -> impl Iterator<Item = Entry> {
        self.table
            .iter()
            .filter(move |(_, value)| self.alive(*value, now))
            .map(move |(key, value)| Entry::new(key, value, now))
    }

    /// Forgets the learned entries that `filter` picks; how many.
    pub fn flush(&self, now: Seconds, filter: impl Fn(&Entry) -> bool) -> usize {
        self.remove_where(0..self.table.buckets(), |key, value| {
            value.kind() == EntryKind::Learned
                && (!self.alive(value, now) || filter(&Entry::new(key, value, now)))
        })
    }

    /// Removes entries that have aged out, looking at the next `budget` buckets of eight; how many.
    /// Until then they count against the limits. Looking at all of [`Fdb::buckets`] once a second
    /// is cheap for the default size.
    pub fn sweep(&self, now: Seconds, budget: usize) -> usize {
        let buckets = self.table.buckets();
        let budget = budget.min(buckets);
        let start = self.cursor.load(Ordering::Relaxed);
        self.cursor
            .store((start + budget) % buckets, Ordering::Relaxed);
        let range = (start..start + budget).map(|bucket| bucket % buckets);
        self.remove_where(range, |_, value| !self.alive(value, now))
    }

    /// Number of buckets, for [`Fdb::sweep`].
    pub fn buckets(&self) -> usize {
        self.table.buckets()
    }

    /// Whether there are more entries than the caches that are near hold, so that to [`expect`](Fdb::expect) the
    /// addresses of a burst pays.
    #[inline]
    pub(super) fn is_large(&self) -> bool {
        self.len.load(Ordering::Relaxed) > LARGE
    }

    /// Hints that `mac` is about to be looked up.
    #[inline]
    pub(super) fn expect(&self, fid: Fid, mac: Mac) -> Expected {
        self.table.prefetch(entry_key(fid, mac))
    }

    /// The same again, some time later, for what is not where most are: an address that is new is nowhere.
    #[inline]
    pub(super) fn expect_farther(&self, expected: Expected) {
        self.table.prefetch_farther(expected);
    }

    /// Where `mac` is in this FID.
    #[inline]
    pub(super) fn lookup(&self, fid: Fid, mac: Mac, now: Seconds) -> Option<(Slot, EntryKind)> {
        let (_, value) = self.table.find(entry_key(fid, mac))?;
        self.alive(value, now).then(|| (value.slot(), value.kind()))
    }

    /// What the entry of an address says that `slot` has used within the second `now`; `None` where
    /// nothing is learned.
    #[inline]
    pub(super) fn fresh(&self, slot: Slot, now: Seconds) -> Option<Fresh> {
        let learns = self.ageing.load(Ordering::Relaxed) != 0;
        learns.then(|| Fresh(Value::learned(slot, self.seats.generation(slot), now)))
    }

    /// Whether learning `mac` would change nothing, not even its time.
    #[inline]
    pub(super) fn is_fresh(&self, fid: Fid, mac: Mac, fresh: Fresh) -> bool {
        self.table
            .find(entry_key(fid, mac))
            .is_some_and(|(_, value)| value.is_but_for_moves(fresh.0))
    }

    /// Notes that `mac` sent from `slot`, which may have learned up to `limit` addresses.
    #[inline]
    pub(super) fn learn(
        &self,
        fid: Fid,
        mac: Mac,
        slot: Slot,
        limit: u32,
        now: Seconds,
    ) -> Learning {
        let key = entry_key(fid, mac);
        let found = self.table.find(key);
        // The usual case: it has sent within this second.
        if let Some((_, value)) = found
            && let Some(fresh) = self.fresh(slot, now)
            && value.is_but_for_moves(fresh.0)
        {
            return Learning::Known;
        }
        self.refresh_or_learn(key, found, slot, limit, now)
    }

    /// The part of [`Fdb::learn`] for what was not seen within this second.
    #[inline(never)]
    fn refresh_or_learn(
        &self,
        key: u64,
        found: Option<(Place, Value)>,
        slot: Slot,
        limit: u32,
        now: Seconds,
    ) -> Learning {
        if let Some((place, value)) = found {
            if value.kind() == EntryKind::Static {
                return if value.slot() == slot {
                    Learning::Known
                } else {
                    Learning::Taken
                };
            }
            if value.slot() == slot && self.alive(value, now) {
                // A race lost means that someone else refreshed, moved or removed it.
                self.table.exchange(place, value, value.refreshed(now));
                return Learning::Known;
            }
        } else if self.seats.count(slot) >= limit && self.ageing.load(Ordering::Relaxed) != 0 {
            // A flood of addresses takes no locks.
            return Learning::PortLimit;
        }
        self.learn_slowly(key, slot, limit, now)
    }

    /// The part of [`Fdb::learn`] that changes more than a time stamp.
    fn learn_slowly(&self, key: u64, slot: Slot, limit: u32, now: Seconds) -> Learning {
        if self.ageing.load(Ordering::Relaxed) == 0 {
            return Learning::Off;
        }
        let bound = self.table.lock(key);
        while let Some((place, value)) = bound.find() {
            if value.kind() == EntryKind::Static {
                return if value.slot() == slot {
                    Learning::Known
                } else {
                    Learning::Taken
                };
            }
            if !self.alive(value, now) {
                self.remove(&bound, place);
            } else if value.slot() == slot {
                return Learning::Known;
            } else {
                let Some(moved) = value.moved(slot, now) else {
                    return Learning::Damped;
                };
                let Some(generation) = self.seats.take(slot, limit) else {
                    return Learning::PortLimit;
                };
                let moved = moved.with_generation(generation);
                if self.table.exchange(place, value, moved) {
                    self.seats.give_back(value.slot(), value.generation());
                    return Learning::Moved;
                }
                // Refreshed in between.
                self.seats.give_back(slot, generation);
            }
        }
        let Some(generation) = self.seats.take(slot, limit) else {
            return Learning::PortLimit;
        };
        let value = Value::learned(slot, generation, now);
        if !self.admit() {
            self.seats.give_back(slot, generation);
            return Learning::RelayLimit;
        }
        if !self.insert(&bound, value, now) {
            self.release(value);
            return Learning::RelayLimit;
        }
        Learning::New
    }

    /// Adds a static entry, or puts it in the place of what the address had; false if the relay is full and has no
    /// such place.
    pub(super) fn add_static(&self, fid: Fid, mac: Mac, slot: Slot) -> bool {
        let bound = self.table.lock(entry_key(fid, mac));
        let found = bound.find();
        let takes_place = found.is_some_and(|(place, _)| self.remove(&bound, place));
        if takes_place {
            // However few the relay may hold by now: it is not one more.
            self.len.fetch_add(1, Ordering::Relaxed);
        } else if !self.admit() {
            return false;
        }
        let value = Value::fixed(EntryKind::Static, slot);
        self.seats.take_static(slot);
        let added = self.insert(&bound, value, 0);
        if !added {
            self.release(value);
        }
        added
    }

    /// Removes a static entry; whether there was one.
    pub(super) fn remove_static(&self, fid: Fid, mac: Mac) -> bool {
        let bound = self.table.lock(entry_key(fid, mac));
        match bound.find() {
            Some((place, value)) if value.kind() == EntryKind::Static => {
                self.remove(&bound, place);
                true
            }
            _ => false,
        }
    }

    /// Forgets what a port has learned, at once and whatever the number of entries.
    pub(super) fn forget_learned(&self, slot: Slot) {
        if self.seats.generation_wraps(slot) {
            self.remove_where(0..self.table.buckets(), |_, value| {
                value.kind() == EntryKind::Learned && value.slot() == slot
            });
        }
        let forgotten = self.seats.next_generation(slot);
        self.len.fetch_sub(i64::from(forgotten), Ordering::Relaxed);
    }

    /// Removes the static entries of a port.
    pub(super) fn forget_static(&self, slot: Slot) {
        // A search through the whole table, which a daemon with many ports cannot afford for each.
        if !self.seats.has_static(slot) {
            return;
        }
        self.remove_where(0..self.table.buckets(), |_, value| {
            value.kind() == EntryKind::Static && value.slot() == slot
        });
    }

    /// Whether an entry still counts. Workers' clocks may differ by a second.
    #[inline]
    fn alive(&self, value: Value, now: Seconds) -> bool {
        if value.kind() != EntryKind::Learned {
            return true;
        }
        let ageing = self.ageing.load(Ordering::Relaxed);
        ageing != 0
            && now.saturating_sub(value.seconds()) <= ageing
            && value.generation() == self.seats.generation(value.slot())
    }

    /// Counts one more entry, unless the relay is full.
    fn admit(&self) -> bool {
        let max = i64::from(self.max_entries.load(Ordering::Relaxed));
        let one_more = |len: i64| (len < max).then_some(len + 1);
        self.len
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    /// Inserts where there is room or a dead entry.
    fn insert(&self, bound: &Bound<'_>, value: Value, now: Seconds) -> bool {
        bound.insert(
            value,
            |old| !self.alive(old, now),
            |evicted| {
                self.release(evicted);
            },
        )
    }

    /// Removes an entry; whether it counted.
    fn remove(&self, bound: &Bound<'_>, place: Place) -> bool {
        bound.remove(place).is_some_and(|value| self.release(value))
    }

    /// Stops counting an entry that was removed; whether it did count. What a port had learned before it went
    /// down stopped counting then.
    fn release(&self, value: Value) -> bool {
        let counted = match value.kind() {
            EntryKind::Learned => self.seats.give_back(value.slot(), value.generation()),
            EntryKind::Static => {
                self.seats.give_back_static(value.slot());
                true
            }
            EntryKind::Pinned => false,
        };
        if counted {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        counted
    }

    /// Removes the entries of some buckets that `pick` picks; how many.
    fn remove_where(
        &self,
        buckets: impl Iterator<Item = usize>,
        pick: impl Fn(u64, Value) -> bool,
    ) -> usize {
        let mut removed = 0;
        for bucket in buckets {
            self.table.remove_where(bucket, &pick, |value| {
                self.release(value);
                removed += 1;
            });
        }
        removed
    }
}
