//! Addresses that ports without configured ones registered at first sight.
//!
//! They are valid in all VLANs of their port, and ports in different VLANs may have the same one:
//! the k-th port with an address is found under the k-th of a range of FIDs that no VLAN has,
//! without gaps.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::entry::{EntryKind, Value, entry_key};
use super::{Fdb, Fid};
use crate::frame::mac::Mac;
use crate::relay::port::{MAX_PORTS, Slot};

/// The FID under which the first port with an address is found.
const FIRST_FID: Fid = 0x1000;

/// Each port pins one address at most.
const MAX_PINS: Fid = MAX_PORTS as Fid;

impl Fdb {
    /// Registers an address at first sight. The k-th port with the same address, in other VLANs, is
    /// found under the k-th pin FID; there are no gaps.
    pub(in crate::relay) fn pin(&self, mac: Mac, slot: Slot, _: &PinGuard<'_>) -> bool {
        let Some(free) = (0..MAX_PINS).find(|k| self.table.find(pin_key(*k, mac)).is_none()) else {
            return false;
        };
        let bound = self.table.lock(pin_key(free, mac));
        let pinned = self.insert(&bound, Value::fixed(EntryKind::Pinned, slot), 0);
        if pinned {
            self.pins.fetch_add(1, Ordering::Relaxed);
        }
        pinned
    }

    /// Takes back [`Fdb::pin`].
    pub(in crate::relay) fn unpin(&self, mac: Mac, slot: Slot, _: &PinGuard<'_>) {
        let mut own = None;
        let mut last = None;
        for k in 0..MAX_PINS {
            let Some((place, value)) = self.table.find(pin_key(k, mac)) else {
                break;
            };
            if value.slot() == slot {
                own = Some((place, value));
            }
            last = Some((k, place, value));
        }
        if let (Some((own, old)), Some((k, place, value))) = (own, last) {
            if own != place {
                self.table.exchange(own, old, value);
            }
            self.table.lock(pin_key(k, mac)).remove(place);
            self.pins.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The ports that pinned `mac` at first sight, in any VLAN.
    pub(in crate::relay) fn pinned(&self, mac: Mac) -> impl Iterator<Item = Slot> {
        let ks = if self.has_pins() { 0..MAX_PINS } else { 0..0 };
        ks.map_while(move |k| Some(self.table.find(pin_key(k, mac))?.1.slot()))
    }

    /// Whether any address is pinned.
    #[inline]
    pub(in crate::relay) fn has_pins(&self) -> bool {
        self.pins.load(Ordering::Relaxed) != 0
    }

    /// Makes pinning and unpinning one at a time; both are as rare as ring starts.
    pub(in crate::relay) fn lock_pins(&self) -> PinGuard<'_> {
        PinGuard {
            _guard: self.pin_lock.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Held while pins change.
#[derive(Debug)]
pub(in crate::relay) struct PinGuard<'a> {
    _guard: MutexGuard<'a, ()>,
}

/// The key of the k-th port that pinned `mac`.
fn pin_key(k: Fid, mac: Mac) -> u64 {
    entry_key(FIRST_FID + k, mac)
}
