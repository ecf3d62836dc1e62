//! What a hostile guest can put into a packed ring.

use proptest::prelude::*;

use super::packed_guest::PackedGuest;
use super::*;
use crate::virtqueue::{RxBatch, TxBatch};

fn tx_error(size: u16, f: impl FnOnce(&mut PackedGuest)) -> String {
    let mut guest = PackedGuest::new(size, |_| {});
    let ring = guest.tx();
    f(&mut guest);
    let mut batch = TxBatch::new();
    let error = ring.lock().peek(&mut batch, 64).unwrap_err();
    assert!(batch.chains().is_empty());
    error.to_string()
}

#[test]
fn chains() {
    assert_eq!(
        tx_error(4, |g| g.post(1, &[(DATA, 1, 0), (DATA, 1, WRITE)])),
        "descriptor 1 is device-writable, expected a device-readable buffer"
    );
    assert_eq!(
        tx_error(4, |g| g.post(1, &[(DATA, 0, 0)])),
        "descriptor 0 has length 0, expected at least 1"
    );
    assert_eq!(
        tx_error(4, |g| g.post(1, &[(BASE + SIZE - 4, 5, 0)])),
        "descriptor 0 covers 5 bytes at guest address 0x103ffffc, which is not all guest memory"
    );
    // Every descriptor has NEXT: round and round.
    assert_eq!(
        tx_error(4, |g| g.post_raw(1, &[(DATA, 1, NEXT); 4])),
        "the chain at descriptor 0 has more than 4 descriptors"
    );
    assert_eq!(
        tx_error(1024, |g| g.post(1, &vec![(BASE, SIZE as u32, 0); 1024])),
        "the chain at descriptor 1 has 4294967296 bytes, expected at most 4294967295"
    );
}

#[test]
fn indirect_tables() {
    let table = DATA + 0x8000;
    assert_eq!(
        tx_error(4, |g| g
            .post_raw(1, &[(table, 16, INDIRECT | NEXT), (DATA, 1, 0)])),
        "descriptor 0 is indirect and has a next descriptor, expected one or the other"
    );
    for len in [0, 15, 24, 80, u32::MAX] {
        assert_eq!(
            tx_error(4, |g| g.post_raw(1, &[(table, len, INDIRECT)])),
            format!(
                "descriptor 0 refers to an indirect table of {len} bytes, expected a multiple of 16 up to 64"
            )
        );
    }
    assert_eq!(
        tx_error(4, |g| g.post_raw(1, &[(u64::MAX - 15, 64, INDIRECT)])),
        "descriptor 0 covers 64 bytes at guest address 0xfffffffffffffff0, which is not all guest memory"
    );
    assert_eq!(
        tx_error(4, |g| g.post_indirect(
            1,
            table,
            &[(DATA, 1, 0), (table, 16, INDIRECT)]
        )),
        "entry 1 of the indirect table of descriptor 0 is indirect itself, expected a buffer"
    );
    assert_eq!(
        tx_error(4, |g| g.post_indirect(1, table, &[(DATA, 1, WRITE)])),
        "entry 0 of the indirect table of descriptor 0 is device-writable, expected a device-readable buffer"
    );
    let together = |g: &mut PackedGuest| {
        g.post_indirect(1, table, &[(DATA, 1, 0); 3]);
        g.post_raw(
            2,
            &[(DATA, 1, NEXT), (DATA, 1, NEXT), (table, 48, INDIRECT)],
        );
    };
    assert_eq!(
        tx_error(4, together),
        "the chain at descriptor 3 has more than 4 descriptors"
    );
    let mut guest = PackedGuest::new(4, |f| f.indirect = false);
    guest.post_indirect(1, table, &[(DATA, 1, 0)]);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    assert_eq!(
        ring.lock().peek(&mut batch, 1).unwrap_err().to_string(),
        "descriptor 0 is indirect, but INDIRECT_DESC was not negotiated"
    );
}

#[test]
fn a_chain_that_changes_its_length_while_it_waits() {
    let mut guest = PackedGuest::new(8, |_| {});
    guest.post(1, &[(DATA, 1, 0), (DATA, 1, 0)]);
    guest.post(2, &[(DATA, 1, 0)]);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 2);
    guest.descriptor(0, DATA, 1, 1, 1 << 7);
    assert_eq!(
        guard.peek(&mut batch, 64).unwrap_err().to_string(),
        "buffer 1 had 2 descriptors when it was made available, now 1"
    );
}

#[test]
fn a_ring_made_available_twice_over() {
    // While we walk, the guest makes descriptors available for the next round already.
    let mut guest = PackedGuest::new(4, |_| {});
    for id in 0..4 {
        guest.post(id, &[(DATA, 100, 0)]);
    }
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 3).unwrap(), 3);
    for index in 0..3 {
        guest.descriptor(index, DATA, 100, 9, 1 << 15);
    }
    (0..3).for_each(|i| guard.finish(i));
    assert_eq!(
        guard.peek(&mut batch, 64).unwrap(),
        4,
        "one round, no matter how much is available"
    );
}

#[test]
fn receive_buffers() {
    let rx_error = |parts: &[(u64, u32, u16)]| {
        let mut guest = PackedGuest::new(4, |_| {});
        guest.post(7, parts);
        let ring = guest.rx();
        let mut batch = RxBatch::new();
        ring.reserve(&[64], &mut batch).unwrap_err().to_string()
    };
    assert_eq!(
        rx_error(&[(DATA, 64, 0)]),
        "descriptor 0 is device-readable, expected a device-writable buffer"
    );
    assert_eq!(
        rx_error(&[(DATA, 11, WRITE)]),
        "the receive buffer at descriptor 7 has 11 bytes, expected at least the 12 of a header"
    );
}

#[test]
fn rings_at_impossible_places() {
    let start = |change: fn(&mut RingConfig)| {
        let mut guest = PackedGuest::new(8, |_| {}).guest;
        change(&mut guest.config);
        guest
            .config
            .activate_rx(guest.memory(), None, ResumeAt::fresh(true))
            .unwrap_err()
            .to_string()
    };
    for (change, message) in [
        (
            (|c| c.size = 0) as fn(&mut RingConfig),
            "queue size 0 is not allowed: expected 1 to 1024",
        ),
        (
            |c| c.size = 1025,
            "queue size 1025 is not allowed: expected 1 to 1024",
        ),
        (
            |c| c.desc += 4,
            "the descriptor area at 0x7f0010000004 is not aligned to 16 bytes",
        ),
        (
            |c| c.avail += 2,
            "the driver area (available ring) at 0x7f0010008002 is not aligned to 4 bytes",
        ),
        (
            |c| c.used = 8,
            "the device area (used ring), 4 bytes at user address 0x8, is not inside one memory region",
        ),
    ] {
        assert_eq!(start(change), message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Nothing panics, and what is accepted stays within the rules.
    #[test]
    fn arbitrary_rings(
        size in 1_u16..10,
        descs in proptest::collection::vec((0_usize..6, 0_u32..3000, any::<u16>(), any::<u16>()), 10),
        again in proptest::collection::vec((0_usize..6, 0_u32..3000, any::<u16>(), any::<u16>()), 10),
        start: u32,
        finish: u64,
        rx: bool,
    ) {
        let mut guest = PackedGuest::new(size, |f| f.in_order = finish & 1 != 0);
        guest.guest.config.size = size;
        let places = [DATA, DATA + 0x1000, BASE, BASE + 32, BASE + SIZE - 100, 0];
        let write = |guest: &PackedGuest, descs: &[(usize, u32, u16, u16)]| {
            for (i, &(place, len, id, flags)) in descs.iter().enumerate().take(size.into()) {
                let len = if flags & INDIRECT != 0 { len % 9 * 16 } else { len };
                guest.descriptor(i as u16, places[place], len, id, flags);
            }
        };
        write(&guest, &descs);
        let half = |bits: u32| ((bits as u16 & 0x7fff) % size) | (bits as u16 & 0x8000);
        let base = ResumeAt::Base(u32::from(half(start)) | u32::from(half(start >> 16)) << 16);
        let memory = guest.guest.memory();
        if rx {
            let ring = guest.guest.config.activate_rx(memory, None, base).unwrap();
            let (mut a, mut b) = (RxBatch::new(), RxBatch::new());
            for _ in 0..3 {
                let _ = ring.reserve(&[64, 3000, 100], &mut a);
                let _ = ring.reserve(&[20], &mut b);
                ring.cancel(&mut a);
                ring.complete(&mut b);
                ring.notify().unwrap();
                write(&guest, &again);
            }
        } else {
            let ring = guest.guest.config.activate_tx(memory, None, base).unwrap();
            let mut batch = TxBatch::new();
            let mut guard = ring.lock();
            for _ in 0..3 {
                let _ = guard.peek(&mut batch, 64);
                prop_assert!(batch.chains().len() <= usize::from(size));
                (0..64).filter(|i| finish >> i & 1 != 0).for_each(|i| guard.finish(i));
                guard.publish();
                ring.notify().unwrap();
                write(&guest, &again);
            }
        }
    }
}
