//! The devices that a configuration needs.

use std::fmt::Write;

use super::{mac, valid};
use crate::uplink::sriov::{FunctionSettings, Serves, SriovSpec, Via};
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
                sheltered: false,
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

/// What the virtual function of relay blue's uplink is told, given the words of the relay's ports and
/// of the uplink.
fn function(ports: &[&str], uplink: &str) -> SriovSpec {
    let mut text = "[[relay]]\nname = \"blue\"\n".to_owned();
    for (number, words) in ports.iter().enumerate() {
        writeln!(
            text,
            "[[port]]\nname = \"vm{number}\"\nlisten = \"/run/vm{number}.sock\"\n{words}"
        )
        .unwrap();
    }
    let config = valid(&format!("{text}[[uplink]]\nname = \"up0\"\n{uplink}\n"));
    match config.specs().remove("up0") {
        Some(Spec::Sriov(spec)) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_virtual_function_is_told_whom_it_serves() {
    const MAC: &str = "mac = [\"52:54:00:00:00:01\"]\nmac_policy = \"pinned\"\n";
    const OTHER: &str = "mac = [\"52:54:00:00:00:02\"]\nmac_policy = \"pinned\"\n";
    const VF: &str = "sriov = { pf = \"eth1\", vf = 3 }\n";
    let mine = [0x52, 0x54, 0, 0, 0, 1];
    let other = [0x52, 0x54, 0, 0, 0, 2];
    let serves = |macs: &[[u8; 6]], open, tagged| Serves {
        macs: macs.to_vec(),
        open,
        tagged,
    };
    let table = [
        (
            vec![MAC.to_owned()],
            String::new(),
            serves(&[mine], false, false),
        ),
        (
            vec![OTHER.to_owned(), MAC.to_owned()],
            String::new(),
            serves(&[mine, other], false, false),
        ),
        // A bridge port learns, and one that is pinned to what comes first may be anybody.
        (
            vec!["mac = [\"52:54:00:00:00:01\"]".to_owned()],
            String::new(),
            serves(&[mine], true, false),
        ),
        (
            vec!["mode = \"vepa\"".to_owned()],
            String::new(),
            serves(&[], true, false),
        ),
        (
            vec![format!("{MAC}access = 7")],
            "access = 7".to_owned(),
            serves(&[mine], false, false),
        ),
        (
            vec![format!("{MAC}access = 7")],
            String::new(),
            serves(&[mine], false, true),
        ),
        (
            vec![format!("{MAC}access = 7")],
            "trunk = [7]\nnative = 7".to_owned(),
            serves(&[mine], false, false),
        ),
        (
            vec![format!("{MAC}access = 7")],
            "trunk = [7, 8]\nnative = 7".to_owned(),
            serves(&[mine], false, true),
        ),
        (
            vec![format!("{MAC}access = 7")],
            "qinq = 7".to_owned(),
            serves(&[mine], false, true),
        ),
        (
            vec!["mode = \"passthrough\"".to_owned()],
            String::new(),
            serves(&[], true, false),
        ),
    ];
    for (ports, words, expected) in table {
        let ports: Vec<_> = ports.iter().map(String::as_str).collect();
        let spec = function(&ports, &format!("{VF}{words}"));
        assert_eq!(spec.serves, expected, "{ports:?} {words}");
    }
}

#[test]
fn a_virtual_function_is_made_and_set_as_written() {
    let words = "mtu = 9000\ntake_parent = true\nsriov = { pf = \"eth1\", vf = 1, create = 2, vlan = 7, \
                 queues = 2, via = \"af_packet\" }";
    let expected = SriovSpec {
        pf: "eth1".into(),
        vf: 1,
        create: Some(2),
        settings: FunctionSettings {
            vlan: Some(7),
            ..FunctionSettings::default()
        },
        serves: Serves {
            open: true,
            ..Serves::default()
        },
        via: Via::Packet,
        queues: 2,
        mtu: Some(9000),
        take_parent: true,
    };
    assert_eq!(function(&[""], words), expected);
    let by_default = function(&[""], "sriov = { pf = \"eth1\", vf = 1 }").via;
    let name = "evb-up0".into();
    assert_eq!(by_default, Via::Macvtap { name });
}
