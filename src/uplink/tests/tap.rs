//! TAP devices.

use std::os::fd::AsRawFd;

use super::*;
use crate::sys::poller::Poller;
use crate::uplink::{Kind, TapSpec};

pub fn spec(name: &str) -> TapSpec {
    TapSpec {
        name: name.to_owned(),
        queues: 1,
        mac: None,
        mtu: None,
        owner: None,
        group: None,
    }
}

#[test]
fn a_device_is_made_as_told_and_gone_with_its_descriptor() {
    in_namespace(|| {
        let mac = [0x52, 0x54, 0, 0, 0, 0xfe];
        let wanted = TapSpec {
            mac: Some(mac),
            mtu: Some(9000),
            owner: Some(65534),
            group: Some(65534),
            ..spec("evb0")
        };
        let (link, created) = link(&Spec::Tap(wanted));
        assert!(created.is_none());
        assert_eq!(link.kind(), Kind::Tap);
        assert_eq!(link.name(), "evb0");
        assert_eq!(link.mac(), mac.into());
        assert_eq!(link.mtu(), 9000);
        assert!(
            link.accepts().contains(
                super::super::Facts {
                    kind: Kind::Tap,
                    name: String::new(),
                    ifindex: 0,
                    mac,
                    mtu: 0,
                    uso: true,
                    generic: false,
                }
                .accepts()
            )
        );
        let directory = std::path::Path::new("/sys/class/net/evb0");
        let read = |file| std::fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(read("address").trim(), "52:54:00:00:00:fe");
        assert_eq!(read("mtu").trim(), "9000");
        assert_eq!(read("owner").trim(), "65534");
        assert_eq!(read("group").trim(), "65534");
        assert_eq!(read("ifindex").trim(), link.ifindex().to_string());
        drop(link);
        assert!(!exists("evb0"));
    });
}

#[test]
fn frames_go_both_ways_with_their_headers() {
    in_namespace(|| {
        let (tap, _) = link(&Spec::Tap(spec("evb0")));
        let host = wire("evb0");
        all_kinds_arrive(&tap, &host, false);
        all_kinds_arrive(&host, &tap, true);
    });
}

#[test]
fn a_queue_is_ready_once_for_each_arrival() {
    in_namespace(|| {
        ip("link set lo up");
        let (tap, _) = link(&Spec::Tap(spec("evb0")));
        let host = wire("evb0");
        let queue = &tap.queues()[0];
        receive_all(queue, 0);
        let poller = Poller::new().unwrap();
        poller.add(queue, 7).unwrap();
        let packet = Packet::new(false, true, 60);
        let mut ready = 0;
        for _ in 0..3 {
            send(&host, packet.needs_csum(), &packet.partial());
            poller
                .wait(10_000, |token| {
                    assert_eq!(token, 7);
                    ready += 1;
                })
                .unwrap();
            assert_eq!(receive_all(queue, 1).len(), 1);
        }
        assert!(ready >= 3, "{ready}");
        assert!(queue.as_raw_fd() >= 0);
    });
}

#[test]
fn several_queues_share_the_flows() {
    in_namespace(|| {
        let wanted = TapSpec {
            queues: 4,
            ..spec("evb0")
        };
        let (tap, _) = link(&Spec::Tap(wanted));
        assert_eq!(tap.queues().len(), 4);
        let host = wire("evb0");
        for queue in tap.queues() {
            let packet = Packet::new(true, false, 100);
            send_on(queue, packet.needs_csum(), &packet.partial()).unwrap();
        }
        assert_eq!(receive_all(&host.queues()[0], 4).len(), 4);
        flows_spread(&host, &tap);
    });
}

#[test]
fn a_persistent_device_is_taken_and_stays() {
    in_namespace(|| {
        ip("tuntap add dev one mode tap");
        ip("tuntap add dev many mode tap multi_queue");
        ip("link set one address 52:54:00:00:00:07");
        for (name, queues) in [("one", 1), ("many", 1), ("many", 3)] {
            let wanted = TapSpec {
                queues,
                ..spec(name)
            };
            let (tap, _) = link(&Spec::Tap(wanted));
            let packet = Packet::new(false, false, 5000);
            send(&tap, packet.gso(1400), &packet.partial());
            if name == "one" {
                assert_eq!(tap.mac().to_string(), "52:54:00:00:00:07");
            }
            drop(tap);
            assert!(exists(name));
        }
        let wanted = TapSpec {
            queues: 2,
            ..spec("one")
        };
        let error = refusal(&Spec::Tap(wanted)).to_string();
        let expected = "one exists and has one queue only; set `queues = 1`, or make it with `ip \
                        tuntap add dev one mode tap multi_queue`";
        assert_eq!(error, expected);
    });
}

#[test]
fn a_device_without_a_configured_address_has_the_same_again() {
    in_namespace(|| {
        let address = |name: &str| link(&Spec::Tap(spec(name))).0.mac().octets();
        let first = address("evb0");
        assert_eq!(first[0] & 3, 2, "{first:02x?}");
        assert!(!exists("evb0"));
        assert_eq!(address("evb0"), first);
        assert_ne!(address("evb1"), first);
        in_namespace(move || {
            assert_ne!(link(&Spec::Tap(spec("evb0"))).0.mac().octets(), first);
        });
        // One that is there has an address, which is not ours to change.
        ip("tuntap add dev evb0 mode tap");
        ip("link set evb0 address 52:54:00:00:00:07");
        assert_eq!(address("evb0"), [0x52, 0x54, 0, 0, 0, 7]);
    });
}

#[test]
fn a_persistent_device_gets_an_owner_and_a_group_that_are_configured() {
    in_namespace(|| {
        ip("tuntap add dev evb0 mode tap user 1 group 2");
        let read = |file| std::fs::read_to_string(format!("/sys/class/net/evb0/{file}")).unwrap();
        let ids = || {
            (
                read("owner").trim().to_owned(),
                read("group").trim().to_owned(),
            )
        };
        link(&Spec::Tap(spec("evb0")));
        assert_eq!(ids(), ("1".to_owned(), "2".to_owned()));
        let wanted = TapSpec {
            owner: Some(65534),
            group: Some(65533),
            ..spec("evb0")
        };
        link(&Spec::Tap(wanted));
        assert_eq!(ids(), ("65534".to_owned(), "65533".to_owned()));
    });
}

#[test]
fn a_name_that_is_taken_is_told_with_what_has_it() {
    in_namespace(|| {
        veth("va", "vb");
        ip("tuntap add dev tun0 mode tun");
        for (name, found) in [
            ("va", "a device of kind veth"),
            ("lo", "a device that is no TAP device"),
            ("tun0", "a TUN device, which carries no Ethernet frames"),
        ] {
            let expected = LinkError::NameTaken {
                device: name.into(),
                found: found.into(),
            };
            assert_eq!(refusal(&Spec::Tap(spec(name))), expected);
        }
        let error = refusal(&Spec::Tap(spec("va"))).to_string();
        let expected = "the name is taken by a device of kind veth; choose another, or remove that \
                        one with `ip link delete dev va` if nobody needs it";
        assert_eq!(error, expected);
    });
}

#[test]
fn a_device_in_use_is_not_shared() {
    in_namespace(|| {
        ip("tuntap add dev one mode tap");
        ip("tuntap add dev many mode tap multi_queue");
        for name in ["one", "many", "new"] {
            let wanted = Spec::Tap(spec(name));
            let first = link(&wanted);
            let expected = LinkError::InUse {
                device: name.into(),
            };
            assert_eq!(refusal(&wanted), expected);
            drop(first);
            link(&wanted);
        }
    });
}

#[test]
fn what_the_kernel_refuses_leaves_nothing_behind() {
    in_namespace(|| {
        let wanted = TapSpec {
            mac: Some([1, 0, 0, 0, 0, 1]),
            ..spec("evb0")
        };
        let error = refusal(&Spec::Tap(wanted)).to_string();
        assert!(error.contains("setting up evb0"), "{error}");
        assert!(
            error.ends_with("`mac` must be a unicast address"),
            "{error}"
        );
        assert!(!exists("evb0"));
    });
}
