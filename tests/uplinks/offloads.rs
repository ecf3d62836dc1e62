//! Every kind of uplink with every mode of a relay: what a guest leaves to others is done, rightly, by the time
//! it is on a wire, and what the wire leaves to guests is described to those that take it and done for the others.

use crate::support::guest::{MODERN, hex};
use crate::support::netns::{in_namespace, ip, veth, without_offloads};
use crate::support::packets::{FIN_PSH, NEEDS_CSUM, Packet, TCPV4, TCPV6, finish, read};
use crate::support::{Guest, GuestOptions, LIMIT, Net, Wire, mac};
use crate::{config, expect_state, is_station, uplink};

/// A station behind the uplink.
const OUTSIDE: u16 = 600;

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const TSO: u64 = 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;

/// Guests that take everything, checksums alone, and nothing.
const RECEIVERS: [u64; 3] = [
    MODERN | CSUM | GUEST_CSUM | TSO,
    MODERN | GUEST_CSUM,
    MODERN,
];

/// Data of a large packet, and of each of its segments.
const LARGE: usize = 5000;
const SEGMENT: u16 = 1400;
/// TCP's first sequence number, as [`Packet`] has it.
const FIRST: u32 = 0x0102_0304;

type Tags = &'static [(u16, u16)];

/// Ports of a relay with VLANs, with the tags that a frame has at the guest and on the wire.
const ACCESS: (&str, Tags, Tags) = ("access = 10\n", &[], &[(0x8100, 10)]);
const TRUNK: (&str, Tags, Tags) = (
    "trunk = [10, 20]\n",
    &[(0x8100, 0x6014)],
    &[(0x8100, 0x6014)],
);
/// Tags that a flat relay carries as payload.
const PAYLOAD: [Tags; 3] = [&[], &[(0x8100, 10)], &[(0x88a8, 30), (0x8100, 0xe00a)]];

/// How frames travel from and to the far end of a link.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// The far end gets frames as they were handed over, as nothing finishes them in between.
    Unfinished,
    /// They leave finished, and come as they are.
    Finished,
    /// They leave finished, and come finished.
    FinishedBoth,
}

struct Far {
    wire: Wire,
    way: Way,
}

/// The packet as it is seen with these tags, between these stations.
struct Sight {
    packet: Packet,
    addresses: [u8; 12],
}

impl Sight {
    fn new(packet: &Packet, tags: Tags, dst: [u8; 6], src: [u8; 6]) -> Self {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&dst);
        addresses[6..].copy_from_slice(&src);
        Self {
            packet: packet.clone().tagged(tags),
            addresses,
        }
    }

    fn frame(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes[..12].copy_from_slice(&self.addresses);
        bytes
    }

    fn partial(&self) -> Vec<u8> {
        self.frame(self.packet.partial())
    }

    fn complete(&self) -> Vec<u8> {
        self.frame(self.packet.complete())
    }

    /// What a sender says of it: large packets are to be cut, and all sums to be completed.
    fn header(&self) -> [u8; 12] {
        match (self.is_large(), self.packet.v6) {
            (false, _) => self.packet.header(0, 0),
            (true, false) => self.packet.header(TCPV4, SEGMENT),
            (true, true) => self.packet.header(TCPV6, SEGMENT),
        }
    }

    fn is_large(&self) -> bool {
        self.packet.data.len() > usize::from(SEGMENT)
    }

    /// It has arrived in one piece, and `header` says what is left to do.
    fn is_left(&self, header: &[u8; 12], frame: Vec<u8>) {
        assert_eq!(hex(&frame), hex(&self.partial()));
        assert_eq!(header[0], NEEDS_CSUM);
        // Flags, type, size of segments, where the sum begins and where it goes: the length of headers
        // is a hint, to which the kernel has its own mind.
        let said = |header: &[u8; 12]| [&header[..2], &header[4..10]].concat();
        assert_eq!(hex(&said(header)), hex(&said(&self.header())));
        let mut finished = frame;
        finish(header, &mut finished);
        let seen = read(&finished);
        assert_eq!(seen.tags, self.packet.tags.len());
        assert_eq!(seen.data, self.packet.data);
    }

    /// It arrives finished, in as many pieces as `next` brings.
    fn is_done(&self, mut next: impl FnMut() -> ([u8; 12], Vec<u8>)) {
        if !self.is_large() {
            assert_eq!(hex(&next().1), hex(&self.complete()));
            return;
        }
        let whole = self.complete();
        // Addresses and tags.
        let front = 12 + 4 * self.packet.tags.len();
        let size = usize::from(SEGMENT);
        let pieces = self.packet.data.len().div_ceil(size);
        let mut first_id = None;
        for (number, data) in self.packet.data.chunks(size).enumerate() {
            let (header, frame) = next();
            assert_eq!(header[0] & NEEDS_CSUM, 0, "piece {number}");
            assert_eq!(header[1], 0, "piece {number}");
            assert_eq!(hex(&frame[..front]), hex(&whole[..front]));
            let seen = read(&frame);
            assert_eq!(seen.data, data, "piece {number}");
            assert_eq!(seen.seq, FIRST + (number * size) as u32);
            let last = number + 1 == pieces;
            assert_eq!(seen.flags & FIN_PSH, if last { FIN_PSH } else { 0 });
            if let Some(id) = seen.id {
                let first = *first_id.get_or_insert(id);
                assert_eq!(id, first + number as u16);
            }
        }
    }
}

/// A daemon with guests whose buffers hold a large packet.
fn begin(config: &str) -> Net {
    let mut options = GuestOptions::default();
    options.queue.size = 64;
    options.queue.buffers = 64;
    options.queue.buffer_len = 5200;
    let net = Net::start_with(config, |_| options.clone());
    expect_state(&net.evb, "up", "running");
    net
}

/// What goes through each link: TCP to be cut, over IPv4 and IPv6, and a datagram and a segment without a sum.
fn packets() -> [Packet; 4] {
    [
        Packet::new(false, false, LARGE).flags(FIN_PSH),
        Packet::new(true, false, LARGE).flags(FIN_PSH),
        Packet::new(false, true, 901),
        Packet::new(true, false, 333).flags(FIN_PSH),
    ]
}

fn received(wire: &mut Wire) -> ([u8; 12], Vec<u8>) {
    let (header, frame) = wire.recv_whole(LIMIT).expect("nothing left");
    (header.encode(), frame)
}

fn arrived(guest: &mut Guest) -> ([u8; 12], Vec<u8>) {
    loop {
        let frame = guest.recv(LIMIT).expect("nothing arrived");
        if is_station(&frame.bytes) {
            return (frame.header, frame.bytes);
        }
    }
}

/// Packets cross between the guest at `port`, where they have the tags `inside`, and the far end, where
/// they have the tags `outside`, with all that either side may leave to the other.
fn crosses(net: &mut Net, port: &str, far: &mut Far, inside: Tags, outside: Tags) {
    let guest = net.at(port);
    for packet in packets() {
        let sent = Sight::new(&packet, inside, mac(OUTSIDE), guest.mac);
        let seen = Sight::new(&packet, outside, mac(OUTSIDE), guest.mac);
        guest.send_with_header(0, &sent.header(), &sent.partial());
        if far.way == Way::Unfinished {
            let (header, frame) = received(&mut far.wire);
            seen.is_left(&header, frame);
        } else {
            seen.is_done(|| received(&mut far.wire));
        }
        let sent = Sight::new(&packet, outside, guest.mac, mac(OUTSIDE));
        let seen = Sight::new(&packet, inside, guest.mac, mac(OUTSIDE));
        let header = sent.header();
        far.wire.try_send(&header, &sent.partial()).unwrap();
        let takes = guest.front_end.features();
        let left = far.way != Way::FinishedBoth
            && takes & GUEST_CSUM != 0
            && (takes & TSO == TSO || !sent.is_large());
        if left {
            let (header, frame) = arrived(guest);
            seen.is_left(&header, frame);
            continue;
        }
        seen.is_done(|| {
            let (header, frame) = arrived(guest);
            // A guest that takes no sums unseen is told of none.
            assert!(takes & GUEST_CSUM != 0 || header[..10] == [0; 10]);
            (header, frame)
        });
    }
}

/// The same with guests of all kinds.
fn crosses_to_all(net: &mut Net, port: &str, far: &mut Far, pairs: &[(Tags, Tags)]) {
    for features in RECEIVERS {
        // Who sends has offloads in any case; CSUM and TSO for the host are those of a transmitter.
        net.at(port)
            .reboot(features | CSUM | TSO & (1 << 11 | 1 << 12));
        for (inside, outside) in pairs {
            crosses(net, port, far, inside, outside);
        }
    }
}

/// One link in relays of these modes: flat ones, and those with VLANs.
fn serves(link: &str, (device, way): (&str, Way), modes: &[&str]) {
    for mode in modes {
        let lines = format!("mode = \"{mode}\"\nmac = [\"52:54:00:00:00:01\"]\n");
        let mut net = begin(&config(&[("p", &lines)], &uplink(link)));
        let wire = Wire::new(device);
        let mut far = Far { wire, way };
        crosses_to_all(&mut net, "p", &mut far, &PAYLOAD.map(|tags| (tags, tags)));
        net.evb.stop();
        // It has no VLANs of its own.
        if *mode == "passthrough" {
            continue;
        }
        let trunk = uplink(&format!("{link}\ntrunk = [10, 20]"));
        for (vlan, inside, outside) in [ACCESS, TRUNK] {
            let lines = format!("{lines}{vlan}");
            let mut net = begin(&config(&[("p", &lines)], &trunk));
            let wire = Wire::new(device);
            let mut far = Far { wire, way };
            crosses_to_all(&mut net, "p", &mut far, &[(inside, outside)]);
            net.evb.stop();
        }
    }
}

const MODES: [&str; 4] = ["bridge", "vepa", "private", "passthrough"];

/// A cable whose near end leaves nothing to the far one.
fn cable() {
    veth("va", "vb");
    without_offloads("va");
}

#[test]
fn a_tap_device_is_told_what_is_left_to_do() {
    in_namespace(|| {
        let far = ("tap0", Way::Unfinished);
        serves("tap = { name = \"tap0\" }", far, &MODES);
        serves("tap = { name = \"tap0\" }\nqueues = 4", far, &MODES[..1]);
    });
}

#[test]
fn all_is_done_behind_macvtap() {
    in_namespace(|| {
        cable();
        let far = ("vb", Way::Finished);
        serves("macvtap = { parent = \"va\" }", far, &MODES);
        let wide = "macvtap = { parent = \"va\", queues = 4 }";
        serves(wide, far, &MODES[..1]);
    });
}

#[test]
fn all_is_done_behind_macvtap_that_shares_its_nic() {
    in_namespace(|| {
        cable();
        for shared in ["bridge", "vepa", "private"] {
            let link = format!("macvtap = {{ parent = \"va\", mode = \"{shared}\" }}");
            serves(&link, ("vb", Way::Finished), &MODES);
        }
    });
}

#[test]
fn all_is_done_behind_a_packet_socket() {
    in_namespace(|| {
        cable();
        let far = ("vb", Way::Finished);
        serves("af_packet = { dev = \"va\" }", far, &MODES);
        let wide = "af_packet = { dev = \"va\", queues = 2 }";
        serves(wide, far, &MODES[..1]);
    });
}

#[test]
fn all_is_done_behind_an_af_xdp_socket_and_before_it() {
    in_namespace(|| {
        cable();
        let far = ("vb", Way::FinishedBoth);
        serves("af_xdp = { dev = \"va\" }", far, &MODES);
    });
}

#[test]
fn what_a_switch_reflects_between_vepa_ports_is_whole() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        ip("link set vb master br0");
        ip("link set vb type bridge_slave hairpin on");
        ip("link set br0 up");
        for (link, finished) in [
            ("macvtap = { parent = \"va\" }", false),
            ("af_packet = { dev = \"va\" }", false),
            ("af_xdp = { dev = \"va\" }", true),
        ] {
            for (vlan, tags) in [("", PAYLOAD[0]), ("", PAYLOAD[1]), ("access = 10\n", &[])] {
                let vepa = |n| format!("mode = \"vepa\"\nmac = [\"52:54:00:00:00:0{n}\"]\n{vlan}");
                let (p, q) = (vepa(1), vepa(2));
                let ports = [("p", p.as_str()), ("q", q.as_str())];
                let mut net = begin(&config(&ports, &uplink(link)));
                for features in RECEIVERS {
                    net.at("p").reboot(RECEIVERS[0]);
                    net.at("q").reboot(features);
                    for packet in packets() {
                        let sight = Sight::new(&packet, tags, mac(2), mac(1));
                        let header = sight.header();
                        net.at("p").send_with_header(0, &header, &sight.partial());
                        let whole = features & TSO == TSO || !sight.is_large();
                        if !finished && features & GUEST_CSUM != 0 && whole {
                            let (header, frame) = arrived(net.at("q"));
                            sight.is_left(&header, frame);
                        } else {
                            sight.is_done(|| arrived(net.at("q")));
                        }
                    }
                }
                net.evb.stop();
            }
        }
    });
}
