use super::super::testing::{DATA_VALID, HEAD, KINDS, NEEDS_CSUM, ORIGINS, Packet};
use super::super::testing::{check, naive_sum, receive};
use super::*;
use crate::frame::checksum::complete_checksum;
use proptest::prelude::*;

#[test]
fn layout() {
    let header = VnetHeader {
        flags: 0x01,
        gso_type: 0x02,
        hdr_len: 0x0403,
        gso_size: 0x0605,
        csum_start: 0x0807,
        csum_offset: 0x0a09,
        num_buffers: 0x0c0b,
    };
    assert_eq!(header.encode(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(VnetHeader::decode(&header.encode()), header);
    let legacy = VnetHeader::decode_legacy(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(
        legacy,
        VnetHeader {
            num_buffers: 0,
            ..header
        }
    );
}

/// Every flag and every type on a frame that is a good TSO4 frame: 131,072 cells.
#[test]
fn every_flag_and_type() {
    let packet = Packet::new(false, false, 5000);
    let frame = packet.partial();
    for origin in ORIGINS {
        for flags in 0..=u8::MAX {
            for gso_type in 0..=u8::MAX {
                let header = VnetHeader {
                    flags,
                    gso_type,
                    ..packet.gso(1400)
                };
                let csum = flags & NEEDS_CSUM != 0;
                let out_flags = match origin {
                    _ if csum => NEEDS_CSUM,
                    Origin::Guest => 0,
                    Origin::Uplink => flags & DATA_VALID,
                };
                let no_gso = VnetHeader {
                    flags: out_flags,
                    csum_start: if csum { 34 } else { 0 },
                    csum_offset: if csum { 16 } else { 0 },
                    num_buffers: 1,
                    ..VnetHeader::default()
                };
                let expected = match gso_type {
                    0 => Ok(no_gso),
                    1 | 0x81 | 4 | 0x84 | 5 if !csum && origin == Origin::Guest => {
                        Err(DropReason::GsoWithoutChecksum)
                    }
                    1 | 0x81 => Ok(VnetHeader {
                        gso_type,
                        ..packet.gso(1400)
                    }),
                    4 | 0x84 | 5 => Err(DropReason::GsoMismatch),
                    3 | 0x83 => Err(DropReason::UfoRefused),
                    _ => Err(DropReason::BadGso),
                };
                assert_eq!(
                    check(&header, &frame, origin).0,
                    expected,
                    "{origin:?} {header:?}"
                );
            }
        }
    }
}

#[test]
fn hdr_len_against_the_frame() {
    let packet = Packet::new(false, false, 100);
    let frame = packet.partial();
    for hdr_len in 0..=u16::MAX {
        let header = VnetHeader {
            hdr_len,
            ..packet.needs_csum()
        };
        let fits = usize::from(hdr_len) <= frame.len();
        let expected = if fits {
            Ok(packet.needs_csum())
        } else {
            Err(DropReason::BadGso)
        };
        assert_eq!(check(&header, &frame, Origin::Guest).0, expected);
    }
}

#[test]
fn hdr_len_of_gso_is_a_hint_and_comes_out_exact() {
    for (tags, exact) in [(0, 54), (1, 58), (2, 62)] {
        let packet = Packet::new(false, false, 5000).tagged(tags);
        for hdr_len in [0, 34, 54, 100, 5000] {
            let header = VnetHeader {
                hdr_len,
                ..packet.gso(1400)
            };
            let (checked, _) = check(&header, &packet.partial(), Origin::Guest);
            assert_eq!(checked.unwrap().hdr_len, exact);
        }
    }
}

/// Every start and offset around the edges of a short frame.
#[test]
fn checksum_range() {
    for (tags, l3) in [(0, 14), (1, 18), (2, 22)] {
        let packet = Packet::new(false, true, 18).tagged(tags);
        let frame = packet.partial();
        for csum_start in (0..100).chain([u16::MAX - 2, u16::MAX]) {
            for csum_offset in (0..100).chain([u16::MAX - 2, u16::MAX]) {
                let header = VnetHeader {
                    csum_start,
                    csum_offset,
                    ..packet.needs_csum()
                };
                let end = u32::from(csum_start) + u32::from(csum_offset) + 2;
                let fits = end <= frame.len() as u32 && csum_start >= l3;
                let expected = if fits {
                    Ok(header)
                } else {
                    Err(DropReason::BadChecksum)
                };
                assert_eq!(check(&header, &frame, Origin::Guest).0, expected);
                // Without the flag the fields mean nothing.
                let unused = VnetHeader { flags: 0, ..header };
                let clean = VnetHeader {
                    num_buffers: 1,
                    ..VnetHeader::default()
                };
                assert_eq!(check(&unused, &frame, Origin::Guest).0, Ok(clean));
            }
        }
    }
}

#[test]
fn checksum_start_leaves_room_for_tags() {
    let mut frame = vec![0; 70_000];
    for (csum_start, fits) in [(u16::MAX - 8, true), (u16::MAX - 7, false)] {
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            csum_start,
            ..VnetHeader::default()
        };
        let result = header.check(70_000, &mut frame[..HEAD], Origin::Guest);
        assert_eq!(result.is_ok(), fits);
    }
}

#[test]
fn retag_follows_the_tag() {
    for (v6, udp) in KINDS {
        let mut packets = (0..=2).map(|tags| Packet::new(v6, udp, 5000).tagged(tags));
        let [none, one, two] = std::array::from_fn(|_| packets.next().unwrap().gso(1400));
        for (from, delta, to) in [
            (none, 4, one),
            (one, 4, two),
            (two, -4, one),
            (one, -4, none),
            (one, 0, one),
        ] {
            let mut header = from;
            header.retag(delta);
            assert_eq!(header, to);
        }
    }
    let mut idle = VnetHeader {
        flags: DATA_VALID,
        ..VnetHeader::default()
    };
    idle.retag(4);
    assert_eq!(
        idle,
        VnetHeader {
            flags: DATA_VALID,
            ..VnetHeader::default()
        }
    );
}

#[test]
fn longest_segment() {
    let packet = Packet::new(false, false, 5000).tagged(2);
    assert_eq!(packet.gso(1400).max_segment_len(), Some(62 + 1400));
    assert_eq!(packet.needs_csum().max_segment_len(), None);
}

#[test]
fn data_valid_goes_to_receivers_with_guest_csum() {
    let valid = VnetHeader {
        flags: DATA_VALID,
        num_buffers: 1,
        ..VnetHeader::default()
    };
    let plain = VnetHeader { flags: 0, ..valid };
    let gso = Packet::new(false, false, 5000).gso(1400);
    for (header, repair, to, expected) in [
        (valid, Repair::None, Offloads::CSUM, valid),
        (valid, Repair::None, Offloads::NONE, plain),
        (plain, Repair::None, Offloads::CSUM, plain),
        (gso, Repair::None, Offloads::CSUM | Offloads::TSO4, gso),
        (gso, Repair::Segment, Offloads::CSUM, valid),
        (gso, Repair::Segment, Offloads::NONE, plain),
        (
            Packet::new(false, true, 9).needs_csum(),
            Repair::Checksum,
            Offloads::NONE,
            plain,
        ),
    ] {
        assert_eq!(header.for_receiver(repair, to), expected);
    }
}

/// Tagged after the check, completed after that: the sum is right wherever the tag is put.
#[test]
fn retag_then_complete() {
    let untagged = Packet::new(false, true, 300);
    let tagged = untagged.clone().tagged(1);
    for (from, to, delta) in [(&untagged, &tagged, 4), (&tagged, &untagged, -4)] {
        let (checked, _) = check(&from.needs_csum(), &from.partial(), Origin::Guest);
        let mut header = checked.unwrap();
        header.retag(delta);
        let mut frame = to.partial();
        complete_checksum(&mut frame, &header).unwrap();
        assert_eq!(receive(&frame).payload, to.payload);
        assert_ne!(naive_sum(&frame), 0);
    }
}

fn any_header() -> impl Strategy<Value = VnetHeader> {
    let small = || prop_oneof![0_u16..200, any::<u16>()];
    let types = prop::sample::select(vec![0_u8, 1, 3, 4, 5, 0x81, 0x84]);
    (0..8_u8, types, small(), small(), small(), small()).prop_map(
        |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHeader {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
            num_buffers: 0,
        },
    )
}

proptest! {
    #[test]
    fn codec_round_trip(bytes: [u8; VnetHeader::LEN]) {
        prop_assert_eq!(VnetHeader::decode(&bytes).encode(), bytes);
    }

    #[test]
    fn arbitrary_never_panics(
        header in any_header(),
        mut head in prop::collection::vec(any::<u8>(), 0..HEAD),
        frame_len in prop_oneof![0_usize..200, any::<usize>()],
        uplink: bool,
    ) {
        let origin = if uplink { Origin::Uplink } else { Origin::Guest };
        let _ = header.check(frame_len, &mut head, origin);
    }

    /// What comes out of the check passes it unchanged.
    #[test]
    fn check_is_idempotent(
        header in any_header(),
        tags in 0_usize..=2, v6: bool, udp: bool, len in 0_usize..3000,
        harm in prop::collection::vec((0_usize..100, any::<u8>()), 0..3),
        honest: bool, uplink: bool,
    ) {
        let packet = Packet::new(v6, udp, len).tagged(tags);
        let mut frame = packet.partial();
        for (at, value) in harm {
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        let header = if honest { VnetHeader { flags: header.flags, ..packet.gso(header.gso_size) } } else { header };
        let origin = if uplink { Origin::Uplink } else { Origin::Guest };
        let (result, head) = check(&header, &frame, origin);
        if let Ok(checked) = result {
            frame[..head.len()].copy_from_slice(&head);
            prop_assert_eq!(check(&checked, &frame, origin).0, Ok(checked));
            prop_assert!(usize::from(checked.hdr_len) <= frame.len());
        }
    }
}
