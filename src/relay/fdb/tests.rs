//! The database by itself: ageing, limits, moves, generations, pins, scale and concurrency.

use std::sync::atomic::{AtomicBool, Ordering};

use super::entry::{DAMPING, MAX_MOVES};
use super::{Entry, EntryKind, Fdb, Learning};
use crate::frame::mac::Mac;
use crate::relay::port::{MAX_PORTS, Slot};

fn slot(index: usize) -> Slot {
    Slot::new(index).unwrap()
}

fn mac(number: u64) -> Mac {
    Mac::from_u64(0x0200_0000_0000 | number)
}

/// Learns without a limit of the port.
fn learn(fdb: &Fdb, number: u64, at: usize, now: u32) -> Learning {
    fdb.learn(1, mac(number), slot(at), u32::MAX, now)
}

fn at(fdb: &Fdb, number: u64, now: u32) -> Option<usize> {
    fdb.lookup(1, mac(number), now)
        .map(|(slot, _)| slot.index())
}

#[test]
fn entries_are_learned_per_fid_and_age_unless_refreshed() {
    let fdb = Fdb::new(100);
    fdb.configure(300, 100);
    assert_eq!(learn(&fdb, 1, 7, 0), Learning::New);
    assert_eq!(learn(&fdb, 2, 7, 0), Learning::New);
    assert_eq!(fdb.lookup(2, mac(1), 0), None);
    assert_eq!(learn(&fdb, 1, 7, 200), Learning::Known);
    assert_eq!((at(&fdb, 1, 300), at(&fdb, 2, 300)), (Some(7), Some(7)));
    assert_eq!((at(&fdb, 1, 301), at(&fdb, 2, 301)), (Some(7), None));
    assert_eq!(fdb.len(), 2);
    assert_eq!(fdb.sweep(301, usize::MAX), 1);
    assert_eq!((fdb.len(), fdb.learned_by(slot(7))), (1, 1));
    assert_eq!((at(&fdb, 1, 500), at(&fdb, 1, 501)), (Some(7), None));
    // What has aged out is learned anew, counted once.
    assert_eq!(learn(&fdb, 1, 7, 600), Learning::New);
    assert_eq!((fdb.len(), fdb.learned_by(slot(7))), (1, 1));
    // A worker whose clock is a second behind finds it.
    assert_eq!(at(&fdb, 1, 599), Some(7));
}

#[test]
fn ageing_zero_turns_learning_off() {
    let fdb = Fdb::new(100);
    assert_eq!(learn(&fdb, 1, 0, 5), Learning::New);
    fdb.configure(0, 100);
    assert_eq!(at(&fdb, 1, 5), None);
    assert_eq!(learn(&fdb, 2, 0, 5), Learning::Off);
}

#[test]
fn limits_of_port_and_relay_evict_nobody() {
    let fdb = Fdb::new(10);
    fdb.configure(300, 10);
    for number in 0..4 {
        assert_eq!(fdb.learn(1, mac(number), slot(0), 4, 0), Learning::New);
    }
    assert_eq!(fdb.learn(1, mac(4), slot(0), 4, 0), Learning::PortLimit);
    assert_eq!(fdb.learn(1, mac(3), slot(0), 4, 0), Learning::Known);
    for number in 10..16 {
        assert_eq!(learn(&fdb, number, 1, 0), Learning::New);
    }
    assert_eq!(learn(&fdb, 16, 1, 0), Learning::RelayLimit);
    assert_eq!((fdb.len(), fdb.learned_by(slot(1))), (10, 6));
    // A move needs no room in the relay, but at the port.
    assert_eq!(fdb.learn(1, mac(10), slot(0), 4, 0), Learning::PortLimit);
    assert_eq!(at(&fdb, 10, 0), Some(1));
    assert_eq!(learn(&fdb, 0, 1, 0), Learning::Moved);
    assert_eq!((fdb.learned_by(slot(0)), fdb.learned_by(slot(1))), (3, 7));
    assert_eq!(fdb.len(), 10);
    for number in (1..4).chain(10..16) {
        assert!(at(&fdb, number, 0).is_some());
    }
}

#[test]
fn moves_are_damped_for_a_while() {
    let fdb = Fdb::new(100);
    let mut now = 1000;
    learn(&fdb, 1, 0, now);
    for round in 1..=MAX_MOVES as usize {
        assert_eq!(learn(&fdb, 1, round % 2, now), Learning::Moved);
    }
    let held = MAX_MOVES as usize % 2;
    for _ in 0..DAMPING {
        assert_eq!(learn(&fdb, 1, 1 - held, now), Learning::Damped);
        assert_eq!(learn(&fdb, 1, held, now), Learning::Known);
        assert_eq!(at(&fdb, 1, now), Some(held));
        now += 1;
    }
    assert_eq!(learn(&fdb, 1, 1 - held, now), Learning::Moved);
    // An entry that has moved now and then, further apart, is never held, whatever the time
    // modulo 256.
    for _ in 0..1000 {
        now += DAMPING;
        let next = 1 - at(&fdb, 1, now).unwrap();
        assert_eq!(learn(&fdb, 1, next, now), Learning::Moved);
    }
}

#[test]
fn static_entries_stay() {
    let fdb = Fdb::new(2);
    fdb.configure(300, 2);
    learn(&fdb, 1, 0, 0);
    assert!(fdb.add_static(1, mac(1), slot(3)));
    assert_eq!((fdb.len(), fdb.learned_by(slot(0))), (1, 0));
    assert_eq!(learn(&fdb, 1, 0, 0), Learning::Taken);
    assert_eq!(learn(&fdb, 1, 3, 0), Learning::Known);
    assert_eq!(at(&fdb, 1, u32::MAX), Some(3));
    assert_eq!(fdb.sweep(u32::MAX, usize::MAX), 0);
    fdb.forget_learned(slot(3));
    assert_eq!(at(&fdb, 1, 0), Some(3));
    assert_eq!(learn(&fdb, 2, 0, 0), Learning::New);
    assert!(!fdb.add_static(1, mac(3), slot(3)), "the relay is full");
    // Moving a static entry needs no room.
    assert!(fdb.add_static(1, mac(1), slot(4)));
    assert_eq!(at(&fdb, 1, 0), Some(4));
    // Nor does it where the relay may hold fewer than it does, after a reload.
    fdb.configure(300, 1);
    assert!(fdb.add_static(1, mac(1), slot(3)));
    assert_eq!((fdb.len(), at(&fdb, 1, 0)), (2, Some(3)));
    assert!(fdb.remove_static(1, mac(1)));
    assert!(!fdb.remove_static(1, mac(1)));
    assert!(!fdb.remove_static(1, mac(2)), "learned");
    fdb.add_static(1, mac(5), slot(4));
    fdb.forget_static(slot(4));
    assert_eq!((fdb.len(), at(&fdb, 5, 0)), (1, None));
    // Each port's go with it, and only those.
    let fdb = Fdb::new(10);
    fdb.add_static(1, mac(50), slot(5));
    fdb.add_static(2, mac(50), slot(6));
    fdb.add_static(2, mac(51), slot(6));
    assert!(fdb.remove_static(2, mac(51)));
    fdb.forget_static(slot(6));
    fdb.forget_static(slot(7));
    assert_eq!(fdb.lookup(2, mac(50), 0), None);
    assert!(fdb.lookup(1, mac(50), 0).is_some());
    fdb.forget_static(slot(5));
    assert_eq!(fdb.lookup(1, mac(50), 0), None);
}

#[test]
fn a_port_that_goes_down_loses_all_at_once_for_ever() {
    let fdb = Fdb::new(1000);
    learn(&fdb, 5000, 2, 0);
    // More generations than entries can tell apart.
    for round in 0..600 {
        learn(&fdb, round, 1, 0);
        learn(&fdb, 1000, 1, 0);
        assert_eq!((fdb.len(), fdb.learned_by(slot(1))), (3, 2));
        fdb.forget_learned(slot(1));
        assert_eq!((fdb.len(), fdb.learned_by(slot(1))), (1, 0));
        for number in [0, round / 2, round, 1000] {
            assert_eq!(at(&fdb, number, 0), None, "{number} in round {round}");
        }
    }
    assert_eq!(at(&fdb, 5000, 0), Some(2));
    // What the last generations left behind is swept, and does not count twice.
    fdb.sweep(0, usize::MAX);
    assert_eq!((fdb.len(), fdb.entries(0).count()), (1, 1));
}

#[test]
fn pins_of_one_address_have_no_gaps() {
    let fdb = Fdb::new(10);
    let pins = || fdb.pinned(mac(9)).map(Slot::index).collect::<Vec<_>>();
    assert!(pins().is_empty());
    let guard = fdb.lock_pins();
    for index in [3, 5, 7, 9] {
        assert!(fdb.pin(mac(9), slot(index), &guard));
    }
    assert_eq!(pins(), [3, 5, 7, 9]);
    fdb.unpin(mac(9), slot(5), &guard);
    assert_eq!(pins(), [3, 9, 7]);
    fdb.unpin(mac(9), slot(5), &guard);
    fdb.unpin(mac(9), slot(7), &guard);
    fdb.unpin(mac(9), slot(3), &guard);
    assert_eq!(pins(), [9]);
    fdb.unpin(mac(9), slot(9), &guard);
    assert!(pins().is_empty());
    assert!(fdb.is_empty());
}

#[test]
fn control_sees_filters_and_flushes() {
    let fdb = Fdb::new(100);
    learn(&fdb, 1, 0, 10);
    fdb.learn(2, mac(1), slot(1), 9, 12);
    fdb.add_static(2, mac(2), slot(1));
    fdb.pin(mac(3), slot(2), &fdb.lock_pins());
    let mut seen: Vec<Entry> = fdb.entries(15).collect();
    seen.sort_by_key(|entry| (entry.fid, entry.mac));
    let entry = |fid, number, at, kind, age| Entry {
        fid,
        mac: mac(number),
        slot: slot(at),
        kind,
        age,
    };
    let expected = [
        entry(None, 3, 2, EntryKind::Pinned, 0),
        entry(Some(1), 1, 0, EntryKind::Learned, 5),
        entry(Some(2), 1, 1, EntryKind::Learned, 3),
        entry(Some(2), 2, 1, EntryKind::Static, 0),
    ];
    assert_eq!(seen, expected);
    assert_eq!(fdb.flush(15, |entry| entry.slot == slot(1)), 1);
    assert_eq!(fdb.flush(15, |_| true), 1);
    assert_eq!(fdb.len(), 1);
}

#[test]
fn sweeping_in_portions_reaches_everything() {
    let fdb = Fdb::new(1000);
    fdb.configure(300, 1000);
    for number in 0..1000 {
        learn(&fdb, number, 0, 0);
    }
    let mut removed = 0;
    for _ in 0..fdb.buckets().div_ceil(7) {
        removed += fdb.sweep(301, 7);
    }
    assert_eq!((removed, fdb.len()), (1000, 0));
}

#[test]
fn a_million_entries_fit_in_less_than_32_bytes_each() {
    const MANY: u32 = 1 << 20;
    let fdb = Fdb::new(MANY);
    fdb.configure(300, MANY);
    assert!(fdb.bytes() < 32 * MANY as usize, "{} bytes", fdb.bytes());
    for number in 0..u64::from(MANY) {
        let learning = learn(&fdb, number, number as usize % MAX_PORTS, 1);
        assert_eq!(learning, Learning::New, "{number}");
    }
    assert_eq!(fdb.len(), MANY as usize);
    assert_eq!(learn(&fdb, u64::from(MANY), 0, 1), Learning::RelayLimit);
    for number in (0..u64::from(MANY)).step_by(97) {
        assert_eq!(at(&fdb, number, 1), Some(number as usize % MAX_PORTS));
    }
    fdb.forget_learned(slot(5));
    assert_eq!(fdb.len(), MANY as usize - MANY as usize / MAX_PORTS);
    assert_eq!(at(&fdb, 5, 1), None);
}

#[test]
fn every_small_size_takes_what_it_promises() {
    for max in 1..200 {
        let fdb = Fdb::new(max);
        fdb.configure(300, max);
        for number in 0..u64::from(max) {
            assert_eq!(learn(&fdb, number, 0, 1), Learning::New);
        }
        assert_eq!(learn(&fdb, 1000, 0, 1), Learning::RelayLimit);
    }
}

#[test]
fn readers_never_see_another_keys_port_while_writers_churn() {
    const KEYS: u64 = 400;
    let fdb = Fdb::new(100);
    fdb.configure(300, 1 << 20);
    let stop = AtomicBool::new(false);
    // Ports are a function of the address, so that any mixture of two entries shows.
    let home = |number: u64| number as usize % 31;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let fdb = &fdb;
                scope.spawn(move || {
                    let mut state = writer + 1;
                    for round in 0..60_000u32 {
                        state = xorshift(state);
                        let number = state % KEYS;
                        learn(fdb, number, home(number), round / 100);
                        if round % 64 == 0 {
                            fdb.flush(round / 100, |entry| entry.mac.to_u64() % 3 == state % 3);
                        }
                        if round % 512 == 0 {
                            fdb.forget_learned(slot(home(number)));
                        }
                    }
                })
            })
            .collect();
        let (fdb, stop) = (&fdb, &stop);
        let reader = scope.spawn(move || {
            let mut found = 0u64;
            let mut state = 99;
            while !stop.load(Ordering::Relaxed) || found == 0 {
                state = xorshift(state);
                let number = state % KEYS;
                if let Some(port) = at(fdb, number, 0) {
                    assert_eq!(port, home(number));
                    found += 1;
                }
            }
            found
        });
        for writer in writers {
            writer.join().unwrap();
        }
        learn(fdb, 1, home(1), 600);
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    // The counts survived: flushing everything leaves nothing counted.
    fdb.flush(600, |_| true);
    fdb.sweep(u32::MAX, usize::MAX);
    assert_eq!((fdb.len(), fdb.entries(600).count()), (0, 0));
    for index in 0..31 {
        assert_eq!(fdb.learned_by(slot(index)), 0);
    }
}

#[test]
fn workers_that_fight_for_one_address_leave_one_entry() {
    let fdb = Fdb::new(100);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let fdb = &fdb;
            scope.spawn(move || {
                for round in 0..20_000 {
                    learn(fdb, round % 5, worker, round as u32);
                }
            });
        }
    });
    assert_eq!((fdb.len(), fdb.entries(20_000).count()), (5, 5));
    let counted: usize = (0..4).map(|index| fdb.learned_by(slot(index))).sum();
    assert_eq!(counted, 5);
}

#[test]
fn a_flood_takes_nothing_from_others_who_learn_and_move_meanwhile() {
    const OWN: u64 = 500;
    const ROAMING: u64 = 64;
    // The flood may have 100, two ports have 500 each, and 64 addresses move between those.
    let fdb = Fdb::new(2000);
    let own = |port: u64, number: u64| mac(port << 32 | number);
    let roaming = |number: u64| mac(9 << 32 | number);
    std::thread::scope(|scope| {
        let fdb = &fdb;
        scope.spawn(move || {
            for number in 0..100_000 {
                let learning = fdb.learn(1, own(3, number), slot(3), 100, 0);
                assert!(matches!(learning, Learning::New | Learning::PortLimit));
            }
        });
        for port in [1, 2] {
            scope.spawn(move || {
                for round in 0..40 {
                    for number in 0..OWN {
                        let learning =
                            fdb.learn(1, own(port, number), slot(port as usize), 1000, 0);
                        let expected = if round == 0 {
                            Learning::New
                        } else {
                            Learning::Known
                        };
                        assert_eq!(learning, expected);
                    }
                    for number in 0..ROAMING {
                        let learning = fdb.learn(1, roaming(number), slot(port as usize), 1000, 0);
                        assert!(!matches!(
                            learning,
                            Learning::PortLimit | Learning::RelayLimit
                        ));
                    }
                }
            });
        }
    });
    assert_eq!(fdb.learned_by(slot(3)), 100);
    for port in [1, 2] {
        for number in 0..OWN {
            let (at, _) = fdb.lookup(1, own(port, number), 0).unwrap();
            assert_eq!(at, slot(port as usize));
        }
    }
    let total = 100 + 2 * OWN as usize + ROAMING as usize;
    assert_eq!((fdb.len(), fdb.entries(0).count()), (total, total));
    let counted: usize = (1..4).map(|port| fdb.learned_by(slot(port))).sum();
    assert_eq!(counted, total);
}

#[test]
fn an_address_flood_fills_the_limit_and_no_more() {
    let fdb = Fdb::new(5000);
    fdb.configure(300, 5000);
    let victim = fdb.learn(1, mac(1 << 40), slot(1), 8, 0);
    assert_eq!(victim, Learning::New);
    let mut state = 7;
    let mut refused = 0;
    for _ in 0..100_000 {
        state = xorshift(state);
        let learning = fdb.learn(1, mac(state & 0xff_ffff_ffff), slot(0), 1024, 0);
        refused += u32::from(learning == Learning::PortLimit);
    }
    assert_eq!((fdb.learned_by(slot(0)), fdb.len()), (1024, 1025));
    assert!(refused > 98_000);
    assert!(fdb.lookup(1, mac(1 << 40), 0).is_some());
}

fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    state
}
