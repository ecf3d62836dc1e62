//! Packed rings against a guest written independently of them.

use proptest::prelude::*;

use super::packed_guest::{PackedGuest, Part, UsedBuffer};
use super::*;
use crate::virtqueue::{Gather, Grant, Reserved, RxBatch, Start, TxBatch, read};

fn used(id: u16, len: u32, written: bool) -> UsedBuffer {
    UsedBuffer { id, len, written }
}

/// Finishes and gives back the first `count` chains.
fn take(ring: &TxRing, count: usize) {
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, count).unwrap(), count);
    (0..count).for_each(|i| guard.finish(i));
    assert_eq!(usize::from(guard.publish()), count);
}

fn post(guest: &mut PackedGuest, id: u16) {
    guest.post(id, &[(DATA + u64::from(id) * 64, 64, 0)]);
}

/// Posts a chain of `len` parts, or of as many as the ring holds, under the next id, if there is room. The first has
/// `first` bytes and each of the others seven more.
fn post_chain(
    guest: &mut PackedGuest,
    ids: &mut Vec<u16>,
    (len, indirect): (usize, bool),
    (first, flags): (u32, u16),
) -> Option<(u16, Vec<Part>)> {
    let len = len.min(guest.guest.config.size.into());
    let slots = if indirect { 1 } else { len };
    let id = ids.pop_if(|_| slots <= usize::from(guest.free))?;
    let at = |i: usize| DATA + u64::from(id) * 1000 + i as u64 * 100;
    let parts: Vec<Part> = (0..len)
        .map(|i| (at(i), first + i as u32 * 7, flags))
        .collect();
    if indirect {
        guest.post_indirect(id, DATA + 0x10_0000 + u64::from(id) * 128, &parts);
    } else {
        guest.post(id, &parts);
    }
    Some((id, parts))
}

#[test]
fn chains_of_every_kind() {
    let mut guest = PackedGuest::new(8, |_| {});
    guest.guest.fill(DATA, b"oneTWOthree");
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap(), 0);
    let parts = [(DATA, 3, 0), (DATA + 3, 3, 0), (DATA + 6, 5, 0)];
    guest.post(70, &parts);
    guest.post(71, &parts[2..]);
    guest.post_indirect(72, DATA + 0x8000, &parts);
    // Direct descriptors, then a table.
    let table = (DATA + 0x8000, 48, INDIRECT);
    guest.post_raw(73, &[(DATA + 6, 5, NEXT), table]);
    let mut guard = ring.lock();
    assert!(guard.available().unwrap());
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 4);
    let text = |i: usize| {
        let chain = batch.chains()[i];
        let mut out = vec![0; chain.len as usize];
        read(batch.segments(&chain), 0, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(text(0), "oneTWOthree");
    assert_eq!(text(1), "three");
    assert_eq!(text(2), "oneTWOthree");
    assert_eq!(text(3), "threeoneTWOthree");
    for i in [3, 1, 2] {
        guard.finish(i);
        assert_eq!(guard.publish(), 0);
        assert_eq!(guest.peek_used(), None);
    }
    guard.finish(0);
    assert_eq!(guard.publish(), 4);
    for id in 70..74 {
        assert_eq!(guest.pop_used(), Some(used(id, 0, false)));
    }
    assert_eq!(guest.pop_used(), None);
    assert!(!guard.available().unwrap());
}

#[test]
fn finished_chains_are_remembered_by_their_slots() {
    let mut guest = PackedGuest::new(5, |_| {});
    let part: Part = (DATA, 10, 0);
    guest.post(0, &[part, part]);
    guest.post(1, &[part, part]);
    guest.post(2, &[part]);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 3);
    guard.finish(1);
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 3);
    let seen: Vec<_> = batch.chains().iter().map(|c| (c.len, c.done)).collect();
    assert_eq!(seen, [(20, false), (0, true), (10, false)]);
    guard.finish(0);
    assert_eq!(guard.publish(), 2);
    guest.pop_used();
    guest.pop_used();
    guest.post(3, &[part, part, part]);
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 2);
    assert_eq!(batch.chains()[1].len, 30);
}

#[test]
fn in_order_needs_one_descriptor_for_a_batch() {
    let mut guest = PackedGuest::new(6, |f| f.in_order = true);
    let part: Part = (DATA, 10, 0);
    let ring = guest.tx();
    for round in 0..10 {
        guest.post(0, &[part]);
        guest.post(1, &[part, part]);
        guest.post(2, &[part]);
        take(&ring, 3);
        // At the place of the first, with the id of the last (VIRTIO 1.2, 2.8.9).
        assert_eq!(guest.peek_used(), Some(used(2, 0, false)), "{round}");
        guest.skip(4);
        assert_eq!(guest.peek_used(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn transmit_histories(
        size in 1_u16..20,
        rounds in proptest::collection::vec(
            (proptest::collection::vec((1_usize..5, any::<bool>()), 0..9), 0_usize..9, any::<u64>()),
            1..40,
        ),
    ) {
        let mut guest = PackedGuest::new(size, |_| {});
        let ring = guest.tx();
        let mut posted: std::collections::VecDeque<(u16, Vec<(u64, usize)>)> = [].into();
        let mut finished = Vec::new();
        let mut ids: Vec<u16> = (100..200).collect();
        for (bursts, take, order) in rounds {
            for (len, indirect) in bursts {
                let Some((id, parts)) = post_chain(&mut guest, &mut ids, (len, indirect), (1, 0)) else {
                    continue;
                };
                posted.push_back((id, parts.iter().map(|p| (p.0, p.1 as usize)).collect()));
            }
            let mut batch = TxBatch::new();
            let mut guard = ring.lock();
            let count = guard.peek(&mut batch, take).unwrap();
            prop_assert_eq!(count, take.min(posted.len()));
            for (chain, (id, expected)) in batch.chains().iter().zip(&posted) {
                if chain.done {
                    prop_assert!(finished.contains(id));
                } else {
                    prop_assert_eq!(&spans(batch.segments(chain)), expected);
                }
            }
            for (i, (id, _)) in posted.iter().enumerate().take(count) {
                if order >> (i % 64) & 3 != 0 {
                    guard.finish(i);
                    finished.push(*id);
                }
            }
            let given = guard.publish();
            for _ in 0..given {
                let (id, _) = posted.pop_front().unwrap();
                prop_assert_eq!(guest.pop_used(), Some(used(id, 0, false)));
                finished.retain(|f| *f != id);
                ids.push(id);
            }
            prop_assert!(posted.front().is_none_or(|(id, _)| !finished.contains(id)));
            prop_assert_eq!(guest.pop_used(), None);
            drop(guard);
            let base = ring.base();
            prop_assert_eq!(base as u16, (base >> 16) as u16);
            prop_assert_eq!(base as u16, guest.used_position());
        }
    }

    #[test]
    fn receive_histories(
        size in 1_u16..20,
        rounds in proptest::collection::vec(
            (
                proptest::collection::vec((1_usize..4, any::<bool>()), 0..9),
                proptest::collection::vec(12_u32..400, 0..5),
                0_u8..8,
                0_u8..4,
            ),
            1..40,
        ),
    ) {
        let mut guest = PackedGuest::new(size, |_| {});
        let ring = guest.rx();
        let mut posted: std::collections::VecDeque<(u16, u32)> = [].into();
        let mut ids: Vec<u16> = (100..200).collect();
        // Those of one descriptor in the ring.
        let mut simple = std::collections::HashSet::new();
        let mut dry = false;
        for (bursts, wants, cancel, puts) in rounds {
            for (len, indirect) in bursts {
                let Some((id, parts)) = post_chain(&mut guest, &mut ids, (len, indirect), (50, WRITE)) else {
                    continue;
                };
                if parts.len() == 1 && !indirect {
                    simple.insert(id);
                } else {
                    simple.remove(&id);
                }
                posted.push_back((id, parts.iter().map(|p| p.1).sum()));
            }
            for _ in 0..puts {
                // 50 bytes is what a single descriptor has.
                let next = posted.front().map(|(id, _)| *id);
                let next = next.filter(|id| !dry && simple.contains(id));
                let done = ring.put(&Start::new(&[0; 12], &[1; 38]), || ());
                prop_assert_eq!(done, next.is_some());
                prop_assert_eq!(guest.pop_used(), next.map(|id| used(id, 50, true)));
                if let Some(id) = next {
                    posted.pop_front();
                    ids.push(id);
                }
            }
            let mut batch = RxBatch::new();
            let reserved = ring.reserve(&wants, &mut batch).unwrap();
            prop_assert_eq!(reserved.starved, reserved.granted < wants.len());
            dry |= reserved.starved;
            if cancel == 0 {
                ring.cancel(&mut batch);
                prop_assert_eq!(guest.peek_used(), None);
                continue;
            }
            // What the guest should see: each chain with its share of a frame.
            let mut expected = Vec::new();
            let mut chains = posted.iter();
            for (grant, &want) in batch.grants().zip(&wants) {
                let Grant::Buffers { buffers, segments } = grant else {
                    continue;
                };
                prop_assert!(segments.iter().map(Segment::len).sum::<usize>() >= want as usize);
                let mut missing = want;
                for _ in 0..buffers {
                    let &(id, room) = chains.next().unwrap();
                    let len = room.min(missing);
                    prop_assert!(len > 0);
                    missing -= len;
                    expected.push(used(id, len, true));
                }
                prop_assert_eq!(missing, 0);
            }
            prop_assert_eq!(guest.peek_used(), None);
            dry &= expected.is_empty();
            ring.complete(&mut batch);
            for element in expected {
                posted.pop_front();
                ids.push(element.id);
                prop_assert_eq!(guest.pop_used(), Some(element));
            }
            prop_assert_eq!(guest.pop_used(), None);
            prop_assert_eq!((ring.base() >> 16) as u16, guest.used_position());
        }
    }
}

#[test]
fn publication_follows_reservation() {
    let mut guest = PackedGuest::new(7, |_| {});
    let ring = guest.rx();
    // Twice, so that the ranges cross the end of the ring.
    for round in 0..4 {
        for id in 0..6 {
            guest.post(id, &[(DATA + u64::from(id) * 128, 100, WRITE)]);
        }
        let (mut a, mut b, mut c) = (RxBatch::new(), RxBatch::new(), RxBatch::new());
        ring.reserve(&[150], &mut a).unwrap();
        ring.reserve(&[50, 60], &mut b).unwrap();
        ring.reserve(&[90], &mut c).unwrap();
        ring.cancel(&mut c);
        ring.reserve(&[120], &mut c).unwrap();
        ring.complete(&mut b);
        assert_eq!(guest.peek_used(), None, "{round}");
        ring.complete(&mut c);
        assert_eq!(guest.peek_used(), None);
        // Of the oldest nothing was written: it arrives as zeros.
        guest.guest.fill(DATA, &[0xff; 256]);
        ring.cancel(&mut a);
        for expected in [(0, 72), (1, 50), (2, 50), (3, 60), (4, 100), (5, 20)] {
            assert_eq!(guest.pop_used(), Some(used(expected.0, expected.1, true)));
        }
        for (at, len) in [(DATA, 72), (DATA + 128, 50)] {
            let bytes = guest.guest.bytes(at, len + 1);
            assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
            assert!(bytes[12..len].iter().all(|&b| b == 0));
            assert_eq!(bytes[len], 0xff);
        }
    }
}

#[test]
fn a_frame_may_turn_out_shorter() {
    let mut guest = PackedGuest::new(4, |_| {});
    let ring = guest.rx();
    for _ in 0..5 {
        for id in 0..3 {
            guest.post(id, &[(DATA + u64::from(id) * 128, 100, WRITE)]);
        }
        let mut batch = RxBatch::new();
        ring.reserve(&[300], &mut batch).unwrap();
        assert_eq!(ring.shrink_last(&mut batch, 110), 2);
        ring.complete(&mut batch);
        assert_eq!(
            ring.reserve(&[60], &mut batch).unwrap(),
            Reserved {
                granted: 1,
                starved: false
            }
        );
        ring.complete(&mut batch);
        for (id, len) in [(0, 100), (1, 10), (2, 60)] {
            assert_eq!(guest.pop_used(), Some(used(id, len, true)));
        }
    }
}

#[test]
fn calls() {
    let mut guest = PackedGuest::new(4, |f| f.event_idx = false);
    let ring = guest.tx();
    assert!(ring.notify().unwrap(), "owed at the start");
    let send = |guest: &mut PackedGuest| {
        post(guest, 0);
        take(&ring, 1);
        guest.pop_used();
        ring.notify().unwrap()
    };
    assert!(send(&mut guest));
    guest.set_events(0, 1);
    assert!(!send(&mut guest));
    guest.set_events(0, 0);
    assert!(send(&mut guest));
    // The position means nothing without EVENT_IDX.
    guest.set_events(3, 2);
    assert!(send(&mut guest));
    assert!(!ring.notify().unwrap());
}

#[test]
fn calls_at_a_position() {
    // Every position a guest can name, every place in two rounds, every length of a burst.
    const SIZE: u16 = 5;
    for start in 0..2 * SIZE {
        for count in 1..=SIZE {
            for event in 0..2 * SIZE {
                let mut guest = PackedGuest::new(SIZE, |f| f.event_idx = true);
                let ring = guest.tx();
                for _ in 0..start {
                    post(&mut guest, 0);
                    take(&ring, 1);
                    guest.pop_used();
                }
                ring.notify().unwrap();
                guest.set_events((event % SIZE) | (u16::from(event < SIZE) << 15), 2);
                for id in 0..count {
                    post(&mut guest, id);
                }
                take(&ring, count.into());
                let passed = (start..start + count).any(|slot| slot % (2 * SIZE) == event);
                assert_eq!(ring.notify().unwrap(), passed, "{start} + {count}, {event}");
            }
        }
    }
    // A position outside the ring is the guest's loss.
    let mut guest = PackedGuest::new(SIZE, |f| f.event_idx = true);
    let ring = guest.tx();
    guest.set_events(0xffff, 2);
    post(&mut guest, 0);
    take(&ring, 1);
    ring.notify().unwrap();
}

#[test]
fn a_guest_that_polled_for_rounds_is_called_at_its_position_and_nowhere_else() {
    const SIZE: u16 = 5;
    for ahead in 0..2 * SIZE {
        let mut guest = PackedGuest::new(SIZE, |f| f.event_idx = true);
        let ring = guest.tx();
        ring.notify().unwrap();
        guest.set_events(0, 1);
        let rounds = 5 * SIZE;
        for _ in 0..rounds {
            post(&mut guest, 0);
            take(&ring, 1);
            guest.pop_used();
            assert!(!ring.notify().unwrap());
        }
        let event = (rounds + ahead) % (2 * SIZE);
        guest.set_events((event % SIZE) | (u16::from(event < SIZE) << 15), 2);
        post(&mut guest, 0);
        take(&ring, 1);
        assert_eq!(ring.notify().unwrap(), ahead == 0, "{ahead} slots ahead");
    }
}

#[test]
fn a_ring_is_silent_until_something_comes() {
    let mut guest = PackedGuest::new(3, |_| {});
    let ring = guest.tx();
    for _ in 0..7 {
        let silence = ring.silence().unwrap();
        assert!(ring.is_silent(silence));
        post(&mut guest, 0);
        assert!(!ring.is_silent(silence));
        assert_eq!(ring.lock().peek(&mut TxBatch::new(), 8).unwrap(), 1);
        assert!(ring.silence().is_none(), "under way");
        take(&ring, 1);
        guest.pop_used();
    }
}

#[test]
fn kicks() {
    for event_idx in [false, true] {
        let mut guest = PackedGuest::new(3, |f| f.event_idx = event_idx);
        let ring = guest.tx();
        for _ in 0..7 {
            let mut guard = ring.lock();
            assert!(!guard.enable_kicks().unwrap());
            if event_idx {
                assert_eq!(guest.device_events(), (guest.next_position(), 2));
            } else {
                // Never all zeros, by which a new ring is known.
                assert_eq!(guest.device_events(), (u16::MAX, 0));
            }
            guard.disable_kicks();
            assert_eq!(guest.device_events().1, 1);
            post(&mut guest, 0);
            assert!(guard.enable_kicks().unwrap(), "came in between");
            drop(guard);
            take(&ring, 1);
            guest.pop_used();
        }
        let ring =
            guest
                .guest
                .config
                .activate_rx(guest.guest.memory(), None, ResumeAt::Base(ring.base()));
        let ring = ring.unwrap();
        assert_eq!(guest.device_events().1, 1, "off from the start");
        assert!(!ring.has_buffers());
        guest.post(1, &[(DATA, 100, WRITE)]);
        assert!(ring.has_buffers());
        let mut batch = RxBatch::new();
        assert!(ring.reserve(&[150], &mut batch).unwrap().starved);
        assert!(!ring.wait_for_buffers(true).unwrap(), "one is not enough");
        if event_idx {
            assert_eq!(guest.device_events(), (guest.next_position(), 2));
        }
        guest.post(2, &[(DATA + 100, 100, WRITE)]);
        assert!(ring.wait_for_buffers(true).unwrap());
        assert!(!ring.reserve(&[150], &mut batch).unwrap().starved);
        ring.wait_for_buffers(false).unwrap();
        assert_eq!(guest.device_events().1, 1);
    }
}

#[test]
fn resuming_where_another_stopped() {
    let mut guest = PackedGuest::new(5, |_| {});
    let mut ring = guest.tx();
    for id in 0..40 {
        post(&mut guest, id);
        post(&mut guest, id + 100);
        take(&ring, 1);
        // One chain was taken back by the guest, one is still available.
        assert_eq!(guest.pop_used(), Some(used(id, 0, false)));
        ring = guest
            .guest
            .config
            .activate_tx(guest.guest.memory(), None, ResumeAt::Base(ring.base()))
            .unwrap();
        take(&ring, 1);
        assert_eq!(guest.pop_used(), Some(used(id + 100, 0, false)));
        let next = ring
            .reconfigure(&guest.guest.config, guest.guest.memory(), None)
            .unwrap();
        assert_eq!(next.base(), ring.base());
        ring = next;
    }
    let at = |base| {
        guest
            .guest
            .config
            .activate_tx(guest.guest.memory(), None, base)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        at(ResumeAt::UsedIndex),
        "a packed ring has no index in memory: expected a position to resume at"
    );
    for base in [5, 0x8005, 0x0005_0000, 0x7fff_0000] {
        assert_eq!(
            at(ResumeAt::Base(base)),
            format!("cannot resume a packed ring of 5 at {base:#x}")
        );
    }
    let split = Guest::new(8);
    let error = split
        .config
        .activate_tx(split.memory(), None, ResumeAt::Base(0x1_0000))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot resume a split ring of 8 at 0x10000"
    );
    let mut other = guest.guest.config.clone();
    other.features.packed = false;
    other.size = 4;
    assert!(
        ring.reconfigure(&other, guest.guest.memory(), None)
            .is_err()
    );
    other.size = 5;
    assert_eq!(
        ring.reconfigure(&other, guest.guest.memory(), None)
            .unwrap_err()
            .to_string(),
        "RING_PACKED of a running ring cannot change from 1 to 0"
    );
}

#[test]
fn dirty_pages() {
    let log = Log::new();
    let pages = || -> Vec<u64> {
        let marked = log.take().into_iter();
        marked.map(|address| (address - BASE) / 0x1000).collect()
    };
    // 1,000 descriptors take four pages, BASE to BASE + 0x3e80; events are in pages 8 and 16.
    let mut guest = PackedGuest::new(1000, |_| {});
    guest.guest.config.log_used = Some(guest.guest.used_at());
    let ring = guest
        .guest
        .config
        .activate_rx(
            guest.guest.memory(),
            Some(Arc::clone(&log.log)),
            ResumeAt::fresh(true),
        )
        .unwrap();
    assert_eq!(pages(), [16]);
    let mut batch = RxBatch::new();
    let mut deliver = |guest: &mut PackedGuest, count: u16| {
        for id in 0..count {
            guest.post(id, &[(DATA, 64, WRITE)]);
        }
        for _ in (0..count).step_by(50) {
            ring.reserve(&[20; 50], &mut batch).unwrap();
            let frame = Gather {
                header: &[0; 12],
                head: &[1; 8],
                rest: &[],
                rest_skip: 0,
                rest_len: 0,
            };
            for grant in batch.grants() {
                let Grant::Buffers { segments, .. } = grant else {
                    panic!("{grant:?}");
                };
                ring.copy(segments, &frame);
            }
            ring.complete(&mut batch);
        }
        while guest.pop_used().is_some() {}
        pages()
    };
    assert_eq!(deliver(&mut guest, 50), [0, 256]);
    assert_eq!(deliver(&mut guest, 900), [0, 1, 2, 3, 256]);
    assert_eq!(deliver(&mut guest, 100), [0, 3, 256], "over the end");
}
