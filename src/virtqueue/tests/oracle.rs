//! Random rings, walked by us and by the `virtio-queue` crate.
//!
//! Valid histories must give the same chains on both sides. For arbitrary ones, whatever we accept
//! must be what the other side sees; that we refuse more is intended.

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};

use super::*;
use crate::virtqueue::{RxBatch, TxBatch};

fn oracle(guest: &Guest, at: u16) -> Queue {
    let mut queue = Queue::new(guest.size).unwrap();
    queue.set_size(guest.size);
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let (low, high) = halves(guest.desc_at());
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(guest.avail_at());
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(guest.used_at());
    queue.set_used_ring_address(low, high);
    queue.set_next_avail(at);
    queue.set_next_used(at);
    queue.set_ready(true);
    assert!(queue.is_valid(&guest.mem));
    queue
}

/// The next chain as the oracle sees it: head, then address and length of each buffer.
fn next_of(guest: &Guest, queue: &mut Queue) -> Option<(u16, Vec<(u64, usize)>)> {
    let chain = queue.pop_descriptor_chain(&guest.mem)?;
    let head = chain.head_index();
    let buffers = chain.map(|d| (d.addr().0, d.len() as usize)).collect();
    Some((head, buffers))
}

/// One chain to post: lengths of its buffers, and how many of them are in an indirect table.
type Shape = (Vec<u32>, usize);

fn shapes() -> impl Strategy<Value = Vec<Vec<Shape>>> {
    let lens = proptest::collection::vec(1_u32..2000, 1..7);
    let shape = (lens, 0_usize..8);
    let burst = proptest::collection::vec(shape, 0..9);
    proptest::collection::vec(burst, 1..12)
}

/// A driver that hands descriptors out from a free list in a scrambled order.
struct Posts {
    free: Vec<u16>,
    chains: Vec<(u16, Vec<u16>)>,
    data: u64,
    table: u64,
}

impl Posts {
    fn new(size: u16, seed: u64) -> Posts {
        let mut free: Vec<u16> = (0..size).collect();
        let mut x = seed | 1;
        for i in (1..free.len()).rev() {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            free.swap(i, (x >> 33) as usize % (i + 1));
        }
        Posts {
            free,
            chains: Vec::new(),
            data: DATA,
            table: DATA + 0x20_0000,
        }
    }

    /// Posts a chain if there are descriptors for it; returns its buffers.
    fn post(&mut self, guest: &mut Guest, shape: &Shape, flags: u16) -> Option<Vec<(u64, usize)>> {
        let (lens, indirect) = shape;
        let indirect = (*indirect).min(lens.len());
        let direct = lens.len() - indirect;
        let ring_slots = direct + usize::from(indirect > 0);
        if ring_slots > self.free.len() || lens.len() + 1 > usize::from(guest.size) {
            return None;
        }
        let slots = self.free.split_off(self.free.len() - ring_slots);
        let mut buffers = Vec::new();
        for &len in lens {
            buffers.push((self.data, len as usize));
            self.data = DATA + (self.data - DATA + u64::from(len)) % 0x10_0000;
        }
        for (i, &slot) in slots.iter().enumerate() {
            let next = slots.get(i + 1);
            let chained = if next.is_some() { NEXT } else { 0 };
            if i < direct {
                let (addr, len) = buffers[i];
                guest.desc(
                    slot,
                    addr,
                    len as u32,
                    flags | chained,
                    next.copied().unwrap_or(0),
                );
            } else {
                guest.desc(slot, self.table, indirect as u32 * 16, INDIRECT, 0);
                for (entry, &(addr, len)) in buffers[direct..].iter().enumerate() {
                    let chained = if entry + 1 < indirect { NEXT } else { 0 };
                    let d = (addr, len as u32, flags | chained, entry as u16 + 1);
                    guest.descriptor(self.table, entry as u16, d);
                }
                self.table = DATA + 0x20_0000 + (self.table - DATA - 0x20_0000 + 128) % 0x8000;
            }
        }
        guest.post(slots[0]);
        self.chains.push((slots[0], slots));
        Some(buffers)
    }

    /// The device gave this chain back.
    fn reclaim(&mut self, head: u32) {
        let index = self
            .chains
            .iter()
            .position(|(h, _)| u32::from(*h) == head)
            .expect("a chain that was posted");
        let (_, slots) = self.chains.remove(index);
        self.free.extend(slots);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn transmit_histories(bursts in shapes(), start: u16, seed: u64, takes in proptest::collection::vec(0_usize..9, 12)) {
        let mut guest = Guest::new(16).start_at(start);
        let ring = guest.tx();
        let mut queue = oracle(&guest, start);
        let mut posts = Posts::new(16, seed);
        let mut last_used = start;
        for (burst, take) in bursts.iter().zip(takes) {
            for shape in burst {
                posts.post(&mut guest, shape, 0);
            }
            let mut batch = TxBatch::new();
            let mut guard = ring.lock();
            let count = guard.peek(&mut batch, take).unwrap();
            for (i, chain) in batch.chains().iter().enumerate() {
                let (_, expected) = next_of(&guest, &mut queue).expect("the oracle sees a chain");
                prop_assert_eq!(spans(batch.segments(chain)), expected.clone());
                prop_assert_eq!(chain.len as usize, expected.iter().map(|b| b.1).sum::<usize>());
                guard.finish(i);
            }
            if count < take {
                prop_assert!(next_of(&guest, &mut queue).is_none());
            }
            prop_assert_eq!(usize::from(guard.publish()), count);
            prop_assert_eq!(guest.used_idx(), start.wrapping_add(queue.next_avail().wrapping_sub(start)));
            while last_used != guest.used_idx() {
                posts.reclaim(guest.used(last_used).0);
                last_used = last_used.wrapping_add(1);
            }
        }
    }

    #[test]
    fn receive_histories(
        bursts in shapes(),
        start: u16,
        seed: u64,
        wants in proptest::collection::vec(proptest::collection::vec(12_u32..6000, 0..5), 12),
    ) {
        let mut guest = Guest::new(16).start_at(start);
        let ring = guest.rx();
        let mut queue = oracle(&guest, start);
        let mut posts = Posts::new(16, seed);
        let mut last_used = start;
        for (burst, wants) in bursts.iter().zip(wants) {
            for (lens, indirect) in burst {
                // At least a header in each chain.
                let lens = lens.iter().map(|len| len + 11).collect();
                posts.post(&mut guest, &(lens, *indirect), WRITE);
            }
            let mut batch = RxBatch::new();
            let reserved = ring.reserve(&wants, &mut batch).unwrap();
            prop_assert_eq!(reserved.granted < wants.len(), reserved.starved);
            let mut lens = Vec::new();
            for (grant, &want) in batch.grants().zip(&wants) {
                let crate::virtqueue::Grant::Buffers { buffers, segments } = grant else {
                    // A ring of 16 may be full of small buffers.
                    continue;
                };
                let mut missing = want as usize;
                let mut expected = Vec::new();
                for i in 0..buffers {
                    prop_assert!(missing > 0, "buffer {} is not needed", i);
                    let (_, chain) = next_of(&guest, &mut queue).expect("the oracle sees a chain");
                    let len: usize = chain.iter().map(|b| b.1).sum();
                    lens.push(len.min(missing));
                    missing -= len.min(missing);
                    expected.extend(chain);
                }
                prop_assert_eq!(missing, 0);
                // Ours is a part of it: where a frame ends, what follows is left out.
                let ours = spans(segments);
                for &(addr, len) in &ours {
                    prop_assert!(expected.iter().any(|&(a, l)| a == addr && len <= l));
                }
                prop_assert!(ours.iter().map(|s| s.1).sum::<usize>() >= want as usize);
            }
            ring.complete(&mut batch);
            let mut written = Vec::new();
            while last_used != guest.used_idx() {
                let (id, len) = guest.used(last_used);
                posts.reclaim(id);
                written.push(len as usize);
                last_used = last_used.wrapping_add(1);
            }
            prop_assert_eq!(written, lens);
            prop_assert_eq!(ring.base(), u32::from(queue.next_avail()));
        }
    }

    #[test]
    fn arbitrary_rings(
        descs in proptest::collection::vec((0_usize..6, 0_u32..3000, 0_u16..8, 0_u16..10), 8),
        heads in proptest::collection::vec(0_u16..9, 8),
        avail in 0_u16..10,
        rx: bool,
    ) {
        let mut guest = Guest::with(8, |f| f.mergeable = rx);
        // Tables of garbage point back into the ring, among other places.
        let places = [DATA, DATA + 0x1000, guest.desc_at(), guest.desc_at() + 32, BASE + SIZE - 100, 0];
        for (i, &(place, len, flags, next)) in descs.iter().enumerate() {
            let len = if flags & INDIRECT != 0 { len % 9 * 16 } else { len };
            guest.desc(i as u16, places[place], len, flags, next);
        }
        for &head in &heads {
            guest.post(head);
        }
        guest.set_avail_idx(avail);
        let mut queue = oracle(&guest, 0);
        if rx {
            let ring = guest.rx();
            let mut batch = RxBatch::new();
            let _ = ring.reserve(&[64, 3000, 100], &mut batch);
            ring.complete(&mut batch);
            return Ok(());
        }
        let ring = guest.tx();
        let mut batch = TxBatch::new();
        let mut guard = ring.lock();
        if guard.peek(&mut batch, 64).is_ok() {
            prop_assert!(avail <= 8);
        }
        for take in 1..=8 {
            if guard.peek(&mut batch, take) != Ok(take) {
                break;
            }
            let chain = batch.chains()[take - 1];
            let (_, expected) = next_of(&guest, &mut queue).expect("the oracle sees a chain");
            prop_assert_eq!(spans(batch.segments(&chain)), expected);
        }
    }
}
