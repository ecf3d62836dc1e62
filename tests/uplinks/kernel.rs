//! The host's own stack at both ends: ARP, ping, and TCP with segments of 64 KiB.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;

use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::support::netns::{Elsewhere, in_namespace, ip, veth};
use crate::support::{BROADCAST, LIMIT, eth, mac};
use crate::{config, expect_state, links, start, uplink};

const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];
const HOST: &str = "[[port]]\nname = \"host\"\nrelay = \"r\"\n\
                    tap = { name = \"evb0\", mac = \"52:54:00:00:00:fe\" }\n";
/// Bytes of a transfer: many segments, a fraction of a second.
const TRANSFER: usize = 8 << 20;

#[test]
fn the_host_answers_a_guest() {
    in_namespace(|| {
        for extra in ["", "queues = 4\n", "access = 10\n"] {
            let vlan = if extra.starts_with("access") {
                extra
            } else {
                ""
            };
            let mut net = start(
                &config(&[("p", vlan)], &format!("{HOST}{extra}")),
                &["host"],
            );
            ip("address add 10.0.0.1/24 dev evb0");
            let guest = net.at("p");
            // Who has 10.0.0.1? Tell 10.0.0.2.
            let mut question = vec![0, 1, 8, 0, 6, 4, 0, 1];
            question.extend(guest.mac);
            question.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
            guest.send(&eth(BROADCAST, guest.mac).payload(0x0806, &question).bytes());
            let answer = crate::arrived(guest);
            assert_eq!(answer[..6], guest.mac);
            assert_eq!(answer[12..14], [0x08, 0x06]);
            assert_eq!(answer[20..22], [0, 2], "no answer: {answer:02x?}");
            assert_eq!(answer[22..28], HOST_MAC);
            for size in [0, 56, 1400] {
                ping(guest, size);
            }
            net.evb.stop();
        }
    });
}

/// Pings 10.0.0.1 with so many bytes, and answers if it asks who is there.
fn ping(guest: &mut crate::support::Guest, size: usize) {
    let data: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let builder = PacketBuilder::ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).icmpv4_echo_request(7, 1);
    let mut packet = vec![];
    builder.write(&mut packet, &data).unwrap();
    guest.send(&eth(HOST_MAC, guest.mac).payload(0x0800, &packet).bytes());
    loop {
        let frame = crate::arrived(guest);
        if frame[12..14] == [0x08, 0x06] {
            continue;
        }
        let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &parsed.net else {
            panic!("not IPv4: {frame:02x?}");
        };
        assert_eq!(ip.header().source(), [10, 0, 0, 1]);
        let Some(TransportSlice::Icmpv4(icmp)) = &parsed.transport else {
            panic!("not ICMP: {frame:02x?}");
        };
        assert!(matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(echo) if echo.id == 7));
        assert_eq!(icmp.payload(), data);
        return;
    }
}

#[test]
fn tcp_crosses_from_the_host_to_the_wire_and_back() {
    in_namespace(|| {
        for (link, queues, workers) in [
            ("macvtap = { parent = \"va\" }", "", 1),
            (
                "macvtap = { parent = \"va\", queues = 4 }",
                "queues = 4\n",
                2,
            ),
            ("af_packet = { dev = \"va\" }", "", 2),
            (
                "af_packet = { dev = \"va\", queues = 2 }",
                "queues = 2\n",
                3,
            ),
        ] {
            let elsewhere = Elsewhere::new();
            veth("va", "vb");
            ip(&format!("link set vb netns {}", elsewhere.id));
            elsewhere.run(|| {
                ip("link set vb up");
                ip("address add 10.0.0.2/24 dev vb");
            });
            let more = format!("{HOST}{queues}\n{}", uplink(link));
            let text = config(&[("p", "")], &more);
            let text = text.replace("[daemon]", &format!("[daemon]\nworkers = {workers}"));
            let net = start(&text, &["host", "up"]);
            ip("address add 10.0.0.1/24 dev evb0");
            // Queues are spread over the workers.
            let status = net.evb.status();
            let load = status["workers"].as_array().unwrap();
            assert_eq!(load.len(), workers);
            let served = |worker: &serde_json::Value| worker["queues"].as_u64().unwrap();
            let (least, most) = (load.iter().map(served).min(), load.iter().map(served).max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{load:?}");
            transfer(&elsewhere);
            // Segments stayed whole on the way: the mean frame is longer than any on a wire.
            let (frames, bytes) = (
                net.evb.counter("host", "tx_frames"),
                net.evb.counter("host", "tx_bytes"),
            );
            assert!(bytes > 1600 * frames, "{bytes} bytes in {frames} frames");
            net.evb.stop();
            ip("link delete va");
        }
    });
}

#[test]
fn tcp_crosses_between_two_host_ports_in_one_relay() {
    in_namespace(|| {
        let elsewhere = Elsewhere::new();
        // A bridge of the other network is what is behind the uplink's TAP device, by a cable of its own.
        veth("va", "vb");
        ip(&format!("link set vb netns {}", elsewhere.id));
        elsewhere.run(|| {
            ip("link set vb up");
            ip("address add 10.0.0.2/24 dev vb");
        });
        let more = format!("{HOST}\n{}", uplink("tap = { name = \"evb1\" }"));
        let net = start(&config(&[("p", "")], &more), &["host", "up"]);
        ip("link add br0 type bridge stp_state 0 forward_delay 0");
        ip("link set evb1 master br0");
        ip("link set va master br0");
        ip("link set br0 up");
        ip("address add 10.0.0.1/24 dev evb0");
        expect_state(&net.evb, "up", "running");
        transfer(&elsewhere);
        net.evb.stop();
    });
}

#[test]
fn tcp_crosses_an_uplink_without_offloads() {
    in_namespace(|| {
        let elsewhere = Elsewhere::new();
        // The peer of the NIC is here, so a bridge and another cable lead to the other network.
        veth("va", "vb");
        veth("vc", "vd");
        ip(&format!("link set vd netns {}", elsewhere.id));
        elsewhere.run(|| {
            ip("link set vd up");
            ip("address add 10.0.0.2/24 dev vd");
        });
        ip("link add br0 type bridge stp_state 0 forward_delay 0");
        for port in ["vb", "vc"] {
            ip(&format!("link set {port} master br0"));
        }
        ip("link set br0 up");
        let more = format!("{HOST}\n{}", uplink("af_xdp = { dev = \"va\" }"));
        let net = start(&config(&[("p", "")], &more), &["host", "up"]);
        assert_eq!(links(&net.evb, "up")[0]["mode"], "copy");
        ip("address add 10.0.0.1/24 dev evb0");
        transfer(&elsewhere);
        net.evb.stop();
    });
}

/// What each side says.
static SPEECHES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [pattern(1), pattern(2)]);

/// Bytes that are nowhere the same over a distance.
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(TRANSFER + 8);
    while bytes.len() < TRANSFER {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state >> 8).to_be_bytes());
    }
    bytes.truncate(TRANSFER);
    bytes
}

/// Sends much both ways at once between 10.0.0.1 here and 10.0.0.2 there.
fn transfer(elsewhere: &Elsewhere) {
    let (port, there) = elsewhere.run(|| {
        let listener = TcpListener::bind("10.0.0.2:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (
            port,
            thread::spawn(move || talk(&listener.accept().unwrap().0, 1)),
        )
    });
    let stream = TcpStream::connect_timeout(&([10, 0, 0, 2], port).into(), LIMIT).unwrap();
    talk(&stream, 0);
    there.join().unwrap();
}

/// Says its speech while it hears the other.
fn talk(stream: &TcpStream, which: usize) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let mut out = stream.try_clone().unwrap();
    let saying = thread::spawn(move || {
        out.write_all(&SPEECHES[which]).unwrap();
        out.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut heard = vec![];
    let mut from = stream;
    from.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), TRANSFER);
    assert!(
        heard == SPEECHES[1 - which],
        "what arrived is not what was sent"
    );
    saying.join().unwrap();
}

#[test]
fn a_flow_of_the_host_reaches_a_guest_whole() {
    in_namespace(|| {
        let mut net = start(&config(&[("p", "")], HOST), &["host"]);
        ip("address add 10.0.0.1/24 dev evb0");
        ip("neighbour add 10.0.0.2 lladdr 52:54:00:00:00:01 dev evb0");
        let guest = net.at("p");
        assert_eq!(guest.mac, mac(1));
        let socket = std::net::UdpSocket::bind("10.0.0.1:4000").unwrap();
        for number in 0..200_u32 {
            socket
                .send_to(&number.to_be_bytes().repeat(100), "10.0.0.2:5000")
                .unwrap();
            let frame = crate::arrived(guest);
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = &parsed.transport else {
                panic!("not UDP: {frame:02x?}");
            };
            assert_eq!(udp.payload(), number.to_be_bytes().repeat(100));
        }
        net.evb.stop();
    });
}
