//! Packed rings that go on after their back end was killed, and those that cannot.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::packed_guest::{PackedGuest, Part};
use super::*;
use crate::virtqueue::format::{Spot, Used};
use crate::virtqueue::{Positions, PositionsError, RingError, RingPosition, TxBatch};

const FRESH: u32 = 0x8000_8000;

/// A file as another process would open it.
fn reopen(file: &File) -> File {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).write(true).open(path).unwrap()
}

/// The positions in a file that nobody else has, but for the processes that other tests start: until those run their
/// program they have all our descriptors.
fn keep(file: &File) -> Arc<Positions> {
    loop {
        match Positions::in_file(reopen(file), 2) {
            Ok(positions) => return Arc::new(positions),
            Err(PositionsError::InUse) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Starts ring 1 as a front end would that says `base`.
fn start(guest: &PackedGuest, positions: &Arc<Positions>, base: u32) -> Result<TxRing, RingError> {
    let mut config = guest.guest.config.clone();
    config.position = Some(positions.ring(1));
    config.activate_tx(guest.guest.memory(), None, ResumeAt::Said(base))
}

fn part(id: u16) -> Part {
    (DATA + u64::from(id) * 64, 64, 0)
}

/// The ring takes and gives back all that there is; the guest gets these.
fn serve(guest: &mut PackedGuest, ring: &TxRing) -> Vec<u16> {
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    while let count @ 1.. = guard.peek(&mut batch, 64).unwrap() {
        (0..count).for_each(|i| guard.finish(i));
        guard.publish();
    }
    collect(guest)
}

fn collect(guest: &mut PackedGuest) -> Vec<u16> {
    std::iter::from_fn(|| guest.pop_used().map(|used| used.id)).collect()
}

fn round_trip(guest: &mut PackedGuest, ring: &TxRing, ids: std::ops::Range<u16>) {
    for id in ids {
        guest.post(id, &[part(id)]);
        assert_eq!(serve(guest, ring), [id]);
    }
}

fn lost(result: Result<TxRing, RingError>) {
    assert_eq!(result.err(), Some(RingError::PositionLost));
}

#[test]
fn a_ring_goes_on_in_each_place_and_round() {
    let mut guest = PackedGuest::new(4, |_| {});
    let file = memfd(0);
    for id in 0..40 {
        // The front end says the same every time.
        let ring = start(&guest, &keep(&file), FRESH).unwrap();
        round_trip(&mut guest, &ring, id..id + 1);
    }
}

#[test]
fn chains_that_were_on_the_way_are_there_again() {
    let mut guest = PackedGuest::new(4, |_| {});
    let file = memfd(0);
    let ring = start(&guest, &keep(&file), FRESH).unwrap();
    round_trip(&mut guest, &ring, 0..3);
    guest.post(7, &[part(7)]);
    guest.post(8, &[part(8), part(9)]);
    let mut batch = TxBatch::new();
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap(), 2);
    ring.lock().finish(1);
    drop(batch);
    drop(ring);
    let ring = start(&guest, &keep(&file), FRESH).unwrap();
    assert_eq!(serve(&mut guest, &ring), [7, 8]);
}

#[test]
fn the_front_end_knows_better_after_an_orderly_stop() {
    let mut guest = PackedGuest::new(4, |_| {});
    let positions = keep(&memfd(0));
    let ring = start(&guest, &positions, FRESH).unwrap();
    assert!(!positions.is_idle());
    round_trip(&mut guest, &ring, 0..3);
    let base = ring.base();
    assert_eq!(base, 0x8003_8003);
    positions.ring(1).forget();
    assert!(positions.is_idle());
    // Another back end has served the ring meanwhile, and this is the third.
    let between = start(&guest, &keep(&memfd(0)), base).unwrap();
    round_trip(&mut guest, &between, 3..8);
    let ring = start(&guest, &positions, between.base()).unwrap();
    round_trip(&mut guest, &ring, 8..20);
}

/// What DPDK says has nothing in its upper half.
#[test]
fn half_a_base_will_do() {
    let mut guest = PackedGuest::new(4, |_| {});
    let ring = start(&guest, &keep(&memfd(0)), FRESH & 0xffff).unwrap();
    round_trip(&mut guest, &ring, 0..6);
    let base = ring.base();
    assert_eq!(base, 0x0002_0002);
    let ring = start(&guest, &keep(&memfd(0)), base & 0xffff).unwrap();
    round_trip(&mut guest, &ring, 6..20);
}

#[test]
fn a_driver_that_began_anew_is_seen_in_the_ring() {
    let file = memfd(0);
    for posted in 0..=4 {
        let mut guest = PackedGuest::new(4, |_| {});
        let ring = start(&guest, &keep(&file), FRESH).unwrap();
        round_trip(&mut guest, &ring, 0..7);
        drop(ring);
        // The same memory; the ring is zeroed with all that belongs to it, and the driver has begun to use it.
        guest.guest.fill(guest.guest.desc_at(), &[0; 64]);
        guest.guest.fill(guest.guest.used_at(), &[0; 4]);
        let mut again = PackedGuest::new(4, |_| {});
        again.guest = guest.guest;
        (0..posted).for_each(|id| again.post(id, &[part(id)]));
        // The address of the next is written perhaps, its flags are not.
        if posted == 3 {
            again.guest.write(again.guest.desc_at() + 16 * 3, DATA);
        }
        drop(start(&again, &keep(&file), FRESH).unwrap());
        // As a kill before the ring was touched leaves it.
        again.guest.fill(again.guest.used_at(), &[0; 4]);
        let ring = start(&again, &keep(&file), FRESH).unwrap();
        let expected: Vec<_> = (0..posted).collect();
        assert_eq!(serve(&mut again, &ring), expected);
        round_trip(&mut again, &ring, 10..20);
    }
}

#[test]
fn a_driver_may_be_writing_its_next_chain_just_then() {
    let guest = PackedGuest::new(8, |_| {});
    // One chain is there, and of the next the first descriptor has no flags yet.
    for (index, flags) in [(0, 1 << 7), (2, 1 << 7 | NEXT), (3, 1 << 7)] {
        guest.descriptor(index, DATA, 64, index, flags);
    }
    let ring = start(&guest, &keep(&memfd(0)), FRESH).unwrap();
    let mut batch = TxBatch::new();
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap(), 1);
}

/// Two rounds but for one descriptor, by chains of one descriptor, and a chain of two across the end.
#[test]
fn a_ring_that_only_looks_new() {
    let mut guest = PackedGuest::new(4, |_| {});
    let file = memfd(0);
    let ring = start(&guest, &keep(&file), FRESH).unwrap();
    round_trip(&mut guest, &ring, 0..7);
    guest.post(7, &[part(7), part(8)]);
    assert_eq!(serve(&mut guest, &ring), [7]);
    drop(ring);
    let ring = start(&guest, &keep(&file), FRESH).unwrap();
    round_trip(&mut guest, &ring, 8..20);
}

/// All places, or all but the last, look available in one round, where the first are left from a chain across the
/// end.
#[test]
fn a_full_ring_that_only_looks_new() {
    for event_idx in [false, true] {
        for across in [2, 3] {
            let mut guest = PackedGuest::new(6, |features| features.event_idx = event_idx);
            let file = memfd(0);
            let ring = start(&guest, &keep(&file), FRESH).unwrap();
            round_trip(&mut guest, &ring, 0..11);
            guest.post(20, &vec![part(20); across]);
            assert_eq!(serve(&mut guest, &ring), [20]);
            drop(ring);
            (30..34).for_each(|id| guest.post(id, &[part(id)]));
            let ring = start(&guest, &keep(&file), FRESH).unwrap();
            assert_eq!(ring.base() as u16, guest.used_position());
            assert_eq!(serve(&mut guest, &ring), [30, 31, 32, 33]);
            round_trip(&mut guest, &ring, 40..60);
        }
    }
}

#[test]
fn without_a_record_a_used_ring_does_not_start() {
    for rounds in 1..20 {
        let mut guest = PackedGuest::new(4, |_| {});
        let ring = start(&guest, &keep(&memfd(0)), FRESH).unwrap();
        round_trip(&mut guest, &ring, 0..rounds);
        let result = start(&guest, &keep(&memfd(0)), FRESH);
        if rounds % 8 == 0 {
            // A front end that was told so is right.
            assert_eq!(ring.base(), FRESH);
            round_trip(&mut guest, &result.unwrap(), rounds..40);
        } else {
            lost(result);
        }
    }
}

/// With chains of several descriptors, of which some seem to be available.
#[test]
fn a_ring_stops_at_its_start_and_goes_on() {
    let mut guest = PackedGuest::new(6, |_| {});
    let ring = start(&guest, &keep(&memfd(0)), FRESH).unwrap();
    for id in 0..4 {
        guest.post(id, &[part(id), part(id), part(id)]);
        assert_eq!(serve(&mut guest, &ring), [id]);
    }
    assert_eq!(ring.base(), FRESH);
    guest.post(7, &[part(7), part(8)]);
    let ring = start(&guest, &keep(&memfd(0)), FRESH).unwrap();
    assert_eq!(serve(&mut guest, &ring), [7]);
    round_trip(&mut guest, &ring, 10..30);
}

#[test]
fn a_base_that_the_ring_has_left_behind_does_not_start_it() {
    let mut guest = PackedGuest::new(8, |_| {});
    let ring = start(&guest, &keep(&memfd(0)), FRESH).unwrap();
    round_trip(&mut guest, &ring, 0..3);
    let stale = ring.base();
    round_trip(&mut guest, &ring, 3..5);
    lost(start(&guest, &keep(&memfd(0)), stale));
}

#[test]
fn a_record_of_another_ring_does_not_count() {
    let mut guest = PackedGuest::new(4, |_| {});
    let file = memfd(0);
    let ring = start(&guest, &keep(&file), FRESH).unwrap();
    round_trip(&mut guest, &ring, 0..2);
    drop(ring);
    let restart = |change: &dyn Fn(&mut RingConfig)| {
        let mut config = guest.guest.config.clone();
        config.position = Some(keep(&file).ring(1));
        change(&mut config);
        let memory = guest.guest.memory();
        config
            .activate_tx(memory, None, ResumeAt::Said(FRESH))
            .map(drop)
            .err()
    };
    // Of other features, or in another file with the same in it.
    let lost = Some(RingError::PositionLost);
    assert_eq!(restart(&|config| config.features.in_order = true), lost);
    assert_eq!(restart(&|config| config.size = 3), lost);
    let other = PackedGuest::new(4, |_| {});
    let mut ring = [0; 64];
    guest.guest.file.read_exact_at(&mut ring, 0).unwrap();
    other.guest.file.write_all_at(&ring, 0).unwrap();
    assert_eq!(start(&other, &keep(&file), FRESH).err(), lost);
    // And the same again.
    assert_eq!(restart(&|_| {}), None);
}

#[test]
fn nonsense_in_the_file_is_harmless() {
    let mut guest = PackedGuest::new(4, |_| {});
    let file = memfd(0);
    let ring = start(&guest, &keep(&file), FRESH).unwrap();
    round_trip(&mut guest, &ring, 0..6);
    guest.post(9, &[part(9)]);
    drop(ring);
    let record = 64 + 8 * (8 + 1024);
    // Places outside the ring; elements of no or too many slots; a publication of a whole round.
    for (last, element) in [
        (0xffff_ffff_u64, 0),
        (0x8004_0002, 0),
        (0x8002_0002, 0),
        (0x8002_0002, u64::MAX),
    ] {
        file.write_all_at(&last.to_ne_bytes(), record + 8).unwrap();
        for index in 0..4 {
            file.write_all_at(&element.to_ne_bytes(), record + 64 + 8 * index)
                .unwrap();
        }
        let _ = start(&guest, &keep(&file), FRESH);
    }
}

#[test]
fn what_cannot_be_a_file_of_positions() {
    let positions = |file: &File| Positions::in_file(reopen(file), 2).map(drop);
    let file = memfd(0);
    let first = keep(&file);
    assert!(matches!(positions(&file), Err(PositionsError::InUse)));
    drop(first);
    drop(keep(&file));
    let text = memfd(0);
    text.write_all_at(b"evbpos?", 0).unwrap();
    assert!(matches!(positions(&text), Err(PositionsError::Foreign)));
    assert_eq!(text.metadata().unwrap().len(), 7);
}

/// The steps of a publication, as a kill may cut them off; where it ends.
fn publish(
    guest: &PackedGuest,
    at: &RingPosition,
    from: Spot,
    chains: &[Used],
    steps: usize,
) -> Spot {
    let advance = |spot: Spot, slots: u16| {
        let index = spot.index + slots;
        let wraps = index >= guest.guest.size;
        Spot {
            index: if wraps {
                index - guest.guest.size
            } else {
                index
            },
            wrap: spot.wrap != wraps,
        }
    };
    let mut spots = vec![from];
    for chain in chains {
        spots.push(advance(spots[spots.len() - 1], chain.slots));
    }
    let write = |spot: Spot, used: &Used| {
        let desc = guest.guest.desc_at() + 16 * u64::from(spot.index);
        let flags = if spot.wrap { 0x8080_u64 } else { 0 };
        let tail = u64::from(used.written) | u64::from(used.id) << 32 | flags << 48;
        guest.guest.write(desc + 8, tail);
    };
    let elements: Vec<_> = spots.iter().zip(chains).collect();
    let mut todo: Vec<Box<dyn Fn() + '_>> = Vec::new();
    for (spot, used) in &elements {
        todo.push(Box::new(|| at.note(spot.index, **used)));
    }
    let end = spots[chains.len()];
    todo.push(Box::new(move || at.move_to(from, end)));
    for (spot, used) in elements.iter().skip(1).chain(elements.first()) {
        todo.push(Box::new(|| write(**spot, used)));
    }
    todo.iter().take(steps).for_each(|step| step());
    end
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Killed at any step of any publication, each chain comes back once, in order.
    #[test]
    fn a_kill_at_any_step(
        size in 12_u16..40,
        rounds in proptest::collection::vec(
            (proptest::collection::vec(1_usize..4, 1..6), 0_usize..14, any::<bool>()),
            1..40,
        ),
    ) {
        let mut guest = PackedGuest::new(size, |_| {});
        let file = memfd(0);
        let mut ids = (0..2000).cycle();
        let mut expected = Vec::new();
        let mut seen = Vec::new();
        let mut position = FRESH as u16;
        for (chains, steps, reuse) in rounds {
            let positions = keep(&file);
            let ring = start(&guest, &positions, FRESH).unwrap();
            prop_assert_eq!(ring.base() as u16, position);
            seen.extend(collect(&mut guest));
            for len in chains {
                if len <= usize::from(guest.free) {
                    let id = ids.next().unwrap();
                    guest.post(id, &vec![part(id); len]);
                    expected.push(id);
                }
            }
            let mut batch = TxBatch::new();
            let count = ring.lock().peek(&mut batch, 64).unwrap();
            let taken = &expected[expected.len() - count..];
            let used: Vec<_> = taken
                .iter()
                .map(|&id| Used { id, slots: guest.slots[&id], written: 0 })
                .collect();
            let from = Spot::from_bits(ring.base() as u16);
            drop(batch);
    drop(ring);
            let end = publish(&guest, &positions.ring(1), from, &used, steps);
            // What was begun is finished: nothing comes twice.
            if steps > used.len() {
                position = end.to_bits();
            }
            drop(positions);
            if reuse {
                // The driver takes what it can see, and uses the places again.
                seen.extend(collect(&mut guest));
            }
        }
        let ring = start(&guest, &keep(&file), FRESH).unwrap();
        seen.extend(serve(&mut guest, &ring));
        prop_assert_eq!(seen, expected);
    }
}
