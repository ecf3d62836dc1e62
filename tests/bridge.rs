//! Ports in bridge mode, as their guests see them (relay.md §1 and §4).

mod support;

use support::evb::bridge_config;
use support::{BROADCAST, Evb, Guest, eth, mac, silence};

#[test]
fn unknown_unicast_is_flooded_until_the_address_is_learnt() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    let question = eth(mac(2), mac(1)).number(1).bytes();
    a.send(&question);
    b.expect_frame(&question);
    c.expect_frame(&question);
    let answer = eth(mac(1), mac(2)).number(2).bytes();
    b.send(&answer);
    a.expect_frame(&answer);
    silence(&mut a, &mut [&mut c]);
    a.send(&question);
    b.expect_frame(&question);
    silence(&mut a, &mut [&mut c]);
    evb.stop();
}

#[test]
fn broadcast_and_multicast_reach_everybody_else() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    let groups = [
        BROADCAST,
        [0x01, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
        [0x01, 0x80, 0xc2, 0, 0, 0x10],
    ];
    for (n, group) in (0..).zip(groups) {
        let frame = eth(group, mac(1)).number(n).bytes();
        a.send(&frame);
        b.expect_frame(&frame);
        c.expect_frame(&frame);
    }
    silence(&mut b, &mut [&mut a]);
    evb.stop();
}

#[test]
fn frames_keep_every_byte_and_their_order() {
    let evb = Evb::bridge(2);
    let [mut a, mut b] = evb.guests();
    for len in [60, 61, 64, 127, 128, 129, 590, 1513, 1514] {
        let mut frame = eth(mac(2), mac(1)).number(len).unpadded();
        frame.extend((frame.len()..len as usize).map(|i| i as u8));
        a.send(&frame);
        b.expect_frame(&frame);
    }
    let frames: Vec<_> = (0..1000)
        .map(|n| eth(mac(2), mac(1)).number(n).bytes())
        .collect();
    for burst in frames.chunks(50) {
        a.send_burst(0, burst.iter().map(Vec::as_slice));
        for frame in burst {
            let header = b.expect_frame(frame).header;
            assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        }
    }
    evb.stop();
}

#[test]
fn ip_packets_cross_unchanged() {
    let evb = Evb::bridge(2);
    let [mut a, mut b] = evb.guests();
    let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    for data in [&b"x"[..], &[0x5a; 1200]] {
        for frame in [
            eth(mac(2), mac(1)).udp(from, to, data),
            eth(mac(2), mac(1)).tcp(from, to, data),
        ] {
            a.send(&frame.bytes());
            b.expect_frame(&frame.bytes());
        }
    }
    evb.stop();
}

#[test]
fn in_a_flat_relay_tags_are_payload() {
    let evb = Evb::bridge(2);
    let [mut a, mut b] = evb.guests();
    for frame in [
        eth(mac(2), mac(1)).vlan(10),
        eth(mac(2), mac(1)).tag(0x88a8, 20).vlan(10),
        eth(mac(2), mac(1)).tag(0x8100, 0xe000),
    ] {
        a.send(&frame.bytes());
        b.expect_frame(&frame.bytes());
    }
    evb.stop();
}

#[test]
fn a_frame_to_its_own_sender_goes_nowhere() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    a.send(&eth(mac(1), mac(1)).bytes());
    silence(&mut b, &mut [&mut a, &mut c]);
    silence(&mut c, &mut [&mut b]);
    // Also where the address was learnt before, and another of the same port is the source.
    a.send(&eth(mac(1), mac(77)).bytes());
    silence(&mut b, &mut [&mut a, &mut c]);
    silence(&mut c, &mut [&mut b]);
    assert_eq!(evb.counter("p0", "own_address"), 2);
    evb.stop();
}

#[test]
fn what_must_not_pass_is_dropped_and_counted() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    let reserved = |last| eth([0x01, 0x80, 0xc2, 0, 0, last], mac(1));
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "runt",
            eth(mac(2), mac(1)).payload(0x88b6, &[]).unpadded()[..13].to_vec(),
        ),
        ("runt", vec![0xff]),
        ("zero_source", eth(BROADCAST, [0; 6]).bytes()),
        ("group_source", eth(BROADCAST, BROADCAST).bytes()),
        (
            "group_source",
            eth(mac(2), [0x01, 0, 0x5e, 0, 0, 1]).bytes(),
        ),
        ("lldp", reserved(0).payload(0x88cc, &[0; 40]).bytes()),
        ("ecp", reserved(0).payload(0x8940, &[0; 40]).bytes()),
        (
            "pause",
            reserved(1).payload(0x8808, &[0, 1, 0xff, 0xff]).bytes(),
        ),
        ("lacp", reserved(2).payload(0x8809, &[1; 40]).bytes()),
    ];
    cases.extend((3..16).map(|last| ("", reserved(last).bytes())));
    for (counter, frame) in cases {
        let before = if counter.is_empty() {
            0
        } else {
            evb.counter("p0", counter)
        };
        a.send(&frame);
        silence(&mut a, &mut [&mut b, &mut c]);
        if !counter.is_empty() {
            assert_eq!(evb.counter("p0", counter), before + 1, "{counter}");
        }
    }
    evb.stop();
}

#[test]
fn nothing_is_learnt_from_what_is_dropped() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    // LLDP from p0 with b's address must not make p0 the way to b.
    a.send(
        &eth([0x01, 0x80, 0xc2, 0, 0, 0x0e], mac(2))
            .payload(0x88cc, &[0; 40])
            .bytes(),
    );
    let frame = eth(mac(2), mac(3)).bytes();
    c.send(&frame);
    a.expect_frame(&frame);
    b.expect_frame(&frame);
    evb.stop();
}

#[test]
fn a_learnt_address_moves_with_its_owner() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    b.send(&eth(BROADCAST, mac(50)).number(1).bytes());
    let first = eth(mac(50), mac(1)).number(2).bytes();
    a.send(&first);
    assert_eq!(b.recv_now(&mut a), [first]);
    a.recv_now(&mut b);
    c.send(&eth(BROADCAST, mac(50)).number(3).bytes());
    let second = eth(mac(50), mac(1)).number(4).bytes();
    a.send(&second);
    assert!(c.recv_now(&mut a).contains(&second));
    assert!(!b.recv_now(&mut a).contains(&second));
    evb.stop();
}

#[test]
fn a_guest_that_has_left_is_unknown_again() {
    let evb = Evb::bridge(3);
    let [mut a, mut b, mut c] = evb.guests();
    let from_b = eth(BROADCAST, mac(2)).bytes();
    b.send(&from_b);
    a.expect_frame(&from_b);
    c.expect_frame(&from_b);
    let to_b = eth(mac(2), mac(1)).bytes();
    a.send(&to_b);
    b.expect_frame(&to_b);
    silence(&mut a, &mut [&mut c]);
    drop(b);
    // As soon as the daemon has noticed, frames to b are flooded to c.
    support::eventually("p1's address is forgotten", || {
        a.send(&to_b);
        c.recv_now(&mut a).contains(&to_b).then_some(())
    });
    evb.stop();
}

#[test]
fn relays_are_apart() {
    let mut config = bridge_config(2, "");
    config += "\n[[relay]]\nname = \"s\"\n";
    for i in 2..4 {
        config += "\n[[port]]\nrelay = \"s\"\n";
        config += &["name = \"p", "\"\nlisten = \"{dir}/p", ".sock\"\n"].join(&i.to_string());
    }
    let evb = Evb::start(&config);
    let [mut a, mut b, mut c, mut d] = evb.guests();
    let frame = eth(BROADCAST, mac(1)).bytes();
    a.send(&frame);
    b.expect_frame(&frame);
    silence(&mut c, &mut [&mut d]);
    silence(&mut d, &mut [&mut c]);
    evb.stop();
}

#[test]
fn the_command_line_alone_makes_a_bridge() {
    let evb = Evb::with_ports(2);
    let [mut a, mut b]: [Guest; 2] = evb.guests();
    let frame = eth(mac(2), mac(1)).bytes();
    a.send(&frame);
    b.expect_frame(&frame);
    evb.stop();
}

#[test]
fn a_pinned_port_admits_its_address_only() {
    let config = bridge_config(2, "mac_policy = \"pinned\"\n");
    let evb = Evb::start(&config);
    let [mut a, mut b] = evb.guests();
    let first = eth(BROADCAST, mac(1)).bytes();
    a.send(&first);
    b.expect_frame(&first);
    let mark = evb.log_mark();
    a.send(&eth(BROADCAST, mac(9)).bytes());
    silence(&mut a, &mut [&mut b]);
    assert_eq!(evb.counter("p0", "spoofed"), 1);
    evb.expect_log(mark, &["p0", "52:54:00:00:00:09"]);
    evb.stop();
}

#[test]
fn counters_tell_what_passed() {
    let evb = Evb::bridge(2);
    let [mut a, mut b] = evb.guests();
    let before: Vec<_> = ["tx_frames", "tx_bytes"]
        .map(|c| evb.counter("p0", c))
        .into_iter()
        .collect();
    let received = evb.counter("p1", "rx_frames");
    for n in 0..10 {
        let frame = eth(mac(2), mac(1)).number(n).bytes();
        a.send(&frame);
        b.expect_frame(&frame);
    }
    evb.expect_counter("p0", "tx_frames", before[0] + 10);
    assert_eq!(evb.counter("p0", "tx_frames"), before[0] + 10);
    assert_eq!(evb.counter("p0", "tx_bytes"), before[1] + 600);
    evb.expect_counter("p1", "rx_frames", received + 10);
    assert_eq!(evb.counter("p1", "rx_frames"), received + 10);
    evb.stop();
}
