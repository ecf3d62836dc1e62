//! Every kind of uplink with every mode of a relay: frames both ways, byte for byte.

use std::time::Duration;

use crate::support::guest::hex;
use crate::support::netns::{in_namespace, ip, veth};
use crate::support::{BROADCAST, Net, Wire, eth, mac};
use crate::{arrived, config, is_station, start, uplink};

/// A station behind the uplink.
const OUTSIDE: u16 = 600;

/// Uplinks that carry any address, with the device at the far end of each.
const KINDS: [(&str, &str); 7] = [
    ("tap = { name = \"tap0\" }", "tap0"),
    ("tap = { name = \"tap0\" }\nqueues = 4", "tap0"),
    ("macvtap = { parent = \"va\" }", "vb"),
    ("macvtap = { parent = \"va\", queues = 4 }", "vb"),
    ("af_packet = { dev = \"va\" }", "vb"),
    ("af_packet = { dev = \"va\", queues = 2 }", "vb"),
    ("af_xdp = { dev = \"va\" }", "vb"),
];

/// A frame of the guest, one for the guest, and one for everybody, with `tag` if it is one.
fn frames(tag: Option<u16>) -> [Vec<u8>; 3] {
    let tagged = |frame: crate::support::Eth| match tag {
        Some(tci) => frame.tag(0x8100, tci).bytes(),
        None => frame.bytes(),
    };
    [
        tagged(eth(mac(OUTSIDE), mac(1)).udp([10, 0, 0, 1], [10, 0, 0, 9], &[7; 900])),
        tagged(eth(mac(1), mac(OUTSIDE)).udp([10, 0, 0, 9], [10, 0, 0, 1], &[9; 901])),
        tagged(eth(BROADCAST, mac(OUTSIDE)).payload(0x88b6, &[3; 99])),
    ]
}

/// The frames in `outside` on the wire are those in `inside` for the guest.
fn exchange(net: &mut Net, wire: &mut Wire, outside: &[Vec<u8>; 3], inside: &[Vec<u8>; 3]) {
    let guest = net.at("p");
    guest.send(&inside[0]);
    wire.expect(&outside[0]);
    for (there, here) in outside.iter().zip(inside).skip(1) {
        wire.send(there);
        assert_eq!(hex(&arrived(guest)), hex(here));
    }
}

#[test]
fn every_kind_of_uplink_serves_every_mode() {
    in_namespace(|| {
        veth("va", "vb");
        for (link, far) in KINDS {
            for mode in ["bridge", "vepa", "private", "passthrough"] {
                let lines = format!("mode = \"{mode}\"\nmac = [\"52:54:00:00:00:01\"]\n");
                let mut net = start(&config(&[("p", &lines)], &uplink(link)), &["up"]);
                let mut wire = Wire::new(far);
                for tag in [None, Some(10), Some(0x6fff & !0xf000)] {
                    // A flat relay carries tags as payload.
                    exchange(&mut net, &mut wire, &frames(tag), &frames(tag));
                }
                drop(wire);
                net.evb.stop();
            }
        }
    });
}

#[test]
fn tags_are_put_on_and_taken_off() {
    in_namespace(|| {
        veth("va", "vb");
        for (link, far) in KINDS {
            for mode in ["bridge", "vepa", "private"] {
                let address = "mac = [\"52:54:00:00:00:01\"]";
                let lines = format!("mode = \"{mode}\"\n{address}\naccess = 10\n");
                let trunk = format!("{link}\ntrunk = [10, 20]");
                let mut net = start(&config(&[("p", &lines)], &uplink(&trunk)), &["up"]);
                let mut wire = Wire::new(far);
                exchange(&mut net, &mut wire, &frames(Some(10)), &frames(None));
                // Another VLAN stays outside.
                let [_, _, other] = frames(Some(20));
                wire.send(&other);
                exchange(&mut net, &mut wire, &frames(Some(10)), &frames(None));
                net.evb.stop();
            }
        }
    });
}

#[test]
fn a_macvtap_device_that_shares_its_nic_carries_one_guest() {
    in_namespace(|| {
        veth("va", "vb");
        for shared in ["bridge", "vepa", "private"] {
            for mode in ["bridge", "vepa", "private", "passthrough"] {
                let lines = format!("mode = \"{mode}\"\nmac = [\"52:54:00:00:00:01\"]\n");
                let link = format!("macvtap = {{ parent = \"va\", mode = \"{shared}\" }}");
                let mut net = start(&config(&[("p", &lines)], &uplink(&link)), &["up"]);
                let mut wire = Wire::new("vb");
                exchange(&mut net, &mut wire, &frames(None), &frames(None));
                net.evb.stop();
            }
        }
    });
}

#[test]
fn a_hairpin_bridge_reflects_for_vepa_ports() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        ip("link set vb master br0");
        ip("link set vb type bridge_slave hairpin on");
        ip("link set br0 up");
        for link in [
            "macvtap = { parent = \"va\" }",
            "af_packet = { dev = \"va\" }",
            "af_xdp = { dev = \"va\" }",
        ] {
            let vepa = |n| format!("mode = \"vepa\"\nmac = [\"52:54:00:00:00:0{n}\"]\n");
            let (p, q) = (vepa(1), vepa(2));
            let ports = [("p", p.as_str()), ("q", q.as_str())];
            let mut net = start(&config(&ports, &uplink(link)), &["up"]);
            // The bridge knows nobody at first, so it floods; then it knows both.
            for number in 0..4 {
                for (from, to, source) in [("p", "q", 1), ("q", "p", 2)] {
                    let frame = eth(mac(3 - source), mac(source)).number(number).bytes();
                    net.at(from).send(&frame);
                    assert_eq!(hex(&arrived(net.at(to))), hex(&frame));
                }
                let everybody = eth(BROADCAST, mac(1)).number(number).bytes();
                net.at("p").send(&everybody);
                assert_eq!(hex(&arrived(net.at("q"))), hex(&everybody));
            }
            // Nobody has got anything twice, nor its own frames back.
            let last = eth(mac(1), mac(2)).number(99).bytes();
            net.at("q").send(&last);
            assert_eq!(hex(&arrived(net.at("p"))), hex(&last));
            for port in ["p", "q"] {
                let more = net.at(port).recv(Duration::ZERO);
                assert!(more.is_none_or(|frame| !is_station(&frame.bytes)));
            }
            net.evb.stop();
        }
    });
}
