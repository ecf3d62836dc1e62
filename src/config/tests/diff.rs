//! Reload by difference.

use std::fmt::Write;

use proptest::prelude::*;

use super::valid;
use crate::config::{Change, Config, Impact, Step};

/// One change as a line: what, name, how, words, cost.
fn line(change: &Change) -> String {
    fn step<T>(kind: &str, name: &str, step: &Step<T>) -> String {
        match step {
            Step::Add(_) => format!("{kind} {name}: add"),
            Step::Remove => format!("{kind} {name}: remove"),
            Step::Update(update) => {
                format!(
                    "{kind} {name}: {} ({:?})",
                    update.words.join(", "),
                    update.impact
                )
            }
        }
    }
    match change {
        Change::Daemon(update) => {
            format!("daemon: {} ({:?})", update.words.join(", "), update.impact)
        }
        Change::Relay(name, it) => step("relay", name, it),
        Change::Port(name, it) => step("port", name, it),
        Change::Uplink(name, it) => step("uplink", name, it),
        Change::Patch(name, it) => step("patch", name, it),
    }
}

fn lines(old: &str, new: &str) -> Vec<String> {
    Config::diff(&valid(old), &valid(new))
        .iter()
        .map(line)
        .collect()
}

const BLUE: &str = "[[relay]]\nname = \"blue\"\n";

#[test]
fn nothing_changes_nothing() {
    assert!(Config::diff(&valid(BLUE), &valid(BLUE)).is_empty());
}

#[test]
fn what_goes_goes_before_what_comes_and_relays_outlive_their_ports() {
    let old = r#"
        [[relay]]
        name = "blue"
        [[relay]]
        name = "core"
        [[port]]
        name = "vm1"
        relay = "blue"
        listen = "/run/vm1.sock"
        [[port]]
        name = "vm2"
        relay = "blue"
        listen = "/run/vm2.sock"
        [[uplink]]
        name = "up0"
        relay = "blue"
        tap = { name = "evb0" }
        [[patch]]
        a = { relay = "blue" }
        b = { relay = "core" }
    "#;
    let new = r#"
        [[relay]]
        name = "red"
        [[relay]]
        name = "core"
        [[port]]
        name = "vm1"
        relay = "red"
        listen = "/run/vm1.sock"
        [[uplink]]
        name = "up1"
        relay = "red"
        tap = { name = "evb0" }
        [[patch]]
        a = { relay = "red" }
        b = { relay = "core" }
    "#;
    let expected = [
        "patch blue-core: remove",
        "uplink up0: remove",
        "port vm2: remove",
        "relay red: add",
        "port vm1: relay (Live)",
        "uplink up1: add",
        "patch red-core: add",
        "relay blue: remove",
    ];
    assert_eq!(lines(old, new), expected);
}

#[test]
fn words_of_the_daemon_and_of_relays() {
    let table = [
        (
            "[daemon]\npoll = \"busy\"\nrx_wait_us = 1\ncool_us = 1",
            "daemon: poll, rx_wait_us, cool_us (Restart)",
        ),
        (
            "[daemon]\nworkers = 2\ncpus = [0, 1]\npoll = \"busy\"",
            "daemon: workers, cpus, poll (Restart)",
        ),
        (
            "[daemon]\ncontrol = \"/run/c.sock\"",
            "daemon: control (Restart)",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(lines("", text), [expected]);
    }
    let new = format!(
        "{BLUE}ageing = 0\nreflect = \"local\"\nmulticast = \"groups\"\ngroup_fwd_mask = 4\nfid = [[10, 20]]\nmax_entries = 9\n"
    );
    let expected =
        "relay blue: ageing, reflect, multicast, group_fwd_mask, fid, max_entries (Live)";
    assert_eq!(lines(BLUE, &new), [expected]);
    // It only allows what else would be refused.
    assert!(lines(BLUE, &format!("{BLUE}nested_reflect = true")).is_empty());
}

#[test]
fn words_of_ports_and_what_they_cost() {
    let port = |words: &str| format!("{BLUE}[[port]]\nname = \"vm1\"\n{words}\n");
    let old = port("listen = \"/run/vm1.sock\"");
    let table = [
        ("connect = \"/run/vm1.sock\"", "backend (Reconnect)"),
        ("listen = \"/run/vm2.sock\"", "backend (Reconnect)"),
        (
            "listen = \"/run/vm1.sock\"\nqueues = 4",
            "queues (Reconnect)",
        ),
        ("listen = \"/run/vm1.sock\"\nmtu = 9000", "mtu (Reconnect)"),
        ("listen = \"/run/vm1.sock\"\nworker = 0", "worker (Live)"),
        ("listen = \"/run/vm1.sock\"\naccess = 10", "vlan (Live)"),
        (
            "listen = \"/run/vm1.sock\"\nmac = [\"52:54:00:00:00:01\"]",
            "mac (Live)",
        ),
        (
            "listen = \"/run/vm1.sock\"\nmode = \"vepa\"\npromiscuous = true",
            "mode, mac_policy, flood_unknown, promiscuous (Live)",
        ),
        (
            "listen = \"/run/vm1.sock\"\nreflective = true\naccept_own_src = true\n\
             default_pcp = 1\njoin = [\"01:00:5e:00:00:05\"]\nmulticast_router = true",
            "reflective, accept_own_src, default_pcp, join, multicast_router (Live)",
        ),
    ];
    for (words, expected) in table {
        assert_eq!(lines(&old, &port(words)), [format!("port vm1: {expected}")]);
    }
}

#[test]
fn words_of_uplinks_and_patches_and_what_they_cost() {
    let uplink = |words: &str| format!("{BLUE}[[uplink]]\nname = \"up0\"\n{words}\n");
    let old = uplink("tap = { name = \"evb0\" }");
    let table = [
        ("tap = { name = \"evb1\" }", "attachment (Reconnect)"),
        (
            "tap = { name = \"evb0\" }\nqueues = 2",
            "queues (Reconnect)",
        ),
        ("tap = { name = \"evb0\" }\nmtu = 9000", "mtu (Reconnect)"),
        ("tap = { name = \"evb0\" }\nworker = 0", "worker (Live)"),
        (
            "tap = { name = \"evb0\" }\nreflective = true\ntrunk = [10]",
            "vlan, reflective (Live)",
        ),
        (
            "bond = [\"a\"]\n[[uplink]]\nname = \"a\"\ntap = { name = \"evb0\" }",
            "bond (Reconnect)",
        ),
    ];
    for (words, expected) in table {
        assert_eq!(
            lines(&old, &uplink(words)),
            [format!("uplink up0: {expected}")]
        );
    }
    let nic = |word: &str| uplink(&format!("macvtap = {{ parent = \"eth1\" }}\n{word}"));
    assert_eq!(
        lines(&nic(""), &nic("take_parent = true")),
        ["uplink up0: take_parent (Live)"]
    );
    let patch = |words: &str| {
        format!(
            "{BLUE}[[relay]]\nname = \"core\"\n[[patch]]\na = {{ relay = \"blue\"{words} }}\nb = {{ relay = \"core\" }}\n"
        )
    };
    let expected = ["patch blue-core: uplink, mac_policy, flood_unknown (Live)"];
    assert_eq!(lines(&patch(""), &patch(", uplink = true")), expected);
    assert_eq!(
        lines(&patch(""), &patch(", access = 10")),
        ["patch blue-core: vlan (Live)"]
    );
}

#[test]
fn costs_are_in_order() {
    let old = valid(&format!(
        "{BLUE}[[port]]\nname = \"vm1\"\nlisten = \"/run/vm1.sock\"\n"
    ));
    let new = valid(&format!(
        "{BLUE}[[port]]\nname = \"vm1\"\nlisten = \"/run/vm2.sock\"\n[daemon]\nworkers = 2\n"
    ));
    let impacts: Vec<Impact> = Config::diff(&old, &new)
        .iter()
        .map(Change::impact)
        .collect();
    assert_eq!(impacts, [Impact::Restart, Impact::Reconnect]);
    assert!(Impact::Live < Impact::Reconnect && Impact::Reconnect < Impact::Restart);
    let impacts: Vec<Impact> = Config::diff(&old, &valid(BLUE))
        .iter()
        .map(Change::impact)
        .collect();
    assert_eq!(impacts, [Impact::Live]);
}

/// A valid configuration: some of four relays in a star of patches, with ports and uplinks of
/// changing words.
fn config() -> impl Strategy<Value = Config> {
    let words = prop_oneof![
        Just(""),
        Just("mode = \"vepa\""),
        Just("mode = \"private\"\nmtu = 9000"),
        Just("queues = 4\nreflective = true"),
        Just("mac_policy = { learn = 3 }"),
    ];
    let relay_words = prop_oneof![Just(""), Just("ageing = 10"), Just("reflect = \"local\"")];
    let relays = prop::collection::btree_map(
        0..4_usize,
        (relay_words, any::<bool>(), any::<bool>()),
        1..4,
    );
    let ports =
        prop::collection::btree_map(0..8_usize, (any::<prop::sample::Index>(), words), 0..8);
    (1..3_usize, relays, ports).prop_map(|(workers, relays, ports)| {
        let mut text = format!("[daemon]\nworkers = {workers}\n");
        let names: Vec<String> = relays.keys().map(|index| format!("r{index}")).collect();
        for (index, (words, uplink, patch)) in &relays {
            write!(text, "[[relay]]\nname = \"r{index}\"\n{words}\n").unwrap();
            if *uplink {
                write!(text, "[[uplink]]\nname = \"up{index}\"\nrelay = \"r{index}\"\ntap = {{ name = \"evb{index}\" }}\n").unwrap();
            }
            if *patch && names[0] != format!("r{index}") {
                write!(text, "[[patch]]\na = {{ relay = \"r{index}\" }}\nb = {{ relay = \"{}\" }}\n", names[0]).unwrap();
            }
        }
        for (index, (relay, words)) in &ports {
            write!(text, "[[port]]\nname = \"p{index}\"\nrelay = \"{}\"\nlisten = \"/run/p{index}.sock\"\n{words}\n", relay.get(&names)).unwrap();
        }
        valid(&text)
    })
}

/// Whatever joins a relay joins one that is there.
fn whole(config: &Config) -> bool {
    let ports = config.ports.values().map(|port| &port.relay);
    let uplinks = config.uplinks.values().map(|uplink| &uplink.relay);
    let patches = config
        .patches
        .values()
        .flat_map(|patch| [&patch.a.relay, &patch.b.relay]);
    let mut all = ports.chain(uplinks).chain(patches);
    all.all(|relay| config.relays.contains_key(relay))
}

proptest! {
    #[test]
    fn applying_the_difference_yields_the_other(old in config(), new in config()) {
        let mut now = old.clone();
        for change in Config::diff(&old, &new) {
            let before = now.clone();
            now.apply(change.clone());
            prop_assert_ne!(&before, &now, "{:?} changes nothing", change);
            prop_assert!(whole(&now), "{:?}", change);
        }
        prop_assert_eq!(&now, &new);
        prop_assert!(Config::diff(&now, &new).is_empty());
        // Start is a reload from nothing.
        let mut started = Config::default();
        for change in Config::diff(&started.clone(), &new) {
            started.apply(change);
        }
        prop_assert_eq!(started, new);
    }
}
