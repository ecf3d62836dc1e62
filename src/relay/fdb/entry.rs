//! How an entry is packed into two words.
//!
//! The key is the FID above the 48 bits of the address; 0 is no key, because zero is no valid
//! source. The value, which is never 0, is from the lowest bit up: time last seen in seconds (32),
//! slot (11), kind (2), moves (3), time of the last move modulo 256 (8), generation of the port (8).

use std::num::NonZeroU64;

use super::Fid;
use crate::frame::mac::Mac;
use crate::relay::Seconds;
use crate::relay::port::{MAX_PORTS, Slot};

const SLOT: u32 = 32;
const KIND: u32 = 43;
const MOVES: u32 = 45;
const MOVED_AT: u32 = 48;
const GENERATION: u32 = 56;

/// The bits of the kinds.
const LEARNED: NonZeroU64 = NonZeroU64::new(1 << KIND).unwrap();
const STATIC: NonZeroU64 = NonZeroU64::new(2 << KIND).unwrap();
const PINNED: NonZeroU64 = NonZeroU64::new(3 << KIND).unwrap();

/// Number and time of the moves.
const MOVES_MASK: u64 = 0x7ff << MOVES;

/// Moves that an entry may make within [`DAMPING`] seconds of each other.
pub const MAX_MOVES: u64 = 5;
/// For this many seconds an entry that has made too many moves stays where it is.
pub const DAMPING: Seconds = 10;

const _: () = assert!(MAX_PORTS <= 1 << (KIND - SLOT));
const _: () = assert!(MAX_MOVES < 1 << (MOVED_AT - MOVES));

/// The key of an entry.
pub fn entry_key(fid: Fid, mac: Mac) -> u64 {
    u64::from(fid) << 48 | mac.to_u64()
}

/// A packed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(NonZeroU64);

impl Value {
    /// The value with these bits; `None` where there is no entry.
    #[inline]
    pub fn new(bits: u64) -> Option<Value> {
        NonZeroU64::new(bits).map(Value)
    }

    /// Its bits.
    #[inline]
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// A newly learned entry.
    #[inline]
    pub fn learned(slot: Slot, generation: u8, now: Seconds) -> Value {
        Value::pack(
            LEARNED,
            slot,
            u64::from(generation) << GENERATION | u64::from(now),
        )
    }

    /// An entry that does not age.
    pub fn fixed(kind: EntryKind, slot: Slot) -> Value {
        let kind = match kind {
            EntryKind::Learned => LEARNED,
            EntryKind::Static => STATIC,
            EntryKind::Pinned => PINNED,
        };
        Value::pack(kind, slot, 0)
    }

    #[inline]
    fn pack(kind: NonZeroU64, slot: Slot, others: u64) -> Value {
        Value(kind | (slot.index() as u64) << SLOT | others)
    }

    /// Whether it is this learned entry, whatever its moves.
    #[inline]
    pub fn is_but_for_moves(self, learned: Value) -> bool {
        self.get() & !MOVES_MASK == learned.get()
    }

    /// When it was last seen.
    #[inline]
    pub fn seconds(self) -> Seconds {
        self.get() as Seconds
    }

    /// Where it is.
    #[inline]
    pub fn slot(self) -> Slot {
        let index = (self.get() >> SLOT) as usize % MAX_PORTS;
        Slot::new(index).expect("the remainder is below MAX_PORTS")
    }

    /// What it is.
    #[inline]
    pub fn kind(self) -> EntryKind {
        match self.get() >> KIND & 3 {
            2 => EntryKind::Static,
            3 => EntryKind::Pinned,
            _ => EntryKind::Learned,
        }
    }

    /// The port's generation when it was learned.
    #[inline]
    pub fn generation(self) -> u8 {
        (self.get() >> GENERATION) as u8
    }

    /// The same learned entry with another generation.
    pub fn with_generation(self, generation: u8) -> Value {
        let others = self.get() & !(0xff << GENERATION);
        Value(LEARNED | others | u64::from(generation) << GENERATION)
    }

    /// The same learned entry, seen now; moves long past are forgotten.
    pub fn refreshed(self, now: Seconds) -> Value {
        let mut others = self.get() & !0xffff_ffff;
        if !self.moved_lately(now) {
            others &= !MOVES_MASK;
        }
        Value(LEARNED | others | u64::from(now))
    }

    /// The same learned entry at another port, or `None` if it has moved too often.
    pub fn moved(self, slot: Slot, now: Seconds) -> Option<Value> {
        let moves = if self.moved_lately(now) {
            self.get() >> MOVES & 7
        } else {
            0
        };
        if moves == MAX_MOVES {
            return None;
        }
        let moved_at = u64::from(now & 0xff) << MOVED_AT;
        let others = (moves + 1) << MOVES | moved_at | u64::from(now);
        Some(Value::pack(LEARNED, slot, others))
    }

    /// Whether the last move is less than [`DAMPING`] seconds ago.
    fn moved_lately(self, now: Seconds) -> bool {
        let moves = self.get() >> MOVES & 7;
        let moved_at = (self.get() >> MOVED_AT) as u8;
        // It was last seen at the last move or later, so that the second condition settles what
        // the first leaves open modulo 256.
        moves != 0
            && Seconds::from((now as u8).wrapping_sub(moved_at)) < DAMPING
            && now.saturating_sub(self.seconds()) < DAMPING
    }
}

/// What kind an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// From a source address; it ages.
    Learned,
    /// By configuration.
    Static,
    /// Registered because it was the first source address of its port; stays until that goes down.
    Pinned,
}

/// An entry, for those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The filtering identifier: the VID, or the lowest VID of those that learn together; 0 in a
    /// flat relay. `None` where the address is valid in all VLANs of its port.
    pub fid: Option<u16>,
    /// The address.
    pub mac: Mac,
    /// The port it is behind.
    pub slot: Slot,
    /// What kind it is.
    pub kind: EntryKind,
    /// Seconds since it was last seen; 0 where it does not age.
    pub age: Seconds,
}

impl Entry {
    /// Unpacks an entry.
    pub fn new(key: u64, value: Value, now: Seconds) -> Entry {
        let fid = (key >> 48) as u16;
        let (kind, age) = match value.kind() {
            EntryKind::Learned => (EntryKind::Learned, now.saturating_sub(value.seconds())),
            EntryKind::Static => (EntryKind::Static, 0),
            EntryKind::Pinned => (EntryKind::Pinned, 0),
        };
        Entry {
            fid: (kind != EntryKind::Pinned).then_some(fid),
            mac: Mac::from_u64(key),
            slot: value.slot(),
            kind,
            age,
        }
    }
}
