use super::super::testing::{ECN, Packet};
use super::*;

const ALL: [Offloads; 6] = [
    Offloads::CSUM,
    Offloads::TSO4,
    Offloads::TSO6,
    Offloads::ECN,
    Offloads::USO4,
    Offloads::USO6,
];

fn sets() -> impl Iterator<Item = Offloads> {
    (0..1 << ALL.len()).map(Offloads)
}

fn features(bits: &[u32]) -> u64 {
    bits.iter().fold(0, |features, bit| features | 1 << bit)
}

#[test]
fn each_feature_bit() {
    // Bit numbers of virtio 1.3, 5.1.3; GUEST_CSUM is 1, CSUM is 0.
    for (bit, offload) in [
        (1, Offloads::CSUM),
        (7, Offloads::TSO4 | Offloads::CSUM),
        (8, Offloads::TSO6 | Offloads::CSUM),
        (9, Offloads::ECN | Offloads::CSUM),
        (54, Offloads::USO4 | Offloads::CSUM),
        (55, Offloads::USO6 | Offloads::CSUM),
    ] {
        assert_eq!(Offloads::accepted(features(&[1, bit])), offload);
        assert_eq!(Offloads::sendable(features(&[1, bit])), Offloads::NONE);
    }
    for (bit, offload) in [
        (0, Offloads::CSUM),
        (11, Offloads::TSO4 | Offloads::CSUM),
        (12, Offloads::TSO6 | Offloads::CSUM),
        (13, Offloads::ECN | Offloads::CSUM),
        (56, Offloads::USO4 | Offloads::USO6 | Offloads::CSUM),
    ] {
        assert_eq!(Offloads::sendable(features(&[0, bit])), offload);
        assert_eq!(Offloads::accepted(features(&[0, bit])), Offloads::NONE);
    }
    assert_eq!(Offloads::accepted(u64::MAX), Offloads(0x3f));
    assert_eq!(Offloads::sendable(u64::MAX), Offloads(0x3f));
    assert_eq!(Offloads::accepted(0), Offloads::NONE);
}

#[test]
fn nothing_without_checksums() {
    assert_eq!(Offloads::accepted(!features(&[1])), Offloads::NONE);
    assert_eq!(Offloads::sendable(!features(&[0])), Offloads::NONE);
}

/// Every kind of frame at every receiver.
#[test]
fn repair_table() {
    let frames = [
        (false, false, 0, Offloads::TSO4 | Offloads::CSUM),
        (
            false,
            false,
            ECN,
            Offloads::TSO4 | Offloads::ECN | Offloads::CSUM,
        ),
        (true, false, 0, Offloads::TSO6 | Offloads::CSUM),
        (
            true,
            false,
            ECN,
            Offloads::TSO6 | Offloads::ECN | Offloads::CSUM,
        ),
        (false, true, 0, Offloads::USO4 | Offloads::CSUM),
        (true, true, 0, Offloads::USO6 | Offloads::CSUM),
    ];
    for tags in 0..=2 {
        for (v6, udp, ecn, needed) in frames {
            let packet = Packet::new(v6, udp, 5000).tagged(tags);
            let head = &packet.partial()[..128];
            let mut gso = packet.gso(1400);
            gso.gso_type |= ecn;
            for receiver in sets() {
                let able = ALL
                    .iter()
                    .all(|o| !needed.contains(*o) || receiver.contains(*o));
                let expected = if able { Repair::None } else { Repair::Segment };
                assert_eq!(repair_needed(&gso, head, receiver), expected, "{packet:?}");

                let csum = receiver.contains(Offloads::CSUM);
                let expected = if csum { Repair::None } else { Repair::Checksum };
                assert_eq!(
                    repair_needed(&packet.needs_csum(), head, receiver),
                    expected
                );
                let complete = VnetHeader::default();
                assert_eq!(repair_needed(&complete, head, receiver), Repair::None);
            }
        }
    }
}

#[test]
fn udp_of_unknown_kind_needs_both() {
    let header = Packet::new(false, true, 5000).gso(1400);
    let needed = Offloads::USO4 | Offloads::USO6 | Offloads::CSUM;
    assert_eq!(Offloads::required(&header, &[]), needed);
}
