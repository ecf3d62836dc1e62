//! RX: short frames that are written and shown in one step, and what is left to reservations.

use super::packed_guest::PackedGuest;
use super::*;
use crate::virtqueue::{RxBatch, Start};

const HEADER: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// A frame of 60 bytes behind its header; whether it was written.
fn put(ring: &RxRing, value: u8) -> bool {
    let mut calls = 0;
    let done = ring.put(&Start::new(&HEADER, &[value; 60]), || calls += 1);
    assert_eq!(calls, u8::from(done));
    done
}

#[test]
fn frames_are_written_and_shown_one_by_one() {
    let mut guest = Guest::with(8, |f| f.mergeable = false).start_at(65534);
    guest.post_receive_buffers(4, 100);
    let ring = guest.rx();
    for number in 0..4_u16 {
        let index = 65534_u16.wrapping_add(number);
        let shown = || assert_eq!(guest.used_idx(), index, "not before it is counted");
        assert!(ring.put(&Start::new(&HEADER, &[number as u8; 60]), shown));
        assert_eq!(guest.used_idx(), index.wrapping_add(1));
        assert_eq!(guest.used(index), (number.into(), 72));
        let buffer = guest.bytes(DATA + 100 * u64::from(number), 100);
        assert_eq!(buffer[..12], HEADER);
        assert!(buffer[12..72].iter().all(|&b| b == number as u8));
        assert_eq!(buffer[72..], [0; 28]);
    }
    assert!(!put(&ring, 9), "no buffer is left");
    assert_eq!(ring.base(), 2);
    assert!(ring.has_buffers());
}

#[test]
fn frames_go_to_packed_rings_over_the_end() {
    let mut guest = PackedGuest::new(3, |_| {});
    let ring = guest.rx();
    for number in 0..8 {
        guest.post(40 + number, &[(DATA, 72, WRITE)]);
        assert!(put(&ring, number as u8));
        let used = guest.pop_used().unwrap();
        assert_eq!((used.id, used.len), (40 + number, 72));
        assert_eq!(guest.pop_used(), None);
        assert_eq!(guest.guest.bytes(DATA + 12, 60), [number as u8; 60]);
    }
    assert!(!put(&ring, 9));
}

#[test]
fn it_waits_for_nobody() {
    let mut guest = Guest::new(8);
    guest.post_receive_buffers(4, 100);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    ring.reserve(&[72], &mut batch).unwrap();
    assert!(!put(&ring, 1), "it would overtake");
    ring.complete(&mut batch);
    assert!(put(&ring, 1));
    ring.reserve(&[72], &mut batch).unwrap();
    ring.cancel(&mut batch);
    assert!(put(&ring, 2), "in the place of what was taken back");
    ring.reserve(&[72], &mut batch).unwrap();
    ring.complete(&mut batch);
    let ids: Vec<u32> = (0..4).map(|index| guest.used(index).0).collect();
    assert_eq!((ids, guest.used_idx()), (vec![0, 1, 2, 3], 4));
}

#[test]
fn a_drought_is_left_to_what_ends_it() {
    let mut guest = Guest::new(8);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    ring.reserve(&[72], &mut batch).unwrap();
    guest.post_receive_buffers(2, 100);
    assert!(!put(&ring, 1));
    ring.reserve(&[72], &mut batch).unwrap();
    ring.complete(&mut batch);
    assert!(put(&ring, 1));
    assert_eq!(guest.used_idx(), 2);
}

#[test]
fn chains_of_other_kinds_are_left_alone() {
    type Change = fn(&Guest);
    let others: [(&str, Change); 6] = [
        ("too small", |g| g.desc(0, DATA, 71, WRITE, 0)),
        ("two buffers", |g| g.desc(0, DATA, 72, WRITE | NEXT, 1)),
        ("a table", |g| g.desc(0, DATA, 16, INDIRECT, 0)),
        ("read only", |g| g.desc(0, DATA, 72, 0, 0)),
        ("outside", |g| g.desc(0, 0x1000, 72, WRITE, 0)),
        ("no descriptor", |g| g.write(g.avail_at() + 4, 8_u16)),
    ];
    for (what, change) in others {
        let mut guest = Guest::new(8);
        guest.post_receive_buffers(2, 100);
        let ring = guest.rx();
        let before = guest.bytes(BASE, 0x11_0000);
        change(&guest);
        assert!(!put(&ring, 1), "{what}");
        guest.desc(0, DATA, 100, WRITE, 0);
        guest.write(guest.avail_at() + 4, 0_u16);
        assert!(guest.bytes(BASE, 0x11_0000) == before, "{what}");
        assert!(put(&ring, 1), "{what}");
    }
    let mut guest = Guest::new(8);
    guest.post_receive_buffers(2, 100);
    let ring = guest.rx();
    guest.set_avail_idx(9);
    assert!(!put(&ring, 1), "more than there are");
}

#[test]
fn what_is_written_is_marked() {
    let log = Log::new();
    let mut guest = Guest::new(8);
    guest.config.log_used = Some(guest.used_at());
    guest.post_receive_buffers(1, 100);
    let ring = guest.rx_logged(Some(Arc::clone(&log.log)));
    log.take();
    assert!(put(&ring, 1));
    assert_eq!(log.take(), [guest.used_at(), DATA]);
}

#[test]
fn headers_are_as_long_as_the_ring_wants() {
    let mut guest = Guest::with(8, |f| {
        f.mergeable = false;
        f.header_len = 10;
    });
    guest.post_receive_buffers(1, 70);
    let ring = guest.rx();
    assert!(ring.put(&Start::new(&HEADER[..10], &[7; 60]), || ()));
    assert_eq!(guest.used(0), (0, 70));
    assert_eq!(guest.bytes(DATA, 10), HEADER[..10]);
    assert_eq!(guest.bytes(DATA + 10, 60), [7; 60]);
}

#[test]
fn a_sender_that_waits_is_kicked_for_the_buffer_behind() {
    let mut guest = Guest::with(8, |f| f.event_idx = true);
    guest.post_receive_buffers(2, 100);
    let ring = guest.rx();
    assert!(put(&ring, 1));
    assert!(ring.wait_for_buffers(true).unwrap(), "there is one");
    assert!(put(&ring, 2));
    assert!(!ring.wait_for_buffers(true).unwrap());
    assert_eq!(guest.avail_event(), 2);
}

#[test]
fn the_guest_is_called_as_for_others() {
    let mut guest = Guest::with(8, |f| f.event_idx = true);
    guest.post_receive_buffers(3, 100);
    let ring = guest.rx();
    for (event, called) in [(0, 1), (2, 0), (2, 1)] {
        guest.set_used_event(event);
        assert!(put(&ring, 1));
        assert_eq!(ring.notify().unwrap(), called != 0);
        assert_eq!(guest.calls(), called);
    }
}

#[test]
fn a_buffer_in_another_region_is_left_to_a_reservation() {
    let mut guest = Guest::new(8);
    let second = BASE + SIZE / 2;
    let regions = vec![
        region(&guest.file, BASE, 0, SIZE / 2),
        region(&guest.file, second, SIZE / 2, SIZE / 2),
    ];
    let memory = Arc::new(GuestMemory::new(regions).unwrap());
    let ring = guest.config.activate_rx(memory, None, ResumeAt::UsedIndex);
    let ring = ring.unwrap();
    for head in 0..2 {
        guest.post_buffer(head, second + 100 * u64::from(head), 100, WRITE);
    }
    assert!(!put(&ring, 1));
    let mut batch = RxBatch::new();
    assert_eq!(ring.reserve(&[72], &mut batch).unwrap().granted, 1);
    ring.complete(&mut batch);
    assert!(put(&ring, 2), "now it is known");
    assert_eq!(guest.bytes(second + 112, 60), [2; 60]);
}

#[test]
fn a_packed_ring_goes_on_behind_what_was_put() {
    let mut guest = PackedGuest::new(3, |_| {});
    let ring = guest.rx();
    for id in 0..2 {
        guest.post(id, &[(DATA, 72, WRITE)]);
        assert!(put(&ring, 1));
        guest.pop_used().unwrap();
    }
    let at = ResumeAt::Base(ring.base());
    let memory = guest.guest.memory();
    let ring = guest.guest.config.activate_rx(memory, None, at).unwrap();
    guest.post(2, &[(DATA, 72, WRITE)]);
    assert!(put(&ring, 3));
    assert_eq!(guest.pop_used().unwrap().id, 2);
}
