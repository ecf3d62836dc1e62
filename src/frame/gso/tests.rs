use super::super::testing::{
    DATA_VALID, ECN, HEAD, KINDS, ORIGINS, Packet, TCPV4, TCPV6, UDP_L4, UFO,
};
use super::super::testing::{check, refused};
use super::*;
use crate::frame::checksum::complete_checksum;
use crate::frame::vnet::Origin;

/// Every type against every packet: a type that is not the packet's is refused.
#[test]
fn type_has_to_match_the_packet() {
    for tags in 0..=2 {
        for (v6, udp) in KINDS {
            let packet = Packet::new(v6, udp, 5000).tagged(tags);
            let frame = packet.partial();
            for gso_type in [TCPV4, TCPV4 | ECN, TCPV6, TCPV6 | ECN, UDP_L4] {
                let header = VnetHeader {
                    gso_type,
                    ..packet.gso(1400)
                };
                let right = match gso_type & !ECN {
                    TCPV4 => !v6 && !udp,
                    TCPV6 => v6 && !udp,
                    _ => udp,
                };
                for origin in ORIGINS {
                    if right {
                        assert_eq!(check(&header, &frame, origin).0, Ok(header));
                    } else {
                        assert_eq!(refused(&header, &frame, origin), DropReason::GsoMismatch);
                    }
                }
            }
            for gso_type in [UFO, UFO | ECN, UDP_L4 | ECN, ECN, 2] {
                let header = VnetHeader {
                    gso_type,
                    ..packet.gso(1400)
                };
                let reason = match gso_type & !ECN {
                    UFO => DropReason::UfoRefused,
                    _ => DropReason::BadGso,
                };
                assert_eq!(refused(&header, &frame, Origin::Uplink), reason);
            }
        }
    }
}

#[test]
fn gso_checksum_has_to_be_that_of_the_transport() {
    let packet = Packet::new(false, false, 5000).tagged(1);
    let frame = packet.partial();
    for (start, offset) in [(34, 16), (42, 16), (38, 6), (38, 14), (18, 36), (37, 17)] {
        let header = VnetHeader {
            csum_start: start,
            csum_offset: offset,
            ..packet.gso(1400)
        };
        assert_eq!(
            refused(&header, &frame, Origin::Guest),
            DropReason::GsoMismatch
        );
    }
}

#[test]
fn gso_sizes() {
    for (v6, udp) in KINDS {
        let packet = Packet::new(v6, udp, 60_000);
        let frame = packet.partial();
        // 29 bytes are 2,069 segments, 30 are 2,000.
        for (gso_size, fits) in [
            (0, false),
            (1, false),
            (29, false),
            (30, true),
            (1400, true),
            (59_999, true),
        ] {
            let header = packet.gso(gso_size);
            let expected = if fits {
                Ok(header)
            } else {
                Err(DropReason::BadGso)
            };
            assert_eq!(check(&header, &frame, Origin::Guest).0, expected);
        }
        for gso_size in [60_000, u16::MAX] {
            let one = check(&packet.gso(gso_size), &frame, Origin::Guest).0;
            assert_eq!(one, Ok(packet.needs_csum()), "one segment is no GSO");
        }
    }
}

#[test]
fn gso_longer_than_an_ip_packet() {
    for (v6, longest) in [(false, 65_535 - 40), (true, 65_535 - 20)] {
        let packet = Packet::new(v6, false, longest).tagged(2);
        assert!(
            check(&packet.gso(1400), &packet.partial(), Origin::Guest)
                .0
                .is_ok()
        );
        let mut frame = packet.partial();
        frame.push(0);
        assert_eq!(
            refused(&packet.gso(1400), &frame, Origin::Guest),
            DropReason::BadGso
        );
    }
}

#[test]
fn gso_headers_have_to_be_in_the_head() {
    // IPv4 and TCP options in full, two tags: TCP options end at 142, its fixed part does not.
    let mut packet = Packet::new(false, false, 5000).tagged(2);
    (packet.ip_options, packet.tcp_options) = (40, 40);
    assert_eq!(packet.header_len(), 142);
    assert_eq!(
        check(&packet.gso(1400), &packet.partial(), Origin::Guest).0,
        Ok(packet.gso(1400))
    );

    for (extensions, fits) in [(5, true), (6, false)] {
        let mut packet = Packet::new(true, false, 5000).tagged(2);
        packet.extensions = vec![60; extensions];
        let result = check(&packet.gso(1400), &packet.partial(), Origin::Guest).0;
        assert_eq!(
            result,
            if fits {
                Ok(packet.gso(1400))
            } else {
                Err(DropReason::GsoMismatch)
            }
        );
    }
}

#[test]
fn gso_of_fragments_third_tags_and_cut_headers() {
    let reason = DropReason::GsoMismatch;
    let packet = Packet::new(false, false, 5000);
    for flags in [[0x20, 0], [0, 1]] {
        let mut frame = packet.partial();
        frame[20..22].copy_from_slice(&flags);
        assert_eq!(refused(&packet.gso(1400), &frame, Origin::Guest), reason);
    }
    for offset in 0..16 {
        let mut frame = packet.partial();
        frame[46] = offset << 4;
        let result = check(&packet.gso(1400), &frame, Origin::Guest).0;
        assert_eq!(result.is_ok(), offset >= 5, "data offset {offset}");
    }
    let mut tagged = packet.clone();
    tagged.tags = vec![0x8100; 3];
    assert_eq!(
        refused(&tagged.gso(1400), &tagged.partial(), Origin::Guest),
        reason
    );
    let mut fragment = Packet::new(true, true, 5000);
    fragment.extensions = vec![44];
    assert_eq!(
        refused(&fragment.gso(1400), &fragment.partial(), Origin::Guest),
        reason
    );

    // Data offset beyond the end of the frame.
    let mut empty = Packet::new(false, false, 0);
    let mut frame = empty.partial();
    frame[46] = 0xf0;
    empty.tcp_options = 0;
    let header = VnetHeader {
        hdr_len: 0,
        ..empty.gso(1400)
    };
    assert_eq!(refused(&header, &frame, Origin::Guest), reason);
}

/// Hardware GRO: the header and the checksum field come out as if Linux had built the frame.
#[test]
fn uplink_gso_without_needs_csum_is_repaired() {
    for tags in 0..=2 {
        for (v6, udp) in KINDS {
            let packet = Packet::new(v6, udp, 5000).tagged(tags);
            let expected = packet.partial();
            let mut complete = expected.clone();
            complete_checksum(&mut complete, &packet.needs_csum()).unwrap();
            for flags in [0, DATA_VALID] {
                let header = VnetHeader {
                    flags,
                    csum_start: 0,
                    csum_offset: 0,
                    ..packet.gso(1400)
                };
                let (checked, head) = check(&header, &complete, Origin::Uplink);
                assert_eq!(checked, Ok(packet.gso(1400)));
                assert_eq!(head, expected[..HEAD]);
                assert_eq!(
                    refused(&header, &complete, Origin::Guest),
                    DropReason::GsoWithoutChecksum
                );
            }
        }
    }
}

#[test]
fn uplink_gso_on_its_way_to_a_later_segment_cannot_be_repaired() {
    let mut packet = Packet::new(true, false, 5000);
    packet.extensions = vec![43];
    let mut frame = packet.partial();
    let header = VnetHeader {
        flags: 0,
        ..packet.gso(1400)
    };
    assert!(check(&header, &frame, Origin::Uplink).0.is_ok());
    frame[14 + 40 + 3] = 1;
    assert_eq!(
        refused(&header, &frame, Origin::Uplink),
        DropReason::Unrepairable
    );
}

#[test]
fn uplink_gso_of_one_segment_keeps_its_checksum() {
    let packet = Packet::new(false, false, 1000);
    let mut frame = packet.partial();
    complete_checksum(&mut frame, &packet.needs_csum()).unwrap();
    let header = VnetHeader {
        flags: DATA_VALID,
        ..packet.gso(1400)
    };
    let (checked, head) = check(&header, &frame, Origin::Uplink);
    let expected = VnetHeader {
        flags: DATA_VALID,
        num_buffers: 1,
        ..VnetHeader::default()
    };
    assert_eq!(checked, Ok(expected));
    assert_eq!(head, frame[..HEAD]);
}
