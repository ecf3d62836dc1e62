//! Checksum and segmentation offloads between guests that agreed on different ones (relay.md §3): whole where the receiver
//! takes it so, mended where it does not, and right in every byte either way.

mod support;

use std::time::Duration;

use support::guest::{MODERN, RING_PACKED};
use support::packets::{CWR, ECN, FIN_PSH, Packet, TCPV4, TCPV6, UDP_L4, raw, read};
use support::{BROADCAST, Frame, GuestOptions, LIMIT, Net, eth, mac};

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const HOST: u64 = CSUM | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 56;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
const ALL: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6;

const C: u16 = 0x8100;
const S: u16 = 0x88a8;

/// What receivers agree to, by the letter that their ports' names start with.
fn agreed(port: &str) -> u64 {
    match port.as_bytes()[0] {
        b'n' => 0,
        b'c' => GUEST_CSUM,
        b't' => GUEST_CSUM | GUEST_TSO4,
        b'e' => GUEST_CSUM | GUEST_TSO4 | GUEST_ECN,
        b'v' => GUEST_CSUM | GUEST_TSO6,
        b'u' => GUEST_CSUM | GUEST_USO4,
        b'w' => GUEST_CSUM | GUEST_USO6,
        _ => ALL,
    }
}

/// The sender at `s` has room for the largest frames.
fn options(port: &str) -> GuestOptions {
    let mut options = GuestOptions::default().features(MODERN | HOST | agreed(port));
    if ["s", "up"].contains(&port) {
        options.queue.size = 16;
        options.queue.buffers = 16;
        options.queue.buffer_len = 70_000;
    }
    options
}

fn net(ports: &[(&str, &str)]) -> Net {
    Net::start_with(&support::net::relay("", ports), options)
}

/// What has arrived at a port, with headers.
fn arrived(net: &mut Net, port: &str) -> Vec<Frame> {
    let guest = net.at(port);
    std::iter::from_fn(|| guest.recv_any(Duration::ZERO)).collect()
}

/// Header fields that a whole frame keeps.
fn fields(header: &[u8; 12]) -> [u8; 10] {
    header[..10].try_into().unwrap()
}

/// Asserts that `frames` are `packet` in segments of `mss`, complete, behind these tags.
fn assert_segments(port: &str, frames: &[Frame], packet: &Packet, mss: usize, tags: &[(u16, u16)]) {
    let count = packet.data.len().div_ceil(mss).max(1);
    assert_eq!(frames.len(), count, "{port}");
    let l2: Vec<u8> = tags
        .iter()
        .flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat())
        .collect();
    let start = [&BROADCAST[..], &mac(1), &l2].concat();
    let mut first_id = None;
    for (i, (frame, data)) in frames.iter().zip(packet.data.chunks(mss)).enumerate() {
        // Neither a sum to complete nor a frame to cut is left.
        assert_eq!(frame.header[0] & 1, 0, "{port}");
        assert_eq!(frame.header[1], 0, "{port}");
        if agreed(port) & GUEST_CSUM == 0 {
            assert_eq!(frame.header[0], 0, "{port}");
        }
        assert_eq!(frame.bytes[..start.len()], start, "{port}: tags");
        let got = read(&frame.bytes);
        assert_eq!(got.tags, tags.len());
        assert_eq!(got.data, data, "{port}: segment {i}");
        if let Some(id) = got.id {
            let first = *first_id.get_or_insert(id);
            assert_eq!(id, first.wrapping_add(i as u16), "{port}");
        }
        if !packet.udp {
            assert_eq!(got.seq, 0x0102_0304 + (i * mss) as u32, "{port}");
            let last = if i + 1 == count { FIN_PSH } else { 0 };
            let first = if i == 0 { CWR } else { 0 };
            let expected = 0x10 | packet.flags & (last | first);
            assert_eq!(got.flags, expected, "{port}: segment {i}");
        }
    }
}

#[test]
fn each_receiver_gets_what_it_agreed_to() {
    let ports = ["s", "n", "c", "t", "e", "v", "u", "w", "a"].map(|port| (port, ""));
    let mut net = net(&ports);
    let tcp = |v6, len| Packet::new(v6, false, len).flags(FIN_PSH);
    let cases = [
        (tcp(false, 1000), 0, 0, GUEST_CSUM),
        (tcp(true, 1000), 0, 0, GUEST_CSUM),
        (Packet::new(false, true, 999), 0, 0, GUEST_CSUM),
        (Packet::new(true, true, 1), 0, 0, GUEST_CSUM),
        (tcp(false, 5000), TCPV4, 1400, GUEST_CSUM | GUEST_TSO4),
        (tcp(true, 5000), TCPV6, 1400, GUEST_CSUM | GUEST_TSO6),
        (tcp(false, 1401), TCPV4, 1400, GUEST_CSUM | GUEST_TSO4),
        (tcp(false, 3000), TCPV4, 536, GUEST_CSUM | GUEST_TSO4),
        (
            tcp(false, 5000).flags(CWR | FIN_PSH),
            TCPV4 | ECN,
            1400,
            GUEST_CSUM | GUEST_TSO4 | GUEST_ECN,
        ),
        (
            tcp(true, 5000).flags(CWR),
            TCPV6 | ECN,
            1400,
            GUEST_CSUM | GUEST_TSO6 | GUEST_ECN,
        ),
        (
            Packet::new(false, true, 5000),
            UDP_L4,
            1400,
            GUEST_CSUM | GUEST_USO4,
        ),
        (
            Packet::new(true, true, 5000),
            UDP_L4,
            1400,
            GUEST_CSUM | GUEST_USO6,
        ),
        (tcp(false, 65_000), TCPV4, 1400, GUEST_CSUM | GUEST_TSO4),
        (tcp(true, 65_000), TCPV6, 1400, GUEST_CSUM | GUEST_TSO6),
    ];
    let tags: [&[(u16, u16)]; 3] = [&[], &[(C, 10)], &[(S, 20), (C, 0xe00a)]];
    for (packet, gso_type, mss, needed) in cases {
        for tags in tags {
            let packet = packet.clone().tagged(tags);
            let (frame, header) = (packet.partial(), packet.header(gso_type, mss));
            net.at("s").send_with_header(0, &header, &frame);
            for (port, _) in &ports[1..] {
                let got = arrived(&mut net, port);
                if agreed(port) & needed == needed {
                    assert_eq!(got.len(), 1, "{port}");
                    assert_eq!(fields(&got[0].header), fields(&header), "{port}");
                    assert!(got[0].bytes == frame, "{port}: {gso_type}");
                    let buffers = u16::from_le_bytes([got[0].header[10], got[0].header[11]]);
                    assert_eq!(usize::from(buffers), (frame.len() + 12).div_ceil(2048));
                } else {
                    let mss = if gso_type == 0 {
                        usize::MAX
                    } else {
                        mss.into()
                    };
                    assert_segments(port, &got, &packet, mss, tags);
                }
            }
        }
    }
    net.evb.stop();
}

#[test]
fn the_largest_frame_crosses_in_one_piece() {
    let mut net = net(&[("s", ""), ("a", ""), ("n", "")]);
    // 65535 bytes of IP packet, which is as much as IP can say.
    let packet = Packet::new(false, false, 65_535 - 40);
    let header = packet.header(TCPV4, 1448);
    net.at("s").send_with_header(0, &header, &packet.partial());
    let got = arrived(&mut net, "a");
    assert_eq!(got.len(), 1);
    assert!(got[0].bytes == packet.partial());
    assert_eq!(got[0].header[10..], 33_u16.to_le_bytes());
    let got = arrived(&mut net, "n");
    assert_segments("n", &got, &packet, 1448, &[]);
    net.evb.stop();
}

#[test]
fn a_receiver_with_few_buffers_gets_a_large_frame_in_portions() {
    const BUFFERS: u16 = 8;
    let ports = [
        ("s", "access = 10"),
        ("n", "access = 10"),
        ("x", "access = 20"),
        ("y", "access = 20"),
    ];
    let daemon = "[daemon]\nrx_wait_us = 1_000_000\n";
    let config = support::net::relay("", &ports).replace("[daemon]\n", daemon);
    for ring in [0, RING_PACKED] {
        let mut net = Net::start_with(&config, |port| {
            let mut options = options(port);
            options.front_end.features |= ring;
            if port == "n" {
                options.queue.size = BUFFERS;
                options.queue.buffers = BUFFERS;
            }
            options
        });
        let packet = Packet::new(false, false, 44 * 1448 + 1000).flags(FIN_PSH);
        net.at("s")
            .post(0, &packet.header(TCPV4, 1448), &packet.partial());
        net.at("s").tx[0].kick().unwrap();
        // The frame waits for its receiver, and nobody else does.
        let other = eth(BROADCAST, mac(3)).bytes();
        for _ in 0..20 {
            net.at("x").send(&other);
            net.at("y").expect_frame(&other);
        }
        assert!(!net.at("s").try_drain(0, Duration::ZERO));
        let guest = net.at("n");
        let got: Vec<_> = (0..45)
            .map(|i| {
                guest
                    .recv_any(LIMIT)
                    .unwrap_or_else(|| panic!("segment {i}"))
            })
            .collect();
        assert_segments("n", &got, &packet, 1448, &[]);
        net.at("s").drain(0);
        assert!(net.captured().is_empty());
        for port in ["s", "n", "x", "y"] {
            assert_eq!(net.evb.counter(port, "ring_full"), 0, "{port}");
        }
        assert_eq!(net.evb.counter("n", "rx_frames"), 45);
        net.evb.stop();
    }
}

#[test]
fn an_uplink_may_leave_its_checksums_complete() {
    // As hardware does that puts segments together again.
    let mut net = net(&[("s", ""), ("a", ""), ("n", ""), ("up", "")]);
    for (packet, gso_type) in [
        (Packet::new(false, false, 5000).flags(FIN_PSH), TCPV4),
        (Packet::new(true, false, 5000), TCPV6),
        (Packet::new(false, true, 5000), UDP_L4),
    ] {
        let header = raw(0, gso_type, [packet.header_len() as u16, 1400, 0, 0]);
        net.at("up")
            .send_with_header(0, &header, &packet.complete());
        arrived(&mut net, "s");
        let got = arrived(&mut net, "a");
        assert_eq!(got.len(), 1);
        assert_eq!(
            fields(&got[0].header),
            fields(&packet.header(gso_type, 1400))
        );
        assert!(got[0].bytes == packet.partial());
        assert_segments("n", &arrived(&mut net, "n"), &packet, 1400, &[]);
        // From a guest that is no uplink it is a mistake.
        net.at("s").send_with_header(0, &header, &packet.complete());
        assert!(net.captured().is_empty());
    }
    assert_eq!(net.evb.counter("s", "gso_without_checksum"), 3);
    net.evb.stop();
}

#[test]
fn tags_are_pushed_and_popped_under_the_checksum() {
    let mut net = net(&[
        ("s", "access = 10\ndefault_pcp = 3"),
        ("a-access", "access = 10"),
        ("n-access", "access = 10"),
        ("a-trunk", "trunk = [10]"),
        ("n-trunk", "trunk = [10]"),
        ("t-translated", "translate = { 7 = 10 }"),
        ("n-translated", "translate = { 7 = 10 }"),
    ]);
    let pcp = 3 << 13;
    let packet = Packet::new(false, false, 5000).flags(FIN_PSH);
    for (sent, pcp) in [
        (packet.clone(), pcp),
        (packet.clone().tagged(&[(C, 0xa000)]), 0xa000),
    ] {
        let (header, frame) = (sent.header(TCPV4, 1400), sent.partial());
        net.at("s").send_with_header(0, &header, &frame);
        for (port, tags) in [
            ("a-access", vec![]),
            ("n-access", vec![]),
            ("a-trunk", vec![(C, pcp | 0xa)]),
            ("n-trunk", vec![(C, pcp | 0xa)]),
            ("t-translated", vec![(C, pcp | 7)]),
            ("n-translated", vec![(C, pcp | 7)]),
        ] {
            let got = arrived(&mut net, port);
            if port.starts_with('n') {
                assert_eq!(got.len(), 4);
                assert_segments(port, &got, &packet, 1400, &tags);
            } else {
                // 34 bytes before the checksummed part without a tag, 38 with one; 54 and 58 of headers.
                let whole = packet.clone().tagged(&tags);
                assert_eq!(
                    fields(&got[0].header),
                    fields(&whole.header(TCPV4, 1400)),
                    "{port}"
                );
                assert_eq!(got[0].header[6], 34 + 4 * tags.len() as u8);
                assert!(got[0].bytes == whole.partial(), "{port}");
                assert_eq!(got.len(), 1);
            }
        }
    }
    net.evb.stop();
}

#[test]
fn service_tags_go_around_offloaded_frames() {
    let mut net = net(&[
        ("s", "qinq = 100"),
        ("a-inner", "qinq = 100"),
        ("n-inner", "qinq = 100"),
        ("a-outer", "trunk = [100]"),
        ("n-outer", "trunk = [100]"),
    ]);
    for inner in [vec![], vec![(C, 0x6014)]] {
        for (packet, gso_type) in [
            (Packet::new(false, false, 5000), TCPV4),
            (Packet::new(true, false, 5000), TCPV6),
            (Packet::new(false, true, 5000), UDP_L4),
            (Packet::new(false, true, 500), 0),
        ] {
            let packet = packet.tagged(&inner);
            let outer = packet.clone().tagged(&[&[(S, 100)], &inner[..]].concat());
            // From inside: popped again or with one tag more.
            send_and_check(
                &mut net,
                gso_type,
                &packet,
                &[("inner", &packet), ("outer", &outer)],
            );
        }
    }
    net.evb.stop();
}

/// Sends a frame whose segments, if it has any, hold 1,400 bytes each, and checks its copies.
fn send_and_check(net: &mut Net, gso_type: u8, sent: &Packet, ports: &[(&str, &Packet)]) {
    let mss = if gso_type == 0 { 0 } else { 1400 };
    net.at("s")
        .send_with_header(0, &sent.header(gso_type, mss), &sent.partial());
    check_all(net, gso_type, mss, ports);
}

/// The copies for ports `a-…` are whole and those for `n-…` complete.
fn check_all(net: &mut Net, gso_type: u8, mss: u16, ports: &[(&str, &Packet)]) {
    for (port, wanted) in ports {
        let whole = format!("a-{port}");
        let got = arrived(net, &whole);
        assert_eq!(got.len(), 1, "{whole}");
        assert_eq!(
            fields(&got[0].header),
            fields(&wanted.header(gso_type, mss)),
            "{whole}"
        );
        assert!(got[0].bytes == wanted.partial(), "{whole}");
        let mended = format!("n-{port}");
        let got = arrived(net, &mended);
        let mss = if gso_type == 0 {
            usize::MAX
        } else {
            mss.into()
        };
        assert_segments(&mended, &got, wanted, mss, &wanted.tags);
    }
}

#[test]
fn tags_come_off_offloaded_frames_of_a_trunk() {
    let mut net = net(&[
        ("s", "trunk = [10]"),
        ("a-access", "access = 10"),
        ("n-access", "access = 10"),
        ("a-trunk", "trunk = [10]"),
        ("n-trunk", "trunk = [10]"),
    ]);
    for (packet, gso_type) in [
        (Packet::new(false, false, 5000), TCPV4),
        (Packet::new(true, false, 5000), TCPV6),
        (Packet::new(true, true, 5000), UDP_L4),
        (Packet::new(false, false, 500), 0),
    ] {
        let tagged = packet.clone().tagged(&[(C, 0x200a)]);
        send_and_check(
            &mut net,
            gso_type,
            &tagged,
            &[("access", &packet), ("trunk", &tagged)],
        );
    }
    net.evb.stop();
}

#[test]
fn offloads_survive_a_cable() {
    let ends = |name: &str, lines: &str| {
        let ports = [(format!("a-{name}"), lines), (format!("n-{name}"), lines)];
        let ports: Vec<_> = ports.iter().map(|(n, l)| (n.as_str(), *l)).collect();
        support::net::relay_named(name, "", &ports)
    };
    let mut config = "[daemon]\ncontrol = \"{dir}/control.sock\"\n".to_owned();
    config += &support::net::relay_named("r", "", &[("s", "access = 10")]);
    config += &ends("flat", "");
    config += &ends("service", "trunk = [100]");
    config += "
[[patch]]
a = { relay = \"r\", trunk = [10] }
b = { relay = \"service\", qinq = 100 }

[[patch]]
a = { relay = \"r\", access = 10 }
b = { relay = \"flat\" }
";
    let mut net = Net::start_with(&config, options);
    for (packet, gso_type) in [
        (Packet::new(false, false, 5000), TCPV4),
        (Packet::new(false, true, 5000), UDP_L4),
        (Packet::new(false, false, 700), 0),
    ] {
        let double = packet.clone().tagged(&[(S, 100), (C, 10)]);
        send_and_check(
            &mut net,
            gso_type,
            &packet,
            &[("flat", &packet), ("service", &double)],
        );
    }
    net.evb.stop();
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let mut net = net(&[("s", ""), ("n", ""), ("a", "")]);
    for v6 in [false, true] {
        let mut packet = Packet::new(v6, true, 100);
        packet.data[..2].fill(0);
        let at = packet.header_len() - 2;
        // With its own checksum among the data, the sum of everything is all ones.
        let checksum: [u8; 2] = packet.complete()[at..at + 2].try_into().unwrap();
        packet.data[..2].copy_from_slice(&checksum);
        net.at("s")
            .send_with_header(0, &packet.header(0, 0), &packet.partial());
        let got = arrived(&mut net, "n");
        assert_eq!(got[0].bytes[at..at + 2], [0xff, 0xff]);
        assert_eq!(read(&got[0].bytes).data, packet.data);
        arrived(&mut net, "a");
    }
    net.evb.stop();
}

#[test]
fn malformed_headers_drop_and_the_port_stays_up() {
    let mut net = net(&[("s", ""), ("n", ""), ("a", "")]);
    let tcp = Packet::new(false, false, 5000);
    let udp = Packet::new(false, true, 5000);
    let short = Packet::new(false, false, 100);
    let len = |p: &Packet| p.partial().len() as u16;
    let cases = [
        (
            "bad_checksum_offset",
            &short,
            raw(1, 0, [0, 0, len(&short), 0]),
        ),
        (
            "bad_checksum_offset",
            &short,
            raw(1, 0, [0, 0, len(&short) - 17, 16]),
        ),
        (
            "bad_checksum_offset",
            &short,
            raw(1, 0, [0, 0, 0xffff, 0xffff]),
        ),
        ("bad_checksum_offset", &short, raw(1, 0, [0, 0, 34, 0xffff])),
        // Over the addresses: the receiver would be told to write there.
        ("bad_checksum_offset", &short, raw(1, 0, [0, 0, 0, 0])),
        ("bad_gso", &tcp, tcp.header(TCPV4, 0)),
        ("bad_gso", &tcp, tcp.header(TCPV6, 0)),
        ("bad_gso", &udp, udp.header(UDP_L4, 0)),
        ("bad_gso", &short, raw(1, 0, [len(&short) + 1, 0, 34, 16])),
        ("bad_gso", &short, raw(0, 0, [0xffff, 0, 0, 0])),
        ("bad_gso", &tcp, tcp.header(2, 1400)),
        ("bad_gso", &tcp, tcp.header(0x7f, 1400)),
        ("ufo_refused", &udp, udp.header(3, 1400)),
        (
            "gso_without_checksum",
            &tcp,
            raw(0, TCPV4, [54, 1400, 0, 0]),
        ),
        (
            "gso_without_checksum",
            &udp,
            raw(0, UDP_L4, [42, 1400, 0, 0]),
        ),
        ("gso_mismatch", &udp, udp.header(TCPV4, 1400)),
        ("gso_mismatch", &tcp, tcp.header(TCPV6, 1400)),
        ("gso_mismatch", &tcp, tcp.header(UDP_L4, 1400)),
        ("gso_mismatch", &tcp, raw(1, TCPV4, [54, 1400, 38, 16])),
    ];
    for (counter, packet, header) in cases {
        let before = net.evb.counter("s", counter);
        net.at("s").send_with_header(0, &header, &packet.partial());
        assert!(net.captured().is_empty(), "{counter}: {header:?}");
        assert_eq!(
            net.evb.counter("s", counter),
            before + 1,
            "{counter}: {header:?}"
        );
        net.flow("s", &eth(BROADCAST, mac(1)).bytes(), &["n", "a"]);
    }
    // A length of headers is a hint: any that fits will do.
    for hdr_len in [0, 1, 54, 200] {
        let header = raw(1, TCPV4, [hdr_len, 1400, 34, 16]);
        net.at("s").send_with_header(0, &header, &tcp.partial());
        let got = arrived(&mut net, "a");
        assert_eq!(fields(&got[0].header), fields(&tcp.header(TCPV4, 1400)));
        assert_segments("n", &arrived(&mut net, "n"), &tcp, 1400, &[]);
    }
    net.evb.stop();
}

#[test]
fn the_mtu_holds_for_frames_and_for_segments() {
    let mut net = net(&[
        ("s", "trunk = [10]"),
        ("a-access", "access = 10\nmtu = 1500"),
        ("n-access", "access = 10\nmtu = 1500"),
        ("a-trunk", "trunk = [10]\nmtu = 1500"),
        ("n-trunk", "trunk = [10]\nmtu = 1500"),
    ]);
    let ports = ["a-access", "n-access", "a-trunk", "n-trunk"];
    // A tag does not count: 1518 bytes with one are 1514 without.
    let sized = |len| {
        let mut frame = eth(BROADCAST, mac(1)).vlan(10).unpadded();
        frame.resize(len, 0x5a);
        frame
    };
    let bare = [&sized(1518)[..12], &sized(1518)[16..]].concat();
    let full = sized(1518);
    let copies = [
        ("a-access", &bare[..]),
        ("n-access", &bare),
        ("a-trunk", &full),
        ("n-trunk", &full),
    ];
    net.pass("s", &full, &copies);
    let refused = |net: &mut Net, send: &dyn Fn(&mut Net), untagged: usize| {
        let before = ports.map(|port| net.evb.counter(port, "oversize"));
        let mark = net.evb.log_mark();
        send(net);
        assert!(net.captured().is_empty());
        for (port, before) in ports.iter().zip(before) {
            assert_eq!(net.evb.counter(port, "oversize"), before + 1, "{port}");
            let len = untagged + if port.ends_with("trunk") { 4 } else { 0 };
            net.evb
                .expect_complaint(mark, port, &["MTU", &len.to_string()]);
        }
    };
    refused(&mut net, &|net| net.at("s").send(&sized(1519)), 1515);
    // Segments count one by one: 54 bytes of headers and 1460 of data are 1514.
    let packet = Packet::new(false, false, 20_000);
    let tagged = packet.clone().tagged(&[(C, 10)]);
    net.at("s")
        .send_with_header(0, &tagged.header(TCPV4, 1460), &tagged.partial());
    check_all(
        &mut net,
        TCPV4,
        1460,
        &[("access", &packet), ("trunk", &tagged)],
    );
    let (header, frame) = (tagged.header(TCPV4, 1461), tagged.partial());
    refused(
        &mut net,
        &|net| net.at("s").send_with_header(0, &header, &frame),
        1515,
    );
    net.evb.stop();
}
