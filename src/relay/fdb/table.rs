//! A concurrent hash table of two-word entries.
//!
//! Purpose: buckets of eight entries, two cache lines each (keys, then values); a key lives in one
//! of two buckets, the emptier one when it was inserted. The hash is keyed at random, so that
//! nobody outside can aim at a bucket.
//!
//! Invariants: a key is in the table at most once. A word of keys is 0 or a key; a value of 0
//! means that the entry is not there, whatever the key says. To remove, the value goes first; to
//! insert, it comes last. There are no tombstones.
//!
//! Threads: [`Table::find`] and [`Table::exchange`] take no lock. A reader that finds the key, then
//! a value, then the key again has the value of that key: otherwise the lane would have had to be
//! given away and taken back, twice under the bucket's lock, between two of its loads. Everything
//! else holds the locks of the buckets it changes.
//!
//! Does not know: what keys and values mean.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

use super::entry::Value;
use crate::sys::zeroed::{CacheLine, cache_lines};

/// Entries of a bucket.
const LANES: usize = 8;
/// Fewer buckets than this are not worth saving.
const MIN_BUCKETS: usize = 16;
/// Locks of a large table.
const MAX_LOCKS: usize = 256;

/// The table.
#[derive(Debug)]
pub struct Table {
    lines: Box<[CacheLine]>,
    buckets: u32,
    hash: RandomState,
    locks: Box<[Mutex<()>]>,
}

/// Where an entry is: bucket and lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    bucket: u32,
    lane: u32,
}

impl Table {
    /// An empty table of at least `lanes` lanes.
    pub fn new(lanes: usize) -> Table {
        let buckets = lanes.div_ceil(LANES).max(MIN_BUCKETS);
        let locks = buckets.next_power_of_two().min(MAX_LOCKS);
        Table {
            lines: cache_lines(2 * buckets),
            buckets: u32::try_from(buckets).unwrap_or(u32::MAX),
            hash: RandomState::default(),
            locks: (0..locks).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Number of buckets.
    pub fn buckets(&self) -> usize {
        self.buckets as usize
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.locks)
    }

    /// Finds a key.
    pub fn find(&self, key: u64) -> Option<(Place, Value)> {
        let (first, second) = self.choices(key);
        self.find_in(first, key)
            .or_else(|| self.find_in(second, key))
    }

    /// Replaces a value if it still is `old`; both belong to the key at this place.
    pub fn exchange(&self, place: Place, old: Value, new: Value) -> bool {
        self.value(place)
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Locks what belongs to a key.
    pub fn lock(&self, key: u64) -> Bound<'_> {
        let (first, second) = self.choices(key);
        let (low, high) = {
            let (a, b) = (self.lock_index(first), self.lock_index(second));
            (a.min(b), a.max(b))
        };
        let low_guard = self.lock_at(low);
        let high_guard = (high != low).then(|| self.lock_at(high));
        Bound {
            table: self,
            key,
            choices: [first, second],
            _guards: (low_guard, high_guard),
        }
    }

    /// All entries, as they are met.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Value)> {
        self.places().filter_map(|place| {
            let key = self.key(place).load(Ordering::Acquire);
            if key == 0 {
                return None;
            }
            Some((key, self.value_of(place, key)?))
        })
    }

    /// Removes the entries of a bucket that `pick` picks.
    pub fn remove_where(
        &self,
        bucket: usize,
        pick: impl Fn(u64, Value) -> bool,
        mut removed: impl FnMut(Value),
    ) {
        let bucket = bucket as u32;
        let picked = |place: Place| {
            let key = self.key(place).load(Ordering::Acquire);
            key != 0
                && self
                    .value_of(place, key)
                    .is_some_and(|value| pick(key, value))
        };
        if !lanes(bucket).any(picked) {
            return;
        }
        let _guard = self.lock_at(self.lock_index(bucket));
        for place in lanes(bucket) {
            if picked(place) {
                removed(self.clear(place));
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        (0..self.buckets).flat_map(lanes)
    }

    /// The two buckets of a key, never the same.
    fn choices(&self, key: u64) -> (u32, u32) {
        let hash = self.hash.hash_one(key);
        let scale = |half: u32, range: u32| ((u64::from(half) * u64::from(range)) >> 32) as u32;
        let first = scale(hash as u32, self.buckets);
        let second = scale((hash >> 32) as u32, self.buckets - 1);
        (first, second + u32::from(second >= first))
    }

    fn find_in(&self, bucket: u32, key: u64) -> Option<(Place, Value)> {
        let keys = &self.lines[2 * bucket as usize].0;
        let lane = keys
            .iter()
            .position(|word| word.load(Ordering::Acquire) == key)?;
        let place = Place {
            bucket,
            lane: lane as u32,
        };
        match self.value_of(place, key) {
            Some(value) => Some((place, value)),
            None => self.find_again(place, key),
        }
    }

    /// Looks behind a lane that was being emptied: the key may be back in a later one.
    #[cold]
    fn find_again(&self, from: Place, key: u64) -> Option<(Place, Value)> {
        lanes(from.bucket)
            .filter(|place| self.key(*place).load(Ordering::Acquire) == key)
            .find_map(|place| Some((place, self.value_of(place, key)?)))
    }

    /// The value of `key` at this place, unless the key has gone.
    fn value_of(&self, place: Place, key: u64) -> Option<Value> {
        let value = self.value(place).load(Ordering::Acquire);
        let key_now = self.key(place).load(Ordering::Relaxed);
        (value != 0 && key_now == key).then_some(Value(value))
    }

    /// Empties a lane whose bucket the caller has locked.
    fn clear(&self, place: Place) -> Value {
        let value = self.value(place).swap(0, Ordering::AcqRel);
        self.key(place).store(0, Ordering::Release);
        Value(value)
    }

    fn key(&self, place: Place) -> &AtomicU64 {
        &self.lines[2 * place.bucket as usize].0[place.lane as usize % LANES]
    }

    fn value(&self, place: Place) -> &AtomicU64 {
        &self.lines[2 * place.bucket as usize + 1].0[place.lane as usize % LANES]
    }

    fn lock_index(&self, bucket: u32) -> usize {
        bucket as usize & (self.locks.len() - 1)
    }

    fn lock_at(&self, index: usize) -> MutexGuard<'_, ()> {
        self.locks[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of a bucket.
fn lanes(bucket: u32) -> impl Iterator<Item = Place> {
    (0..LANES as u32).map(move |lane| Place { bucket, lane })
}

/// A key whose two buckets are locked.
#[derive(Debug)]
pub struct Bound<'a> {
    table: &'a Table,
    key: u64,
    choices: [u32; 2],
    _guards: (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>),
}

impl Bound<'_> {
    /// Finds the key.
    pub fn find(&self) -> Option<(Place, Value)> {
        let [first, second] = self.choices;
        let table = self.table;
        table
            .find_in(first, self.key)
            .or_else(|| table.find_in(second, self.key))
    }

    /// Removes what is at this place, which [`Bound::find`] found.
    pub fn remove(&self, place: Place) -> Value {
        self.table.clear(place)
    }

    /// Inserts the key, which must not be there, in the emptier bucket. Where both are full, it
    /// takes the place of an entry that is `dead` and hands that to `evicted`; false if there is
    /// none.
    pub fn insert(
        &self,
        value: Value,
        dead: impl Fn(Value) -> bool,
        evicted: impl FnOnce(Value),
    ) -> bool {
        let table = self.table;
        let vacant = |place: &Place| table.key(*place).load(Ordering::Relaxed) == 0;
        let room = |bucket: u32| lanes(bucket).filter(vacant).count();
        let [first, second] = self.choices;
        let bucket = if room(first) >= room(second) {
            first
        } else {
            second
        };
        if let Some(place) = lanes(bucket).find(vacant) {
            self.fill(place, value);
            return true;
        }
        let mut places = self.choices.into_iter().flat_map(lanes);
        let value_now = |place: Place| Value(table.value(place).load(Ordering::Relaxed));
        let Some(place) = places.find(|place| dead(value_now(*place))) else {
            return false;
        };
        evicted(table.clear(place));
        self.fill(place, value);
        true
    }

    fn fill(&self, place: Place, value: Value) {
        self.table.key(place).store(self.key, Ordering::Release);
        self.table.value(place).store(value.0, Ordering::Release);
    }
}
