//! The devices that a configuration needs.

use super::{mac, valid};
use crate::uplink::{MacvtapMode, MacvtapSpec, PacketSpec, Spec, TapSpec, XdpSpec};

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
fn links_by_socket_need_no_device() {
    let config = valid(
        "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\n\
         [[uplink]]\nname = \"up0\"\nconnect = \"/run/up0.sock\"\n",
    );
    assert!(config.specs().is_empty());
}
