//! TX: peeking, finishing in any order, publication, kicks and calls.

use super::*;
use crate::virtqueue::{MAX_BATCH, RingError, TxBatch, read};

fn post(guest: &mut Guest, count: u16) {
    for _ in 0..count {
        let head = guest.avail % guest.size;
        guest.post_buffer(head, DATA + u64::from(head) * 64, 64, 0);
    }
}

#[test]
fn peeking_consumes_nothing() {
    let mut guest = Guest::new(8);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    assert!(!ring.lock().available().unwrap());
    assert_eq!(ring.lock().peek(&mut batch, 64).unwrap(), 0);
    post(&mut guest, 3);
    for _ in 0..2 {
        let mut guard = ring.lock();
        assert!(guard.available().unwrap());
        assert_eq!(guard.peek(&mut batch, 64).unwrap(), 3);
        assert_eq!(guard.publish(), 0);
    }
    assert_eq!(ring.base(), 0);
    assert_eq!(guest.used_idx(), 0);
    assert_eq!(ring.lock().peek(&mut batch, 2).unwrap(), 2);
    for (i, chain) in batch.chains().iter().enumerate() {
        assert_eq!((chain.len, chain.done), (64, false));
        assert_eq!(spans(batch.segments(chain)), [(DATA + 64 * i as u64, 64)]);
    }
}

#[test]
fn finished_chains_go_back_in_order() {
    let mut guest = Guest::new(8).start_at(65533);
    post(&mut guest, 6);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 6);
    for i in [1, 2, 4, 63, 64, usize::MAX] {
        guard.finish(i);
    }
    assert_eq!(guard.publish(), 0, "the first is not done");
    guard.finish(0);
    assert_eq!(guard.publish(), 3);
    assert_eq!(guest.used_idx(), 0);
    for i in 0..3 {
        let index = 65533_u16.wrapping_add(i);
        assert_eq!(guest.used(index), (u32::from(index % 8), 0));
    }
    // What was the fifth is the second now, and still done.
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 3);
    let done: Vec<bool> = batch.chains().iter().map(|c| c.done).collect();
    assert_eq!(done, [false, true, false]);
    assert!(batch.segments(&batch.chains()[1]).is_empty());
    guard.finish(0);
    assert_eq!(guard.publish(), 2);
    drop(guard);
    assert_eq!(ring.base(), 2);
    // A peek for fewer than are done forgets nothing.
    post(&mut guest, 3);
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 4);
    guard.finish(3);
    assert_eq!(guard.peek(&mut batch, 1).unwrap(), 1);
    guard.finish(0);
    guard.finish(1);
    guard.finish(2);
    assert_eq!(guard.publish(), 4);
    assert_eq!(guest.used_idx(), guest.avail);
    assert!(!guard.available().unwrap());
}

#[test]
fn a_batch_is_64_chains() {
    let mut guest = Guest::new(256);
    post(&mut guest, 200);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    let mut total = 0;
    loop {
        let count = guard.peek(&mut batch, usize::MAX).unwrap();
        if count == 0 {
            break;
        }
        assert!(count <= MAX_BATCH);
        (0..count).for_each(|i| guard.finish(i));
        assert_eq!(usize::from(guard.publish()), count);
        total += count;
    }
    assert_eq!(total, 200);
    assert_eq!(guest.used_idx(), 200);
}

#[test]
fn a_full_batch_ends_before_the_chain_that_does_not_fit() {
    let mut guest = Guest::new(1024);
    let table = DATA + 0x10_0000;
    for i in 0..1000 {
        let flags = if i < 999 { NEXT } else { 0 };
        guest.descriptor(table, i, (DATA, 2, flags, i + 1));
    }
    for head in 0..3 {
        guest.desc(head, table, 16000, INDIRECT, 0);
        guest.post(head);
    }
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    for left in (1..=3).rev() {
        assert_eq!(guard.peek(&mut batch, 64).unwrap(), 1, "{left}");
        assert_eq!(batch.chains()[0].len, 2000);
        assert_eq!(batch.segments(&batch.chains()[0]).len(), 1000);
        guard.finish(0);
        assert_eq!(guard.publish(), 1);
    }
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 0);
}

#[test]
fn in_order_needs_one_element_for_a_batch() {
    let mut guest = Guest::with(8, |f| f.in_order = true).start_at(6);
    // Elements that nobody wrote are recognised.
    for slot in 0..8 {
        guest.write(guest.used_at() + 4 + 8 * slot, 0xdead_u32);
    }
    post(&mut guest, 5);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    guard.peek(&mut batch, 64).unwrap();
    (0..4).for_each(|i| guard.finish(i));
    assert_eq!(guard.publish(), 4);
    assert_eq!(guest.used_idx(), 10);
    // VIRTIO 1.2, 2.7.8: at the first slot of the batch, with the id of its last chain.
    assert_eq!(guest.used(6), (1, 0));
    for index in [7, 8, 9] {
        assert_eq!(guest.used(index).0, 0xdead);
    }
    guard.peek(&mut batch, 64).unwrap();
    guard.finish(0);
    assert_eq!(guard.publish(), 1);
    assert_eq!(guest.used(10), (2, 0));
}

#[test]
fn one_worker_at_a_time() {
    let guest = Guest::new(8);
    let ring = guest.tx();
    let guard = ring.try_lock().unwrap();
    assert!(ring.try_lock().is_none());
    drop(guard);
    assert!(ring.try_lock().is_some());
}

fn send(guest: &mut Guest, ring: &TxRing, count: u16) {
    post(guest, count);
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), usize::from(count));
    (0..usize::from(count)).for_each(|i| guard.finish(i));
    assert_eq!(guard.publish(), count);
}

#[test]
fn calls_without_event_idx() {
    let mut guest = Guest::new(8);
    let ring = guest.tx();
    assert!(ring.notify().unwrap(), "one call is owed at the start");
    assert!(!ring.notify().unwrap());
    assert_eq!(guest.calls(), 1);
    send(&mut guest, &ring, 3);
    assert!(ring.notify().unwrap());
    assert!(!ring.notify().unwrap(), "nothing new");
    assert_eq!(guest.calls(), 1);
    guest.set_no_interrupt(true);
    send(&mut guest, &ring, 1);
    assert!(!ring.notify().unwrap());
    guest.set_no_interrupt(false);
    assert!(!ring.notify().unwrap(), "that one was weighed already");
    assert_eq!(guest.calls(), 0);
}

#[test]
fn calls_with_event_idx_over_the_wrap() {
    let mut guest = Guest::with(8, |f| f.event_idx = true).start_at(65533);
    let ring = guest.tx();
    ring.notify().unwrap();
    guest.calls();
    // (used_event, chains, called): the guest wants to know when used.idx moves past the event.
    for (event, count, called) in [
        (65533, 1, true),  // 65533 → 65534
        (65533, 1, false), // passed before
        (65535, 1, true),  // 65535 → 0
        (1, 1, false),     // 0 → 1
        (1, 1, true),      // 1 → 2
        (4, 4, true),      // 2 → 6
        (6, 2, true),      // 6 → 8
        (5, 2, false),     // 8 → 10
    ] {
        let from = guest.used_idx();
        guest.set_used_event(event);
        send(&mut guest, &ring, count);
        assert_eq!(
            ring.notify().unwrap(),
            called,
            "{event} from {from} by {count}"
        );
    }
    // NO_INTERRUPT means nothing here.
    guest.set_no_interrupt(true);
    guest.set_used_event(guest.used_idx());
    send(&mut guest, &ring, 1);
    assert!(ring.notify().unwrap());
}

#[test]
fn a_guest_that_polled_for_a_round_of_the_index_is_called_when_it_waits() {
    let mut guest = Guest::with(8, |f| f.event_idx = true);
    let ring = guest.tx();
    ring.notify().unwrap();
    // Never the next position: it wants no call. After 65,536 chains the index is where it was.
    for _ in 0..65_536 / 8 {
        guest.set_used_event(guest.used_idx().wrapping_sub(1));
        send(&mut guest, &ring, 8);
        assert!(!ring.notify().unwrap());
    }
    guest.set_used_event(guest.used_idx());
    send(&mut guest, &ring, 1);
    assert!(ring.notify().unwrap());
}

#[test]
fn a_guest_that_polls_is_not_called() {
    let mut guest = Guest::new(8);
    let call = guest.config.call.take();
    let ring = guest.tx();
    send(&mut guest, &ring, 1);
    assert!(!ring.notify().unwrap());
    // A call descriptor that comes later brings the call that may be missed.
    guest.config.call = call;
    let ring = ring
        .reconfigure(&guest.config, guest.memory(), None)
        .unwrap();
    assert!(ring.notify().unwrap());
    assert_eq!(guest.calls(), 1);
}

#[test]
fn a_call_by_an_old_descriptor_does_not_count() {
    let mut guest = Guest::with(8, |f| f.event_idx = true);
    let old = guest.tx();
    guest.call = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    guest.config.call = Some(Arc::clone(&guest.call));
    let new = old
        .reconfigure(&guest.config, guest.memory(), None)
        .unwrap();
    // A worker goes on with the old descriptor until it takes the newest snapshot. The guest, which
    // hears the new one, goes on waiting for this chain and asks for no other call.
    send(&mut guest, &old, 1);
    assert!(old.notify().unwrap());
    assert!(new.notify().unwrap(), "that call was lost");
    assert_eq!(guest.calls(), 1);
    // It may do so after others have the new one, too.
    send(&mut guest, &old, 1);
    old.notify().unwrap();
    assert!(new.notify().unwrap(), "that one as well");
    assert_eq!(guest.calls(), 1);
    assert!(!new.notify().unwrap());
}

#[test]
fn kicks_without_event_idx() {
    let mut guest = Guest::new(8);
    let ring = guest.tx();
    let mut guard = ring.lock();
    guard.disable_kicks();
    assert_eq!(guest.used_flags(), 1);
    assert!(!guard.enable_kicks().unwrap());
    assert_eq!(guest.used_flags(), 0);
    post(&mut guest, 1);
    assert!(guard.enable_kicks().unwrap(), "came before the last look");
}

#[test]
fn kicks_with_event_idx() {
    let mut guest = Guest::with(8, |f| f.event_idx = true).start_at(65535);
    let ring = guest.tx();
    let mut guard = ring.lock();
    assert!(!guard.enable_kicks().unwrap());
    assert_eq!(guest.avail_event(), 65535);
    guard.disable_kicks();
    assert_eq!(guest.avail_event(), 65534);
    drop(guard);
    send(&mut guest, &ring, 1);
    let mut guard = ring.lock();
    assert!(!guard.enable_kicks().unwrap());
    assert_eq!(guest.avail_event(), 0);
    assert_eq!(guest.used_flags(), 0);
}

#[test]
fn a_ring_is_silent_until_something_comes() {
    let mut guest = Guest::new(8).start_at(65534);
    let ring = guest.tx();
    for _ in 0..20 {
        let silence = ring.silence().unwrap();
        assert!(ring.is_silent(silence));
        post(&mut guest, 1);
        assert!(!ring.is_silent(silence));
        let mut guard = ring.lock();
        assert!(ring.silence().is_none(), "somebody has it");
        assert_eq!(guard.peek(&mut TxBatch::new(), 8).unwrap(), 1);
        drop(guard);
        assert!(ring.silence().is_none(), "a frame is under way");
        let mut guard = ring.lock();
        guard.finish(0);
        assert_eq!(guard.publish(), 1);
    }
    // What cannot be is for a turn to find.
    let silence = ring.silence().unwrap();
    guest.set_avail_idx(guest.avail.wrapping_sub(1));
    assert!(!ring.is_silent(silence));
}

#[test]
fn a_ring_goes_on_under_a_new_configuration() {
    let mut guest = Guest::new(8);
    let old = guest.tx();
    send(&mut guest, &old, 5);
    post(&mut guest, 2);
    let mut batch = TxBatch::new();
    let mut guard = old.lock();
    guard.peek(&mut batch, 64).unwrap();
    guard.finish(1);
    drop(guard);
    let new = old
        .reconfigure(&guest.config, guest.memory(), None)
        .unwrap();
    assert_eq!(new.base(), 5);
    let mut guard = new.lock();
    assert!(old.try_lock().is_none(), "the state is one");
    let mut batch = TxBatch::new();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 2);
    assert!(batch.chains()[1].done);
    guard.finish(0);
    assert_eq!(guard.publish(), 2);
    assert_eq!(guest.used_idx(), 7);
}

#[test]
fn resuming() {
    let mut guest = Guest::new(8).start_at(100);
    post(&mut guest, 3);
    assert_eq!(guest.tx().base(), 100);
    // An index from the front end is where chains are taken; used elements go on where they were.
    let ring = guest
        .config
        .activate_tx(guest.memory(), None, ResumeAt::Base(102))
        .unwrap();
    let mut batch = TxBatch::new();
    let mut guard = ring.lock();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 1);
    guard.finish(0);
    guard.publish();
    assert_eq!(guest.used_idx(), 101);
    assert_eq!(guest.used(100), (102 % 8, 0));
    drop(guard);
    assert_eq!(ring.base(), 103);
    let ring = guest
        .config
        .activate_tx(guest.memory(), None, ResumeAt::Base(104))
        .unwrap();
    let mut batch = TxBatch::new();
    assert!(matches!(
        ring.lock().peek(&mut batch, 1),
        Err(RingError::AvailIndex { .. })
    ));
}

#[test]
fn payload_of_a_scattered_chain() {
    let mut guest = Guest::new(8);
    guest.fill(DATA, b"header");
    guest.fill(DATA + 100, b"and ");
    guest.fill(DATA + 50, b"payload");
    guest.desc(7, DATA, 6, NEXT, 0);
    guest.desc(0, DATA + 100, 4, NEXT, 4);
    guest.desc(4, DATA + 50, 7, 0, 0);
    guest.post(7);
    let ring = guest.tx();
    let mut batch = TxBatch::new();
    ring.lock().peek(&mut batch, 1).unwrap();
    let segments = batch.segments(&batch.chains()[0]);
    let mut out = [0; 32];
    assert_eq!(read(segments, 0, &mut out), 17);
    assert_eq!(&out[..17], b"headerand payload");
    assert_eq!(read(segments, 8, &mut out[..5]), 5);
    assert_eq!(&out[..5], b"d pay");
    assert_eq!(read(segments, 17, &mut out), 0);
}
