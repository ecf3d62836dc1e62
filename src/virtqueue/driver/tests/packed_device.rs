//! A device that follows VIRTIO 1.2, 2.8 word by word, one field at a time and without any cleverness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use super::{Device, DriverFeatures, DriverMemory, RingLayout};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

pub struct PackedDevice {
    memory: Arc<DriverMemory>,
    layout: RingLayout,
    features: DriverFeatures,
    avail: (u16, bool),
    used: (u16, bool),
    used_since_asked: u16,
}

struct Chain {
    id: u16,
    descriptors: u16,
    /// Address, length, writable.
    parts: Vec<(u64, u32, bool)>,
}

impl PackedDevice {
    pub fn new(memory: &Arc<DriverMemory>, layout: RingLayout, features: DriverFeatures) -> Self {
        let memory = Arc::clone(memory);
        Self {
            memory,
            layout,
            features,
            avail: (0, true),
            used: (0, true),
            used_since_asked: 0,
        }
    }

    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut out = [0; N];
        self.memory.read(at, &mut out).unwrap();
        out
    }

    /// The flags of the descriptor at `at`, which say who may touch the rest of it.
    fn flags(&self, at: u64) -> &AtomicU16 {
        let flags = self.memory.checked(at + 14, 2).unwrap();
        // SAFETY: mapped for as long as `memory` lives, aligned as descriptors are, and the driver in another
        // thread uses it atomically too.
        unsafe { AtomicU16::from_ptr(flags.cast()) }
    }

    /// An event structure, of the driver or of ours.
    fn event(&self, at: u64) -> &AtomicU32 {
        let event = self.memory.checked(at, 4).unwrap();
        // SAFETY: as for `flags`; the two areas are aligned to 4 bytes.
        unsafe { AtomicU32::from_ptr(event.cast()) }
    }

    /// Address, length, id, flags; the flags are read before the others.
    fn descriptor(&self, at: u64) -> (u64, u32, u16, u16) {
        let flags = u16::from_le(self.flags(at).load(Ordering::Acquire));
        let (addr, len, id) = (self.bytes(at), self.bytes(at + 8), self.bytes(at + 12));
        (
            u64::from_le_bytes(addr),
            u32::from_le_bytes(len),
            u16::from_le_bytes(id),
            flags,
        )
    }

    fn step(&self, (mut index, mut wrap): (u16, bool), by: u16) -> (u16, bool) {
        for _ in 0..by {
            index += 1;
            if index == self.layout.size {
                (index, wrap) = (0, !wrap);
            }
        }
        (index, wrap)
    }

    fn next_chain(&mut self) -> Option<Chain> {
        let mut chain = Chain {
            id: 0,
            descriptors: 0,
            parts: Vec::new(),
        };
        loop {
            let (index, wrap) = self.avail;
            let (addr, len, id, flags) = self.descriptor(self.layout.desc + 16 * u64::from(index));
            let available = (flags >> 7 & 1 == 1) == wrap && (flags >> 15 & 1 == 1) != wrap;
            if !available {
                assert_eq!(chain.descriptors, 0, "a chain was shown in part");
                return None;
            }
            self.avail = self.step(self.avail, 1);
            chain.descriptors += 1;
            chain.id = id;
            if flags & INDIRECT != 0 {
                assert_eq!(len % 16, 0);
                for i in 0..u64::from(len) / 16 {
                    let (addr, len, _, flags) = self.descriptor(addr + 16 * i);
                    assert_eq!(flags & !WRITE, 0);
                    chain.parts.push((addr, len, flags & WRITE != 0));
                }
            } else {
                chain.parts.push((addr, len, flags & WRITE != 0));
            }
            if flags & NEXT == 0 {
                return Some(chain);
            }
        }
    }

    /// Writes a used descriptor and skips `skip` descriptors.
    fn complete(&mut self, id: u16, len: u32, skip: u16) {
        let (index, wrap) = self.used;
        let at = self.layout.desc + 16 * u64::from(index);
        self.memory.write(at + 8, &len.to_le_bytes()).unwrap();
        self.memory.write(at + 12, &id.to_le_bytes()).unwrap();
        let flags: u16 = if wrap { 1 << 7 | 1 << 15 } else { 0 };
        self.flags(at).store(flags.to_le(), Ordering::Release);
        self.used = self.step(self.used, skip);
        self.used_since_asked += skip;
    }
}

impl Device for PackedDevice {
    fn take(&mut self, batched: bool) -> Vec<Vec<u8>> {
        let mut chains: Vec<_> = std::iter::from_fn(|| self.next_chain()).collect();
        let frames = chains
            .iter()
            .map(|chain| {
                let mut bytes = Vec::new();
                for &(addr, len, writable) in &chain.parts {
                    assert!(!writable);
                    let at = bytes.len();
                    bytes.resize(at + len as usize, 0);
                    self.memory.read(addr, &mut bytes[at..]).unwrap();
                }
                bytes
            })
            .collect();
        if batched
            && self.features.in_order
            && let Some(last) = chains.last()
        {
            let skip = chains.iter().map(|c| c.descriptors).sum();
            self.complete(last.id, 0, skip);
        } else {
            if !self.features.in_order {
                chains.reverse();
            }
            for chain in &chains {
                self.complete(chain.id, 0, chain.descriptors);
            }
        }
        frames
    }

    fn fill(&mut self, bytes: &[u8]) -> bool {
        let before = self.avail;
        let mut bytes = bytes.to_vec();
        let mut chains = Vec::new();
        let mut room = 0;
        while room < bytes.len() {
            let Some(chain) = self.next_chain() else {
                self.avail = before;
                return false;
            };
            assert!(chain.parts.iter().all(|p| p.2));
            room += chain.parts.iter().map(|p| p.1 as usize).sum::<usize>();
            chains.push(chain);
        }
        bytes[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut left = &bytes[..];
        for chain in chains {
            let start = left.len();
            for (addr, len, _) in chain.parts {
                let n = left.len().min(len as usize);
                self.memory.write(addr, &left[..n]).unwrap();
                left = &left[n..];
            }
            self.complete(chain.id, (start - left.len()) as u32, chain.descriptors);
        }
        true
    }

    fn wants_call(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let event = u32::from_le(self.event(self.layout.avail).load(Ordering::Acquire));
        let (position, flags) = (event as u16, event >> 16);
        let since = std::mem::take(&mut self.used_since_asked);
        match flags {
            0 => true,
            1 => false,
            _ => {
                assert!(self.features.event_idx && flags == 2);
                // Was the position passed by one of the last `since` used descriptors?
                let event = (position & 0x7fff, position >> 15 == 1);
                let size = u32::from(self.layout.size);
                let place =
                    |(index, wrap): (u16, bool)| u32::from(index) + if wrap { size } else { 0 };
                // Positions run through two rounds of the ring, one for each wrap counter.
                (1..=u32::from(since))
                    .any(|back| (place(self.used) + 2 * size - back) % (2 * size) == place(event))
            }
        }
    }

    fn want_kicks(&mut self, on: bool) {
        let position = self.avail.0 | u16::from(self.avail.1) << 15;
        let flags: u32 = match (on, self.features.event_idx) {
            (false, _) => 1,
            (true, false) => 0,
            (true, true) => 2,
        };
        let event = u32::from(position) | flags << 16;
        self.event(self.layout.used)
            .store(event.to_le(), Ordering::Release);
    }
}
