//! The daemon, relays and ports: every default, every word that is accepted, and what templates
//! and groups become.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{mac, valid, vid, vids};
use crate::config::{Backend, Config, Daemon, Poll, Port, Relay, StaticEntry, Tap};
use crate::relay::{
    MacPolicy, Mode, Multicast, PortConfig, RelayConfig, Role, StaticGroup, VidSet, VlanConfig,
};

/// The settings of port `vm1` of relay `blue`, which has these words.
#[track_caller]
fn port(words: &str) -> PortConfig {
    let text = format!(
        "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\n{words}\n\
         [[uplink]]\nname = \"up0\"\ntap = {{ name = \"evb0\" }}\n"
    );
    valid(&text).ports["vm1"].settings.clone()
}

#[test]
fn an_empty_file_is_an_empty_configuration() {
    assert_eq!(valid(""), Config::default());
    assert_eq!(valid("# nothing\n[daemon]\n"), Config::default());
}

#[test]
fn defaults_of_the_daemon() {
    let expected = Daemon {
        control: None,
        state: None,
        workers: 1,
        cpus: Vec::new(),
        poll: Poll::Adaptive,
        rx_wait: Duration::from_millis(1),
        cool: Duration::from_micros(100),
    };
    assert_eq!(valid("[daemon]").daemon, expected);
}

#[test]
fn words_of_the_daemon() {
    let text = "[daemon]\ncontrol = \"/run/evb/control.sock\"\nstate = \"/run/evb/state\"\nworkers = 2\ncpus = [2, 3]\n\
                poll = \"busy\"\nrx_wait_us = 0\ncool_us = 50\n";
    let expected = Daemon {
        control: Some(PathBuf::from("/run/evb/control.sock")),
        state: Some(PathBuf::from("/run/evb/state")),
        workers: 2,
        cpus: vec![2, 3],
        poll: Poll::Busy,
        rx_wait: Duration::ZERO,
        cool: Duration::from_micros(50),
    };
    assert_eq!(valid(text).daemon, expected);
    assert_eq!(valid("[daemon]\npoll = \"sleep\"").daemon.poll, Poll::Sleep);
}

#[test]
fn defaults_of_a_relay() {
    let config = valid("[[relay]]\nname = \"blue\"");
    let settings = RelayConfig {
        ageing: 300,
        reflect_local: false,
        multicast: Multicast::Flood,
        group_fwd_mask: 0,
        fids: Vec::new(),
        max_entries: 65_536,
    };
    assert_eq!(
        config.relays["blue"],
        Relay {
            settings,
            statics: Vec::new()
        }
    );
}

#[test]
fn words_of_a_relay() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        ageing = 0
        reflect = "local"
        multicast = "groups"
        flood_unregistered = false
        group_fwd_mask = 0x4004
        fid = [[10, 20], ["30-32", 40]]
        max_entries = 1000
        nested_reflect = true
        static = [
          { mac = "52:54:00:00:00:02", vid = 20, port = "up0" },
          { mac = "52:54:00:00:00:01", vid = 10, port = "vm1" },
          { mac = "52:54:00:00:00:01", vid = 30, port = "vm1" },
        ]
        [[port]]
        name = "vm1"
        listen = "/run/vm1.sock"
        trunk = [10, 30]
        [[uplink]]
        name = "up0"
        tap = { name = "evb0" }
        "#,
    );
    let settings = RelayConfig {
        ageing: 0,
        reflect_local: true,
        multicast: Multicast::Groups {
            flood_unregistered: false,
        },
        group_fwd_mask: 0x4004,
        fids: vec![vids([10, 20]), vids([30, 31, 32, 40])],
        max_entries: 1000,
    };
    let entry = |address: &str, number, port: &str| StaticEntry {
        mac: mac(address),
        vid: Some(vid(number)),
        port: port.to_owned(),
    };
    let statics = vec![
        entry("52:54:00:00:00:01", 10, "vm1"),
        entry("52:54:00:00:00:01", 30, "vm1"),
        entry("52:54:00:00:00:02", 20, "up0"),
    ];
    assert_eq!(config.relays["blue"], Relay { settings, statics });
    let relay = "[[relay]]\nname = \"blue\"\nmulticast = \"groups\"";
    let multicast = valid(relay).relays["blue"].settings.multicast;
    assert_eq!(
        multicast,
        Multicast::Groups {
            flood_unregistered: true
        }
    );
}

#[test]
fn defaults_of_a_port_by_mode_and_addresses() {
    let one = r#"mac = ["52:54:00:00:00:01"]"#;
    let learn = MacPolicy::Learn(8);
    let trusted = MacPolicy::Trusted { limit: 1024 };
    // relay.md, section 4
    let table = [
        ("", "", Mode::Bridge, learn, true),
        (r#"mode = "bridge""#, one, Mode::Bridge, learn, true),
        (
            r#"mac_policy = "pinned""#,
            one,
            Mode::Bridge,
            MacPolicy::Pinned,
            false,
        ),
        (
            r#"mac_policy = "pinned""#,
            "",
            Mode::Bridge,
            MacPolicy::Pinned,
            true,
        ),
        (r#"mac_policy = "trusted""#, "", Mode::Bridge, trusted, true),
        (r#"mode = "vepa""#, "", Mode::Vepa, MacPolicy::Pinned, false),
        (
            r#"mode = "vepa""#,
            one,
            Mode::Vepa,
            MacPolicy::Pinned,
            false,
        ),
        (
            r#"mode = "private""#,
            "",
            Mode::Private,
            MacPolicy::Pinned,
            false,
        ),
        (
            r#"mode = "passthrough""#,
            "",
            Mode::Passthrough,
            trusted,
            false,
        ),
    ];
    for (words, addresses, mode, mac_policy, flood_unknown) in table {
        let settings = port(&format!("{words}\n{addresses}"));
        let macs = if addresses.is_empty() {
            vec![]
        } else {
            vec![mac("52:54:00:00:00:01")]
        };
        let expected = PortConfig {
            role: Role::Local,
            mode,
            vlan: VlanConfig::Flat,
            macs,
            mac_policy,
            flood_unknown,
            promiscuous: false,
            reflective: false,
            accept_own_src: false,
            mtu: None,
            default_pcp: 0,
            groups: Vec::new(),
            multicast_router: false,
            standby: false,
        };
        assert_eq!(settings, expected, "{words} {addresses}");
    }
}

#[test]
fn words_of_a_port() {
    let settings = port(
        r#"
        relay = "blue"
        mode = "bridge"
        access = 10
        mac = ["52:54:00:00:00:01", "52-54-00-00-00-02"]
        mac_policy = { learn = 3 }
        mtu = 9000
        flood_unknown = false
        reflective = true
        accept_own_src = true
        default_pcp = 5
        join = ["01:00:5e:00:00:05", { mac = "33:33:00:00:00:05", vid = 10 }]
        multicast_router = true
        "#,
    );
    let expected = PortConfig {
        macs: vec![mac("52:54:00:00:00:01"), mac("52:54:00:00:00:02")],
        mac_policy: MacPolicy::Learn(3),
        mtu: Some(9000),
        flood_unknown: false,
        reflective: true,
        accept_own_src: true,
        default_pcp: 5,
        groups: vec![
            StaticGroup {
                mac: mac("01:00:5e:00:00:05"),
                vid: None,
            },
            StaticGroup {
                mac: mac("33:33:00:00:00:05"),
                vid: Some(vid(10)),
            },
        ],
        multicast_router: true,
        ..PortConfig::local(Mode::Bridge, VlanConfig::Access(vid(10)), Vec::new())
    };
    assert_eq!(settings, expected);
    assert!(port("mac = [\"52:54:00:00:00:01\"]\nstandby = true").standby);
    assert!(port("mode = \"vepa\"\npromiscuous = true").promiscuous);
    let limited = port("mac_policy = \"trusted\"\nmac_limit = 9").mac_policy;
    assert_eq!(limited, MacPolicy::Trusted { limit: 9 });
    let limited = port("mode = \"passthrough\"\nmac_limit = 9").mac_policy;
    assert_eq!(limited, MacPolicy::Trusted { limit: 9 });
}

#[test]
fn vlan_words() {
    let trunk = |numbers: &[u16], native| VlanConfig::Trunk {
        vids: vids(numbers.iter().copied()),
        native,
    };
    let pairs = BTreeMap::from([(vid(10), vid(110)), (vid(20), vid(20))]);
    let table = [
        ("access = 1", VlanConfig::Access(vid(1))),
        ("access = 4094", VlanConfig::Access(vid(4094))),
        ("qinq = 100", VlanConfig::Qinq(vid(100))),
        ("trunk = [10]", trunk(&[10], None)),
        (
            "trunk = [10, \"20-22\", \"30\", 21]",
            trunk(&[10, 20, 21, 22, 30], None),
        ),
        ("trunk = [1, 10]\nnative = 1", trunk(&[1, 10], Some(vid(1)))),
        // A native VID that is not listed joins the set.
        ("trunk = [10]\nnative = 1", trunk(&[1, 10], Some(vid(1)))),
        (
            "translate = { 10 = 110, 20 = 20 }",
            VlanConfig::Translate(pairs),
        ),
    ];
    for (words, expected) in table {
        assert_eq!(port(words).vlan, expected, "{words}");
    }
    assert_eq!(
        port("trunk = [\"1-4094\"]").vlan,
        VlanConfig::Trunk {
            vids: VidSet::all(),
            native: None
        }
    );
}

#[test]
fn what_is_plugged_into_a_port() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[port]]
        name = "vm1"
        listen = "/run/vm1.sock"
        [[port]]
        name = "vm2"
        connect = "/run/vm2.sock"
        queues = 4
        [[port]]
        name = "host0"
        tap = { name = "evb0", mac = "52:54:00:00:00:fe" }
        [[port]]
        name = "host1"
        mac = []
        tap = { name = "evb1", mac = "52:54:00:00:00:ff" }
        "#,
    );
    let seen: Vec<_> = config
        .ports
        .iter()
        .map(|(name, port)| (name.as_str(), &port.backend, port.queues))
        .collect();
    let tap = |name: &str, address: &str| {
        Backend::Tap(Tap {
            name: name.to_owned(),
            mac: Some(mac(address)),
            owner: None,
            group: None,
        })
    };
    let expected = [
        ("host0", &tap("evb0", "52:54:00:00:00:fe"), 1),
        ("host1", &tap("evb1", "52:54:00:00:00:ff"), 1),
        ("vm1", &Backend::Listen(PathBuf::from("/run/vm1.sock")), 8),
        ("vm2", &Backend::Connect(PathBuf::from("/run/vm2.sock")), 4),
    ];
    assert_eq!(seen, expected);
    // The host's address is registered where the port lists none of its own.
    assert_eq!(
        config.ports["host0"].settings.macs,
        [mac("52:54:00:00:00:fe")]
    );
    assert_eq!(
        config.ports["host0"].settings.mac_policy,
        MacPolicy::Learn(8)
    );
    assert!(config.ports["host1"].settings.macs.is_empty());
}

#[test]
fn a_template_becomes_many_ports() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        [[port]]
        name = "web{n}"
        count = 3
        listen = "/run/web/{n}/web{n}.sock"
        mac = ["52:54:00:00:01:ff"]
        [[port]]
        name = "host{n}"
        first = 0
        count = 2
        tap = { name = "evb{n}", mac = "52:54:00:00:03:00" }
        "#,
    );
    let names: Vec<&str> = config.ports.keys().map(String::as_str).collect();
    assert_eq!(names, ["host0", "host1", "web1", "web2", "web3"]);
    let web3 = &config.ports["web3"];
    assert_eq!(
        web3.backend,
        Backend::Listen(PathBuf::from("/run/web/3/web3.sock"))
    );
    assert_eq!(web3.settings.macs, [mac("52:54:00:00:02:01")].as_slice());
    assert_eq!(
        config.ports["web1"].settings.macs,
        [mac("52:54:00:00:01:ff")]
    );
    let tap = Tap {
        name: "evb1".to_owned(),
        mac: Some(mac("52:54:00:00:03:01")),
        owner: None,
        group: None,
    };
    assert_eq!(config.ports["host1"].backend, Backend::Tap(tap));
}

#[test]
fn a_template_of_one_needs_no_mark() {
    let port = "[[relay]]\nname = \"blue\"\n[[port]]\nname = \"web\"\ncount = 1\nlisten = \"/run/web.sock\"";
    assert!(valid(port).ports.contains_key("web"));
}

#[test]
fn a_port_takes_from_its_group_what_it_does_not_say() {
    let config = valid(
        r#"
        [daemon]
        workers = 2
        [[relay]]
        name = "blue"
        [[relay]]
        name = "core"
        [[group]]
        name = "web"
        relay = "blue"
        mode = "vepa"
        trunk = [10, 20]
        native = 20
        mac_policy = "pinned"
        queues = 4
        worker = 1
        mtu = 9000
        flood_unknown = false
        accept_own_src = true
        promiscuous = true
        default_pcp = 3
        multicast_router = true
        join = ["01:00:5e:00:00:05"]
        [[port]]
        name = "all"
        group = "web"
        listen = "/run/all.sock"
        [[port]]
        name = "own"
        group = "web"
        relay = "core"
        mode = "bridge"
        access = 30
        mac_policy = "trusted"
        queues = 1
        worker = 0
        mtu = 1500
        flood_unknown = true
        reflective = true
        accept_own_src = false
        promiscuous = false
        default_pcp = 0
        multicast_router = false
        join = []
        listen = "/run/own.sock"
        [[port]]
        name = "native"
        group = "web"
        mode = "bridge"
        promiscuous = false
        native = 10
        listen = "/run/native.sock"
        "#,
    );
    let trunk = |native| VlanConfig::Trunk {
        vids: vids([10, 20]),
        native: Some(vid(native)),
    };
    let all = Port {
        relay: "blue".to_owned(),
        backend: Backend::Listen(PathBuf::from("/run/all.sock")),
        queues: 4,
        worker: Some(1),
        settings: PortConfig {
            mac_policy: MacPolicy::Pinned,
            mtu: Some(9000),
            flood_unknown: false,
            accept_own_src: true,
            promiscuous: true,
            default_pcp: 3,
            multicast_router: true,
            groups: vec![StaticGroup {
                mac: mac("01:00:5e:00:00:05"),
                vid: None,
            }],
            ..PortConfig::local(Mode::Vepa, trunk(20), Vec::new())
        },
    };
    assert_eq!(config.ports["all"], all);
    let own = Port {
        relay: "core".to_owned(),
        backend: Backend::Listen(PathBuf::from("/run/own.sock")),
        queues: 1,
        worker: Some(0),
        settings: PortConfig {
            mac_policy: MacPolicy::Trusted { limit: 1024 },
            mtu: Some(1500),
            flood_unknown: true,
            reflective: true,
            ..PortConfig::local(Mode::Bridge, VlanConfig::Access(vid(30)), Vec::new())
        },
    };
    assert_eq!(config.ports["own"], own);
    assert_eq!(config.ports["native"].settings.vlan, trunk(10));
    assert!(!config.ports["native"].settings.flood_unknown);
}

#[test]
fn one_address_in_two_vlans_is_two_stations() {
    let config = valid(
        r#"
        [[relay]]
        name = "blue"
        fid = [[20, 30]]
        [[port]]
        name = "vm1"
        listen = "/run/vm1.sock"
        access = 10
        mac = ["52:54:00:00:00:01"]
        [[port]]
        name = "vm2"
        listen = "/run/vm2.sock"
        access = 20
        mac = ["52:54:00:00:00:01"]
        "#,
    );
    assert_eq!(config.ports.len(), 2);
}

#[test]
fn the_order_of_tables_does_not_matter() {
    let [relay, one, two] = [
        "[[relay]]\nname = \"blue\"\n",
        "[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\n",
        "[[port]]\nname = \"vm2\"\nlisten = \"/run/vm2.sock\"\n",
    ];
    assert_eq!(
        valid(&[relay, one, two].concat()),
        valid(&[two, one, relay].concat())
    );
}
