//! A device over `virtio-queue`.

use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::{Device, DriverFeatures, DriverMemory, RingLayout};

pub struct SplitDevice {
    memory: GuestMemoryMmap<()>,
    queue: Queue,
    features: DriverFeatures,
}

impl SplitDevice {
    pub fn new(memory: &Arc<DriverMemory>, layout: RingLayout, features: DriverFeatures) -> Self {
        let ranges = memory.regions().iter().map(|r| {
            let file = FileOffset::new(r.file().try_clone().unwrap(), 0);
            (GuestAddress(r.guest_addr()), r.size() as usize, Some(file))
        });
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let mut queue = Queue::new(1024).unwrap();
        queue.set_size(layout.size);
        queue
            .try_set_desc_table_address(GuestAddress(layout.desc))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(layout.avail))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(layout.used))
            .unwrap();
        queue.set_event_idx(features.event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        Self {
            memory,
            queue,
            features,
        }
    }
}

impl Device for SplitDevice {
    fn take(&mut self, batched: bool) -> Vec<Vec<u8>> {
        let chains: Vec<_> = self.queue.iter(&self.memory).unwrap().collect();
        let mut frames = Vec::new();
        let mut heads = Vec::new();
        for chain in chains {
            heads.push(chain.head_index());
            let mut bytes = Vec::new();
            for d in chain {
                assert!(!d.is_write_only());
                let at = bytes.len();
                bytes.resize(at + d.len() as usize, 0);
                self.memory.read_slice(&mut bytes[at..], d.addr()).unwrap();
            }
            frames.push(bytes);
        }
        if batched
            && self.features.in_order
            && let Some(&last) = heads.last()
        {
            // One element for the whole batch, then the index skips forward; `Queue` has no word for it.
            let used = self.queue.next_used();
            self.queue.add_used(&self.memory, last, 0).unwrap();
            let next = used.wrapping_add(heads.len() as u16);
            self.queue.set_next_used(next);
            self.memory
                .write_obj(next, GuestAddress(self.queue.used_ring() + 2))
                .unwrap();
        } else {
            if !self.features.in_order {
                heads.reverse();
            }
            for head in heads {
                self.queue.add_used(&self.memory, head, 0).unwrap();
            }
        }
        frames
    }

    fn fill(&mut self, bytes: &[u8]) -> bool {
        let before = self.queue.next_avail();
        let (mut left, mut done, mut header_at) = (bytes, Vec::new(), None);
        while !left.is_empty() {
            let Some(chain) = self.queue.pop_descriptor_chain(&self.memory) else {
                self.queue.set_next_avail(before);
                return false;
            };
            let head = chain.head_index();
            let mut written = 0;
            for d in chain {
                assert!(d.is_write_only());
                // The two bytes of `num_buffers` may lie in any descriptor.
                for at in 0..d.len().min(left.len() as u32) {
                    if done.is_empty() && (10..12).contains(&(written + at)) {
                        header_at
                            .get_or_insert_with(Vec::new)
                            .push(GuestAddress(d.addr().0 + u64::from(at)));
                    }
                }
                let n = left.len().min(d.len() as usize);
                self.memory.write_slice(&left[..n], d.addr()).unwrap();
                left = &left[n..];
                written += n as u32;
            }
            done.push((head, written));
        }
        for (i, at) in header_at.unwrap().into_iter().enumerate() {
            self.memory
                .write_obj((done.len() as u16).to_le_bytes()[i], at)
                .unwrap();
        }
        for (head, written) in done {
            self.queue.add_used(&self.memory, head, written).unwrap();
        }
        true
    }

    fn wants_call(&mut self) -> bool {
        if !self.features.event_idx {
            // `Queue` leaves VRING_AVAIL_F_NO_INTERRUPT to its caller.
            let flags: u16 = self
                .memory
                .read_obj(GuestAddress(self.queue.avail_ring()))
                .unwrap();
            return flags & 1 == 0;
        }
        self.queue.needs_notification(&self.memory).unwrap()
    }

    fn want_kicks(&mut self, on: bool) {
        if on {
            self.queue.enable_notification(&self.memory).unwrap();
        } else {
            self.queue.disable_notification(&self.memory).unwrap();
        }
    }
}
