//! Patch links: cables between the relays of one daemon, with VLAN words at their ends.

mod support;

use support::net::relay_named;
use support::{BROADCAST, Eth, Net, eth, mac};

fn daemon(relays: &[String], patches: &str) -> String {
    let control = "[daemon]\ncontrol = \"{dir}/control.sock\"\n";
    [control, &relays.concat(), patches].concat()
}

fn patch(a: &str, b: &str) -> String {
    format!("\n[[patch]]\na = {{ {a} }}\nb = {{ {b} }}\n")
}

/// A broadcast that is long enough to lose a tag without padding.
fn shout(n: u16) -> Eth {
    eth(BROADCAST, mac(n)).payload(0x88b6, &[n as u8; 80])
}

fn unicast(from: u16, to: u16) -> Eth {
    eth(mac(to), mac(from)).payload(0x88b6, &[9; 80])
}

#[test]
fn a_trunk_carries_its_vlans_and_no_others() {
    let config = daemon(
        &[
            relay_named(
                "r",
                "",
                &[
                    ("a10", "access = 10"),
                    ("a20", "access = 20"),
                    ("a30", "access = 30"),
                ],
            ),
            relay_named(
                "s",
                "",
                &[
                    ("b10", "access = 10"),
                    ("b20", "access = 20"),
                    ("b30", "access = 30"),
                    ("bt", "trunk = [10, 20, 30]"),
                ],
            ),
        ],
        &patch(
            "relay = \"r\", trunk = [10, 20]",
            "relay = \"s\", trunk = [10, 20, 30]",
        ),
    );
    let mut net = Net::start(&config);
    for (n, vid) in [(1, 10), (2, 20)] {
        let plain = shout(n).bytes();
        let (near, far) = (format!("a{vid}"), format!("b{vid}"));
        net.pass(
            &near,
            &plain,
            &[(&far, &plain), ("bt", &shout(n).vlan(vid).bytes())],
        );
        let answer = unicast(70, n);
        net.pass(
            "bt",
            &answer.clone().tag(0x8100, 0x6000 | vid).bytes(),
            &[(&near, &answer.bytes())],
        );
        net.pass(
            &near,
            &unicast(n, 70).bytes(),
            &[("bt", &unicast(n, 70).vlan(vid).bytes())],
        );
    }
    net.refused("a30", &shout(3).bytes(), "no_receiver");
    let plain = shout(6).bytes();
    net.pass("b30", &plain, &[("bt", &shout(6).vlan(30).bytes())]);
    assert_eq!(
        net.evb.counter("r-s.a", "not_member"),
        1,
        "VID 30 does not enter r"
    );
    // The link counts what crosses it, at both ends: two frames of each VLAN there and one back, and VID 30.
    let crossed = |end, counter| net.evb.counter(end, counter);
    assert_eq!(crossed("r-s.a", "rx_frames"), 4);
    assert_eq!(crossed("r-s.b", "tx_frames"), 4);
    assert_eq!(crossed("r-s.a", "tx_frames"), 3);
    assert_eq!(crossed("r-s.b", "rx_frames"), 3);
    assert!(crossed("r-s.a", "rx_bytes") > 4 * 80);
    net.evb.stop();
}

#[test]
fn the_ends_of_a_cable_may_name_a_vlan_differently() {
    let config = daemon(
        &[
            relay_named(
                "r",
                "",
                &[("a", "access = 10"), ("at", "trunk = [10, 11, 12]")],
            ),
            relay_named(
                "s",
                "",
                &[("b", "access = 20"), ("bt", "trunk = [20, 110, 12, 99]")],
            ),
            relay_named("t", "", &[("c", "trunk = [10]"), ("ct", "trunk = [111]")]),
        ],
        &[
            patch("relay = \"r\", access = 10", "relay = \"s\", access = 20"),
            patch(
                "relay = \"s\", trunk = [12, 110], native = 99",
                "relay = \"t\", translate = { 110 = 10, 12 = 111 }",
            ),
        ]
        .concat(),
    );
    let mut net = Net::start(&config);
    let at = |n, vid| shout(n).vlan(vid).bytes();
    net.pass(
        "a",
        &shout(1).bytes(),
        &[
            ("at", &at(1, 10)),
            ("b", &shout(1).bytes()),
            ("bt", &at(1, 20)),
        ],
    );
    net.pass(
        "at",
        &at(2, 10),
        &[
            ("a", &shout(2).bytes()),
            ("b", &shout(2).bytes()),
            ("bt", &at(2, 20)),
        ],
    );
    net.pass(
        "bt",
        &at(4, 20),
        &[
            ("a", &shout(4).bytes()),
            ("at", &at(4, 10)),
            ("b", &shout(4).bytes()),
        ],
    );
    net.pass("at", &at(2, 11), &[]);
    net.pass("bt", &at(4, 110), &[("c", &at(4, 10))]);
    net.pass("bt", &at(4, 12), &[("ct", &at(4, 111))]);
    net.pass("c", &at(5, 10), &[("bt", &at(5, 110))]);
    net.pass("bt", &at(4, 99), &[]);
    assert_eq!(net.evb.counter("s-t.b", "no_native"), 1);
    net.evb.stop();
}

#[test]
fn customers_are_kept_apart_by_service_tags() {
    let customer = |name: &str, port: &str| relay_named(name, "", &[(port, "trunk = [10, 20]")]);
    let config = daemon(
        &[
            customer("red", "r"),
            customer("green", "g"),
            relay_named("core", "", &[("up", "trunk = [100, 200]")]),
        ],
        &[
            patch(
                "relay = \"red\", trunk = [10, 20]",
                "relay = \"core\", qinq = 100",
            ),
            patch(
                "relay = \"green\", trunk = [10, 20]",
                "relay = \"core\", qinq = 200",
            ),
        ]
        .concat(),
    );
    let mut net = Net::start(&config);
    for (port, n, service) in [("r", 1, 100), ("g", 2, 200)] {
        for tci in [10, 0xe014] {
            let inner = shout(n).tag(0x8100, tci).bytes();
            net.pass(
                port,
                &inner,
                &[(
                    "up",
                    &shout(n).tag(0x88a8, service).tag(0x8100, tci).bytes(),
                )],
            );
            let down = shout(60).tag(0x88a8, 0x4000 | service).tag(0x8100, tci);
            net.pass(
                "up",
                &down.bytes(),
                &[(port, &shout(60).tag(0x8100, tci).bytes())],
            );
        }
        let down = shout(60).tag(0x88a8, service).tag(0x8100, 30);
        net.pass("up", &down.bytes(), &[]);
    }
    net.evb.stop();
}

#[test]
fn a_flood_crosses_every_cable_once() {
    // r0 to r4 in a row, and three more relays around r2.
    let names: Vec<_> = (0..8)
        .map(|i| (format!("r{i}"), format!("p{i}"), format!("q{i}")))
        .collect();
    let relays: Vec<_> = names
        .iter()
        .map(|(r, p, q)| relay_named(r, "", &[(p, ""), (q, "")]))
        .collect();
    let cables = [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5), (2, 6), (2, 7)];
    let patches: Vec<_> = cables
        .iter()
        .map(|(a, b)| patch(&format!("relay = \"r{a}\""), &format!("relay = \"r{b}\"")))
        .collect();
    let mut net = Net::start(&daemon(&relays, &patches.concat()));
    let ports: Vec<_> = names.iter().flat_map(|(_, p, q)| [p.as_str(), q]).collect();
    for (n, from) in (1..).zip(&ports) {
        let others: Vec<_> = ports.iter().copied().filter(|p| p != from).collect();
        net.flow(from, &shout(n).bytes(), &others);
        net.flow(from, &unicast(n, 999).bytes(), &others);
    }
    // All is learnt: unicast takes the one way there is.
    for (n, from) in (1..).zip(&ports) {
        for (m, to) in (1..).zip(&ports).filter(|(_, to)| *to != from) {
            net.flow(from, &unicast(n, m).bytes(), &[to]);
        }
    }
    net.evb.stop();
}

#[test]
fn a_relay_of_vepa_ports_behind_one_that_reflects() {
    let vepa = "mode = \"vepa\"";
    let config = daemon(
        &[
            relay_named(
                "edge",
                "",
                &[
                    ("v1", vepa),
                    ("v2", vepa),
                    ("b1", ""),
                    ("p1", "mode = \"private\""),
                ],
            ),
            relay_named("core", "", &[("c1", "")]),
        ],
        &patch("relay = \"edge\", uplink = true", "relay = \"core\""),
    );
    let mut net = Net::start(&config);
    let everybody = [("v1", 1_u16), ("v2", 2), ("b1", 3), ("p1", 4), ("c1", 5)];
    let meet = |a: &str, b: &str| a != b && (a == "c1" || b == "c1" || (a != "p1" && b != "p1"));
    for (from, n) in everybody {
        let to: Vec<_> = everybody
            .iter()
            .map(|(p, _)| *p)
            .filter(|p| meet(from, p))
            .collect();
        net.flow(from, &shout(n).bytes(), &to);
    }
    for (from, n) in everybody {
        for (to, m) in everybody.iter().filter(|(to, _)| *to != from) {
            let way: &[&str] = if meet(from, to) { &[to] } else { &[] };
            net.flow(from, &unicast(n, *m).bytes(), way);
        }
    }
    net.evb.stop();
}

/// `evb check` of relays `names` and these patches.
fn check(names: &[&str], patches: &str) -> support::Finished {
    let relays: Vec<_> = names
        .iter()
        .map(|name| relay_named(name, "", &[]))
        .collect();
    check_text(&daemon(&relays, patches))
}

fn check_text(config: &str) -> support::Finished {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evb.toml");
    std::fs::write(&file, config.replace("{dir}", "/tmp")).unwrap();
    support::evb::run(&["check", "--config", file.to_str().unwrap()], dir.path())
}

fn cable(a: &str, b: &str) -> String {
    patch(&format!("relay = \"{a}\""), &format!("relay = \"{b}\""))
}

#[test]
fn a_loop_is_refused_and_spelled_out() {
    let row = [cable("r1", "r2"), cable("r2", "r3"), cable("r3", "r4")].concat();
    let names = ["r1", "r2", "r3", "r4"];
    let done = check(&names, &row);
    assert_eq!(done.code, Some(0), "{}", done.output);
    let done = check(&names, &(row.clone() + &cable("r4", "r1")));
    assert_eq!(done.code, Some(2));
    let round = ["r4", "r1", "r2", "r3"];
    let told = (0..4).any(|start| {
        let mut path: Vec<_> = (0..=4).map(|i| round[(start + i) % 4]).collect();
        let forth = done.output.contains(&path.join(" → "));
        path.reverse();
        forth || done.output.contains(&path.join(" → "))
    });
    assert!(told, "{}", done.output);
    // Two cables between the same relays, and one from a relay to itself.
    let twin = |name| {
        format!(
            "\n[[patch]]\nname = \"{name}\"\na = {{ relay = \"r1\" }}\nb = {{ relay = \"r2\" }}\n"
        )
    };
    let done = check(&["r1", "r2"], &[twin("x"), twin("y")].concat());
    assert_eq!(done.code, Some(2));
    assert!(done.output.contains("loop"), "{}", done.output);
    let done = check(&["r1"], &cable("r1", "r1"));
    assert_eq!(done.code, Some(2));
    assert!(done.output.contains("r1 → r1"), "{}", done.output);
}

#[test]
fn vepa_behind_vepa_is_refused_unless_wanted() {
    let config = |nested: &str| {
        daemon(
            &[
                relay_named("inner", nested, &[("v", "mode = \"vepa\"")]),
                relay_named("outer", "", &[("w", "mode = \"vepa\""), ("up", "")]),
            ],
            &patch(
                "relay = \"inner\", uplink = true",
                "relay = \"outer\", mode = \"vepa\"",
            ),
        )
    };
    let done = check_text(&config(""));
    assert_eq!(done.code, Some(2));
    assert!(done.output.contains("nested_reflect"), "{}", done.output);
    let done = check_text(&config("nested_reflect = true"));
    assert_eq!(done.code, Some(0), "{}", done.output);
}

#[test]
fn a_cable_through_a_passthrough_relay_carries_what_is_reflected() {
    let config = daemon(
        &[
            relay_named("nic", "", &[("up", "")]),
            relay_named("core", "", &[("vm", "")]),
        ],
        &patch(
            "relay = \"nic\", mode = \"passthrough\"",
            "relay = \"core\", reflective = true",
        ),
    );
    let mut net = Net::start(&config);
    // What comes by the uplink goes back there, and is heard from both sides since.
    for _ in 0..3 {
        net.flow("up", &shout(600).bytes(), &["vm", "up"]);
    }
    net.flow("vm", &shout(1).bytes(), &["up"]);
    net.evb.stop();
}
