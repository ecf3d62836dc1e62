//! How an entry is packed into two words.
//!
//! The key is the FID above the 48 bits of the address; 0 is no key, because zero is no valid
//! source. The value, which is never 0, is from the lowest bit up: time last seen in seconds (32),
//! slot (11), kind (2), moves (3), time of the last move modulo 256 (8), generation of the port (8).

use super::Fid;
use crate::frame::mac::Mac;
use crate::relay::Seconds;
use crate::relay::port::{MAX_PORTS, Slot};

const SLOT: u32 = 32;
const KIND: u32 = 43;
const MOVES: u32 = 45;
const MOVED_AT: u32 = 48;
const GENERATION: u32 = 56;

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
pub struct Value(pub u64);

impl Value {
    /// A newly learned entry.
    pub fn learned(slot: Slot, generation: u8, now: Seconds) -> Value {
        Value(Value::place(1, slot) | u64::from(generation) << GENERATION | u64::from(now))
    }

    /// An entry that does not age.
    pub fn fixed(kind: EntryKind, slot: Slot) -> Value {
        Value::with_kind(kind, slot)
    }

    fn with_kind(kind: EntryKind, slot: Slot) -> Value {
        let number = match kind {
            EntryKind::Learned => 1,
            EntryKind::Static => 2,
            EntryKind::Pinned => 3,
        };
        Value(Value::place(number, slot))
    }

    fn place(kind: u64, slot: Slot) -> u64 {
        kind << KIND | (slot.index() as u64) << SLOT
    }

    /// When it was last seen.
    pub fn seconds(self) -> Seconds {
        self.0 as Seconds
    }

    /// Where it is.
    pub fn slot(self) -> Slot {
        let index = (self.0 >> SLOT) as usize % MAX_PORTS;
        Slot::new(index).expect("the remainder is below MAX_PORTS")
    }

    /// What it is.
    pub fn kind(self) -> EntryKind {
        match self.0 >> KIND & 3 {
            2 => EntryKind::Static,
            3 => EntryKind::Pinned,
            _ => EntryKind::Learned,
        }
    }

    /// The port's generation when it was learned.
    pub fn generation(self) -> u8 {
        (self.0 >> GENERATION) as u8
    }

    /// The same with another generation.
    pub fn with_generation(self, generation: u8) -> Value {
        let others = self.0 & !(0xff << GENERATION);
        Value(others | u64::from(generation) << GENERATION)
    }

    /// The same, seen now; moves long past are forgotten.
    pub fn refreshed(self, now: Seconds) -> Value {
        let mut value = self.0;
        if !self.moved_lately(now) {
            value &= !(0x7ff << MOVES);
        }
        Value(value & !0xffff_ffff | u64::from(now))
    }

    /// The same at another port, or `None` if it has moved too often.
    pub fn moved(self, slot: Slot, now: Seconds) -> Option<Value> {
        let moves = if self.moved_lately(now) {
            self.0 >> MOVES & 7
        } else {
            0
        };
        if moves == MAX_MOVES {
            return None;
        }
        let moved_at = u64::from(now & 0xff);
        let moved = Value::place(1, slot) | (moves + 1) << MOVES | moved_at << MOVED_AT;
        Some(Value(moved | u64::from(now)))
    }

    /// Whether the last move is less than [`DAMPING`] seconds ago.
    fn moved_lately(self, now: Seconds) -> bool {
        let moves = self.0 >> MOVES & 7;
        let moved_at = (self.0 >> MOVED_AT) as u8;
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
