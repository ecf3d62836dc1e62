//! A concurrent hash table of two-word entries.
//!
//! Purpose: buckets of eight entries, two cache lines each, a value behind each key. A key lives in one
//! of two buckets: the first, or the emptier one where the first was crowded when it was inserted;
//! and there in the lane that its hash names, or the next vacant one. So most look-ups end with the
//! first key they compare. The hash is keyed at random, so that nobody outside can aim at a bucket.
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
use crate::sys::zeroed::{CacheLine, CacheLines};

/// Entries of a bucket.
const LANES: usize = 8;
/// Cache lines of a bucket.
const LINES: usize = 2;
/// Entries of a cache line.
const LANES_OF_LINE: usize = LANES / LINES;
/// A bucket with so many vacant lanes or fewer is compared with the other one.
const CROWDED: usize = 3;
/// Fewer buckets than this are not worth saving.
const MIN_BUCKETS: usize = 16;
/// More cannot be counted in a [`Place`].
const MAX_BUCKETS: usize = 1 << 28;
/// Locks of a large table.
const MAX_LOCKS: usize = 256;

/// The table.
#[derive(Debug)]
pub struct Table {
    /// The lines of the buckets, [`LINES`] for each.
    lines: CacheLines,
    /// The key of the hash.
    seeds: [u64; 3],
    locks: Box<[Mutex<()>]>,
}

/// A key that is about to be looked for.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    key: u64,
    hash: u64,
}

/// Where an entry is: the lane, counted over all buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    #[inline]
    fn new(bucket: u32, lane: u32) -> Place {
        Place(bucket * LANES as u32 + lane % LANES as u32)
    }

    fn lane(self) -> usize {
        self.0 as usize % LANES
    }
}

impl Table {
    /// An empty table of at least `lanes` lanes.
    pub fn new(lanes: usize) -> Table {
        let buckets = lanes.div_ceil(LANES).clamp(MIN_BUCKETS, MAX_BUCKETS);
        let locks = buckets.next_power_of_two().min(MAX_LOCKS);
        Table {
            lines: CacheLines::new(LINES * buckets),
            seeds: seeds(),
            locks: (0..locks).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Number of buckets.
    pub fn buckets(&self) -> usize {
        self.lines.len() / LINES
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.locks)
    }

    /// Finds a key.
    #[inline]
    pub fn find(&self, key: u64) -> Option<(Place, Value)> {
        let hash = self.hash(key);
        let home = self.home(hash);
        if self.key(home).load(Ordering::Acquire) == key
            && let Some(value) = self.value_of(home, key)
        {
            return Some((home, value));
        }
        self.find_farther(key, hash)
    }

    /// Finds a key that need not be in its home.
    #[inline(never)]
    fn find_farther(&self, key: u64, hash: u64) -> Option<(Place, Value)> {
        let first = self.first_bucket(hash);
        self.find_in(first, key)
            .or_else(|| self.find_in(self.second_bucket(hash, first), key))
    }

    /// Replaces a value if it still is `old`; both belong to the key at this place.
    pub fn exchange(&self, place: Place, old: Value, new: Value) -> bool {
        self.value(place)
            .compare_exchange(old.get(), new.get(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Hints that a key is about to be looked for.
    #[inline]
    pub fn prefetch(&self, key: u64) -> Expected {
        let hash = self.hash(key);
        self.line(self.home(hash)).prefetch();
        Expected { key, hash }
    }

    /// The same for the other places that it may be in, if it is not in the one that [`Table::prefetch`] has fetched.
    #[inline]
    pub fn prefetch_farther(&self, expected: Expected) {
        let Expected { key, hash } = expected;
        if self.key(self.home(hash)).load(Ordering::Relaxed) != key {
            let first = self.first_bucket(hash);
            for bucket in [first, self.second_bucket(hash, first)] {
                self.lines_of(bucket).for_each(CacheLine::prefetch);
            }
        }
    }

    /// Locks what belongs to a key.
    pub fn lock(&self, key: u64) -> Bound<'_> {
        let hash = self.hash(key);
        let first = self.first_bucket(hash);
        let second = self.second_bucket(hash, first);
        let (low, high) = {
            let (a, b) = (self.lock_index(first), self.lock_index(second));
            (a.min(b), a.max(b))
        };
        let low_guard = self.lock_at(low);
        let high_guard = (high != low).then(|| self.lock_at(high));
        Bound {
            table: self,
            key,
            hash,
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
            if picked(place)
                && let Some(value) = self.clear(place)
            {
                removed(value);
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        (0..self.buckets() as u32).flat_map(lanes)
    }

    /// A keyed hash: products, folded. One round would leave the addresses of a fleet, which count
    /// up, in step with each other.
    #[inline]
    fn hash(&self, key: u64) -> u64 {
        let [add, first, second] = self.seeds;
        fold(fold(key ^ add, first), second)
    }

    /// Where a key is looked for first.
    #[inline]
    fn home(&self, hash: u64) -> Place {
        Place::new(self.first_bucket(hash), hash as u32)
    }

    #[inline]
    fn first_bucket(&self, hash: u64) -> u32 {
        scale((hash >> 32) as u32, self.buckets() as u32)
    }

    /// Never the same as the first.
    fn second_bucket(&self, hash: u64, first: u32) -> u32 {
        let second = scale(hash as u32, self.buckets() as u32 - 1);
        second + u32::from(second >= first)
    }

    fn find_in(&self, bucket: u32, key: u64) -> Option<(Place, Value)> {
        for (line, first) in self.lines_of(bucket).zip((0..).step_by(LANES_OF_LINE)) {
            for lane in 0..LANES_OF_LINE {
                if line.0[2 * lane].load(Ordering::Acquire) == key {
                    let place = Place::new(bucket, first + lane as u32);
                    if let Some(value) = self.value_of(place, key) {
                        return Some((place, value));
                    }
                }
            }
        }
        None
    }

    /// The value of `key` at this place, unless the key has gone.
    #[inline]
    fn value_of(&self, place: Place, key: u64) -> Option<Value> {
        let value = self.value(place).load(Ordering::Acquire);
        let key_now = self.key(place).load(Ordering::Relaxed);
        Value::new(value).filter(|_| key_now == key)
    }

    /// Empties a lane whose bucket the caller has locked.
    fn clear(&self, place: Place) -> Option<Value> {
        let value = self.value(place).swap(0, Ordering::AcqRel);
        self.key(place).store(0, Ordering::Release);
        Value::new(value)
    }

    #[inline]
    fn key(&self, place: Place) -> &AtomicU64 {
        &self.line(place).0[place.lane() % LANES_OF_LINE * 2]
    }

    #[inline]
    fn value(&self, place: Place) -> &AtomicU64 {
        &self.line(place).0[place.lane() % LANES_OF_LINE * 2 + 1]
    }

    /// The line of a lane.
    #[inline]
    fn line(&self, place: Place) -> &CacheLine {
        &self.lines[place.0 as usize / LANES_OF_LINE]
    }

    /// The lines of a bucket.
    fn lines_of(&self, bucket: u32) -> impl Iterator<Item = &CacheLine> {
        let first = LINES * bucket as usize;
        self.lines[first..first + LINES].iter()
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

/// A random key for the hash. A factor needs bits in both halves.
fn seeds() -> [u64; 3] {
    let random = RandomState::default();
    let factor = |number: u64| random.hash_one(number) | (1 << 63 | 1);
    [random.hash_one(0u64), factor(1), factor(2)]
}

/// The product of two numbers, its halves folded into one.
#[inline]
fn fold(number: u64, factor: u64) -> u64 {
    let product = u128::from(number) * u128::from(factor);
    (product as u64) ^ (product >> 64) as u64
}

/// Maps all 32-bit numbers evenly to those below `range`.
#[inline]
fn scale(number: u32, range: u32) -> u32 {
    ((u64::from(number) * u64::from(range)) >> 32) as u32
}

/// The lanes of a bucket.
fn lanes(bucket: u32) -> impl Iterator<Item = Place> {
    (0..LANES as u32).map(move |lane| Place::new(bucket, lane))
}

/// A key whose two buckets are locked.
#[derive(Debug)]
pub struct Bound<'a> {
    table: &'a Table,
    key: u64,
    hash: u64,
    choices: [u32; 2],
    _guards: (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>),
}

impl Bound<'_> {
    /// Finds the key.
    pub fn find(&self) -> Option<(Place, Value)> {
        self.table.find_farther(self.key, self.hash)
    }

    /// Removes what is at this place, which [`Bound::find`] found.
    pub fn remove(&self, place: Place) -> Option<Value> {
        self.table.clear(place)
    }

    /// Inserts the key, which must not be there, where there is room. Where there is none, it
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
        let roomy = room(first);
        let bucket = if roomy > CROWDED || roomy >= room(second) {
            first
        } else {
            second
        };
        let home = self.hash as u32;
        let mut from_home =
            (0..LANES as u32).map(|step| Place::new(bucket, home.wrapping_add(step)));
        if let Some(place) = from_home.find(vacant) {
            self.fill(place, value);
            return true;
        }
        let mut places = self.choices.into_iter().flat_map(lanes);
        let value_now = |place: Place| Value::new(table.value(place).load(Ordering::Relaxed));
        let Some(place) = places.find(|place| value_now(*place).is_some_and(&dead)) else {
            return false;
        };
        if let Some(old) = table.clear(place) {
            evicted(old);
        }
        self.fill(place, value);
        true
    }

    fn fill(&self, place: Place, value: Value) {
        self.table.key(place).store(self.key, Ordering::Release);
        self.table
            .value(place)
            .store(value.get(), Ordering::Release);
    }
}
