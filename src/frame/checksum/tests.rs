use super::super::testing::{KINDS, Packet, naive_sum, receive};
use super::*;
use proptest::prelude::*;

#[test]
fn example_of_rfc_1071() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::of(&bytes).partial(), 0xddf2);
    assert_eq!(Sum::of(&bytes).finish(), !0xddf2);
}

#[test]
fn ipv4_header_vector() {
    // A header whose checksum is known: its sum with the checksum in place is all ones.
    let header = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00,
        0x01, 0xc0, 0xa8, 0x00, 0xc7,
    ];
    assert_eq!(Sum::of(&header).partial(), 0xffff);
    let mut sum = Sum::of(&header[..10]);
    sum.add(&header[12..]);
    assert_eq!(sum.finish(), 0xb861);
}

#[test]
fn extremes() {
    assert_eq!(Sum::new().finish(), 0xffff);
    for len in 0..200 {
        let zeros = vec![0; len];
        let ones = vec![0xff; len];
        assert_eq!(Sum::of(&zeros).partial(), 0, "zeros only give zero");
        assert_eq!(Sum::of(&ones).partial(), naive_sum(&ones));
    }
    assert_eq!(Sum::of(&vec![0xff; 1 << 20]).partial(), 0xffff);
    let mut sum = Sum::new();
    for _ in 0..100_000 {
        sum.add(&[0xff]);
    }
    assert_eq!(sum.partial(), 0xffff);
}

#[test]
fn every_length_and_alignment() {
    let bytes: Vec<u8> = (0..400_u32).map(|i| ((i * 7919) >> 3) as u8).collect();
    for start in 0..16 {
        for end in start..bytes.len() {
            assert_eq!(
                Sum::of(&bytes[start..end]).partial(),
                naive_sum(&bytes[start..end])
            );
        }
    }
}

#[test]
fn completes_each_kind_of_frame() {
    for tags in 0..=2 {
        for (v6, udp) in KINDS {
            for len in [0, 1, 7, 100, 1400] {
                let packet = Packet::new(v6, udp, len).tagged(tags);
                let mut frame = packet.partial();
                complete_checksum(&mut frame, &packet.needs_csum()).unwrap();
                assert_eq!(receive(&frame).payload, packet.payload);
            }
        }
    }
}

/// A payload that makes the sum all ones, so that the checksum comes out as zero.
fn balanced(udp: bool) -> (Packet, Vec<u8>) {
    let mut packet = Packet::new(false, udp, 2);
    packet.payload = vec![0, 0];
    let frame = packet.partial();
    packet.payload = (!naive_sum(&frame[packet.l4()..])).to_be_bytes().to_vec();
    let frame = packet.partial();
    (packet, frame)
}

#[test]
fn zero_becomes_all_ones_for_udp_only() {
    for (udp, expected) in [(true, 0xffff), (false, 0)] {
        let (packet, mut frame) = balanced(udp);
        complete_checksum(&mut frame, &packet.needs_csum()).unwrap();
        let at = packet.l4() + packet.csum_offset();
        assert_eq!(u16::from_be_bytes([frame[at], frame[at + 1]]), expected);
        receive(&frame);
    }
}

#[test]
fn refuses_a_field_beyond_the_frame() {
    let mut frame = [0; 60];
    for (csum_start, csum_offset, fits) in [
        (34, 24, true),
        (34, 25, false),
        (58, 0, true),
        (59, 0, false),
        (61, 0, false),
        (u16::MAX, u16::MAX, false),
    ] {
        let header = VnetHeader {
            csum_start,
            csum_offset,
            ..VnetHeader::default()
        };
        let result = complete_checksum(&mut frame, &header);
        assert_eq!(
            result,
            if fits {
                Ok(())
            } else {
                Err(DropReason::BadChecksum)
            }
        );
    }
}

proptest! {
    #[test]
    fn equals_naive(bytes in prop::collection::vec(any::<u8>(), 0..5000), start in 0_usize..16) {
        let bytes = &bytes[start.min(bytes.len())..];
        prop_assert_eq!(Sum::of(bytes).partial(), naive_sum(bytes));
    }

    #[test]
    fn any_cut_gives_the_same_sum(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (mut added, mut appended) = (Sum::new(), Sum::new());
        for cut in cuts.windows(2) {
            added.add(&bytes[cut[0]..cut[1]]);
            let mut part = Sum::new();
            part.add(&bytes[cut[0]..cut[1]]);
            appended.append(part);
        }
        prop_assert_eq!(added.partial(), naive_sum(&bytes));
        prop_assert_eq!(appended.partial(), naive_sum(&bytes));
    }

    #[test]
    fn completing_never_panics(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        csum_start in prop_oneof![0_u16..220, any::<u16>()],
        csum_offset in prop_oneof![0_u16..220, any::<u16>()],
    ) {
        let header = VnetHeader { csum_start, csum_offset, ..VnetHeader::default() };
        let end = usize::from(csum_start) + usize::from(csum_offset) + 2;
        prop_assert_eq!(complete_checksum(&mut frame, &header).is_ok(), end <= frame.len());
    }
}
