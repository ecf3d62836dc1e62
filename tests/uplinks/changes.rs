//! Devices that lose their carrier, change, go and come back, while the daemon runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use evb::sys::ethtool::Ethtool;

use crate::support::guest::hex;
use crate::support::netns::{exists, in_namespace, ip, shown, skip, try_run, veth};
use crate::support::{Evb, Net, Wire, eth, eventually, mac};
use crate::{arrived, config, drops, expect_state, links, start, uplink};

const OUTSIDE: u16 = 600;
const MACVTAP: &str = "macvtap = { parent = \"va\" }";
const PACKET: &str = "af_packet = { dev = \"va\" }";
const XDP: &str = "af_xdp = { dev = \"va\" }";

fn out(number: u32) -> Vec<u8> {
    eth(mac(OUTSIDE), mac(1)).number(number).bytes()
}

fn back(number: u32) -> Vec<u8> {
    eth(mac(1), mac(OUTSIDE)).number(number).bytes()
}

/// Frames go both ways.
fn works(net: &mut Net, wire: &mut Wire, number: u32) {
    net.at("p").send(&out(number));
    wire.expect(&out(number));
    wire.send(&back(number));
    assert_eq!(hex(&arrived(net.at("p"))), hex(&back(number)));
}

/// Processor time of the daemon, in clock ticks.
fn ticks(evb: &Evb) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", evb.pid())).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let (user, system): (u64, u64) = (fields[11].parse().unwrap(), fields[12].parse().unwrap());
    user + system
}

#[test]
fn an_uplink_is_down_while_it_has_no_carrier() {
    in_namespace(|| {
        for link in [MACVTAP, PACKET, XDP] {
            veth("va", "vb");
            let mut net = start(&config(&[("p", "")], &uplink(link)), &["up"]);
            let mut wire = Wire::new("vb");
            works(&mut net, &mut wire, 1);
            assert_eq!(net.addresses("up"), 1);
            for number in 2..4 {
                let mark = net.evb.log_mark();
                ip("link set vb down");
                expect_state(&net.evb, "up", "down");
                net.evb.expect_log(mark, &["port up", "no carrier"]);
                assert_eq!(links(&net.evb, "up")[0]["carrier"], false);
                assert_eq!(links(&net.evb, "up")[0]["present"], true);
                // What was learned there is forgotten, and frames for it go nowhere and are counted.
                eventually("forgotten", || (net.addresses("up") == 0).then_some(()));
                net.lost("p", &out(number), "p", "no_receiver");
                let mark = net.evb.log_mark();
                ip("link set vb up");
                expect_state(&net.evb, "up", "running");
                net.evb.expect_log(mark, &["port up", "has a carrier"]);
                works(&mut net, &mut wire, number);
            }
            // Switched off is as good as no carrier.
            ip("link set va down");
            expect_state(&net.evb, "up", "down");
            ip("link set va up");
            expect_state(&net.evb, "up", "running");
            works(&mut net, &mut wire, 9);
            net.evb.stop();
            ip("link delete va");
        }
    });
}

#[test]
fn a_device_that_is_gone_is_opened_again_when_it_is_back() {
    in_namespace(|| {
        for link in [MACVTAP, PACKET, XDP] {
            veth("va", "vb");
            let mut net = start(&config(&[("p", "")], &uplink(link)), &["up"]);
            works(&mut net, &mut Wire::new("vb"), 1);
            for number in 2..5 {
                let mark = net.evb.log_mark();
                // In the middle of a burst.
                let burst: Vec<_> = (0..64).map(out).collect();
                net.at("p").send_burst(0, burst.iter().map(Vec::as_slice));
                ip("link delete va");
                net.at("p").drain(0);
                expect_state(&net.evb, "up", "down");
                net.evb.expect_log(mark, &["port up", "is gone"]);
                assert_eq!(links(&net.evb, "up")[0]["present"], false);
                let before = ticks(&net.evb);
                net.evb
                    .expect_log(mark, &["port up", "there is no device va"]);
                assert!(
                    ticks(&net.evb) < before + 50,
                    "the daemon is busy with nothing"
                );
                net.at("p").send(&out(number));
                veth("va", "vb");
                expect_state(&net.evb, "up", "running");
                works(&mut net, &mut Wire::new("vb"), number);
            }
            net.evb.stop();
            ip("link delete va");
        }
    });
}

#[test]
fn a_host_port_is_made_again_when_somebody_removes_it() {
    in_namespace(|| {
        let port = "[[port]]\nname = \"host\"\nrelay = \"r\"\ntap = { name = \"evb0\" }\n";
        let mut net = start(&config(&[("p", "")], port), &["host"]);
        let mark = net.evb.log_mark();
        ip("link delete evb0");
        net.evb.expect_log(mark, &["port host", "evb0 is back"]);
        expect_state(&net.evb, "host", "running");
        let mut wire = Wire::new("evb0");
        net.at("p").send(&out(1));
        wire.expect(&out(1));
        ip("link set evb0 down");
        expect_state(&net.evb, "host", "down");
        ip("link set evb0 up");
        expect_state(&net.evb, "host", "running");
        net.evb.stop();
        assert!(!exists("evb0"));
    });
}

#[test]
fn a_host_port_comes_back_also_when_it_is_removed_again_while_it_is_made() {
    in_namespace(|| {
        let port = "[[port]]\nname = \"host\"\nrelay = \"r\"\ntap = { name = \"evb0\" }\n";
        let net = start(&config(&[("p", "")], port), &["host"]);
        for _ in 0..30 {
            let made = || Path::new("/sys/class/net/evb0").exists().then_some(());
            eventually("made", made);
            // The daemon may have given it up by itself.
            let delete = ["link", "delete", "evb0"];
            Command::new("ip").args(delete).output().unwrap();
        }
        expect_state(&net.evb, "host", "running");
        net.evb.stop();
    });
}

#[test]
fn the_mtu_of_a_device_is_followed() {
    in_namespace(|| {
        veth("va", "vb");
        let mut net = start(&config(&[("p", "")], &uplink(PACKET)), &["up"]);
        let mut wire = Wire::new("vb");
        let long = eth(mac(OUTSIDE), mac(1))
            .payload(0x88b6, &[5; 1500])
            .bytes();
        net.at("p").send(&long);
        wire.expect(&long);
        ip("link set va mtu 1400");
        let mtu = |net: &Net| links(&net.evb, "up")[0]["mtu"].as_u64();
        eventually("1400", || (mtu(&net) == Some(1400)).then_some(()));
        net.lost("p", &long, "up", "oversize");
        let fits = eth(mac(OUTSIDE), mac(1))
            .payload(0x88b6, &[6; 1400])
            .bytes();
        net.at("p").send(&fits);
        wire.expect(&fits);
        for device in ["va", "vb"] {
            ip(&format!("link set {device} mtu 1700"));
        }
        eventually("1700", || (mtu(&net) == Some(1700)).then_some(()));
        let longer = eth(mac(OUTSIDE), mac(1))
            .payload(0x88b6, &[7; 1700])
            .bytes();
        net.at("p").send(&longer);
        wire.expect(&longer);
        net.evb.stop();
    });
}

#[test]
fn a_device_that_takes_no_more_holds_up_nobody() {
    in_namespace(|| {
        for link in [MACVTAP, PACKET] {
            veth("va", "vb");
            let slow = "qdisc add dev va root tbf rate 8kbit burst 2000 limit 200mb";
            if let Err(error) = try_run("tc", slow) {
                skip(&format!("no way to slow a device down: {error}"));
                return;
            }
            let ports = [("p", ""), ("q", "")];
            let mut net = start(&config(&ports, &uplink(link)), &["up"]);
            // Only the uplink is to get the flood.
            net.at("q").send(&eth(mac(1), mac(2)).bytes());
            let outside = eth(mac(1), mac(OUTSIDE)).bytes();
            Wire::new("vb").send(&outside);
            assert_eq!(hex(&arrived(net.at("q"))), hex(&outside));
            let long = eth(mac(OUTSIDE), mac(1))
                .payload(0x88b6, &[5; 1400])
                .bytes();
            for _ in 0..60 {
                net.at("p").send_burst(0, (0..100).map(|_| long.as_slice()));
            }
            net.at("p").drain(0);
            assert!(net.evb.counter("up", "uplink_busy") > 1000);
            assert_eq!(net.evb.counter("up", "uplink_error"), 0);
            // Frames between guests are as quick as ever.
            let frame = eth(mac(2), mac(1)).number(7).bytes();
            net.at("p").send(&frame);
            assert_eq!(hex(&arrived(net.at("q"))), hex(&frame));
            net.evb.stop();
            ip("link delete va");
        }
    });
}

#[test]
fn frames_from_the_wire_that_cannot_be_are_counted() {
    in_namespace(|| {
        veth("va", "vb");
        for link in [MACVTAP, PACKET, XDP] {
            let mut net = start(
                &config(
                    &[("p", "mtu = 1400\nmac_policy = \"trusted\"")],
                    &uplink(link),
                ),
                &["up"],
            );
            let mut wire = Wire::new("vb");
            let cases = [
                (eth(mac(1), [0; 6]).bytes(), "up", "zero_source"),
                (
                    eth(mac(1), [0x53, 0x54, 0, 0, 0, 1]).bytes(),
                    "up",
                    "group_source",
                ),
                (
                    eth([1, 0x80, 0xc2, 0, 0, 0x0e], mac(9)).bytes(),
                    "up",
                    "reserved",
                ),
                (
                    eth(mac(1), mac(9)).payload(0x88b6, &[1; 1450]).bytes(),
                    "p",
                    "oversize",
                ),
            ];
            net.at("p").send(&eth(mac(9), mac(1)).bytes());
            wire.expect(&eth(mac(9), mac(1)).bytes());
            for (frame, port, reason) in cases {
                let before = net.evb.counter(port, reason);
                wire.send(&frame);
                net.evb.expect_counter(port, reason, before + 1);
            }
            // A header that lies: the kernel refuses it, or finishes the frame, or it is counted.
            let dropped = |net: &Net| {
                let at = |port| drops(&net.evb, port).into_values().sum::<u64>();
                at("up") + at("p")
            };
            for header in [
                [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0],
                [1, 1, 54, 0, 1, 0, 200, 0, 16, 0, 0, 0],
                [1, 4, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0],
                [1, 0, 0, 0, 0, 0, 2, 0, 6, 0, 0, 0],
            ] {
                let before = dropped(&net);
                let sent = wire.try_send(&header, &back(1000)).is_ok();
                wire.send(&back(1001));
                let mut came = 0;
                while arrived(net.at("p")) != back(1001) {
                    came += 1;
                }
                let lost = dropped(&net) - before;
                assert_eq!(lost + came, u64::from(sent), "{link}: {header:?}");
            }
            works(&mut net, &mut wire, 3);
            net.evb.assert_alive();
            net.evb.stop();
        }
    });
}

#[test]
fn a_reload_opens_what_is_new_and_leaves_what_is_not() {
    in_namespace(|| {
        veth("va", "vb");
        veth("vc", "vd");
        let ports = [("p", "")];
        let both = |link: &str| {
            let other = "[[relay]]\nname = \"s\"\n[[uplink]]\nname = \"other\"\nrelay = \"s\"\n\
                         af_packet = { dev = \"vc\" }\n";
            config(&ports, &format!("{}{other}", uplink(link)))
        };
        let mut net = start(&both(MACVTAP), &["up", "other"]);
        works(&mut net, &mut Wire::new("vb"), 1);
        let index = |name: &str| shown(name).split(':').next().unwrap().to_owned();
        let made = index("evb-up");
        // Nothing that concerns the device: it stays as it is.
        net.reload(&both(&format!("{MACVTAP}\ntake_parent = true")));
        assert_eq!(index("evb-up"), made);
        works(&mut net, &mut Wire::new("vb"), 2);
        // More queues: it is made anew.
        net.reload(&both("macvtap = { parent = \"va\", queues = 2 }"));
        assert_ne!(index("evb-up"), made);
        expect_state(&net.evb, "up", "running");
        works(&mut net, &mut Wire::new("vb"), 3);
        // Another kind on the same device: what was made goes.
        net.reload(&both(PACKET));
        assert!(!exists("evb-up"));
        expect_state(&net.evb, "up", "running");
        works(&mut net, &mut Wire::new("vb"), 4);
        net.reload(&config(&ports, ""));
        net.reload(&both(MACVTAP));
        expect_state(&net.evb, "up", "running");
        works(&mut net, &mut Wire::new("vb"), 5);
        // A device that nobody has named at start.
        veth("vx", "vy");
        let strange = both("af_packet = { dev = \"vx\" }");
        fs::write(
            net.evb.path("evb.toml"),
            strange.replace("{dir}", net.evb.path("").to_str().unwrap()),
        )
        .unwrap();
        let (code, text) = net.reload_command();
        assert_ne!(code, Some(0));
        assert!(text.contains("vx is not one of the devices"), "{text}");
        // The file is right, and to be started with.
        assert!(!text.contains("mend the file"), "{text}");
        works(&mut net, &mut Wire::new("vb"), 6);
        net.evb.stop();
        assert!(!exists("evb-up"));
    });
}

#[test]
fn a_nic_with_sockets_is_as_before_after_the_daemon_was_killed_or_reloaded() {
    in_namespace(|| {
        veth("va", "vb");
        let features = || ["va", "vb"].map(|name| Ethtool::new().unwrap().features(name).unwrap());
        let before = features();
        let mut net = start(&config(&[("p", "")], &uplink(XDP)), &["up"]);
        let mut wire = Wire::new("vb");
        works(&mut net, &mut wire, 1);
        assert_ne!(features(), before);
        // Another kind on the same device, and back.
        for number in 0..3 {
            net.reload(&config(&[("p", "")], &uplink(PACKET)));
            expect_state(&net.evb, "up", "running");
            assert!(features() == before);
            works(&mut net, &mut wire, 2 + 2 * number);
            net.reload(&config(&[("p", "")], &uplink(XDP)));
            expect_state(&net.evb, "up", "running");
            works(&mut net, &mut wire, 3 + 2 * number);
        }
        drop(net.evb.crash());
        eventually("the features are back", || {
            (features() == before).then_some(())
        });
        assert!(!shown("va").contains("prog/xdp"));
    });
}

#[test]
fn nothing_stays_behind_a_daemon_that_was_killed() {
    in_namespace(|| {
        veth("va", "vb");
        let port = "[[port]]\nname = \"host\"\nrelay = \"r\"\ntap = { name = \"evb0\" }\n";
        let text = config(&[("p", "")], &format!("{port}{}", uplink(MACVTAP)));
        let net = start(&text, &["up", "host"]);
        assert!(exists("evb0") && exists("evb-up"));
        drop(net.evb.crash());
        for device in ["evb0", "evb-up"] {
            eventually(device, || (!exists(device)).then_some(()));
        }
        assert!(exists("va"));
    });
}
