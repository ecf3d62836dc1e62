//! The memory and its allocator.

use super::*;

#[test]
fn regions_must_be_aligned_apart_and_not_empty() {
    let region = |guest_addr, size| RegionSpec { guest_addr, size };
    for bad in [
        vec![],
        vec![region(0, 0)],
        vec![region(0, 100)],
        vec![region(100, 4096)],
        vec![region(0, 8192), region(4096, 4096)],
        vec![region(u64::MAX - 4095, 4096)],
    ] {
        assert!(DriverMemory::new(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn ranges_come_back_and_join_again() {
    let memory = DriverMemory::with_mib(1).unwrap();
    for _ in 0..3 {
        let mut held: Vec<_> = (0..16)
            .map(|_| memory.carve(65536, 4096).unwrap())
            .collect();
        assert!(memory.carve(1, 1).is_err());
        held.retain(|c| c.guest_addr() % 131_072 == 0);
        assert!(memory.carve(65537, 1).is_err());
        drop(held);
        drop(memory.carve(1 << 20, 4096).unwrap());
    }
}

#[test]
fn no_carve_spans_two_regions_but_bytes_may() {
    let memory = memory();
    assert!(memory.carve((1 << 20) + 1, 1).unwrap().guest_addr() >= 1 << 20);
    let edge = (1 << 20) - 3;
    memory.write(edge, b"across").unwrap();
    let mut back = [0; 6];
    memory.read(edge, &mut back).unwrap();
    assert_eq!(&back, b"across");
    // Behind the second region there is a hole.
    assert!(memory.write((4 << 20) - 3, b"across").is_err());
    assert!(memory.read(u64::MAX - 2, &mut back).is_err());
    assert_eq!(memory.user_addr(1 << 31), None);
    assert_eq!(
        memory.user_addr(1 << 32),
        Some(memory.regions()[2].user_addr())
    );
}

#[test]
fn files_keep_their_size() {
    let memory = memory();
    assert!(memory.regions()[0].file().set_len(4096).is_err());
}

#[test]
fn carves_are_zeroed_and_within_the_region_asked_for() {
    let memory = memory();
    memory.write((1 << 32) + 64, &[7; 64]).unwrap();
    let carve = memory.carve_in(2, 256, 64).unwrap();
    assert_eq!(carve.guest_addr(), 1 << 32);
    let mut back = [1; 256];
    memory.read(carve.guest_addr(), &mut back).unwrap();
    assert_eq!(back, [0; 256]);
}
