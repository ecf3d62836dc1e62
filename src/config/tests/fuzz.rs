//! Arbitrary text: no panic, faults that can be shown, and nothing accepted that a relay refuses.

use std::fmt::Write;
use std::sync::Arc;

use proptest::prelude::*;

use crate::config::Config;
use crate::relay;

/// Reads `text`; what is wrong can be shown, what is right is right for the relays too.
fn read(text: &str) {
    let config = match Config::parse(text, "evb.toml") {
        Ok(config) => config,
        Err(errors) => {
            assert!(!errors.faults().is_empty());
            assert!(errors.to_string().starts_with("error: "), "{text}");
            errors.render(true);
            return;
        }
    };
    for (name, settings) in &config.relays {
        let ports = config
            .ports
            .values()
            .filter(|port| port.relay == *name)
            .map(|port| &port.settings);
        let uplinks = config
            .uplinks
            .values()
            .filter(|up| up.relay == *name)
            .map(|up| &up.settings);
        let ends = config
            .patches
            .values()
            .flat_map(|patch| [&patch.a, &patch.b]);
        let ends = ends
            .filter(|end| end.relay == *name)
            .map(|end| &end.settings);
        let ports = ports
            .chain(uplinks)
            .chain(ends)
            .map(|settings| Some(relay::Port::new(settings.clone(), Arc::default())))
            .collect();
        let fdb = Arc::new(relay::Fdb::new(64));
        if let Err(error) = relay::Relay::new(settings.settings.clone(), ports, fdb) {
            panic!("relay `{name}`: {error}\n{text}");
        }
    }
}

/// Words of ports and uplinks, right and wrong ones.
const WORDS: &[&str] = &[
    "relay = \"blue\"",
    "relay = \"red\"",
    "relay = \"green\"",
    "group = \"web\"",
    "mode = \"bridge\"",
    "mode = \"vepa\"",
    "mode = \"private\"",
    "mode = \"passthrough\"",
    "access = 10",
    "access = 20",
    "access = 0",
    "trunk = [10, \"20-29\"]",
    "trunk = [\"1-4094\"]",
    "trunk = [\"9-1\"]",
    "native = 1",
    "native = 4095",
    "qinq = 100",
    "translate = { 10 = 110, 20 = 120 }",
    "translate = { 10 = 110, 20 = 110 }",
    "mac = [\"52:54:00:00:00:01\"]",
    "mac = [\"52:54:00:00:00:02\", \"52:54:00:00:00:03\"]",
    "mac = [\"52:54:00:ff:ff:ff\"]",
    "mac_policy = \"pinned\"",
    "mac_policy = \"trusted\"",
    "mac_policy = { learn = 2 }",
    "mac_limit = 7",
    "queues = 4",
    "worker = 0",
    "worker = 1",
    "worker = -1",
    "mtu = 1500",
    "flood_unknown = true",
    "reflective = true",
    "accept_own_src = true",
    "promiscuous = true",
    "default_pcp = 3",
    "join = [{ mac = \"01:00:5e:00:00:05\", vid = 10 }]",
    "multicast_router = true",
    "standby = true",
    "name = \"vm1\"",
    "name = 3",
    "nonsense = true",
    "mode = \"vepa\"",
];

/// Tables and their words, right and wrong ones.
const TABLES: &[&str] = &[
    "[daemon]",
    "control = \"/run/c.sock\"",
    "workers = 2",
    "cpus = [0, 1]",
    "poll = \"busy\"",
    "[[relay]]",
    "[[relay]]\nname = \"blue\"",
    "[[relay]]\nname = \"red\"",
    "ageing = 0",
    "reflect = \"local\"",
    "multicast = \"groups\"",
    "fid = [[10, 20], [\"30-39\"]]",
    "fid = [[10], [10]]",
    "nested_reflect = true",
    "static = [{ mac = \"52:54:00:00:00:01\", port = \"vm1\" }]",
    "static = [{ mac = \"52:54:00:00:00:02\", vid = 10, port = \"up0\" }]",
    "[[port]]",
    "[[port]]\nname = \"vm1\"\nlisten = \"/run/1.sock\"",
    "[[port]]\nname = \"vm2\"\nconnect = \"/run/2.sock\"",
    "[[port]]\nname = \"vm3\"\nlisten = \"/run/3.sock\"",
    "[[port]]\nname = \"host0\"\ntap = { name = \"evb0\", mac = \"52:54:00:00:00:fe\" }",
    "[[port]]\nname = \"web{n}\"\ncount = 3\nlisten = \"/run/w{n}.sock\"",
    "count = 2048",
    "first = 0",
    "[[group]]\nname = \"web\"",
    "[[uplink]]",
    "[[uplink]]\nname = \"up0\"\nrelay = \"blue\"\ntap = { name = \"up0\" }",
    "[[uplink]]\nname = \"up1\"\nrelay = \"red\"\nmacvtap = { parent = \"eth1\", mode = \"bridge\" }",
    "[[uplink]]\nname = \"up2\"\nsriov = { pf = \"eth1\", vf = 3 }",
    "[[uplink]]\nname = \"up3\"\nrelay = \"red\"\nbond = [\"up2\"]",
    "bond = [\"up3\", \"up1\"]",
    "take_parent = true",
    "[[patch]]\na = { relay = \"blue\" }\nb = { relay = \"red\" }",
    "[[patch]]\na = { relay = \"blue\", uplink = true }\nb = { relay = \"red\", trunk = [10] }",
    "[[patch]]\na = { relay = \"red\", mode = \"vepa\", access = 10 }\nb = { relay = \"blue\", uplink = true }",
    "name = \"vm1\"",
    "name = \"é\"",
    "name = 3",
    "nonsense = true",
    "a = { relay = \"blue\" }",
    "= 1",
    "[[",
];

fn soup() -> impl Strategy<Value = Vec<&'static str>> {
    let line = prop_oneof![prop::sample::select(TABLES), prop::sample::select(WORDS)];
    prop::collection::vec(line, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text(text in any::<String>()) {
        read(&text);
    }

    #[test]
    fn text_that_looks_like_toml(text in "([\\[\\]{}=\"'#.,\\\\ \t\r\na-z0-9\u{e9}\u{1f600}\u{0}-]|port|relay|name){0,80}") {
        read(&text);
    }

    #[test]
    fn lines_in_any_order(lines in soup()) {
        read(&lines.join("\n"));
    }

    #[test]
    fn lines_with_one_place_changed(
        lines in soup(),
        at in any::<prop::sample::Index>(),
        remove in 0..6_usize,
        insert in "[\\[\\]{}=\"\n0-9a-z\u{e9}\u{0}-]{0,4}",
    ) {
        let text: Vec<char> = lines.join("\n").chars().collect();
        let at = at.index(text.len() + 1);
        let (head, tail) = text.split_at(at);
        let changed: String = head
            .iter()
            .copied()
            .chain(insert.chars())
            .chain(tail.iter().copied().skip(remove))
            .collect();
        read(&changed);
    }
}

/// Relays as [`lines_in_any_order`] rarely finds them: one with the words of a whole port.
fn one_relay() -> impl Strategy<Value = String> {
    let words = || prop::collection::btree_set(prop::sample::select(WORDS), 0..5);
    (words(), words(), words(), 0..4_usize).prop_map(|(a, b, up, count)| {
        let join =
            |set: std::collections::BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join("\n");
        let mut text = "[[relay]]\nname = \"blue\"\n".to_owned();
        let tables = [
            (
                "[[port]]\nname = \"vm1\"\nlisten = \"/run/1.sock\"",
                join(a),
            ),
            (
                "[[uplink]]\nname = \"up0\"\ntap = { name = \"up0\" }",
                join(up),
            ),
            (
                "[[port]]\nname = \"vm2\"\nlisten = \"/run/2.sock\"",
                join(b),
            ),
        ];
        for (head, words) in tables.iter().take(count) {
            write!(text, "{head}\n{words}\n").unwrap();
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn one_relay_with_any_words(text in one_relay()) {
        read(&text);
    }
}
