//! Uplinks, bonds and patches: every kind, every word, every default.

use std::path::PathBuf;

use super::{mac, valid, vid, vids};
use crate::config::{
    Attachment, Link, LinkKind, MacvtapMode, Member, Patch, Sriov, Tap, Uplink, Via,
};
use crate::relay::{MacPolicy, Mode, PortConfig, Role, VlanConfig};
use crate::uplink::sriov::FunctionSettings;

fn plain(kind: LinkKind, queues: u16) -> Attachment {
    Attachment::Single(Link {
        kind,
        queues,
        take_parent: false,
    })
}

/// The uplink with `words`, of a relay with one VM that has one address.
fn uplink(words: &str) -> Uplink {
    let mut config = valid(&format!(
        "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\n\
         mac = [\"52:54:00:00:00:09\"]\n[[uplink]]\nname = \"up0\"\n{words}\n"
    ));
    config.uplinks.remove("up0").unwrap()
}

#[test]
fn a_macvtap_device_that_is_there() {
    for (words, parent, mode, queues) in [
        (
            r#"name = "mv0", queues = 2"#,
            None,
            MacvtapMode::Passthru,
            2,
        ),
        (
            r#"name = "mv0", parent = "eth1", mode = "vepa""#,
            Some("eth1".to_owned()),
            MacvtapMode::Vepa,
            1,
        ),
    ] {
        let name = "mv0".to_owned();
        let expected = plain(LinkKind::Found { name, parent, mode }, queues);
        let found = uplink(&format!("macvtap = {{ {words} }}"));
        assert_eq!(found.attachment, expected, "{words}");
    }
}

#[test]
fn kinds_of_uplink() {
    let tap = |mac| {
        LinkKind::Tap(Tap {
            name: "evb0".to_owned(),
            mac,
            owner: None,
            group: None,
        })
    };
    let eth1 = || "eth1".to_owned();
    let macvtap = |mode| LinkKind::Macvtap {
        parent: eth1(),
        mode,
    };
    let sriov = |via| {
        LinkKind::Sriov(Sriov {
            pf: eth1(),
            vf: 3,
            via,
            create: None,
            settings: FunctionSettings::default(),
        })
    };
    let table = [
        (
            r#"listen = "/run/up.sock""#,
            plain(LinkKind::Listen(PathBuf::from("/run/up.sock")), 8),
        ),
        (
            "connect = \"/run/up.sock\"\nqueues = 4",
            plain(LinkKind::Connect(PathBuf::from("/run/up.sock")), 4),
        ),
        (r#"tap = { name = "evb0" }"#, plain(tap(None), 1)),
        (
            r#"tap = { name = "evb0", mac = "52:54:00:00:00:01" }"#,
            plain(tap(Some(mac("52:54:00:00:00:01"))), 1),
        ),
        (
            r#"macvtap = { parent = "eth1" }"#,
            plain(macvtap(MacvtapMode::Passthru), 1),
        ),
        (
            r#"macvtap = { parent = "eth1", mode = "passthru", queues = 4 }"#,
            plain(macvtap(MacvtapMode::Passthru), 4),
        ),
        (
            r#"macvtap = { parent = "eth1", mode = "bridge" }"#,
            plain(macvtap(MacvtapMode::Bridge), 1),
        ),
        (
            r#"macvtap = { parent = "eth1", mode = "vepa" }"#,
            plain(macvtap(MacvtapMode::Vepa), 1),
        ),
        (
            r#"macvtap = { parent = "eth1", mode = "private" }"#,
            plain(macvtap(MacvtapMode::Private), 1),
        ),
        (
            r#"af_packet = { dev = "eth1" }"#,
            plain(LinkKind::AfPacket { dev: eth1() }, 1),
        ),
        (
            r#"af_xdp = { dev = "eth1", queues = 2 }"#,
            plain(LinkKind::AfXdp { dev: eth1() }, 2),
        ),
        (
            r#"af_xdp = { dev = "eth1" }"#,
            plain(LinkKind::AfXdp { dev: eth1() }, 0),
        ),
        (
            r#"sriov = { pf = "eth1", vf = 3 }"#,
            plain(sriov(Via::Macvtap), 1),
        ),
        (
            r#"sriov = { pf = "eth1", vf = 3, via = "af_packet" }"#,
            plain(sriov(Via::AfPacket), 1),
        ),
        (
            r#"sriov = { pf = "eth1", vf = 3, via = "af_xdp" }"#,
            plain(sriov(Via::AfXdp), 0),
        ),
    ];
    for (words, expected) in table {
        let uplink = uplink(words);
        assert_eq!(uplink.attachment, expected, "{words}");
        assert_eq!(uplink.relay, "blue");
        assert_eq!(uplink.settings, PortConfig::uplink(VlanConfig::Flat, false));
    }
}

#[test]
fn words_of_a_virtual_function() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[uplink]]
        name = "up0"
        [uplink.sriov]
        pf = "eth1"
        vf = 0
        create = 4
        mac = "52:54:00:00:00:09"
        vlan = 7
        trust = true
        spoofchk = false
        rate = 100
        "#,
    );
    let expected = LinkKind::Sriov(Sriov {
        pf: "eth1".to_owned(),
        vf: 0,
        via: Via::Macvtap,
        create: Some(4),
        settings: FunctionSettings {
            mac: Some([0x52, 0x54, 0, 0, 0, 9]),
            vlan: Some(7),
            spoofchk: Some(false),
            trust: Some(true),
            rate: Some(100),
        },
    });
    let links: Vec<_> = config.uplinks["up0"].attachment.links().collect();
    assert_eq!(links.len(), 1);
    assert_eq!(links[0].kind, expected);
}

#[test]
fn words_of_an_uplink() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[port]]
        name = "vm1"
        listen = "/run/vm1.sock"
        access = 10
        [[uplink]]
        name = "up0"
        relay = "blue"
        macvtap = { parent = "eth1" }
        take_parent = true
        trunk = [10]
        native = 1
        mtu = 9000
        reflective = true
        default_pcp = 2
        "#,
    );
    let uplink = &config.uplinks["up0"];
    let vlan = VlanConfig::Trunk {
        vids: vids([1, 10]),
        native: Some(vid(1)),
    };
    let expected = PortConfig {
        mtu: Some(9000),
        default_pcp: 2,
        ..PortConfig::uplink(vlan, true)
    };
    assert_eq!(uplink.settings, expected);
    assert!(uplink.attachment.links().all(|link| link.take_parent));
}

#[test]
fn an_uplink_reflects_by_default_where_there_is_a_vepa_port() {
    let relay = |mode: &str, word: &str| {
        let text = format!(
            "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\nmode = \"{mode}\"\n\
             [[uplink]]\nname = \"up0\"\ntap = {{ name = \"evb0\" }}\n{word}\n"
        );
        valid(&text).uplinks["up0"].settings.reflective
    };
    assert!(!relay("bridge", ""));
    assert!(!relay("private", ""));
    assert!(!relay("passthrough", ""));
    assert!(relay("vepa", ""));
    assert!(!relay("vepa", "reflective = false"));
    assert!(relay("bridge", "reflective = true"));
}

#[test]
fn a_bond_takes_its_links() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[uplink]]
        name = "up0"
        bond = ["up0b", "up0a"]
        [[uplink]]
        name = "up0a"
        macvtap = { parent = "eth1", queues = 2 }
        take_parent = true
        [[uplink]]
        name = "up0b"
        tap = { name = "evb0" }
        queues = 4
        "#,
    );
    assert_eq!(config.uplinks.len(), 1);
    let tap = LinkKind::Tap(Tap {
        name: "evb0".to_owned(),
        mac: None,
        owner: None,
        group: None,
    });
    let nic = LinkKind::Macvtap {
        parent: "eth1".to_owned(),
        mode: MacvtapMode::Passthru,
    };
    let members = vec![
        Member {
            name: "up0b".to_owned(),
            link: Link {
                kind: tap,
                queues: 4,
                take_parent: false,
            },
        },
        Member {
            name: "up0a".to_owned(),
            link: Link {
                kind: nic,
                queues: 2,
                take_parent: true,
            },
        },
    ];
    let attachment = &config.uplinks["up0"].attachment;
    assert_eq!(attachment.links().count(), 2);
    assert_eq!(*attachment, Attachment::Bond(members));
}

#[test]
fn shared_nics_can_carry_several_uplinks() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[relay]]
        name = "red"
        [[port]]
        name = "vm1"
        relay = "blue"
        mac = ["52:54:00:00:00:01"]
        listen = "/run/vm1.sock"
        [[port]]
        name = "vm2"
        relay = "red"
        mac = ["52:54:00:00:00:02"]
        listen = "/run/vm2.sock"
        [[uplink]]
        name = "up0"
        relay = "blue"
        macvtap = { parent = "eth1", mode = "bridge" }
        [[uplink]]
        name = "up1"
        relay = "red"
        macvtap = { parent = "eth1", mode = "bridge" }
        "#,
    );
    assert_eq!(config.uplinks.len(), 2);
    // Nothing would arrive for other addresses than the one, so that none may be used.
    let settings = &config.ports["vm1"].settings;
    assert_eq!(settings.mac_policy, MacPolicy::Pinned);
    assert!(!settings.flood_unknown);
}

#[test]
fn patches_join_relays() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[relay]]
        name = "red"
        [[relay]]
        name = "core"
        [[patch]]
        a = { relay = "blue", trunk = [10, 20], native = 10 }
        b = { relay = "core", access = 10, mac_limit = 9, flood_unknown = false }
        [[patch]]
        name = "cable"
        a = { relay = "red", mode = "private", qinq = 100, mac = ["52:54:00:00:00:01"] }
        b = { relay = "core", trunk = [10] }
        "#,
    );
    let names: Vec<&str> = config.patches.keys().map(String::as_str).collect();
    assert_eq!(names, ["blue-core", "cable"]);
    assert_eq!(Patch::end_names("cable"), ["cable.a", "cable.b"]);
    let trusted = |limit| MacPolicy::Trusted { limit };
    let patch = &config.patches["blue-core"];
    let trunk = VlanConfig::Trunk {
        vids: vids([10, 20]),
        native: Some(vid(10)),
    };
    let a = PortConfig {
        mac_policy: trusted(1024),
        ..PortConfig::local(Mode::Bridge, trunk, Vec::new())
    };
    assert_eq!((patch.a.relay.as_str(), &patch.a.settings), ("blue", &a));
    let b = PortConfig {
        mac_policy: trusted(9),
        flood_unknown: false,
        ..PortConfig::local(Mode::Bridge, VlanConfig::Access(vid(10)), Vec::new())
    };
    assert_eq!((patch.b.relay.as_str(), &patch.b.settings), ("core", &b));
    let macs = vec![mac("52:54:00:00:00:01")];
    let a = PortConfig::local(Mode::Private, VlanConfig::Qinq(vid(100)), macs);
    assert_eq!(config.patches["cable"].a.settings, a);
}

#[test]
fn a_patch_can_be_the_uplink_of_one_end() {
    let patch = |mode: &str, words: &str| {
        let text = format!(
            "[[relay]]\nname = \"inner\"\n[[relay]]\nname = \"core\"\n\
             [[port]]\nname = \"vm1\"\nrelay = \"inner\"\nlisten = \"/run/vm1.sock\"\nmode = \"{mode}\"\n\
             [[patch]]\na = {{ relay = \"inner\", uplink = true }}\nb = {{ relay = \"core\"{words} }}\n"
        );
        let patch = valid(&text).patches["inner-core"].clone();
        assert_eq!(
            (patch.a.settings.role, patch.b.settings.role),
            (Role::Uplink, Role::Local)
        );
        (patch.a.settings.reflective, patch.b.settings.reflective)
    };
    assert_eq!(patch("bridge", ""), (false, false));
    // The relay at the other end does what the uplink counts on.
    assert_eq!(patch("vepa", ""), (true, true));
    assert_eq!(patch("vepa", ", reflective = true"), (true, true));
    assert_eq!(patch("bridge", ", reflective = false"), (false, false));
}

#[test]
fn nested_reflection_can_be_allowed() {
    let text = r#"
        [[relay]]
        name = "inner"
        [[relay]]
        name = "outer"
        nested_reflect = true
        [[port]]
        name = "vm1"
        relay = "inner"
        listen = "/run/vm1.sock"
        mode = "vepa"
        [[patch]]
        a = { relay = "outer", mode = "vepa" }
        b = { relay = "inner", uplink = true }
    "#;
    assert_eq!(
        valid(text).patches["outer-inner"].a.settings.mode,
        Mode::Vepa
    );
}
