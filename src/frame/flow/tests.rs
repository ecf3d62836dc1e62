use super::super::testing::Packet;
use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

#[test]
fn tags_do_not_count() {
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let hashes: HashSet<u32> = (0..=2)
            .map(|tags| flow_hash(&Packet::new(v6, udp, 9).tagged(tags).partial()))
            .collect();
        assert_eq!(hashes.len(), 1);
    }
}

#[test]
fn options_and_extensions_do_not_count() {
    let mut packet = Packet::new(false, false, 9);
    let plain = flow_hash(&packet.partial());
    packet.ip_options = 40;
    assert_eq!(
        flow_hash(&packet.partial()[..128.min(packet.partial().len())]),
        plain
    );
    let mut packet = Packet::new(true, true, 9);
    let plain = flow_hash(&packet.partial());
    packet.extensions = vec![0, 43, 60];
    assert_eq!(flow_hash(&packet.partial()), plain);
}

/// Which bytes of an IPv4/TCP frame the hash reads.
#[test]
fn reads_addresses_protocol_and_ports_only() {
    let frame = Packet::new(false, false, 20).partial();
    let plain = flow_hash(&frame);
    for at in (0..12)
        .chain(15..20)
        .chain(22..23)
        .chain(24..26)
        .chain(26..38)
        .chain(38..frame.len())
    {
        let mut other = frame.clone();
        other[at] ^= 0x10;
        assert_eq!(
            flow_hash(&other) != plain,
            (26..38).contains(&at),
            "byte {at}"
        );
    }
    let mut sctp = frame;
    sctp[23] = 132;
    let hash = flow_hash(&sctp);
    assert_ne!(hash, plain);
    sctp[36] ^= 1;
    assert_ne!(flow_hash(&sctp), hash);
}

#[test]
fn fragments_by_addresses_only() {
    let mut first = Packet::new(false, true, 20).partial();
    first[20] = 0x20;
    let mut later = first.clone();
    later[20..22].copy_from_slice(&[0, 100]);
    later[34..54].fill(0x77);
    assert_eq!(flow_hash(&first), flow_hash(&later));

    let mut packet = Packet::new(true, true, 20);
    packet.extensions = vec![44];
    let first = packet.partial();
    let mut later = first.clone();
    later[62..].fill(0x77);
    assert_eq!(flow_hash(&first), flow_hash(&later));

    later[40] ^= 1;
    assert_ne!(flow_hash(&first), flow_hash(&later), "addresses count");
}

#[test]
fn other_protocols_by_addresses() {
    let mut icmp = Packet::new(false, true, 20).partial();
    icmp[23] = 1;
    let hash = flow_hash(&icmp);
    icmp[34..].fill(9);
    assert_eq!(flow_hash(&icmp), hash);
    icmp[29] ^= 1;
    assert_ne!(flow_hash(&icmp), hash);
}

#[test]
fn others_by_mac_pair() {
    let mut arp = [7; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let hash = flow_hash(&arp);
    let mut other = arp;
    other[14..].fill(8);
    assert_eq!(flow_hash(&other), hash);
    for at in 0..12 {
        let mut other = arp;
        other[at] ^= 1;
        assert_ne!(flow_hash(&other), hash, "byte {at}");
    }
}

/// Fills `buckets` with `flows` and returns the fullest and the emptiest against the mean.
fn spread(
    flows: impl Iterator<Item = u32>,
    buckets: usize,
    by: fn(u32, usize) -> usize,
) -> (f64, f64) {
    let mut counts = vec![0_u32; buckets];
    let mut total = 0;
    for hash in flows {
        counts[by(hash, buckets)] += 1;
        total += 1;
    }
    let mean = f64::from(total) / f64::from(buckets as u32);
    let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    (f64::from(*min) / mean, f64::from(*max) / mean)
}

/// Neighbours (ports and addresses in sequence) spread like random ones, in the low bits, by modulo
/// and in the high bits.
#[test]
fn neighbours_spread() {
    let ways: [fn(u32, usize) -> usize; 2] = [
        |hash, n| hash as usize % n,
        |hash, n| ((u64::from(hash) * n as u64) >> 32) as usize,
    ];
    let network = |v6: bool, variant: u8| {
        let mut frame = Packet::new(v6, false, 0).partial();
        // Other addresses, of which no two have much in common.
        for byte in &mut frame[if v6 { 22..54 } else { 26..34 }] {
            *byte = byte.wrapping_mul(31).wrapping_add(variant.wrapping_mul(57));
        }
        frame
    };
    for (v6, variant) in [false, true]
        .into_iter()
        .flat_map(|v6| (0..6).map(move |i| (v6, i)))
    {
        let mut frame = network(v6, variant);
        let l4 = Packet::new(v6, false, 0).l4();
        let source = if v6 { 14 + 24 } else { 14 + 16 };
        // Source port, destination port, the ends of both addresses.
        for at in [l4, l4 + 2, source - 2, l4 - 2] {
            let hashes: Vec<u32> = (0..=u16::MAX)
                .map(|i| {
                    frame[at..at + 2].copy_from_slice(&i.to_be_bytes());
                    flow_hash(&frame)
                })
                .collect();
            for buckets in [2, 3, 8, 13, 64, 256] {
                for by in ways {
                    let (min, max) = spread(hashes.iter().copied(), buckets, by);
                    // 256 draws in the smallest bucket: five deviations of 1/16.
                    assert!(
                        min > 0.69 && max < 1.31,
                        "at {at}, {buckets}: {min:.2} to {max:.2}"
                    );
                }
            }
        }
    }
}

/// A handful of connections, ports in sequence or in steps of two, to a handful of queues.
#[test]
fn few_flows_spread() {
    for v6 in [false, true] {
        for step in [1, 2, 4] {
            let mut frame = Packet::new(v6, false, 0).partial();
            let l4 = Packet::new(v6, false, 0).l4();
            let (mut fullest, mut rounds) = (0.0, 0.0);
            for base in (32_768_u16..60_000).step_by(101) {
                let flows = (0..64).map(|i| {
                    frame[l4..l4 + 2].copy_from_slice(&(base + i * step).to_be_bytes());
                    flow_hash(&frame)
                });
                fullest += spread(flows, 8, |hash, n| hash as usize % n).1;
                rounds += 1.0;
            }
            // Random draws average 1.52.
            let mean: f64 = fullest / rounds;
            assert!(mean < 1.65, "{v6} {step}: {mean:.2}");
        }
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        flow_hash(&bytes);
    }

    #[test]
    fn never_panics_behind_an_ethertype(
        mut bytes in prop::collection::vec(any::<u8>(), 14..160),
        ethertype in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8]),
        version in prop::sample::select(vec![0x45_u8, 0x4f, 0x60]),
        next in prop::sample::select(vec![0_u8, 6, 17, 43, 44, 60, 132]),
    ) {
        bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        for (at, value) in [(14, version), (20, next), (23, next)] {
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        flow_hash(&bytes);
    }
}
