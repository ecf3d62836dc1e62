//! What a hostile guest or front end can put into a ring, case by case, and what is said about it.

use super::*;
use crate::virtqueue::{RingError, RxBatch, TxBatch};

/// Walks one TX chain of a queue of 8, set up by `f`.
fn tx_error(f: impl FnOnce(&mut Guest)) -> String {
    tx_error_of(Guest::new(8), f)
}

fn tx_error_of(mut guest: Guest, f: impl FnOnce(&mut Guest)) -> String {
    let ring = guest.tx();
    f(&mut guest);
    let mut batch = TxBatch::new();
    let error = ring.lock().peek(&mut batch, 64).unwrap_err();
    assert!(batch.chains().is_empty());
    // The error stays, whoever asks.
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap_err(), error);
    error.to_string()
}

fn rx_error(guest: Guest, want: u32, f: impl FnOnce(&mut Guest)) -> String {
    let mut guest = guest;
    let ring = guest.rx();
    f(&mut guest);
    let mut batch = RxBatch::new();
    let error = ring.reserve(&[want], &mut batch).unwrap_err();
    assert!(batch.is_empty());
    assert_eq!(ring.reserve(&[want], &mut batch).unwrap_err(), error);
    error.to_string()
}

#[test]
fn available_index_out_of_range() {
    let error = tx_error(|g| g.set_avail_idx(9));
    assert_eq!(
        error,
        "available index 9 is 9 ahead of 0, more than the queue size 8"
    );
    let error = tx_error_of(Guest::new(8).start_at(65530), |g| g.set_avail_idx(65529));
    assert_eq!(
        error,
        "available index 65529 is 65535 ahead of 65530, more than the queue size 8"
    );
    let error = rx_error(Guest::new(8), 64, |g| g.set_avail_idx(0x8000));
    assert_eq!(
        error,
        "available index 32768 is 32768 ahead of 0, more than the queue size 8"
    );
    let guest = Guest::new(8);
    let ring = guest.tx();
    guest.set_avail_idx(100);
    assert!(ring.lock().available().is_err());
    assert!(ring.lock().enable_kicks().is_err());
    let ring = guest
        .config
        .activate_rx(guest.memory(), None, ResumeAt::UsedIndex)
        .unwrap();
    assert!(ring.has_buffers(), "so that reserve gets to report it");
    assert!(ring.wait_for_buffers(true).is_err());
}

#[test]
fn head_out_of_range() {
    let error = tx_error(|g| {
        g.post_buffer(0, DATA, 64, 0);
        g.post(8);
    });
    assert_eq!(
        error,
        "available ring slot 1 names descriptor 8, expected one below 8"
    );
    assert!(rx_error(Guest::new(8), 64, |g| g.post(0xffff)).contains("descriptor 65535"));
}

#[test]
fn next_out_of_range() {
    let error = tx_error(|g| {
        g.desc(3, DATA, 64, NEXT, 8);
        g.post(3);
    });
    assert_eq!(
        error,
        "descriptor 3 continues at 8, expected an index below 8"
    );
}

#[test]
fn loops() {
    for (at, next) in [(0, 0), (0, 1)] {
        let error = tx_error(|g| {
            g.desc(0, DATA, 64, NEXT, 1);
            g.desc(1, DATA, 64, NEXT, next);
            g.post(at);
        });
        assert_eq!(
            error,
            "the chain at descriptor 0 has more than 8 descriptors"
        );
    }
    let error = rx_error(Guest::new(8), 65000, |g| {
        g.desc(5, DATA, 64, NEXT | WRITE, 5);
        g.post(5);
    });
    assert_eq!(
        error,
        "the chain at descriptor 5 has more than 8 descriptors"
    );
}

#[test]
fn a_chain_as_long_as_the_queue_is_right() {
    let mut guest = Guest::new(8);
    for i in 0..8 {
        guest.desc(i, DATA, 1, if i < 7 { NEXT } else { 0 }, i + 1);
    }
    guest.post(0);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap(), 1);
    assert_eq!(batch.chains()[0].len, 8);
}

#[test]
fn wrong_direction() {
    let error = tx_error(|g| {
        g.desc(0, DATA, 64, NEXT, 2);
        g.desc(2, DATA, 64, WRITE, 0);
        g.post(0);
    });
    assert_eq!(
        error,
        "descriptor 2 is device-writable, expected a device-readable buffer"
    );
    let error = rx_error(Guest::new(8), 64, |g| g.post_buffer(1, DATA, 64, 0));
    assert_eq!(
        error,
        "descriptor 1 is device-readable, expected a device-writable buffer"
    );
}

#[test]
fn zero_length() {
    let error = tx_error(|g| g.post_buffer(4, DATA, 0, 0));
    assert_eq!(error, "descriptor 4 has length 0, expected at least 1");
}

#[test]
fn outside_of_memory() {
    let end = BASE + SIZE;
    for (address, len) in [
        (0, 1),
        (BASE - 1, 1),
        (BASE - 1, 2),
        (end, 1),
        (end - 1, 2),
        (BASE, SIZE as u32 + 1),
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (u64::MAX - 10, 20),
        (end - 1, u32::MAX),
        (USER + BASE, 1),
    ] {
        let expected = format!(
            "descriptor 0 covers {len} bytes at guest address {address:#x}, which is not all guest memory"
        );
        assert_eq!(tx_error(|g| g.post_buffer(0, address, len, 0)), expected);
        let error = rx_error(Guest::new(8), 12, |g| g.post_buffer(0, address, len, WRITE));
        assert_eq!(error, expected);
    }
}

#[test]
fn more_bytes_than_32_bits_count() {
    // The same 4 MiB over and over: 1,024 times is exactly 2^32.
    let error = tx_error_of(Guest::new(1024), |g| {
        for i in 0..1024 {
            g.desc(i, BASE, SIZE as u32, NEXT, i + 1);
        }
        g.desc(1023, BASE, SIZE as u32, 0, 0);
        g.post(0);
    });
    assert_eq!(
        error,
        "the chain at descriptor 0 has 4294967296 bytes, expected at most 4294967295"
    );
}

#[test]
fn indirect_tables() {
    let table = DATA + 0x8000;
    let post = move |g: &mut Guest, address, len, flags| {
        g.desc(2, address, len, INDIRECT | flags, 3);
        g.desc(3, DATA, 64, 0, 0);
        g.post(2);
    };
    let without = Guest::with(8, |f| f.indirect = false);
    assert_eq!(
        tx_error_of(without, |g| post(g, table, 16, 0)),
        "descriptor 2 is indirect, but INDIRECT_DESC was not negotiated"
    );
    assert_eq!(
        tx_error(|g| post(g, table, 16, NEXT)),
        "descriptor 2 is indirect and has a next descriptor, expected one or the other"
    );
    for len in [0, 1, 15, 17, 24, 9 * 16, u32::MAX, 0xffff_fff0] {
        assert_eq!(
            tx_error(|g| post(g, table, len, 0)),
            format!(
                "descriptor 2 refers to an indirect table of {len} bytes, expected a multiple of 16 up to 128"
            )
        );
    }
    for address in [0, BASE + SIZE - 16, u64::MAX - 15] {
        assert_eq!(
            tx_error(|g| post(g, address, 32, 0)),
            format!(
                "descriptor 2 covers 32 bytes at guest address {address:#x}, which is not all guest memory"
            )
        );
    }
    let with_table = |entries: &[(u64, u32, u16, u16)]| {
        let entries = entries.to_vec();
        tx_error(move |g| {
            for (i, &entry) in entries.iter().enumerate() {
                g.descriptor(table, i as u16, entry);
            }
            post(g, table, entries.len() as u32 * 16, 0);
        })
    };
    assert_eq!(
        with_table(&[(DATA, 1, NEXT, 1), (table, 16, INDIRECT, 0)]),
        "entry 1 of the indirect table of descriptor 2 is indirect itself, expected a buffer"
    );
    assert_eq!(
        with_table(&[(DATA, 1, NEXT, 2), (DATA, 1, 0, 0)]),
        "entry 0 of the indirect table of descriptor 2 continues at 2, expected an index below 2"
    );
    assert_eq!(
        with_table(&[(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)]),
        "the chain at descriptor 2 has more than 8 descriptors"
    );
    assert_eq!(
        with_table(&[(DATA, 1, NEXT, 1), (DATA, 1, WRITE, 0)]),
        "entry 1 of the indirect table of descriptor 2 is device-writable, expected a device-readable buffer"
    );
    assert_eq!(
        with_table(&[(DATA, 0, 0, 0)]),
        "entry 0 of the indirect table of descriptor 2 has length 0, expected at least 1"
    );
    assert_eq!(
        with_table(&[(0, 10, 0, 0)]),
        "entry 0 of the indirect table of descriptor 2 covers 10 bytes at guest address 0x0, which is not all guest memory"
    );
}

#[test]
fn direct_and_indirect_together_do_not_exceed_the_queue() {
    let table = DATA + 0x8000;
    let chain = |g: &mut Guest, direct: u16, entries: u16| {
        for i in 0..direct {
            g.desc(i, DATA, 1, NEXT, i + 1);
        }
        g.desc(direct, table, u32::from(entries) * 16, INDIRECT, 0);
        for i in 0..entries {
            let flags = if i + 1 < entries { NEXT } else { 0 };
            g.descriptor(table, i, (DATA, 1, flags, i + 1));
        }
        g.post(0);
    };
    assert_eq!(
        tx_error(|g| chain(g, 3, 8)),
        "the chain at descriptor 0 has more than 8 descriptors"
    );
    let mut guest = Guest::new(8);
    chain(&mut guest, 3, 5);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap(), 1);
    assert_eq!(batch.chains()[0].len, 8);
}

#[test]
fn receive_buffers_below_a_header() {
    let runt =
        "the receive buffer at descriptor 6 has 11 bytes, expected at least the 12 of a header";
    for mergeable in [true, false] {
        let guest = Guest::with(8, |f| f.mergeable = mergeable);
        assert_eq!(
            rx_error(guest, 64, |g| g.post_buffer(6, DATA, 11, WRITE)),
            runt
        );
    }
    // Also as the last of a merged frame, of which it would only have to hold a byte.
    let error = rx_error(Guest::new(8), 65, |g| {
        g.post_buffer(0, DATA, 64, WRITE);
        g.post_buffer(6, DATA, 11, WRITE);
    });
    assert_eq!(error, runt);
    let mut guest = Guest::with(8, |f| f.header_len = 10);
    guest.post_buffer(0, DATA, 10, WRITE);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    assert_eq!(
        ring.reserve(&[10], &mut batch).unwrap().granted,
        1,
        "ten bytes are a header here"
    );
}

#[test]
fn rings_at_impossible_places() {
    let start = |change: fn(&mut RingConfig)| {
        let mut guest = Guest::new(8);
        change(&mut guest.config);
        let tx = guest
            .config
            .activate_tx(guest.memory(), None, ResumeAt::UsedIndex)
            .unwrap_err();
        let rx = guest
            .config
            .activate_rx(guest.memory(), None, ResumeAt::UsedIndex)
            .unwrap_err();
        assert_eq!(tx, rx);
        tx.to_string()
    };
    for size in [0, 1, 3, 1000, 2048, 65535] {
        let mut guest = Guest::new(8);
        guest.config.size = size;
        let result = guest
            .config
            .activate_tx(guest.memory(), None, ResumeAt::UsedIndex);
        assert_eq!(
            result.unwrap_err().to_string(),
            format!("queue size {size} is not allowed: expected a power of two from 2 to 1024")
        );
    }
    assert_eq!(
        start(|c| c.desc += 8),
        "the descriptor area at 0x7f0010000008 is not aligned to 16 bytes"
    );
    assert_eq!(
        start(|c| c.avail += 1),
        "the driver area (available ring) at 0x7f0010008001 is not aligned to 2 bytes"
    );
    assert_eq!(
        start(|c| c.used += 2),
        "the device area (used ring) at 0x7f0010010002 is not aligned to 4 bytes"
    );
    assert_eq!(
        start(|c| c.desc = 0),
        "the descriptor area, 128 bytes at user address 0x0, is not inside one memory region"
    );
    assert_eq!(
        start(|c| c.avail = USER + BASE + SIZE - 20),
        "the driver area (available ring), 22 bytes at user address 0x7f00103fffec, is not inside one memory region"
    );
    assert_eq!(
        start(|c| c.used = u64::MAX - 3),
        "the device area (used ring), 70 bytes at user address 0xfffffffffffffffc, is not inside one memory region"
    );
    assert_eq!(
        start(|c| c.features.header_len = 11),
        "a virtio-net header of 11 bytes does not exist: expected 10 or 12"
    );
    let guest = Guest::new(8);
    let (tx, rx) = (guest.tx(), guest.rx());
    let other = RingConfig {
        size: 4,
        ..guest.config.clone()
    };
    let changed = RingError::Changed {
        field: "the size",
        expected: 8,
        found: 4,
    };
    assert_eq!(
        tx.reconfigure(&other, guest.memory(), None).unwrap_err(),
        changed
    );
    assert_eq!(
        rx.reconfigure(&other, guest.memory(), None).unwrap_err(),
        changed
    );
}

#[test]
fn buffers_over_neighbouring_regions_are_two_segments() {
    let file = memfd(SIZE);
    let mut guest = Guest::new(8);
    guest.file = file.try_clone().unwrap();
    // Neighbours for the guest, apart in the file: the second half comes first there.
    let half = SIZE / 2;
    let memory = Arc::new(
        GuestMemory::new(vec![
            region(&file, BASE, half, half),
            region(&file, BASE + half, 0, half),
        ])
        .unwrap(),
    );
    let mem = GuestMemoryMmap::from_ranges_with_files([
        (
            GuestAddress(BASE),
            half as usize,
            Some(FileOffset::new(file.try_clone().unwrap(), half)),
        ),
        (
            GuestAddress(BASE + half),
            half as usize,
            Some(FileOffset::new(file.try_clone().unwrap(), 0)),
        ),
    ])
    .unwrap();
    guest.mem = mem;
    let border = BASE + half;
    let bytes: Vec<u8> = (0..100).collect();
    guest.fill(border - 40, &bytes);
    guest.post_buffer(0, border - 40, 100, 0);
    let ring = guest
        .config
        .activate_tx(memory, None, ResumeAt::UsedIndex)
        .unwrap();
    let mut batch = TxBatch::new();
    ring.lock().peek(&mut batch, 1).unwrap();
    let chain = batch.chains()[0];
    assert_eq!(chain.len, 100);
    assert_eq!(
        spans(batch.segments(&chain)),
        [(border - 40, 40), (border, 60)]
    );
    let mut out = [0; 100];
    crate::virtqueue::read(batch.segments(&chain), 0, &mut out);
    assert_eq!(out[..], bytes[..]);
    // A table may not be spread like that.
    guest.desc(1, border - 16, 32, INDIRECT, 0);
    guest.post(1);
    assert!(matches!(
        ring.lock().peek(&mut batch, 2),
        Err(RingError::Outside { .. })
    ));
}
