//! The guest's side of a packed ring, written from VIRTIO 1.2, 2.8, one field at a time.

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};

use super::*;

/// One buffer of a chain: address, length, flags (0 or WRITE).
pub type Part = (u64, u32, u16);

/// A used descriptor.
#[derive(Debug, PartialEq, Eq)]
pub struct UsedBuffer {
    pub id: u16,
    pub len: u32,
    /// The WRITE flag.
    pub written: bool,
}

pub struct PackedGuest {
    pub guest: Guest,
    next: (u16, bool),
    last_used: (u16, bool),
    /// Descriptors of each chain that the device has, by buffer id.
    pub slots: HashMap<u16, u16>,
    /// Free descriptors.
    pub free: u16,
}

impl PackedGuest {
    pub fn new(size: u16, change: impl FnOnce(&mut RingFeatures)) -> PackedGuest {
        let guest = Guest::with(size, |f| {
            f.packed = true;
            change(f);
        });
        PackedGuest {
            guest,
            next: (0, true),
            last_used: (0, true),
            slots: HashMap::new(),
            free: size,
        }
    }

    pub fn tx(&self) -> TxRing {
        self.guest
            .config
            .activate_tx(self.guest.memory(), None, ResumeAt::fresh(true))
            .unwrap()
    }

    pub fn rx(&self) -> RxRing {
        self.guest
            .config
            .activate_rx(self.guest.memory(), None, ResumeAt::fresh(true))
            .unwrap()
    }

    fn step(&self, at: &mut (u16, bool)) {
        at.0 += 1;
        if at.0 == self.guest.size {
            *at = (0, !at.1);
        }
    }

    /// Writes descriptor `index` but for its flags, then the flags.
    pub fn descriptor(&self, index: u16, addr: u64, len: u32, id: u16, flags: u16) {
        let at = self.guest.desc_at() + 16 * u64::from(index);
        self.guest.write(at, addr);
        self.guest.write(at + 8, len);
        self.guest.write(at + 12, id);
        fence(Ordering::SeqCst);
        self.guest.write(at + 14, flags);
    }

    /// Makes a chain available whose flags, but for AVAIL and USED, are given with each part.
    pub fn post_raw(&mut self, id: u16, parts: &[Part]) {
        let count = parts.len() as u16;
        assert!(count <= self.free, "the ring is full");
        self.free -= count;
        self.slots.insert(id, count);
        let mut spots = Vec::new();
        for _ in parts {
            spots.push(self.next);
            let mut next = self.next;
            self.step(&mut next);
            self.next = next;
        }
        // Backwards, so that the first descriptor becomes available last.
        for (&(index, wrap), &(addr, len, flags)) in spots.iter().zip(parts).rev() {
            let flags = flags | if wrap { 1 << 7 } else { 1 << 15 };
            // The id counts in the last descriptor only.
            let last = spots.last().unwrap().0 == index;
            self.descriptor(index, addr, len, if last { id } else { 0xbad }, flags);
        }
    }

    /// Makes a chain available.
    pub fn post(&mut self, id: u16, parts: &[Part]) {
        let mut parts = parts.to_vec();
        let last = parts.len() - 1;
        for part in &mut parts[..last] {
            part.2 |= NEXT;
        }
        self.post_raw(id, &parts);
    }

    /// Makes a chain available that lies in an indirect table at `table`.
    pub fn post_indirect(&mut self, id: u16, table: u64, parts: &[Part]) {
        for (i, &(addr, len, flags)) in parts.iter().enumerate() {
            let at = table + 16 * i as u64;
            self.guest.write(at, addr);
            self.guest.write(at + 8, len);
            // The id is reserved here, and so is every flag but WRITE: a device ignores NEXT.
            self.guest.write(at + 12, 0xbad_u16);
            self.guest.write(at + 14, flags | NEXT);
        }
        self.post_raw(id, &[(table, 16 * parts.len() as u32, INDIRECT)]);
    }

    /// The used descriptor at the next position, if there is one.
    pub fn peek_used(&self) -> Option<UsedBuffer> {
        let (index, wrap) = self.last_used;
        let at = self.guest.desc_at() + 16 * u64::from(index);
        let flags: u16 = self.guest.read(at + 14);
        if (flags & 1 << 7 != 0) != wrap || (flags & 1 << 15 != 0) != wrap {
            return None;
        }
        fence(Ordering::SeqCst);
        Some(UsedBuffer {
            id: self.guest.read(at + 12),
            len: self.guest.read(at + 8),
            written: flags & WRITE != 0,
        })
    }

    /// Takes the next used descriptor and skips those of its chain.
    pub fn pop_used(&mut self) -> Option<UsedBuffer> {
        let used = self.peek_used()?;
        let slots = self.slots.remove(&used.id).expect("a chain of ours");
        self.skip(slots);
        Some(used)
    }

    /// Goes on `slots` descriptors.
    pub fn skip(&mut self, slots: u16) {
        let mut at = self.last_used;
        (0..slots).for_each(|_| self.step(&mut at));
        self.last_used = at;
        self.free += slots;
    }

    /// Half a vring base: where the next used descriptor is expected.
    pub fn used_position(&self) -> u16 {
        self.last_used.0 | u16::from(self.last_used.1) << 15
    }

    /// The same for the next descriptor that will be made available.
    pub fn next_position(&self) -> u16 {
        self.next.0 | u16::from(self.next.1) << 15
    }

    /// When this guest wants to be called.
    pub fn set_events(&self, position: u16, flags: u16) {
        self.guest.write(self.guest.avail_at(), position);
        self.guest.write(self.guest.avail_at() + 2, flags);
    }

    /// When the device wants to be kicked: position and flags.
    pub fn device_events(&self) -> (u16, u16) {
        let at = self.guest.used_at();
        (self.guest.read(at), self.guest.read(at + 2))
    }
}
