//! RX: reservations, merging, publication order, cancelling and waiting.

use super::*;
use crate::virtqueue::{Gather, Grant, Reserved, RxBatch, Scatter};

const fn reserved(granted: usize, starved: bool) -> Reserved {
    Reserved { granted, starved }
}

/// Buffers and bytes of each grant.
fn grants(batch: &RxBatch<'_>) -> Vec<Option<(u16, usize)>> {
    batch
        .grants()
        .map(|grant| match grant {
            Grant::Buffers { buffers, segments } => {
                Some((buffers, segments.iter().map(Segment::len).sum()))
            }
            Grant::TooBig => None,
        })
        .collect()
}

/// Fills every grant with bytes of `value`, after a header with the right `num_buffers`.
fn fill(ring: &RxRing, batch: &RxBatch<'_>, wants: &[u32], value: u8) {
    for (grant, &want) in batch.grants().zip(wants) {
        let Grant::Buffers { buffers, segments } = grant else {
            continue;
        };
        let mut header = [value; 12];
        header[10..].copy_from_slice(&buffers.to_le_bytes());
        let body = vec![value; want as usize - 12];
        let frame = Gather {
            header: &header,
            head: &body,
            rest: &[],
            rest_skip: 0,
            rest_len: 0,
        };
        assert_eq!(ring.copy(segments, &frame), want as usize);
    }
}

#[test]
fn one_buffer_a_frame() {
    let mut guest = Guest::with(8, |f| f.mergeable = false).start_at(65534);
    guest.post_receive_buffers(5, 1526);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    let wants = [64, 1526, 12];
    assert_eq!(
        ring.reserve(&wants, &mut batch).unwrap(),
        reserved(3, false)
    );
    assert_eq!(
        grants(&batch),
        [Some((1, 64)), Some((1, 1526)), Some((1, 12))]
    );
    fill(&ring, &batch, &wants, 7);
    assert_eq!(guest.used_idx(), 65534, "not before it is complete");
    ring.complete(&mut batch);
    assert!(batch.is_empty());
    assert_eq!(guest.used_idx(), 1);
    for (i, want) in wants.into_iter().enumerate() {
        let index = 65534_u16.wrapping_add(i as u16);
        assert_eq!(guest.used(index), (i as u32, want));
        let buffer = guest.bytes(DATA + 1526 * i as u64, 1526);
        assert!(buffer[12..want as usize].iter().all(|&b| b == 7));
        assert!(buffer[want as usize..].iter().all(|&b| b == 0));
    }
    assert_eq!(ring.base(), 1);
}

#[test]
fn merged_buffers() {
    let mut guest = Guest::new(8);
    guest.post_receive_buffers(8, 100);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    let wants = [250, 100, 301];
    // 3 + 1 + 4 buffers.
    assert_eq!(
        ring.reserve(&wants, &mut batch).unwrap(),
        reserved(3, false)
    );
    // The last buffer of the last frame holds a byte of it, and has room for a header.
    assert_eq!(
        grants(&batch),
        [Some((3, 250)), Some((1, 100)), Some((4, 312))]
    );
    fill(&ring, &batch, &wants, 9);
    ring.complete(&mut batch);
    let lens: Vec<u32> = (0..8).map(|i| guest.used(i).1).collect();
    assert_eq!(lens, [100, 100, 50, 100, 100, 100, 100, 1]);
    assert_eq!(guest.used_idx(), 8);
    assert_eq!(guest.bytes(DATA + 10, 3), [3, 0, 9], "num_buffers");
    assert_eq!(guest.bytes(DATA + 700, 2), [9, 0]);
    assert_eq!(ring.reserve(&[12], &mut batch).unwrap(), reserved(0, true));
}

#[test]
fn it_stops_at_the_first_frame_without_buffers() {
    let mut guest = Guest::new(8);
    guest.post_receive_buffers(3, 100);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    assert_eq!(
        ring.reserve(&[200, 150, 20], &mut batch).unwrap(),
        reserved(1, true),
        "the third would fit, but order is order"
    );
    ring.complete(&mut batch);
    assert_eq!(guest.used_idx(), 2);
    assert_eq!(ring.base(), 2);
}

#[test]
fn frames_too_big_for_the_ring_take_nothing() {
    let mut guest = Guest::with(8, |f| f.mergeable = false);
    guest.post_receive_buffers(4, 200);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    assert_eq!(
        ring.reserve(&[100, 201, 200, 5000, 64], &mut batch)
            .unwrap(),
        reserved(5, false)
    );
    assert_eq!(
        grants(&batch),
        [Some((1, 100)), None, Some((1, 200)), None, Some((1, 64))]
    );
    ring.complete(&mut batch);
    assert_eq!(guest.used_idx(), 3);
    assert_eq!(guest.used(1), (1, 200));

    // Mergeable: more than all buffers of a full ring.
    let mut guest = Guest::new(4);
    guest.post_receive_buffers(4, 200);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    assert_eq!(
        ring.reserve(&[801, 800], &mut batch).unwrap(),
        reserved(2, false)
    );
    assert_eq!(grants(&batch), [None, Some((4, 800))]);
    ring.complete(&mut batch);
    assert_eq!(guest.used_idx(), 4);
    // Only frames that are too big: nothing to give back, and nothing is lost.
    guest.post_receive_buffers(4, 200);
    assert_eq!(
        ring.reserve(&[900], &mut batch).unwrap(),
        reserved(1, false)
    );
    assert!(batch.is_empty());
    ring.complete(&mut batch);
    assert_eq!(ring.base(), 4);
}

#[test]
fn publication_follows_reservation() {
    let mut guest = Guest::new(8);
    guest.post_receive_buffers(8, 100);
    let ring = guest.rx();
    let (mut a, mut b, mut c) = (RxBatch::new(), RxBatch::new(), RxBatch::new());
    ring.reserve(&[150], &mut a).unwrap();
    ring.reserve(&[50, 60], &mut b).unwrap();
    ring.reserve(&[300], &mut c).unwrap();
    fill(&ring, &b, &[50, 60], 2);
    ring.complete(&mut b);
    assert_eq!(guest.used_idx(), 0);
    assert!(ring.notify().unwrap(), "owed at the start");
    assert!(!ring.notify().unwrap());
    fill(&ring, &a, &[150], 1);
    ring.complete(&mut a);
    assert_eq!(guest.used_idx(), 4);
    assert!(ring.notify().unwrap());
    fill(&ring, &c, &[300], 3);
    ring.complete(&mut c);
    assert_eq!(guest.used_idx(), 7);
    let first: Vec<u8> = [0, 2, 3, 4]
        .map(|i| guest.bytes(DATA + i * 100, 1)[0])
        .to_vec();
    assert_eq!(first, [1, 2, 2, 3]);
    let ids: Vec<u32> = (0..7).map(|i| guest.used(i).0).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn the_newest_reservation_is_taken_back() {
    let mut guest = Guest::new(8);
    guest.post_receive_buffers(8, 100);
    let ring = guest.rx();
    let (mut a, mut b) = (RxBatch::new(), RxBatch::new());
    ring.reserve(&[150], &mut a).unwrap();
    ring.reserve(&[150], &mut b).unwrap();
    ring.cancel(&mut b);
    assert_eq!(ring.base(), 2);
    // Dropping cancels, and so does another reservation with the same batch.
    ring.reserve(&[150], &mut b).unwrap();
    drop(b);
    assert_eq!(ring.base(), 2);
    ring.reserve(&[250], &mut a).unwrap();
    assert_eq!(ring.base(), 3);
    ring.complete(&mut a);
    assert_eq!(guest.used_idx(), 3);
}

#[test]
fn an_older_reservation_becomes_frames_of_zeros() {
    for header_len in [10, 12] {
        let mut guest = Guest::with(8, |f| f.header_len = header_len);
        guest.fill(DATA, &[0xff; 800]);
        for head in 0..4 {
            let len = if head == 1 { 40 } else { 100 };
            guest.post_buffer(head, DATA + 100 * u64::from(head), len, WRITE);
        }
        let ring = guest.rx();
        let (mut a, mut b) = (RxBatch::new(), RxBatch::new());
        ring.reserve(&[230], &mut a).unwrap();
        ring.reserve(&[100], &mut b).unwrap();
        fill(&ring, &b, &[100], 5);
        ring.cancel(&mut a);
        assert_eq!(guest.used_idx(), 3);
        ring.complete(&mut b);
        assert_eq!(guest.used_idx(), 4);
        let shortest = header_len as u32 + 60;
        // The third buffer was wanted for 90 bytes of the frame; 40 is all that the second has.
        let lens: Vec<u32> = (0..4).map(|i| guest.used(i).1).collect();
        assert_eq!(lens, [shortest, 40, shortest, 100]);
        for i in 0..3 {
            let len = lens[i as usize] as usize;
            let mut expected = vec![0; len];
            if header_len == 12 {
                expected[10] = 1;
            }
            assert_eq!(guest.bytes(DATA + 100 * i, len), expected);
            assert_eq!(guest.bytes(DATA + 100 * i + 80, 1), [0xff]);
        }
    }
}

#[test]
fn in_order_writes_every_element() {
    let mut guest = Guest::with(8, |f| f.in_order = true);
    guest.post_receive_buffers(6, 100);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    ring.reserve(&[64, 250, 64], &mut batch).unwrap();
    ring.complete(&mut batch);
    let elements: Vec<_> = (0..5).map(|i| guest.used(i)).collect();
    assert_eq!(elements, [(0, 64), (1, 100), (2, 100), (3, 50), (4, 64)]);
}

#[test]
fn a_read_may_turn_out_shorter() {
    use std::os::fd::AsFd;
    let (near, far) = std::os::unix::net::UnixDatagram::pair().unwrap();
    for newest in [true, false] {
        let mut guest = Guest::new(16);
        guest.post_receive_buffers(10, 100);
        let ring = guest.rx();
        let (mut a, mut b) = (RxBatch::new(), RxBatch::new());
        ring.reserve(&[64, 500], &mut a).unwrap();
        if !newest {
            ring.reserve(&[64], &mut b).unwrap();
        }
        fill(&ring, &a, &[64], 1);
        // A header of ten bytes, then 150 of frame.
        near.send(&[&[8; 10][..], &[7; 150]].concat()).unwrap();
        let mut header = [0; 10];
        let Some(Grant::Buffers { segments, .. }) = a.grants().nth(1) else {
            panic!();
        };
        assert_eq!(
            ring.readv(
                far.as_fd(),
                Scatter {
                    front: &mut header,
                    dst: segments,
                    skip: 12,
                    spill: &mut []
                }
            )
            .unwrap(),
            160
        );
        assert_eq!(header, [8; 10]);
        assert_eq!(ring.shrink_last(&mut a, 162), 2);
        let Some(Grant::Buffers { buffers, segments }) = a.grants().nth(1) else {
            panic!();
        };
        assert_eq!(buffers, 2);
        let frame = Gather {
            header: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
            head: &[],
            rest: &[],
            rest_skip: 0,
            rest_len: 0,
        };
        assert_eq!(ring.copy(segments, &frame), 12);
        ring.complete(&mut a);
        let written: Vec<u32> = (0..guest.used_idx()).map(|i| guest.used(i).1).collect();
        if newest {
            assert_eq!(written, [64, 100, 62]);
            assert_eq!(ring.base(), 3);
            ring.reserve(&[20], &mut a).unwrap();
            ring.complete(&mut a);
            assert_eq!(guest.used(3), (3, 20));
        } else {
            // The three left over are frames of zeros.
            assert_eq!(written, [64, 100, 62, 72, 72, 72]);
            assert_eq!(guest.bytes(DATA + 310, 3), [1, 0, 0]);
            ring.complete(&mut b);
            assert_eq!(guest.used(6), (6, 64));
        }
        assert_eq!(guest.bytes(DATA + 112, 88), [7; 88]);
        assert_eq!(guest.bytes(DATA + 200, 63), [&[7; 62][..], &[0]].concat());
    }
    // Never below a header, and never longer than it was.
    let mut guest = Guest::new(4);
    guest.post_receive_buffers(4, 100);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    assert_eq!(ring.shrink_last(&mut batch, 5), 0);
    ring.reserve(&[150], &mut batch).unwrap();
    assert_eq!(ring.shrink_last(&mut batch, 5000), 2);
    assert_eq!(ring.shrink_last(&mut batch, 0), 1);
    ring.complete(&mut batch);
    assert_eq!((guest.used_idx(), guest.used(0)), (1, (0, 12)));
}

#[test]
fn what_finds_no_room_spills() {
    use std::os::fd::AsFd;
    let (near, far) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let mut guest = Guest::new(4);
    guest.fill(DATA, &[0xff; 400]);
    guest.post_receive_buffers(4, 100);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    ring.reserve(&[150], &mut batch).unwrap();
    let Some(Grant::Buffers { segments, .. }) = batch.grants().next() else {
        panic!();
    };
    near.send(&[&[1; 30][..], &[2; 110], &[3; 20]].concat())
        .unwrap();
    let (mut front, mut spill) = ([0; 30], [0; 40]);
    let to = Scatter {
        front: &mut front,
        dst: segments,
        skip: 40,
        spill: &mut spill,
    };
    assert_eq!(ring.readv(far.as_fd(), to).unwrap(), 160);
    assert_eq!((front, &spill[..20]), ([1; 30], &[3; 20][..]));
    assert_eq!(spill[20..], [0; 20]);
    assert_eq!(guest.bytes(DATA, 40), [0xff; 40]);
    assert_eq!(guest.bytes(DATA + 40, 110), [2; 110]);
    assert_eq!(guest.bytes(DATA + 150, 10), [0xff; 10]);
}

#[test]
fn buffers_are_noticed() {
    let mut guest = Guest::new(8).start_at(77);
    let ring = guest.rx();
    assert!(!ring.has_buffers());
    guest.post_buffer(0, DATA, 100, WRITE);
    assert!(ring.has_buffers());
    let mut batch = RxBatch::new();
    ring.reserve(&[50], &mut batch).unwrap();
    ring.complete(&mut batch);
    assert!(ring.has_buffers(), "once is enough");
    let again = ring
        .reconfigure(&guest.config, guest.memory(), None)
        .unwrap();
    assert!(again.has_buffers());
}

#[test]
fn a_sender_waits_for_buffers() {
    for event_idx in [false, true] {
        let mut guest = Guest::with(8, |f| f.event_idx = event_idx).start_at(65535);
        let ring = guest.rx();
        let kicks = |guest: &Guest| {
            if event_idx {
                // The guest kicks when it makes the chain at this index available.
                guest.avail_event() == guest.avail
            } else {
                guest.used_flags() == 0
            }
        };
        assert!(!kicks(&guest), "off from the start");
        guest.post_buffer(0, DATA, 100, WRITE);
        let mut batch = RxBatch::new();
        assert!(ring.reserve(&[150], &mut batch).unwrap().starved);
        assert!(!ring.wait_for_buffers(true).unwrap(), "one is not enough");
        assert!(kicks(&guest));
        guest.post_buffer(1, DATA + 100, 100, WRITE);
        assert!(ring.wait_for_buffers(true).unwrap(), "came in between");
        assert_eq!(ring.reserve(&[150], &mut batch).unwrap().granted, 1);
        assert!(!ring.wait_for_buffers(false).unwrap());
        assert!(!kicks(&guest));
        // A reservation that was taken back is there again.
        assert!(!ring.wait_for_buffers(true).unwrap());
        ring.cancel(&mut batch);
        assert!(ring.wait_for_buffers(true).unwrap());
    }
}

#[test]
fn a_drought_is_timed_from_its_first_failure() {
    let mut guest = Guest::new(8);
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    assert!(!ring.stalled(10, 0));
    ring.reserve(&[64], &mut batch).unwrap();
    assert!(!ring.stalled(1000, 50), "this starts the clock");
    ring.reserve(&[64], &mut batch).unwrap();
    assert!(!ring.stalled(1050, 50));
    assert!(ring.stalled(1051, 50));
    guest.post_buffer(0, DATA, 100, WRITE);
    ring.reserve(&[64], &mut batch).unwrap();
    ring.complete(&mut batch);
    assert!(!ring.stalled(5000, 50), "success ends it");
    // A sender that needs two buffers and cancels the one it is granted is stalled all the same.
    guest.post_buffer(1, DATA, 100, WRITE);
    for (now, stalled) in [(6000, false), (6050, false), (6051, true)] {
        ring.reserve(&[64, 64], &mut batch).unwrap();
        ring.cancel(&mut batch);
        assert_eq!(ring.stalled(now, 50), stalled);
    }
    ring.reserve(&[64, 64], &mut batch).unwrap();
    ring.complete(&mut batch);
    assert!(!ring.stalled(7000, 50));
    ring.reserve(&[64], &mut batch).unwrap();
    assert!(!ring.stalled(0, 50));
    assert!(ring.stalled(u64::MAX, 50));
}

#[test]
fn a_batch_may_fill_up_before_the_ring_does() {
    // 40 segments a buffer, ten buffers a frame: 400 segments, of which the batch holds two.
    let mut guest = Guest::new(64);
    let table = DATA + 0x10_0000;
    for i in 0..40 {
        let flags = WRITE | if i < 39 { NEXT } else { 0 };
        guest.descriptor(table, i, (DATA, 10, flags, i + 1));
    }
    for head in 0..50 {
        guest.desc(head, table, 640, INDIRECT, 0);
        guest.post(head);
    }
    let ring = guest.rx();
    let mut batch = RxBatch::new();
    for used in [20, 40] {
        assert_eq!(
            ring.reserve(&[4000; 4], &mut batch).unwrap(),
            reserved(2, false)
        );
        ring.complete(&mut batch);
        assert_eq!(guest.used_idx(), used);
    }
    // More segments than any batch has: never.
    assert_eq!(
        ring.reserve(&[64000], &mut batch).unwrap(),
        reserved(0, true)
    );
    for head in 50..64 {
        guest.desc(head, table, 640, INDIRECT, 0);
        guest.post(head);
    }
    for head in 0..16 {
        guest.post(head);
    }
    assert_eq!(
        ring.reserve(&[16000], &mut batch).unwrap(),
        reserved(1, false)
    );
    assert_eq!(grants(&batch), [None]);
}

#[test]
fn a_ring_is_small() {
    use crate::virtqueue::ledger::Range;
    assert!(size_of::<Option<(Range, bool)>>() <= 8);
}
