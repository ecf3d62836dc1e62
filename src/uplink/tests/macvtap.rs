//! MACVTAP devices over veth.

use std::process::Command;

use super::*;
use crate::uplink::{FoundSpec, Kind, MacvtapMode, MacvtapSpec};

const MODES: [MacvtapMode; 4] = [
    MacvtapMode::Passthru,
    MacvtapMode::Bridge,
    MacvtapMode::Vepa,
    MacvtapMode::Private,
];

fn spec(mode: MacvtapMode) -> MacvtapSpec {
    MacvtapSpec {
        name: "evb-up0".to_owned(),
        parent: "va".to_owned(),
        mode,
        queues: 1,
        mac: Some(HERE),
        mtu: None,
        take_parent: false,
    }
}

#[test]
fn frames_go_both_ways_in_every_mode() {
    for mode in MODES {
        in_namespace(move || {
            veth("va", "vb");
            let (link, created) = link(&Spec::Macvtap(spec(mode)));
            assert_eq!(link.kind(), Kind::Macvtap);
            assert_eq!(link.name(), "evb-up0");
            assert_eq!(link.mac() == HERE.into(), mode != MacvtapMode::Passthru);
            let wire = wire("vb");
            all_kinds_arrive(&link, &wire, false);
            all_kinds_arrive(&wire, &link, true);
            created.unwrap().remove().unwrap();
            assert!(!exists("evb-up0"));
        });
    }
}

#[test]
fn a_device_without_a_configured_address_has_the_same_again() {
    in_namespace(|| {
        veth("va", "vb");
        let address = |name: &str| {
            let wanted = MacvtapSpec {
                name: name.to_owned(),
                mac: None,
                ..spec(MacvtapMode::Bridge)
            };
            let (link, created) = link(&Spec::Macvtap(wanted));
            created.unwrap().remove().unwrap();
            link.mac().octets()
        };
        let first = address("evb-up0");
        assert_eq!(first[0] & 3, 2, "{first:02x?}");
        assert_eq!(address("evb-up0"), first);
        assert_ne!(address("evb-up1"), first);
    });
}

#[test]
fn udp_is_segmented_on_arrival_and_whole() {
    in_namespace(|| {
        veth("va", "vb");
        let (link, _created) = link(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
        let wire = wire("vb");
        let packet = Packet::new(false, true, 5000);
        send(&wire, packet.gso(1400), &turned(&packet.partial()));
        let segments = receive_all(&link.queues()[0], 4);
        let mut payload: Vec<u8> = vec![];
        for (_, segment) in &segments {
            payload.extend(&segment[packet.header_len()..]);
        }
        assert!(payload == packet.payload);
    });
}

#[test]
fn frames_for_others_arrive_in_passthru_mode_only_and_those_for_groups_always() {
    for mode in MODES {
        in_namespace(move || {
            veth("va", "vb");
            let (link, _created) = link(&Spec::Macvtap(spec(mode)));
            let wire = wire("vb");
            let packet = Packet::new(false, true, 100);
            for (first, expected) in [
                ([0x52, 0, 0, 0, 0, 9], mode == MacvtapMode::Passthru),
                ([0x01, 0, 0x5e, 1, 2, 3], true),
                ([0x33, 0x33, 0, 0, 0x12, 0x34], true),
                ([0xff; 6], true),
            ] {
                let mut frame = turned(&packet.partial());
                frame[..6].copy_from_slice(&first);
                send(&wire, packet.needs_csum(), &frame);
                let arrived = receive_all(&link.queues()[0], usize::from(expected));
                assert_eq!(arrived.len(), usize::from(expected), "{mode} {first:?}");
            }
        });
    }
}

#[test]
fn the_host_is_silent_on_the_device() {
    in_namespace(|| {
        veth("va", "vb");
        let wire = wire("vb");
        let (_link, _created) = link(&Spec::Macvtap(spec(MacvtapMode::Passthru)));
        thread::sleep(Duration::from_millis(1500));
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut solicitations = 0;
        while let Ok(received) = wire.queues()[0].receive(&mut buffer) {
            let (_, frame) = received.split(&mut buffer);
            // ICMPv6 behind a plain header: router and neighbour solicitation.
            solicitations += usize::from(frame[12..14] == [0x86, 0xdd] && frame[20] == 58);
        }
        assert_eq!(solicitations, 0);
    });
}

#[test]
fn several_queues_share_the_flows() {
    in_namespace(|| {
        veth("va", "vb");
        let wanted = MacvtapSpec {
            queues: 4,
            ..spec(MacvtapMode::Passthru)
        };
        let (link, _created) = link(&Spec::Macvtap(wanted));
        let wire = wire("vb");
        flows_spread(&wire, &link);
    });
}

fn mtu(name: &str) -> u16 {
    let path = format!("/sys/class/net/{name}/mtu");
    let text = std::fs::read_to_string(path).unwrap();
    text.trim().parse().unwrap()
}

#[test]
fn what_one_raised_is_lowered_when_nobody_needs_it_any_more() {
    in_namespace(|| {
        veth("va", "vb");
        let open = |name: &str, mtu| {
            let wanted = MacvtapSpec {
                name: name.to_owned(),
                mac: None,
                mtu: Some(mtu),
                ..spec(MacvtapMode::Bridge)
            };
            let (link, created) = link(&Spec::Macvtap(wanted));
            (link, created.unwrap())
        };
        // The first raises, another raises further or has what it needs; they end in any order.
        for mtus in [[4000, 9000, 9000], [9000, 9000, 4000]] {
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
                let mut left = vec![];
                for (name, mtu) in ["evb-a", "evb-b", "evb-c"].iter().zip(mtus) {
                    left.push(Some((open(name, mtu), mtu)));
                }
                assert_eq!(mtu("va"), 9000);
                for index in order {
                    let ((_, ended), _) = left[index].take().unwrap();
                    ended.remove().unwrap();
                    ended.bequeath(left.iter_mut().flatten().map(|((_, other), _)| other));
                    for ((link, _), wanted) in left.iter().flatten() {
                        assert_eq!(mtu(link.name()), *wanted, "{mtus:?} {order:?}");
                    }
                    let needed = left.iter().flatten().map(|(_, wanted)| *wanted).max();
                    assert!(mtu("va") >= needed.unwrap_or(0), "{mtus:?} {order:?}");
                }
                assert_eq!(mtu("va"), 1500, "{mtus:?} {order:?}");
            }
        }
        // Nor is it taken from a device of somebody else's.
        let (_link, raised) = open("evb-a", 9000);
        ip("link add link va name other mtu 3000 type macvlan mode bridge");
        raised.remove().unwrap();
        assert_eq!((mtu("va"), mtu("other")), (3000, 3000));
    });
}

#[test]
fn the_mtu_is_that_of_the_parent_or_raises_it_for_a_time() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link set va mtu 2000");
        for (wanted, own, parents) in [
            (None, 2000, 2000),
            (Some(1400), 1400, 2000),
            (Some(9000), 9000, 9000),
        ] {
            let wanted = MacvtapSpec {
                mtu: wanted,
                ..spec(MacvtapMode::Bridge)
            };
            let (link, created) = link(&Spec::Macvtap(wanted));
            assert_eq!(link.mtu(), own);
            assert_eq!(mtu("evb-up0"), own);
            assert_eq!(mtu("va"), parents);
            created.unwrap().remove().unwrap();
            assert_eq!(mtu("va"), 2000);
        }
    });
}

#[test]
fn a_parent_that_connects_the_host_is_refused_unless_told() {
    in_namespace(|| {
        veth("va", "vb");
        let refused = |addresses: &[&str], routes: &[&str]| {
            let error = refusal(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
            let LinkError::Occupied { parent, occupied } = &error else {
                panic!("{error}");
            };
            assert_eq!(parent, "va");
            assert_eq!(occupied.addresses, addresses);
            assert_eq!(occupied.default_routes, routes);
            assert!(error.to_string().contains("take_parent = true"));
            assert!(!exists("evb-up0"));
        };
        ip("addr add 192.0.2.5/24 dev va");
        refused(&["192.0.2.5/24"], &[]);
        ip("route add default via 192.0.2.1 dev va");
        refused(&["192.0.2.5/24"], &["192.0.2.1"]);
        ip("addr flush dev va");
        ip("addr add 2001:db8::5/64 dev va nodad");
        refused(&["2001:db8::5/64"], &[]);
        ip("addr flush dev va");
        ip("route add default dev va");
        refused(&[], &["on-link"]);
        ip("route add 198.51.100.0/24 dev va");
        let wanted = MacvtapSpec {
            take_parent: true,
            ..spec(MacvtapMode::Bridge)
        };
        link(&Spec::Macvtap(wanted)).1.unwrap().remove().unwrap();
        ip("route del default");
        // An address that every device has, or a route to elsewhere, is no obstacle.
        ip("addr add fe80::1/64 dev va nodad");
        link(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
    });
}

#[test]
fn a_parent_that_cannot_be_used_is_told_with_the_reason() {
    in_namespace(|| {
        let error = |wanted| refusal(&Spec::Macvtap(wanted)).to_string();
        assert_eq!(
            error(spec(MacvtapMode::Passthru)),
            "there is no device va in this network namespace; create it or correct the name"
        );
        ip("link add va type veth peer name vb");
        assert_eq!(
            error(spec(MacvtapMode::Passthru)),
            "va is down; switch it on with `ip link set dev va up`"
        );
        ip("link set va up");
        let on_lo = MacvtapSpec {
            parent: "lo".into(),
            ..spec(MacvtapMode::Passthru)
        };
        ip("link set lo up");
        assert_eq!(
            error(on_lo),
            "lo carries no Ethernet frames; choose another device"
        );
        let second = |mode| MacvtapSpec {
            name: "evb-up1".into(),
            ..spec(mode)
        };
        let taken = LinkError::ParentTaken {
            parent: "va".into(),
        };
        let (_link, created) = link(&Spec::Macvtap(spec(MacvtapMode::Passthru)));
        for mode in MODES {
            assert_eq!(refusal(&Spec::Macvtap(second(mode))), taken);
        }
        created.unwrap().remove().unwrap();
        let (_link, created) = link(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
        let other = second(MacvtapMode::Passthru);
        assert_eq!(refusal(&Spec::Macvtap(other)), taken);
        let same_address = LinkError::AddressTaken {
            parent: "va".into(),
        };
        let other = second(MacvtapMode::Bridge);
        assert_eq!(refusal(&Spec::Macvtap(other)), same_address);
        created.unwrap().remove().unwrap();
        ip("link add br0 type bridge");
        ip("link set va master br0");
        assert_eq!(refusal(&Spec::Macvtap(spec(MacvtapMode::Vepa))), taken);
    });
}

fn found(name: &str) -> FoundSpec {
    FoundSpec {
        name: name.to_owned(),
        parent: None,
        mode: MacvtapMode::Vepa,
        queues: 1,
        mac: None,
        mtu: None,
    }
}

/// Whether a device has a flag of `ip link show`.
fn has_flag(name: &str, flag: &str) -> bool {
    let shown = Command::new("ip").args(["link", "show", name]).output();
    let text = String::from_utf8(shown.unwrap().stdout).unwrap();
    let flags = text.split(['<', '>']).nth(1).unwrap().to_owned();
    flags.split(',').any(|found| found == flag)
}

#[test]
fn one_that_is_there_is_taken_and_made_as_it_was() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add link va name mv0 address 02:00:00:00:00:77 type macvtap mode vepa");
        let changed = FoundSpec {
            parent: Some("va".to_owned()),
            mac: Some([2, 0, 0, 0, 0, 0x77]),
            mtu: Some(1400),
            queues: 2,
            ..found("mv0")
        };
        for on in [false, true] {
            if on {
                ip("link set mv0 up allmulticast on");
            }
            let (link, created) = link(&Spec::Found(changed.clone()));
            assert_eq!((link.kind(), link.name()), (Kind::Macvtap, "mv0"));
            assert_eq!((link.mtu(), mtu("mv0"), mtu("va")), (1400, 1400, 1500));
            assert!(has_flag("mv0", "UP") && has_flag("mv0", "ALLMULTI"));
            drop(link);
            created.unwrap().remove().unwrap();
            assert_eq!(mtu("mv0"), 1500);
            assert_eq!(
                (has_flag("mv0", "UP"), has_flag("mv0", "ALLMULTI")),
                (on, on)
            );
        }
        let (link, created) = link(&Spec::Found(found("mv0")));
        all_kinds_arrive(&link, &wire("vb"), false);
        // Somebody else may have removed it by then.
        ip("link delete mv0");
        created.unwrap().remove().unwrap();
    });
}

#[test]
fn one_that_is_there_and_not_as_stated_is_left_alone() {
    in_namespace(|| {
        veth("va", "vb");
        veth("vc", "vd");
        ip("link add link va name mv0 address 02:00:00:00:00:77 type macvtap mode vepa");
        let stated = |change: fn(&mut FoundSpec)| {
            let mut wanted = found("mv0");
            change(&mut wanted);
            refusal(&Spec::Found(wanted)).to_string()
        };
        for (error, expected) in [
            (
                stated(|wanted| wanted.name = "mv1".to_owned()),
                "there is no device mv1 in this network namespace; create it or correct the name",
            ),
            (
                stated(|wanted| wanted.name = "vd".to_owned()),
                "vd is a device of kind veth; name another",
            ),
            (
                stated(|wanted| wanted.mode = MacvtapMode::Bridge),
                "mv0 is a MACVTAP device in mode vepa, not bridge; write `mode = \"vepa\"`, or name another",
            ),
            (
                stated(|wanted| wanted.parent = Some("vc".to_owned())),
                "mv0 is on va, not on vc; write `parent = \"va\"`, or name another",
            ),
            (
                stated(|wanted| wanted.mac = Some(HERE)),
                "mv0 has the address 02:00:00:00:00:77, not 02:00:00:00:00:01 as the VM behind it; set it with \
                 `ip link set dev mv0 address 02:00:00:00:00:01`",
            ),
            (
                stated(|wanted| wanted.mtu = Some(9000)),
                "mv0 cannot have an MTU of 9000 on va, which has one of 1500; set that with `ip link set dev va mtu \
                 9000`, or choose a smaller `mtu`",
            ),
        ] {
            assert_eq!(error, expected);
        }
        assert!(!has_flag("mv0", "UP"));
        ip("link set va down");
        let down = stated(|_| {});
        assert!(down.contains("`ip link set dev va up`"), "{down}");
        // One that is to be made is not made of it.
        ip("link set va up");
        let wanted = MacvtapSpec {
            name: "mv0".to_owned(),
            ..spec(MacvtapMode::Vepa)
        };
        let expected = LinkError::NameTaken {
            device: "mv0".to_owned(),
            found: "a MACVTAP device in mode vepa".to_owned(),
        };
        assert_eq!(refusal(&Spec::Macvtap(wanted)), expected);
    });
}

#[test]
fn the_same_number_in_another_namespace_is_another_device() {
    in_namespace(|| {
        veth("va", "vb");
        let (outer, _created) = link(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
        let ifindex = outer.ifindex();
        in_namespace(move || {
            veth("va", "vb");
            let (inner, _created) = link(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
            assert_eq!(inner.ifindex(), ifindex);
            all_kinds_arrive(&inner, &wire("vb"), false);
        });
        all_kinds_arrive(&outer, &wire("vb"), false);
        let left = std::fs::read_dir("/dev").unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            let ours = format!(".evb-{}-", std::process::id());
            name.to_string_lossy().starts_with(&ours)
        });
        assert_eq!(left.count(), 0);
    });
}

#[test]
fn what_fails_on_the_way_leaves_nothing_behind() {
    in_namespace(|| {
        veth("va", "vb");
        let (_link, _created) = link(&Spec::Macvtap(spec(MacvtapMode::Bridge)));
        let second = |mac| MacvtapSpec {
            name: "evb-up1".into(),
            mac: Some(mac),
            mtu: Some(9000),
            ..spec(MacvtapMode::Bridge)
        };
        // Refused when it is made, and when it is switched on.
        let error = refusal(&Spec::Macvtap(second([1, 0, 0, 0, 0, 1]))).to_string();
        assert!(
            error.ends_with("`mac` must be a unicast address"),
            "{error}"
        );
        let taken = LinkError::AddressTaken {
            parent: "va".into(),
        };
        assert_eq!(refusal(&Spec::Macvtap(second(HERE))), taken);
        assert!(!exists("evb-up1"));
        assert_eq!(mtu("va"), 1500);
    });
}
