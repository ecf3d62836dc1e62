//! The devices that a configuration needs.

use super::{mac, valid};
use crate::uplink::{HandedSpec, MacvtapMode, MacvtapSpec, PacketSpec, Spec, TapSpec, XdpSpec};

#[test]
fn each_device_is_wanted_once_and_as_written() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[port]]
        name = "host"
        relay = "blue"
        tap = { name = "evb0", mac = "52:54:00:00:00:fe" }
        queues = 2
        mtu = 9000
        [[uplink]]
        name = "pair"
        relay = "blue"
        bond = ["up0a", "up0b"]
        [[uplink]]
        name = "up0a"
        macvtap = { parent = "eth1", mode = "passthru", queues = 4 }
        take_parent = true
        [[uplink]]
        name = "up0b"
        af_packet = { dev = "eth2" }
        [[relay]]
        name = "red"
        [[port]]
        name = "vm1"
        relay = "red"
        listen = "/run/vm1.sock"
        mac = ["52:54:00:00:00:01"]
        [[uplink]]
        name = "up1"
        relay = "red"
        macvtap = { parent = "eth3", mode = "vepa" }
        mtu = 1400
        [[relay]]
        name = "green"
        [[uplink]]
        name = "up2"
        relay = "green"
        af_xdp = { dev = "eth4", queues = 2 }
        take_parent = true
        "#,
    );
    let expected = [
        (
            "host",
            Spec::Tap(TapSpec {
                name: "evb0".into(),
                queues: 2,
                mac: Some(mac("52:54:00:00:00:fe").octets()),
                mtu: Some(9000),
                owner: None,
                group: None,
            }),
        ),
        (
            "up0a",
            Spec::Macvtap(MacvtapSpec {
                name: "evb-up0a".into(),
                adopt: false,
                parent: "eth1".into(),
                mode: MacvtapMode::Passthru,
                queues: 4,
                mac: None,
                mtu: None,
                take_parent: true,
            }),
        ),
        (
            "up0b",
            Spec::Packet(PacketSpec {
                device: "eth2".into(),
                queues: 1,
            }),
        ),
        (
            "up1",
            Spec::Macvtap(MacvtapSpec {
                name: "evb-up1".into(),
                adopt: false,
                parent: "eth3".into(),
                mode: MacvtapMode::Vepa,
                queues: 1,
                mac: Some(mac("52:54:00:00:00:01").octets()),
                mtu: Some(1400),
                take_parent: false,
            }),
        ),
        (
            "up2",
            Spec::Xdp(XdpSpec {
                device: "eth4".into(),
                queues: 2,
                take_parent: true,
            }),
        ),
    ];
    assert_eq!(config.specs(), expected.into());
}

#[test]
fn devices_that_are_handed_in_are_named_by_their_descriptors() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[port]]
        name = "host"
        relay = "blue"
        tap = { fd = [5, 6], mac = "52:54:00:00:00:fe" }
        [[uplink]]
        name = "up0"
        relay = "blue"
        macvtap = { name = "macvtap0", fd = 7 }
        [[relay]]
        name = "red"
        [[port]]
        name = "vm1"
        relay = "red"
        listen = "/run/vm1.sock"
        mac = ["52:54:00:00:00:01"]
        [[uplink]]
        name = "up1"
        relay = "red"
        macvtap = { fd = 8, mode = "vepa" }
        "#,
    );
    assert_eq!(config.ports["host"].queues, 2);
    let mac = |text| Some(mac(text).octets());
    let expected = [
        ("host", vec![5, 6], None, None, mac("52:54:00:00:00:fe")),
        (
            "up0",
            vec![7],
            Some("macvtap0"),
            Some(MacvtapMode::Passthru),
            None,
        ),
        (
            "up1",
            vec![8],
            None,
            Some(MacvtapMode::Vepa),
            mac("52:54:00:00:00:01"),
        ),
    ];
    let expected = expected.map(|(link, descriptors, name, macvtap, mac)| {
        let spec = HandedSpec {
            descriptors,
            name: name.map(str::to_owned),
            macvtap,
            mac,
        };
        (link, Spec::Handed(spec))
    });
    assert_eq!(config.specs(), expected.into());
}

#[test]
fn a_tap_device_may_belong_to_a_user() {
    let config = valid(
        "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"host\"\n\
         tap = { name = \"evb0\", owner = 1000, group = 0 }\n",
    );
    let Spec::Tap(tap) = &config.specs()["host"] else {
        panic!("no TAP device");
    };
    assert_eq!((tap.owner, tap.group), (Some(1000), Some(0)));
}

#[test]
fn links_by_socket_need_no_device() {
    let config = valid(
        "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\n\
         [[uplink]]\nname = \"up0\"\nconnect = \"/run/up0.sock\"\n",
    );
    assert!(config.specs().is_empty());
}
