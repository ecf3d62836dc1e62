//! Ports of a relay: their slots, sets of them, and the little state that outlives a rebuild.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::vid_set::VidSet;
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;

/// How many ports a relay can have.
pub const MAX_PORTS: usize = 2048;

const WORDS: usize = MAX_PORTS / 64;

/// The index of a port in its relay, below [`MAX_PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot with this index, if it is below [`MAX_PORTS`].
    #[inline]
    pub const fn new(index: usize) -> Option<Slot> {
        if index < MAX_PORTS {
            Some(Slot(index as u16))
        } else {
            None
        }
    }

    /// Its index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of ports of one relay: a bitmap of fixed size, to be reused as scratch space.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet([u64; WORDS]);

impl PortSet {
    /// The set without members.
    pub const fn new() -> PortSet {
        PortSet([0; WORDS])
    }

    /// Adds a port.
    pub fn insert(&mut self, slot: Slot) {
        self.0[slot.index() / 64 % WORDS] |= 1 << (slot.index() % 64);
    }

    /// Takes a port out.
    pub fn remove(&mut self, slot: Slot) {
        self.0[slot.index() / 64 % WORDS] &= !(1 << (slot.index() % 64));
    }

    /// Takes all ports out.
    pub fn clear(&mut self) {
        self.0 = [0; WORDS];
    }

    /// Whether `slot` is a member.
    #[inline]
    pub fn contains(&self, slot: Slot) -> bool {
        self.0[slot.index() / 64 % WORDS] >> (slot.index() % 64) & 1 != 0
    }

    /// Keeps only those that are in `other` too.
    pub fn and(&mut self, other: &PortSet) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
    }

    /// Adds those in `other`.
    pub fn or(&mut self, other: &PortSet) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Slot::new(index * 64 + bit)
            })
        })
    }

    /// The bitmap.
    pub(super) fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// The bitmap, to change.
    pub(super) fn words_mut(&mut self) -> &mut [u64; WORDS] {
        &mut self.0
    }
}

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet::new()
    }
}

impl FromIterator<Slot> for PortSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> PortSet {
        let mut set = PortSet::new();
        for slot in slots {
            set.insert(slot);
        }
        set
    }
}

impl std::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Slot::index)).finish()
    }
}

/// What a port remembers while its relay's tables are rebuilt, and what it has to report.
///
/// Workers write, the control side polls. Nothing here is read by another port's frames.
#[derive(Debug, Default)]
pub struct PortState {
    /// The address pinned at first sight.
    pub(super) pin: MacCell,
    /// Whether this standby port carries its pair's traffic.
    carrying: AtomicBool,
    /// The VIDs that a registered address of the port was seen in, by 64.
    seen: SeenVids,
    /// Frames whose source could not be learned.
    unlearned: AtomicU64,
    /// Reports for the control side.
    pub(super) reports: Reports,
}

/// A bitmap of VIDs.
#[derive(Debug)]
struct SeenVids([AtomicU64; 64]);

impl Default for SeenVids {
    fn default() -> SeenVids {
        SeenVids([const { AtomicU64::new(0) }; 64])
    }
}

impl PortState {
    /// The address that was pinned because it was the first one seen.
    pub fn pinned(&self) -> Option<Mac> {
        self.pin.get()
    }

    /// Says whether a standby port carries its pair's traffic and so owns its addresses. It also
    /// finds out by itself: its own frames start that, and where the uplink does not reflect, its
    /// addresses on frames from there end it.
    pub fn set_carrying(&self, carrying: bool) {
        if self.carrying.load(Ordering::Relaxed) != carrying {
            self.carrying.store(carrying, Ordering::Relaxed);
        }
    }

    /// Whether a standby port carries its pair's traffic.
    pub fn carrying(&self) -> bool {
        self.carrying.load(Ordering::Relaxed)
    }

    /// Frames whose source was not learned because of a limit or of damping, whether they were
    /// forwarded or dropped.
    pub fn unlearned(&self) -> u64 {
        self.unlearned.load(Ordering::Relaxed)
    }

    /// Counts one more. Workers meet here only in a flood of addresses from one port.
    pub(super) fn count_unlearned(&self) {
        self.unlearned.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a registered address was seen in a VLAN.
    #[inline]
    pub(super) fn note_vid(&self, vid: u16) {
        let word = &self.seen.0[usize::from(vid >> 6) % 64];
        let bit = 1 << (vid & 63);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// The VLANs that registered addresses were seen in.
    pub(super) fn seen_vids(&self) -> VidSet {
        let bit = |vid: &u16| {
            self.seen.0[usize::from(vid >> 6)].load(Ordering::Relaxed) >> (vid & 63) & 1 != 0
        };
        (0..4096).filter(bit).filter_map(Vid::new).collect()
    }

    /// Forgets them.
    pub(super) fn forget_vids(&self) {
        for word in &self.seen.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// What has happened since the last call, for events. Not for the frame path.
    pub fn take_report(&self) -> Report {
        self.reports.take()
    }
}

/// What happened at a port since its last report; counters tell how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// This address was pinned because it was the first one seen.
    pub pinned: Option<Mac>,
    /// This source was refused: the port is pinned to others, or it belongs to another port.
    pub refused: Option<Mac>,
    /// This address moved here from another port.
    pub moved: Option<Mac>,
    /// This address moved too often and was held where it was.
    pub damped: Option<Mac>,
    /// This address was not learned because the port or the relay is at its limit.
    pub limited: Option<Mac>,
    /// A frame of this many bytes exceeded the port's MTU.
    pub oversize: Option<u32>,
}

/// The cells behind [`Report`].
#[derive(Debug, Default)]
pub(super) struct Reports {
    pub(super) pinned: MacCell,
    pub(super) refused: MacCell,
    pub(super) moved: MacCell,
    pub(super) damped: MacCell,
    pub(super) limited: MacCell,
    oversize: AtomicU32,
}

impl Reports {
    /// Reports a frame length; 0 stands for none.
    pub(super) fn oversize(&self, length: u32) {
        if self.oversize.load(Ordering::Relaxed) != length {
            self.oversize.store(length, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Report {
        let oversize = self.oversize.swap(0, Ordering::Relaxed);
        Report {
            pinned: self.pinned.take(),
            refused: self.refused.take(),
            moved: self.moved.take(),
            damped: self.damped.take(),
            limited: self.limited.take(),
            oversize: (oversize != 0).then_some(oversize),
        }
    }
}

/// A MAC address or none, as an atomic; zero stands for none.
#[derive(Debug, Default)]
pub(super) struct MacCell(AtomicU64);

impl MacCell {
    pub(super) fn get(&self) -> Option<Mac> {
        unpack(self.0.load(Ordering::Relaxed))
    }

    /// Sets it, without dirtying the cache line when it has that value. The zero address, which nobody has,
    /// leaves it as it is.
    pub(super) fn set(&self, mac: Mac) {
        if self.0.load(Ordering::Relaxed) != mac.to_u64() && !mac.is_zero() {
            self.0.store(mac.to_u64(), Ordering::Relaxed);
        }
    }

    /// Takes the address out.
    pub(super) fn take(&self) -> Option<Mac> {
        unpack(self.0.swap(0, Ordering::Relaxed))
    }
}

fn unpack(number: u64) -> Option<Mac> {
    (number != 0).then(|| Mac::from_u64(number))
}

#[cfg(test)]
mod tests {
    use super::{MAX_PORTS, Mac, PortSet, PortState, Report, Slot};

    fn slot(index: usize) -> Slot {
        Slot::new(index).unwrap()
    }

    #[test]
    fn sets_of_ports() {
        assert_eq!(Slot::new(MAX_PORTS), None);
        let mut set: PortSet = [2047, 0, 63, 64].map(slot).into_iter().collect();
        assert_eq!(
            set.iter().map(Slot::index).collect::<Vec<_>>(),
            [0, 63, 64, 2047]
        );
        assert_eq!(set.len(), 4);
        set.remove(slot(63));
        assert!(!set.contains(slot(63)) && set.contains(slot(64)));
        let other: PortSet = [0, 1].map(slot).into_iter().collect();
        let mut union = set.clone();
        union.or(&other);
        assert_eq!(union.len(), 4);
        set.and(&other);
        assert_eq!(format!("{set:?}"), "{0}");
        set.clear();
        assert!(set.is_empty());
    }

    #[test]
    fn reports_are_taken_once() {
        let state = PortState::default();
        state.reports.refused.set(Mac::from_u64(7));
        // The zero address, which a passthrough port may show, hides no other.
        state.reports.refused.set(Mac::default());
        state.reports.oversize(9000);
        let expected = Report {
            refused: Some(Mac::from_u64(7)),
            oversize: Some(9000),
            ..Report::default()
        };
        assert_eq!(state.take_report(), expected);
        assert_eq!(state.take_report(), Report::default());
    }
}
