//! Bonds: one link carries the frames, the first one preferred, and stations are announced where they
//! are reached now.

use crate::support::guest::hex;
use crate::support::netns::{in_namespace, ip, veth};
use crate::support::{LIMIT, Net, Wire, eth, eventually, mac};
use crate::{arrived, config, expect_state, links, start};

const OUTSIDE: u16 = 600;
const BOND: &str = "[[uplink]]\nname = \"up\"\nrelay = \"r\"\nbond = [\"a\", \"b\"]\n\
                    [[uplink]]\nname = \"a\"\nmacvtap = { parent = \"va\" }\n\
                    [[uplink]]\nname = \"b\"\naf_packet = { dev = \"vc\" }\n";

/// Whether each link is active.
fn active(net: &Net) -> Vec<bool> {
    let links = links(&net.evb, "up");
    links.iter().map(|link| link["active"] == true).collect()
}

/// Frames of `p` leave by `here`, and only by it, and what comes from there arrives.
fn goes_by(net: &mut Net, here: &mut Wire, there: &mut Wire, number: u32) {
    let frame = eth(mac(OUTSIDE), mac(1)).number(number).bytes();
    net.at("p").send(&frame);
    here.expect(&frame);
    assert_eq!(there.recv(std::time::Duration::ZERO), None);
    let late = eth(mac(1), mac(OUTSIDE)).number(number + 1000).bytes();
    // It may be down.
    let _ = there.try_send(&[0; 12], &late);
    let frame = eth(mac(1), mac(OUTSIDE)).number(number).bytes();
    here.send(&frame);
    assert_eq!(hex(&arrived(net.at("p"))), hex(&frame));
}

/// The addresses that are announced there, in any order.
fn announced(wire: &mut Wire, count: usize) -> Vec<[u8; 6]> {
    let mut macs: Vec<[u8; 6]> = (0..count)
        .map(|_| {
            let frame = wire.announcement(LIMIT).expect("no announcement");
            frame[6..12].try_into().unwrap()
        })
        .collect();
    macs.sort_unstable();
    macs
}

#[test]
fn the_first_link_with_a_carrier_carries_the_frames() {
    in_namespace(|| {
        veth("va", "vb");
        veth("vc", "vd");
        let ports = [
            ("p", "mac = [\"52:54:00:00:00:01\"]"),
            ("q", "mac_policy = { learn = 8 }"),
        ];
        let mut net = start(&config(&ports, BOND), &["up"]);
        let (mut first, mut second) = (Wire::new("vb"), Wire::new("vd"));
        net.at("q").send(&eth(mac(OUTSIDE), mac(2)).bytes());
        first.expect(&eth(mac(OUTSIDE), mac(2)).bytes());
        arrived(net.at("p"));
        goes_by(&mut net, &mut first, &mut second, 1);
        assert_eq!(active(&net), [true, false]);
        for number in 2..4 {
            let mark = net.evb.log_mark();
            ip("link set vb down");
            net.evb.expect_log(mark, &["port up", "b carries"]);
            assert_eq!(active(&net), [false, true]);
            expect_state(&net.evb, "up", "running");
            // One is registered, the other was learnt.
            assert_eq!(announced(&mut second, 2), [mac(1), mac(2)]);
            goes_by(&mut net, &mut second, &mut first, 10 * number);
            let mark = net.evb.log_mark();
            ip("link set vb up");
            net.evb.expect_log(mark, &["port up", "a carries"]);
            assert_eq!(active(&net), [true, false]);
            assert_eq!(announced(&mut first, 2), [mac(1), mac(2)]);
            goes_by(&mut net, &mut first, &mut second, 10 * number + 1);
        }
        let text = net.evb.command(&[
            "status",
            "--control",
            net.evb.path("control.sock").to_str().unwrap(),
        ]);
        assert!(
            text.output
                .contains("up: link a: macvtap evb-a: carrier, active"),
            "{}",
            text.output
        );
        // Without any, the uplink is down; whichever comes back first is taken.
        ip("link set vb down");
        ip("link set vd down");
        expect_state(&net.evb, "up", "down");
        ip("link set vd up");
        expect_state(&net.evb, "up", "running");
        assert_eq!(active(&net), [false, true]);
        goes_by(&mut net, &mut second, &mut first, 90);
        net.evb.stop();
    });
}

#[test]
fn a_bond_starts_with_what_is_there_and_takes_what_comes() {
    in_namespace(|| {
        veth("vc", "vd");
        let mut net = start(&config(&[("p", "")], BOND), &["up"]);
        assert_eq!(active(&net), [false, true]);
        net.evb
            .expect_complaint(0, "up", &["link a", "no device va"]);
        let mark = net.evb.log_mark();
        veth("va", "vb");
        net.evb.expect_log(mark, &["port up", "a carries"]);
        let (mut first, mut second) = (Wire::new("vb"), Wire::new("vd"));
        goes_by(&mut net, &mut first, &mut second, 1);
        // Its device goes altogether.
        let mark = net.evb.log_mark();
        ip("link delete va");
        net.evb.expect_log(mark, &["port up", "b carries"]);
        // It loses its carrier first.
        eventually("link a is gone", || {
            (links(&net.evb, "up")[0]["present"] == false).then_some(())
        });
        net.evb.stop();
    });
}
