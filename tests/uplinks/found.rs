//! MACVTAP devices that are there before the daemon, and stay.

use crate::support::netns::{exists, in_namespace, ip, veth};
use crate::support::{Evb, Wire, eth, eventually, mac};
use crate::{arrived, config, expect_state, links, start, uplink};

fn mtu(device: &str) -> String {
    let text = std::fs::read_to_string(format!("/sys/class/net/{device}/mtu")).unwrap();
    text.trim().to_owned()
}

#[test]
fn a_macvtap_device_that_is_there_carries_frames_and_stays() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add link va name mv0 type macvtap mode passthru");
        let text = config(
            &[("p", "")],
            &uplink("macvtap = { name = \"mv0\", queues = 2 }\nmtu = 1400"),
        );
        let mut net = start(&text, &["up"]);
        assert_eq!(links(&net.evb, "up")[0]["device"], "mv0");
        assert_eq!(links(&net.evb, "up")[0]["kind"], "macvtap");
        assert_eq!(mtu("mv0"), "1400");
        let mut wire = Wire::new("vb");
        let guest = net.at("p");
        let frame = eth(mac(600), mac(1)).number(1).bytes();
        guest.send(&frame);
        wire.expect(&frame);
        // Frames for groups too, though the host has joined none of them.
        let group = [0x33, 0x33, 0, 0, 0x12, 0x34];
        for first in [mac(1), group] {
            let frame = eth(first, mac(600)).number(2).bytes();
            wire.send(&frame);
            assert_eq!(arrived(guest), frame);
        }
        // A reload that leaves it out makes it as it was, and one that names it takes it again.
        net.reload(&config(&[("p", "")], ""));
        eventually("mv0 is as it was", || (mtu("mv0") == "1500").then_some(()));
        net.reload(&text);
        expect_state(&net.evb, "up", "running");
        net.evb.stop();
        assert!(exists("mv0"));
        assert_eq!(mtu("mv0"), "1500");
    });
}

#[test]
fn a_macvtap_device_that_is_not_as_stated_is_named_with_the_remedy() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add link va name mv0 type macvtap mode bridge");
        for (table, wanted) in [
            ("name = \"nil\"", "there is no device nil"),
            ("name = \"va\"", "va is a device of kind veth"),
            ("name = \"mv0\"", "write `mode = \"bridge\"`"),
        ] {
            let text = config(&[], &uplink(&format!("macvtap = {{ {table} }}")));
            let done = Evb::spawn(&text).finish();
            assert_eq!(done.code, Some(1));
            assert!(done.output.contains(wanted), "{wanted}:\n{}", done.output);
        }
    });
}
