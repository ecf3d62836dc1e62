//! Queues over every combination of ring format, features and layout.

use std::time::Duration;

use super::*;
use crate::virtqueue::Gather;

const LAYOUTS: [Layout; 4] = [
    Layout::Contiguous,
    Layout::HeaderApart,
    Layout::Pieces(1),
    Layout::Pieces(7),
];

fn every_case(mut check: impl FnMut(Case)) {
    for bits in 0..16 {
        let features = features(bits);
        for layout in LAYOUTS {
            for indirect in [false, true] {
                let (size, buffers, buffer_len) = (16, 11, 300);
                let options = QueueOptions {
                    size,
                    buffers,
                    buffer_len,
                    layout,
                    indirect,
                };
                for own in [false, true] {
                    check(Case {
                        features,
                        options,
                        own,
                    });
                }
            }
        }
    }
}

#[test]
fn what_is_sent_arrives_and_buffers_come_back() {
    every_case(|case| {
        let (mut tx, mut device) = case.tx();
        // Enough rounds for the ring to wrap often, with bursts of changing length.
        for round in 0..60u8 {
            let mut sent = Vec::new();
            for i in 0..=round % 9 {
                let frame = frame(1 + usize::from(round.wrapping_mul(i + 3)), i);
                match tx.send(&header(round), &frame) {
                    Ok(()) => sent.push([&header(round)[..], &frame].concat()),
                    Err(SendError::Full) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            assert!(!sent.is_empty());
            assert!(
                device.take(true).is_empty(),
                "nothing is visible before the kick"
            );
            tx.kick().unwrap();
            assert_eq!(device.take(round % 2 == 0), sent, "{case:?} {round}");
            assert_eq!(tx.reclaim().unwrap(), sent.len());
            assert_eq!(tx.outstanding(), 0);
        }
    });
}

#[test]
fn a_full_queue_says_so_and_recovers() {
    every_case(|case| {
        let (mut tx, mut device) = case.tx();
        let bytes = frame(200, 1);
        let fill = |tx: &mut TxQueue| {
            let mut count = 0;
            while tx.send(&header(0), &bytes) != Err(SendError::Full) {
                count += 1;
            }
            tx.kick().unwrap();
            count
        };
        let first = fill(&mut tx);
        let expected = match (case.options.indirect, case.options.layout) {
            (false, Layout::HeaderApart) => 8,
            (false, Layout::Pieces(7)) => 2,
            _ => 11,
        };
        assert_eq!(first, expected, "{case:?}");
        assert_eq!(device.take(true).len(), first);
        assert_eq!(fill(&mut tx), first, "a full queue reclaims by itself");
    });
}

#[test]
fn frames_are_received_whole_in_one_or_several_buffers() {
    every_case(|case| {
        let (mut rx, mut device) = case.rx();
        let mut got = Vec::new();
        for round in 0..60u8 {
            rx.refill();
            rx.kick().unwrap();
            let most = if case.features.mergeable { 600 } else { 288 };
            let bytes = frame(1 + usize::from(round) * 37 % most, round);
            if !device.fill(&[&header(round)[..], &bytes].concat()) {
                assert!(bytes.len() > 288 && rx.outstanding() < 3, "{case:?}");
                continue;
            }
            let header_got = rx.recv(&mut got).unwrap().expect("a frame");
            assert_eq!(got, bytes, "{case:?} {round}");
            assert_eq!(header_got[..10], header(round)[..10]);
            assert_eq!(
                usize::from(header_got[10]),
                (12 + bytes.len()).div_ceil(300)
            );
            assert_eq!(rx.recv(&mut got), Ok(None));
        }
    });
}

#[test]
fn a_legacy_header_has_ten_bytes() {
    let mut legacy = features(0);
    legacy.header_len = 10;
    let case = Case {
        features: legacy,
        options: QueueOptions {
            layout: Layout::HeaderApart,
            ..QueueOptions::default()
        },
        own: false,
    };
    let (mut tx, mut device) = case.tx();
    tx.send(&header(1), &frame(60, 2)).unwrap();
    tx.kick().unwrap();
    let expected = [&header(1)[..10], &frame(60, 2)].concat();
    assert_eq!(device.take(false), [expected]);
}

#[test]
fn frames_that_do_not_fit_are_refused() {
    let memory = memory();
    let options = QueueOptions {
        buffer_len: 72,
        ..QueueOptions::default()
    };
    let mut tx = TxQueue::new(&memory, &options, features(MERGEABLE)).unwrap();
    assert_eq!(tx.send(&header(0), &[]), Err(SendError::Length(0)));
    assert_eq!(tx.send(&header(0), &[0; 61]), Err(SendError::Length(61)));
    assert_eq!(tx.send(&header(0), &[0; 60]), Ok(()));
}

#[test]
fn impossible_queues_are_refused() {
    let memory = memory();
    let good = QueueOptions {
        size: 8,
        ..QueueOptions::default()
    };
    for bad in [
        QueueOptions { size: 0, ..good },
        QueueOptions { size: 24, ..good },
        QueueOptions {
            buffer_len: 25,
            ..good
        },
        QueueOptions {
            layout: Layout::Pieces(0),
            ..good
        },
        QueueOptions {
            layout: Layout::Pieces(9),
            ..good
        },
        QueueOptions {
            buffers: u16::MAX,
            buffer_len: 1 << 20,
            ..good
        },
    ] {
        let plain = features(0);
        assert!(TxQueue::new(&memory, &bad, plain).is_err(), "{bad:?}");
        assert!(RxQueue::new(&memory, &bad, plain).is_err(), "{bad:?}");
    }
}

#[test]
fn the_device_is_kicked_as_it_wishes() {
    every_case(|case| {
        let (mut tx, mut device) = case.tx();
        let burst = |tx: &mut TxQueue, n| {
            for _ in 0..n {
                tx.send(&header(0), &[1; 20]).unwrap();
            }
            tx.kick().unwrap()
        };
        for round in 0..100 {
            device.want_kicks(true);
            assert!(burst(&mut tx, 1 + round % 2), "{case:?} {round}");
            assert!(!tx.kick().unwrap(), "nothing new, no kick");
            device.want_kicks(false);
            assert_eq!(device.take(true).len(), 1 + round % 2);
            tx.reclaim().unwrap();
            // `virtio-queue` leaves the event where it was: it has been passed.
            assert!(!burst(&mut tx, 1), "{case:?} {round}");
            device.take(true);
            tx.reclaim().unwrap();
        }
    });
}

#[test]
fn the_driver_is_called_only_while_it_waits() {
    every_case(|case| {
        let (mut rx, mut device) = case.rx();
        let mut got = Vec::new();
        for round in 0..100u8 {
            rx.refill();
            rx.kick().unwrap();
            assert!(!rx.wait(Duration::ZERO).unwrap());
            assert!(device.fill(&[&header(0)[..], &frame(60, round)].concat()));
            // A device may call once when it starts, in case one was lost before.
            let called = device.wants_call();
            assert!(!called || round == 0, "{case:?} {round}");
            assert!(rx.wait(Duration::ZERO).unwrap());
            rx.recv(&mut got).unwrap().unwrap();
        }
        rx.refill();
        rx.kick().unwrap();
        let call = rx.call_fd().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The driver may look before or after the frame is there; either way it wakes.
                assert!(device.fill(&[&header(0)[..], &frame(60, 1)].concat()));
                if device.wants_call() {
                    call.write(1).unwrap();
                }
            });
            assert!(rx.wait(Duration::from_secs(10)).unwrap());
        });
    });
}

#[test]
fn what_a_bad_device_writes_is_an_error() {
    let plain = features(MERGEABLE);
    let memory = memory();
    let options = QueueOptions {
        size: 8,
        buffers: 4,
        buffer_len: 300,
        ..QueueOptions::default()
    };
    let case = |idx: u16, id: u32, len: u32, buffers: u16| {
        let mut rx = RxQueue::new(&memory, &options, plain).unwrap();
        rx.refill();
        rx.kick().unwrap();
        let layout = rx.layout();
        // The first slot's address stands in the first descriptor.
        let mut addr = [0; 8];
        memory.read(layout.desc, &mut addr).unwrap();
        memory
            .write(u64::from_le_bytes(addr) + 10, &buffers.to_le_bytes())
            .unwrap();
        let element = [id.to_le_bytes(), len.to_le_bytes()].concat();
        memory.write(layout.used + 4, &element).unwrap();
        memory.write(layout.used + 2, &idx.to_le_bytes()).unwrap();
        rx.recv(&mut Vec::new())
    };
    assert!(case(1, 0, 72, 1).unwrap().is_some());
    let jump = DeviceError::UsedIndex {
        used: 5,
        last: 0,
        outstanding: 4,
    };
    assert_eq!(case(5, 0, 72, 1), Err(jump));
    assert_eq!(case(1, 7, 72, 1), Err(DeviceError::UnknownBuffer(7)));
    assert_eq!(
        case(1, 65536, 72, 1),
        Err(DeviceError::UnknownBuffer(65536))
    );
    assert_eq!(
        case(1, 0, 301, 1),
        Err(DeviceError::TooLong {
            len: 301,
            room: 300
        })
    );
    assert_eq!(case(1, 0, 11, 1), Err(DeviceError::ShortFrame(11)));
    assert_eq!(
        case(1, 0, 72, 0),
        Err(DeviceError::Merge {
            announced: 0,
            published: 1
        })
    );
    assert_eq!(
        case(1, 0, 72, 3),
        Err(DeviceError::Merge {
            announced: 3,
            published: 1
        })
    );
}

#[test]
fn a_frame_in_several_places_is_sent_as_one() {
    let case = Case {
        features: features(0),
        options: QueueOptions::default(),
        own: true,
    };
    let (mut tx, mut device) = case.tx();
    let (header, head) = (header(3), frame(90, 5));
    let whole = Gather {
        header: &header,
        head: &head,
        rest: &[],
        rest_skip: 0,
        rest_len: 0,
    };
    tx.send_gather(&whole).unwrap();
    // A header of another length, and a frame whose end is missing, cost no slot.
    let short = Gather {
        header: &header[..10],
        ..whole
    };
    let cut = Gather {
        rest_len: 1,
        ..whole
    };
    for wrong in [short, cut] {
        for _ in 0..300 {
            assert!(matches!(tx.send_gather(&wrong), Err(SendError::Length(_))));
        }
    }
    tx.kick().unwrap();
    assert_eq!(device.take(true), [[&header[..], &head].concat()]);
}

#[test]
fn a_frame_that_is_too_long_for_its_place_is_cut_off() {
    for bits in [MERGEABLE, MERGEABLE | PACKED] {
        let case = Case {
            features: features(bits),
            options: QueueOptions {
                size: 16,
                buffers: 16,
                buffer_len: 64,
                ..QueueOptions::default()
            },
            own: true,
        };
        let (mut rx, mut device) = case.rx();
        let mut out = [0; 200];
        for len in [1, 60, 187, 188, 189, 300] {
            rx.refill();
            rx.kick().unwrap();
            let sent = frame(len, 9);
            assert!(device.fill(&[&header(1)[..], &sent].concat()));
            assert_eq!(rx.recv_into(&mut out).unwrap(), Some(12 + len));
            let kept = len.min(188);
            assert_eq!(out[12..12 + kept], sent[..kept]);
            assert_eq!(out[..10], header(1)[..10]);
            assert_eq!(rx.recv_into(&mut out).unwrap(), None);
        }
    }
}
