//! VLANs, as the guests of one relay see them (relay.md §3): who gets a frame, and which bytes.

mod support;

use support::{BROADCAST, Eth, Net, eth, mac};

const C: u16 = 0x8100;
const S: u16 = 0x88a8;

/// A broadcast from guest `n`.
fn shout(n: u16) -> Eth {
    eth(BROADCAST, mac(n))
}

/// The same frame behind more or other tags. The tag comes out of the padding of a short frame, so frames
/// here are long.
fn long(n: u16, tags: &[(u16, u16)]) -> Vec<u8> {
    let frame = tags
        .iter()
        .fold(shout(n), |f, (tpid, tci)| f.tag(*tpid, *tci));
    frame.payload(0x88b6, &[n as u8; 80]).bytes()
}

/// What the relay has counted in a VLAN, 0 for none: frames and bytes in, frames and bytes out, drops.
fn counted(net: &Net, vid: u64) -> [u64; 5] {
    let status = net.evb.status();
    let vlans = status["relays"][0]["vlans"].as_array().unwrap();
    let row = vlans
        .iter()
        .find(|vlan| vlan["vid"].as_u64().unwrap_or(0) == vid);
    ["in_frames", "in_bytes", "out_frames", "out_bytes", "drops"]
        .map(|name| row.map_or(0, |row| row[name].as_u64().unwrap()))
}

/// Ports of each kind: a1 and a2 in VLAN 10, b in 20, trunk t of both without a native VLAN, trunk n of both
/// and 30 where untagged is 10.
fn mixed() -> Net {
    Net::new(
        "",
        &[
            ("a1", "access = 10"),
            ("a2", "access = 10"),
            ("b", "access = 20"),
            ("t", "trunk = [10, 20]"),
            ("n", "trunk = [\"19-21\", 30]\nnative = 10"),
            ("up", ""),
        ],
    )
}

#[test]
fn access_ports_are_untagged_and_trunks_are_tagged() {
    let mut net = mixed();
    let plain = long(1, &[]);
    let ten = long(1, &[(C, 10)]);
    let to = [("a2", &plain[..]), ("n", &plain), ("t", &ten), ("up", &ten)];
    net.pass("a1", &plain, &to);
    let plain = long(3, &[]);
    let twenty = long(3, &[(C, 20)]);
    net.pass(
        "b",
        &plain,
        &[("n", &twenty), ("t", &twenty), ("up", &twenty)],
    );
    // From a trunk, tagged and native.
    let (plain, ten) = (long(5, &[]), long(5, &[(C, 10)]));
    let to = [
        ("a1", &plain[..]),
        ("a2", &plain),
        ("t", &ten),
        ("up", &ten),
    ];
    net.pass("n", &plain, &to);
    net.pass("n", &ten, &to);
    let (plain, twenty) = (long(4, &[]), long(4, &[(C, 20)]));
    net.pass(
        "t",
        &twenty,
        &[("b", &plain), ("n", &twenty), ("up", &twenty)],
    );
    // And from the uplink, which is a trunk of all VIDs in use.
    let (plain, twenty) = (long(60, &[]), long(60, &[(C, 20)]));
    net.pass(
        "up",
        &twenty,
        &[("b", &plain), ("n", &twenty), ("t", &twenty)],
    );
    let thirty = long(60, &[(C, 30)]);
    net.pass("up", &thirty, &[("n", &thirty)]);
    net.evb.stop();
}

#[test]
fn every_vlan_has_its_counters() {
    let mut net = mixed();
    let plain = long(1, &[]);
    let ten = long(1, &[(C, 10)]);
    let (short, tagged) = (plain.len() as u64, ten.len() as u64);
    // Three times from VLAN 10, untagged to two ports and tagged to two.
    for _ in 0..3 {
        let to = [("a2", &plain[..]), ("n", &plain), ("t", &ten), ("up", &ten)];
        net.pass("a1", &plain, &to);
    }
    // In VLAN 30 there is only one way, and nobody behind it once it was that way.
    let thirty = long(60, &[(C, 30)]);
    net.pass("up", &thirty, &[("n", &thirty)]);
    // Dropped in a VLAN, and before there was one. The guests' greetings were dropped so too.
    let own = eth(mac(1), mac(1)).payload(0x88b6, &[1; 80]).bytes();
    net.refused("a1", &own, "own_address");
    let [frames, bytes, .., drops] = counted(&net, 0);
    net.refused("t", &long(4, &[(C, 30)]), "not_member");
    assert_eq!(
        counted(&net, 0),
        [frames + 1, bytes + tagged, 0, 0, drops + 1]
    );
    let sent = 3 * short + own.len() as u64;
    assert_eq!(counted(&net, 10), [4, sent, 12, 6 * (short + tagged), 1]);
    assert_eq!(counted(&net, 30), [1, tagged, 1, tagged, 0]);
    assert_eq!(counted(&net, 20), [0; 5]);
    let control = net.evb.path("control.sock");
    let control = control.to_str().unwrap();
    let shown = net
        .evb
        .command(&["vlans", "--relay", "r", "--control", control]);
    assert_eq!(shown.code, Some(0), "{}", shown.output);
    let columns = ["VLAN", "IN BYTES", "OUT BYTES", "DROPS"];
    assert!(
        columns.iter().all(|name| shown.output.contains(name)),
        "{}",
        shown.output
    );
    let unknown = net
        .evb
        .command(&["vlans", "--relay", "x", "--control", control]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.output);
    net.evb.stop();
}

#[test]
fn ingress_is_filtered() {
    let mut net = mixed();
    // Any tag on an access port, that of its own VLAN included.
    net.refused("a1", &long(1, &[(C, 10)]), "tag_on_access");
    net.refused("a1", &long(1, &[(C, 20)]), "tag_on_access");
    net.refused("a1", &long(1, &[(S, 10)]), "foreign_tpid");
    net.refused("a1", &long(1, &[(0x9100, 10)]), "foreign_tpid");
    // VIDs that are not in the set.
    net.refused("t", &long(4, &[(C, 30)]), "not_member");
    net.refused("n", &long(5, &[(C, 22)]), "not_member");
    net.refused("up", &long(60, &[(C, 22)]), "not_member");
    // Untagged where there is no native VLAN.
    net.refused("t", &long(4, &[]), "no_native");
    net.refused("t", &long(4, &[(C, 0xe000)]), "no_native");
    net.refused("up", &long(60, &[]), "no_native");
    // 4095, whatever the priority.
    for tci in [4095, 0xefff] {
        for port in ["t", "n", "up"] {
            net.refused(port, &long(9, &[(C, tci)]), "reserved_vid");
        }
        net.pass("a1", &long(1, &[(C, tci)]), &[]);
    }
    net.refused("t", &long(4, &[(0x9100, 10)]), "foreign_tpid");
    // Nothing was learnt from any of them.
    assert_eq!(net.fdb(&[]), []);
    net.evb.stop();
}

#[test]
fn priority_and_dei_are_kept() {
    let mut net = mixed();
    for priority in 0..16_u16 {
        let tci = priority << 12;
        let plain = long(1, &[]);
        // VID 0 is the PVID with the priority kept.
        let ten = long(1, &[(C, tci | 0xa)]);
        let to = [("a2", &plain[..]), ("n", &plain), ("t", &ten), ("up", &ten)];
        net.pass("a1", &long(1, &[(C, tci)]), &to);
        let (plain, ten) = (long(5, &[]), long(5, &[(C, tci | 0xa)]));
        let to = [
            ("a1", &plain[..]),
            ("a2", &plain),
            ("t", &ten),
            ("up", &ten),
        ];
        net.pass("n", &long(5, &[(C, tci)]), &to);
        let (plain, twenty) = (long(4, &[]), long(4, &[(C, tci | 0x14)]));
        net.pass(
            "t",
            &twenty,
            &[("b", &plain), ("n", &twenty), ("up", &twenty)],
        );
    }
    net.evb.stop();
}

#[test]
fn untagged_frames_take_the_priority_of_their_port() {
    let mut net = Net::new(
        "",
        &[
            ("a", "access = 10\ndefault_pcp = 5"),
            ("t", "trunk = [10, 20]"),
            ("n", "trunk = [20]\nnative = 10\ndefault_pcp = 3"),
            ("up", "trunk = [10, 20]\nnative = 20\ndefault_pcp = 7"),
        ],
    );
    let at = |n, tci| long(n, &[(C, tci)]);
    net.pass(
        "a",
        &long(1, &[]),
        &[
            ("n", &long(1, &[])),
            ("t", &at(1, 0xa00a)),
            ("up", &at(1, 0xa00a)),
        ],
    );
    // A priority tag of 0 is a priority too.
    net.pass(
        "a",
        &at(1, 0),
        &[("n", &long(1, &[])), ("t", &at(1, 10)), ("up", &at(1, 10))],
    );
    net.pass(
        "n",
        &long(3, &[]),
        &[
            ("a", &long(3, &[])),
            ("t", &at(3, 0x600a)),
            ("up", &at(3, 0x600a)),
        ],
    );
    net.pass(
        "up",
        &long(9, &[]),
        &[("n", &at(9, 0xe014)), ("t", &at(9, 0xe014))],
    );
    net.evb.stop();
}

#[test]
fn the_inner_of_two_tags_is_opaque() {
    let mut net = mixed();
    for inner in [(C, 20), (C, 4095), (C, 0), (S, 7), (0x9100, 1)] {
        let frame = long(4, &[(C, 20), inner]);
        // b would have to get it untagged: whoever sees the inner tag of a C-tag is in another VLAN.
        let guarded = inner.0 != 0x9100;
        let before = net.evb.counter("b", "hopping_guard");
        let bare = long(4, &[inner]);
        let mut to = vec![("n", &frame[..]), ("up", &frame)];
        if !guarded {
            to.push(("b", &bare));
        }
        net.pass("t", &frame, &to);
        let after = net.evb.counter("b", "hopping_guard");
        assert_eq!(after - before, u64::from(guarded), "{inner:?}");
    }
    // Three tags and more are no different.
    let deep = long(4, &[(C, 20), (C, 20), (C, 20), (C, 20)]);
    net.pass("t", &deep, &[("n", &deep), ("up", &deep)]);
    net.evb.stop();
}

#[test]
fn a_native_vlan_is_no_way_into_another() {
    let mut net = mixed();
    // The classic attack: the outer tag is the native VLAN of a trunk, which would take it off.
    let attack = long(4, &[(C, 10), (C, 20)]);
    let before = ["a1", "a2", "n"].map(|p| net.evb.counter(p, "hopping_guard"));
    net.pass("t", &attack, &[("up", &attack)]);
    let after = ["a1", "a2", "n"].map(|p| net.evb.counter(p, "hopping_guard"));
    assert_eq!(after, before.map(|n| n + 1));
    // With a priority tag in front, from the native trunk itself and from an access port.
    for (from, n) in [("n", 5), ("a1", 1)] {
        let inner = long(n, &[(C, 0), (C, 20)]);
        let out = long(n, &[(C, 10), (C, 20)]);
        net.pass(from, &inner, &[("t", &out), ("up", &out)]);
    }
    // Unicast too.
    let hello = long(2, &[]);
    let ten = long(2, &[(C, 10)]);
    net.pass(
        "a2",
        &hello,
        &[("a1", &hello), ("n", &hello), ("t", &ten), ("up", &ten)],
    );
    let unicast = eth(mac(2), mac(4)).tag(C, 10).tag(C, 20).bytes();
    net.lost("t", &unicast, "a2", "hopping_guard");
    net.evb.stop();
}

#[test]
fn a_foreign_tag_is_payload_of_the_native_vlan() {
    let mut net = mixed();
    for tpid in [S, 0x9100, 0x9200] {
        let frame = long(5, &[(tpid, 20)]);
        let out = long(5, &[(C, 10), (tpid, 20)]);
        let mut to = vec![("t", &out[..]), ("up", &out)];
        if tpid != S {
            to.extend([("a1", &frame[..]), ("a2", &frame)]);
        }
        net.pass("n", &frame, &to);
    }
    net.evb.stop();
}

#[test]
fn translation_goes_both_ways() {
    let mut net = Net::new(
        "",
        &[
            ("x", "translate = { 100 = 10, 200 = 20, 20 = 100 }"),
            ("t", "trunk = [10, 20, 30, 100]"),
            ("a", "access = 10"),
            ("y", "translate = { 7 = 10 }"),
        ],
    );
    let at = |n, vid: u16| long(n, &[(C, vid)]);
    for priority in [0_u16, 0x7000, 0xf000] {
        let at = |n, vid| at(n, priority | vid);
        let plain = long(1, &[]);
        let to = [("a", &plain[..]), ("t", &at(1, 10)), ("y", &at(1, 7))];
        net.pass("x", &at(1, 100), &to);
        net.pass("x", &at(1, 200), &[("t", &at(1, 20))]);
        net.pass("x", &at(1, 20), &[("t", &at(1, 100))]);
        net.pass("t", &at(2, 100), &[("x", &at(2, 20))]);
        net.pass("t", &at(2, 20), &[("x", &at(2, 200))]);
        let plain = long(4, &[]);
        let to = [("a", &plain[..]), ("t", &at(4, 10)), ("x", &at(4, 100))];
        net.pass("y", &at(4, 7), &to);
    }
    net.pass("t", &at(2, 30), &[]);
    net.refused("x", &at(1, 10), "untranslated");
    net.refused("x", &at(1, 30), "untranslated");
    net.refused("x", &at(1, 4095), "reserved_vid");
    net.refused("x", &long(1, &[]), "no_native");
    net.refused("x", &at(1, 0), "no_native");
    // The inner tag is not translated.
    let double = |outer| long(1, &[(C, outer), (C, 200)]);
    let before = net.evb.counter("a", "hopping_guard");
    net.pass("x", &double(100), &[("t", &double(10)), ("y", &double(7))]);
    assert_eq!(net.evb.counter("a", "hopping_guard"), before + 1);
    net.evb.stop();
}

#[test]
fn qinq_carries_anything() {
    let mut net = Net::new(
        "",
        &[
            ("q1", "qinq = 100\ndefault_pcp = 2"),
            ("q2", "qinq = 100"),
            ("other", "qinq = 101"),
            ("c", "access = 10"),
            ("up", "trunk = [10, 100, 101]"),
        ],
    );
    let inner: [&[(u16, u16)]; 9] = [
        &[],
        &[(C, 10)],
        &[(C, 4095)],
        &[(C, 0xe000)],
        &[(S, 100)],
        &[(S, 55)],
        &[(0x9100, 1)],
        &[(C, 10), (C, 20)],
        &[(S, 1), (C, 2)],
    ];
    for tags in inner {
        let outer = |tci| long(1, &[&[(S, tci)], tags].concat());
        net.pass(
            "q1",
            &long(1, tags),
            &[("q2", &long(1, tags)), ("up", &outer(0x4064))],
        );
        // Back from the uplink, whatever the priority; the S-tag comes off.
        let down = |tci| long(60, &[&[(S, tci)], tags].concat());
        let bare = long(60, tags);
        net.pass("up", &down(100), &[("q1", &bare), ("q2", &bare)]);
        net.pass("up", &down(0xf064), &[("q1", &bare), ("q2", &bare)]);
        net.pass("up", &down(101), &[("other", &bare)]);
    }
    // An S-VID is not a C-VID, nor the reverse.
    net.pass("up", &long(60, &[(C, 100)]), &[]);
    net.pass("up", &long(60, &[(S, 10)]), &[]);
    net.pass("up", &long(60, &[(C, 10)]), &[("c", &long(60, &[]))]);
    net.evb.stop();
}

#[test]
fn in_a_flat_relay_every_tag_is_payload() {
    let mut net = Net::new("", &[("a", ""), ("b", ""), ("c", ""), ("up", "")]);
    let tags: [&[(u16, u16)]; 8] = [
        &[],
        &[(C, 0xe000)],
        &[(C, 4095)],
        &[(C, 10)],
        &[(S, 10), (C, 20)],
        &[(C, 10), (C, 10)],
        &[(0x9100, 1)],
        &[(C, 1), (C, 2), (C, 3), (C, 4)],
    ];
    for tags in tags {
        net.flow("a", &long(1, tags), &["b", "c", "up"]);
        net.flow("up", &long(60, tags), &["a", "b", "c"]);
    }
    // One broadcast domain with one table: an address learnt behind one tag is known behind another.
    net.flow("b", &eth(mac(1), mac(2)).vlan(20).bytes(), &["a"]);
    net.flow("a", &eth(mac(2), mac(1)).vlan(30).bytes(), &["b"]);
    assert!(net.fdb(&[]).iter().all(|(vid, ..)| vid.is_none()));
    net.evb.stop();
}

#[test]
fn each_vlan_learns_by_itself() {
    let mut net = Net::new(
        "",
        &[
            ("a", "access = 10"),
            ("b", "access = 20"),
            ("t", "trunk = [10, 20]"),
            ("u", "trunk = [10, 20]"),
        ],
    );
    // One address in VLAN 10 behind a, and in VLAN 20 behind u.
    let twin = mac(77);
    let from_a = eth(BROADCAST, twin).bytes();
    let ten = |f: &Eth| f.clone().vlan(10).bytes();
    let shout = eth(BROADCAST, twin);
    let mut tagged = shout.clone().vlan(10).unpadded();
    tagged.resize(64, 0);
    net.pass("a", &from_a, &[("t", &tagged), ("u", &tagged)]);
    let from_u = shout.clone().vlan(20).bytes();
    let mut bare = shout.unpadded();
    bare.resize(56, 0);
    net.pass("u", &from_u, &[("b", &bare), ("t", &from_u)]);
    let entries = net.fdb(&["--mac", "52:54:00:00:00:4d"]);
    let place = |vid, port: &str| {
        (
            Some(vid),
            "52:54:00:00:00:4d".to_owned(),
            port.to_owned(),
            "learned".to_owned(),
        )
    };
    assert_eq!(entries, [place(10, "a"), place(20, "u")]);
    // Each VLAN finds its own.
    let to_twin = eth(twin, mac(3)).payload(0x88b6, &[7; 80]);
    net.pass("t", &ten(&to_twin), &[("a", &to_twin.bytes())]);
    net.flow("t", &to_twin.clone().vlan(20).bytes(), &["u"]);
    // In VLAN 20, a's own address is unknown: it is flooded.
    let unknown = eth(mac(1), mac(4)).payload(0x88b6, &[7; 80]);
    let tagged = unknown.clone().vlan(20).bytes();
    net.pass("u", &tagged, &[("b", &unknown.bytes()), ("t", &tagged)]);
    net.evb.stop();
}

#[test]
fn vlans_of_a_set_learn_together() {
    let mut net = Net::new(
        "fid = [[10, 20]]",
        &[
            ("a", "access = 10"),
            ("b", "access = 30"),
            ("t", "trunk = [10, 20, 30]"),
            ("u", "trunk = [10, 20, 30]"),
        ],
    );
    let shout = |vid| {
        eth(BROADCAST, mac(77))
            .payload(0x88b6, &[1; 80])
            .vlan(vid)
            .bytes()
    };
    net.pass(
        "u",
        &shout(10),
        &[
            (
                "a",
                &eth(BROADCAST, mac(77)).payload(0x88b6, &[1; 80]).bytes(),
            ),
            ("t", &shout(10)),
        ],
    );
    // Known in 20, which shares with 10, and unknown in 30.
    let to = |vid| {
        eth(mac(77), mac(3))
            .payload(0x88b6, &[1; 80])
            .vlan(vid)
            .bytes()
    };
    net.flow("t", &to(20), &["u"]);
    let bare = eth(mac(77), mac(3)).payload(0x88b6, &[1; 80]).bytes();
    net.pass("t", &to(30), &[("b", &bare), ("u", &to(30))]);
    // What is learnt on a, which is not in 20, is known there and not flooded.
    let from_a = eth(mac(77), mac(1)).payload(0x88b6, &[1; 80]);
    net.pass(
        "a",
        &from_a.bytes(),
        &[("u", &from_a.clone().vlan(10).bytes())],
    );
    let to_a = |vid| {
        eth(mac(1), mac(3))
            .payload(0x88b6, &[1; 80])
            .vlan(vid)
            .bytes()
    };
    net.refused("t", &to_a(20), "not_member");
    net.evb.stop();
}

#[test]
fn all_vlans_work_at_once() {
    let mut net = Net::new(
        "max_entries = 10000",
        &[
            (
                "t",
                "trunk = [\"1-4094\"]\nmac_policy = \"trusted\"\nmac_limit = 5000",
            ),
            (
                "u",
                "trunk = [\"1-4094\"]\nmac_policy = \"trusted\"\nmac_limit = 5000",
            ),
            ("odd", "trunk = [\"1-2000\"]\nnative = 1000"),
            ("a", "access = 4094"),
        ],
    );
    let frame = |dst, src, vid| eth(dst, src).payload(0x88b6, &[3; 80]).tag(C, vid);
    for vid in 1..=4094 {
        let tagged = frame(BROADCAST, mac(1), vid).bytes();
        let bare = eth(BROADCAST, mac(1)).payload(0x88b6, &[3; 80]).bytes();
        let mut to = vec![("u", &tagged[..])];
        match vid {
            1000 => to.push(("odd", &bare)),
            1..=2000 => to.push(("odd", &tagged)),
            4094 => to.push(("a", &bare)),
            _ => {}
        }
        net.pass("t", &tagged, &to);
    }
    // One address in all of them, each learnt by itself.
    assert_eq!(net.addresses("t"), 4094);
    for vid in (1..=4094).step_by(37) {
        net.flow("u", &frame(mac(1), mac(2), vid).bytes(), &["t"]);
    }
    net.evb.stop();
}

#[test]
fn impossible_vlans_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (lines, word) in [
        ("access = 0", "0"),
        ("access = 4095", "4095"),
        ("trunk = [0]", "0"),
        ("trunk = [\"1-4095\"]", "4095"),
        ("trunk = [10]\nnative = 4095", "4095"),
        ("qinq = 4095", "4095"),
        ("translate = { 10 = 110, 20 = 110 }", "110"),
        ("translate = { 4095 = 110 }", "4095"),
        ("translate = { 10 = 0 }", "0"),
    ] {
        let config = support::net::relay("", &[("a", lines), ("b", "access = 5")]);
        let file = dir.path().join("evb.toml");
        std::fs::write(&file, config.replace("{dir}", "/tmp")).unwrap();
        let check = support::evb::run(&["check", "--config", file.to_str().unwrap()], dir.path());
        assert_eq!(check.code, Some(2), "{lines}");
        assert!(check.output.contains(word), "{lines}: {}", check.output);
        assert!(
            check.output.contains("evb.toml:1"),
            "{lines}: {}",
            check.output
        );
    }
}
