//! A set of VLAN identifiers.

use crate::frame::ethernet::Vid;

/// A set of VIDs, as a bitmap of 512 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct VidSet(Box<[u64; 64]>);

impl VidSet {
    /// The set without members.
    pub fn new() -> VidSet {
        VidSet(Box::new([0; 64]))
    }

    /// The set of all VIDs, 1 to 4094.
    pub fn all() -> VidSet {
        (1..=Vid::MAX).filter_map(Vid::new).collect()
    }

    /// Adds a VID; whether it is new.
    pub fn insert(&mut self, vid: Vid) -> bool {
        let word = &mut self.0[usize::from(vid.get() >> 6)];
        let bit = 1 << (vid.get() & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether `vid` is a member.
    pub fn contains(&self, vid: Vid) -> bool {
        self.contains_raw(vid.get())
    }

    /// Whether the VID with this number is a member; never so for numbers that are not VIDs.
    pub(super) fn contains_raw(&self, number: u16) -> bool {
        let word = self.0.get(usize::from(number >> 6)).copied();
        word.unwrap_or(0) >> (number & 63) & 1 != 0
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
    pub fn iter(&self) -> impl Iterator<Item = Vid> {
        (0..).zip(*self.0).flat_map(|(index, word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as u16)?;
                rest &= rest - 1;
                Vid::new(index * 64 + bit)
            })
        })
    }
}

impl Default for VidSet {
    fn default() -> VidSet {
        VidSet::new()
    }
}

impl Extend<Vid> for VidSet {
    fn extend<I: IntoIterator<Item = Vid>>(&mut self, vids: I) {
        for vid in vids {
            self.insert(vid);
        }
    }
}

impl FromIterator<Vid> for VidSet {
    fn from_iter<I: IntoIterator<Item = Vid>>(vids: I) -> VidSet {
        let mut set = VidSet::new();
        set.extend(vids);
        set
    }
}

impl std::fmt::Debug for VidSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Vid::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Vid, VidSet};

    #[test]
    fn members_come_back_in_order() {
        let numbers = [4094, 1, 64, 63, 64];
        let set: VidSet = numbers.into_iter().filter_map(Vid::new).collect();
        assert_eq!(
            set.iter().map(Vid::get).collect::<Vec<_>>(),
            [1, 63, 64, 4094]
        );
        assert_eq!(set.len(), 4);
        assert_eq!(format!("{set:?}"), "{1, 63, 64, 4094}");
        assert!(!set.contains_raw(0) && !set.contains_raw(4095) && !set.contains_raw(u16::MAX));
        assert!(VidSet::new().is_empty());
        assert_eq!(VidSet::all().len(), 4094);
    }
}
