//! The tables of relay.md §1, row by row: who gets a frame, by the mode of the ports, from a local port, from the
//! uplink, and when the adjacent switch reflects. The guest at `up` plays that switch.

mod support;

use support::net::relay;
use support::{BROADCAST, Net, eth, mac};

const MULTICAST: [u8; 6] = [0x01, 0, 0x5e, 1, 2, 3];
/// A station behind the uplink.
const OUTSIDE: u16 = 600;
/// An address that nobody has.
const NOBODY: u16 = 999;
const LOCAL: [&str; 6] = ["b1", "b2", "v1", "v2", "p1", "p2"];

/// The number of a local port's guest, from which its address follows.
fn number(port: &str) -> u16 {
    1 + LOCAL.iter().position(|p| *p == port).unwrap() as u16
}

fn frame(from: u16, to: u16) -> Vec<u8> {
    eth(mac(to), mac(from)).bytes()
}

fn group(from: u16, to: [u8; 6]) -> Vec<u8> {
    eth(to, mac(from)).bytes()
}

/// Two ports of each mode, with registered addresses, and an uplink.
fn ports(of_all: &str) -> Vec<(&'static str, String)> {
    let mut ports: Vec<_> = LOCAL
        .iter()
        .map(|port| {
            let mode = match port.as_bytes()[0] {
                b'b' => "bridge",
                b'v' => "vepa",
                _ => "private",
            };
            let n = number(port);
            let lines = format!("mode = \"{mode}\"\nmac = [\"52:54:00:00:00:{n:02x}\"]\n{of_all}");
            (*port, lines)
        })
        .collect();
    ports.push(("up", String::new()));
    ports
}

fn six(settings: &str, of_all: &str) -> Net {
    let ports = ports(of_all);
    let ports: Vec<_> = ports.iter().map(|(n, l)| (*n, l.as_str())).collect();
    Net::new(settings, &ports)
}

/// The ports of `all` but `port`.
fn but<'a>(all: &[&'a str], port: &str) -> Vec<&'a str> {
    all.iter().copied().filter(|p| *p != port).collect()
}

fn is(mode: char, port: &str) -> bool {
    port.starts_with(mode)
}

#[test]
fn frames_from_local_ports() {
    let mut net = six("", "");
    // The outside station makes itself known to the bridge ports.
    net.flow("up", &group(OUTSIDE, BROADCAST), &LOCAL);
    for from in LOCAL {
        let n = number(from);
        let others = if is('b', from) {
            but(&["b1", "b2"], from)
        } else {
            vec![]
        };
        let up_and_others = [&others[..], &["up"]].concat();
        for to in but(&LOCAL, from) {
            let way = if is('b', from) && is('b', to) {
                to
            } else {
                "up"
            };
            net.flow(from, &frame(n, number(to)), &[way]);
        }
        net.flow(from, &frame(n, OUTSIDE), &["up"]);
        net.flow(from, &frame(n, NOBODY), &up_and_others);
        net.flow(from, &group(n, BROADCAST), &up_and_others);
        net.flow(from, &group(n, MULTICAST), &up_and_others);
        if is('b', from) {
            net.refused(from, &frame(n, n), "own_address");
        } else {
            net.flow(from, &frame(n, n), &["up"]);
            net.refused(from, &frame(77, NOBODY), "spoofed");
            net.refused(from, &group(77, BROADCAST), "spoofed");
            net.refused(from, &frame(OUTSIDE, NOBODY), "spoofed");
        }
        // Nobody poses as a sibling.
        let sibling = number(but(&LOCAL, from)[0]);
        let reason = if is('b', from) {
            "address_taken"
        } else {
            "spoofed"
        };
        net.refused(from, &group(sibling, BROADCAST), reason);
        for last in 0..16 {
            net.pass(from, &group(n, [0x01, 0x80, 0xc2, 0, 0, last]), &[]);
        }
        let pause = eth(mac(NOBODY), mac(n)).payload(0x8808, &[0, 1, 0, 9]);
        net.refused(from, &pause.bytes(), "pause");
    }
    net.evb.stop();
}

#[test]
fn frames_from_outside() {
    let mut net = six("", "");
    for to in LOCAL {
        net.flow("up", &frame(OUTSIDE, number(to)), &[to]);
    }
    net.flow("up", &frame(OUTSIDE, NOBODY), &["b1", "b2"]);
    net.flow("up", &group(OUTSIDE, BROADCAST), &LOCAL);
    net.flow("up", &group(OUTSIDE, MULTICAST), &LOCAL);
    // To another station outside, known to be there: never the way it came.
    net.flow("up", &group(OUTSIDE + 1, BROADCAST), &LOCAL);
    net.refused("up", &frame(OUTSIDE, OUTSIDE + 1), "uplink_turn");
    for last in 0..16 {
        net.pass("up", &group(OUTSIDE, [0x01, 0x80, 0xc2, 0, 0, last]), &[]);
    }
    net.refused("up", &eth(BROADCAST, [0; 6]).bytes(), "zero_source");
    net.refused("up", &eth(BROADCAST, MULTICAST).bytes(), "group_source");
    net.evb.stop();
}

#[test]
fn reflected_frames() {
    let mut net = six("", "");
    for from in LOCAL {
        let n = number(from);
        // The pair rule: exactly the pairs that had to go by the switch.
        for to in LOCAL {
            let reflected = frame(n, number(to));
            let by_switch =
                !(is('p', from) || is('p', to) || is('b', from) && is('b', to) || from == to);
            if by_switch {
                net.flow("up", &reflected, &[to]);
            } else if from == to {
                net.refused("up", &reflected, "own_source");
            } else {
                net.refused("up", &reflected, "pair_rule");
            }
        }
        let vepa = but(&["v1", "v2"], from);
        let groups = match &from[..1] {
            "b" => vepa,
            "v" => [&vepa[..], &["b1", "b2"]].concat(),
            _ => vec![],
        };
        let unknown: &[&str] = if is('v', from) { &["b1", "b2"] } else { &[] };
        net.flow("up", &frame(n, NOBODY), unknown);
        net.flow("up", &group(n, BROADCAST), &groups);
        net.flow("up", &group(n, MULTICAST), &groups);
    }
    net.evb.stop();
}

#[test]
fn every_pair_talks_one_way_at_most_behind_a_reflecting_switch() {
    let mut net = six("", "");
    // What comes up at all goes down again, as a reflecting switch does it.
    for from in LOCAL {
        for to in but(&LOCAL, from) {
            for message in [
                frame(number(from), number(to)),
                group(number(from), BROADCAST),
            ] {
                net.at(from).send(&message);
                let mut arrived = net.captured();
                for up in arrived.remove("up").unwrap_or_default() {
                    net.at("up").send(&up);
                    for (port, frames) in net.captured() {
                        arrived.entry(port).or_default().extend(frames);
                    }
                }
                let copies = arrived.get(to).map_or(0, Vec::len);
                let meet = !is('p', from) && !is('p', to);
                assert_eq!(copies, usize::from(meet), "{from} to {to}: {arrived:?}");
                assert!(!arrived.contains_key(from), "{from} got its own frame");
            }
        }
    }
    net.evb.stop();
}

#[test]
fn a_promiscuous_vepa_port_hears_what_is_unknown() {
    let mut config: Vec<_> = ports("");
    config[2].1 += "\npromiscuous = true";
    let config: Vec<_> = config.iter().map(|(n, l)| (*n, l.as_str())).collect();
    let mut net = Net::new("", &config);
    net.flow("up", &frame(OUTSIDE, NOBODY), &["b1", "b2", "v1"]);
    net.flow("up", &frame(number("b1"), NOBODY), &["v1"]);
    net.flow("up", &frame(number("v2"), NOBODY), &["b1", "b2", "v1"]);
    net.flow("up", &frame(number("v1"), NOBODY), &["b1", "b2"]);
    net.flow("up", &frame(number("p1"), NOBODY), &[]);
    net.flow("v2", &frame(number("v2"), NOBODY), &["up"]);
    net.flow("up", &frame(OUTSIDE, number("v2")), &["v2"]);
    net.evb.stop();
}

#[test]
fn flood_unknown_chooses_the_bridge_ports() {
    let mut net = Net::new(
        "",
        &[
            ("a", ""),
            ("b", "flood_unknown = false"),
            (
                "c",
                "mac = [\"52:54:00:00:00:03\"]\nmac_policy = \"pinned\"",
            ),
            (
                "d",
                "mac = [\"52:54:00:00:00:04\"]\nmac_policy = \"pinned\"\nflood_unknown = true",
            ),
            ("up", ""),
        ],
    );
    net.flow("up", &frame(OUTSIDE, NOBODY), &["a", "d"]);
    net.flow("d", &frame(4, NOBODY), &["a", "up"]);
    net.flow("a", &frame(1, NOBODY), &["d", "up"]);
    // Groups go to all of them, and a known address to its port.
    net.flow("a", &group(1, BROADCAST), &["b", "c", "d", "up"]);
    net.flow("a", &frame(1, 3), &["c"]);
    net.flow("b", &group(2, MULTICAST), &["a", "c", "d", "up"]);
    net.flow("a", &frame(1, 2), &["b"]);
    net.evb.stop();
}

#[test]
fn a_port_gets_its_own_frames_back_only_if_it_wants_them() {
    let mut net = six("", "accept_own_src = true");
    for from in LOCAL {
        let n = number(from);
        net.flow("up", &frame(n, n), &[from]);
        let mut back = match &from[..1] {
            "b" => vec!["v1", "v2"],
            "v" => vec!["b1", "b2", "v1", "v2"],
            _ => vec![],
        };
        if !back.contains(&from) {
            back.push(from);
        }
        net.flow("up", &group(n, BROADCAST), &back);
    }
    // Nothing comes back at once: it takes a switch.
    net.refused("b1", &frame(1, 1), "own_address");
    net.flow("b1", &group(1, BROADCAST), &["b2", "up"]);
    net.evb.stop();
}

#[test]
fn a_relay_reflects_by_itself() {
    let mut net = six("reflect = \"local\"", "");
    for from in LOCAL {
        let n = number(from);
        for to in but(&LOCAL, from) {
            let message = frame(n, number(to));
            if is('p', from) || is('p', to) {
                net.refused(from, &message, "pair_rule");
            } else {
                net.flow(from, &message, &[to]);
            }
        }
        let reason = if is('b', from) {
            "own_address"
        } else {
            "own_source"
        };
        net.refused(from, &frame(n, n), reason);
        // What is unknown and what is for many goes both ways.
        let (unknown, groups) = match &from[..1] {
            "b" => (
                but(&["b1", "b2", "up"], from),
                but(&["b1", "b2", "v1", "v2", "up"], from),
            ),
            "v" => (
                vec!["b1", "b2", "up"],
                but(&["b1", "b2", "v1", "v2", "up"], from),
            ),
            _ => (vec!["up"], vec!["up"]),
        };
        net.flow(from, &frame(n, NOBODY), &unknown);
        net.flow(from, &group(n, BROADCAST), &groups);
        net.flow(from, &group(n, MULTICAST), &groups);
        // The adjacent switch cannot add to that.
        for to in [mac(1), mac(3), BROADCAST, MULTICAST] {
            net.refused("up", &group(n, to), "reflected");
        }
    }
    net.flow("up", &frame(OUTSIDE, 3), &["v1"]);
    net.flow("v1", &frame(3, OUTSIDE), &["up"]);
    net.evb.stop();
}

#[test]
fn without_an_uplink_only_bridge_ports_talk() {
    let mut ports = ports("");
    ports.pop();
    let ports: Vec<_> = ports.iter().map(|(n, l)| (*n, l.as_str())).collect();
    let mut net = Net::new("", &ports);
    // Where their announcements went; they would be counted later otherwise.
    for port in ["v1", "p1"] {
        net.evb.expect_counter(port, "no_uplink", 1);
    }
    net.flow("b1", &group(1, BROADCAST), &["b2"]);
    net.flow("b1", &frame(1, 2), &["b2"]);
    net.refused("b1", &frame(1, 3), "no_uplink");
    net.refused("v1", &group(3, BROADCAST), "no_uplink");
    net.refused("v1", &frame(3, 1), "no_uplink");
    net.refused("p1", &frame(5, 6), "no_uplink");
    net.evb.stop();
}

#[test]
fn a_reflective_bridge_port_sends_back_where_it_came_from() {
    let mut net = Net::new(
        "",
        &[
            ("station", "reflective = true\nmac_policy = \"trusted\""),
            ("b", ""),
            ("c", ""),
        ],
    );
    // Two stations behind one port, 11 and 12.
    net.flow("station", &group(11, BROADCAST), &["station", "b", "c"]);
    net.flow("station", &group(12, MULTICAST), &["station", "b", "c"]);
    net.flow("station", &frame(11, 12), &["station"]);
    net.flow("station", &frame(11, NOBODY), &["station", "b", "c"]);
    net.flow("b", &group(2, BROADCAST), &["station", "c"]);
    net.flow("station", &frame(11, 2), &["b"]);
    net.flow("b", &frame(2, 12), &["station"]);
    net.refused("b", &frame(2, 2), "own_address");
    net.evb.stop();
}

#[test]
fn learnt_addresses_move_to_an_uplink_that_does_not_reflect() {
    let ports = [("a", ""), ("b", ""), ("up", "reflective = false")];
    let mut net = Net::new("", &ports);
    net.flow("a", &group(50, BROADCAST), &["b", "up"]);
    net.flow("b", &frame(2, 50), &["a"]);
    // The VM with address 50 has migrated away.
    net.flow("up", &group(50, BROADCAST), &["a", "b"]);
    net.flow("b", &frame(2, 50), &["up"]);
    net.evb.stop();
    // With a switch that reflects it would be an echo.
    let ports = [("a", ""), ("b", ""), ("up", "reflective = true")];
    let mut net = Net::new("", &ports);
    net.flow("a", &group(50, BROADCAST), &["b", "up"]);
    net.flow("up", &group(50, BROADCAST), &[]);
    net.flow("b", &frame(2, 50), &["a"]);
    net.evb.stop();
}

#[test]
fn a_mask_opens_reserved_addresses() {
    let mut net = Net::new(
        "group_fwd_mask = 0x4005",
        &[("a", ""), ("b", ""), ("up", "")],
    );
    for last in 0..16 {
        let to = [0x01, 0x80, 0xc2, 0, 0, last];
        for ethertype in [0x88cc, 0x8809, 0x88b6] {
            let frame = eth(to, mac(1)).payload(ethertype, &[7; 60]).bytes();
            if matches!(last, 0 | 2 | 14) {
                net.flow("a", &frame, &["b", "up"]);
                net.flow(
                    "up",
                    &eth(to, mac(OUTSIDE)).payload(ethertype, &[7; 60]).bytes(),
                    &["a", "b"],
                );
            } else {
                net.pass("a", &frame, &[]);
            }
        }
    }
    // Nothing is learnt from them, and a pause frame is one at any address.
    assert_eq!(net.fdb(&[]), []);
    let pause = eth([0x01, 0x80, 0xc2, 0, 0, 0], mac(1)).payload(0x8808, &[0, 1, 0, 9]);
    net.refused("a", &pause.bytes(), "pause");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evb.toml");
    std::fs::write(
        &file,
        relay("group_fwd_mask = 2", &[]).replace("{dir}", "/tmp"),
    )
    .unwrap();
    let check = support::evb::run(&["check", "--config", file.to_str().unwrap()], dir.path());
    assert_eq!(check.code, Some(2), "{}", check.output);
    assert!(check.output.contains("evb.toml:6"), "{}", check.output);
    net.evb.stop();
}

#[test]
fn groups_reach_those_that_joined() {
    let join = "join = [\"01:00:5e:01:02:03\"]";
    let ports = [
        ("a", ""),
        ("b", join),
        ("v", &*format!("mode = \"vepa\"\n{join}")),
        ("w", "mode = \"vepa\""),
        ("router", "multicast_router = true"),
        ("up", ""),
    ];
    let other = [0x01, 0, 0x5e, 9, 9, 9];
    let mut net = Net::new("multicast = \"groups\"\nflood_unregistered = false", &ports);
    net.flow("a", &group(1, MULTICAST), &["b", "router", "up"]);
    net.flow("a", &group(1, other), &["router", "up"]);
    net.flow("up", &group(OUTSIDE, MULTICAST), &["b", "v", "router"]);
    net.flow("up", &group(OUTSIDE, other), &["router"]);
    net.flow("v", &group(3, MULTICAST), &["up"]);
    net.flow("up", &group(3, MULTICAST), &["b", "router"]);
    net.flow("w", &group(4, MULTICAST), &["up"]);
    net.flow("up", &group(4, MULTICAST), &["b", "v", "router"]);
    // What is never pruned.
    for all in [
        [0x01, 0, 0x5e, 0, 0, 5],
        [0x33, 0x33, 0, 0, 0, 1],
        BROADCAST,
    ] {
        net.flow("a", &group(1, all), &["b", "router", "up"]);
        net.flow("up", &group(OUTSIDE, all), &["a", "b", "v", "w", "router"]);
    }
    net.evb.stop();
    let mut net = Net::new("multicast = \"groups\"", &ports);
    net.flow("up", &group(OUTSIDE, MULTICAST), &["b", "v", "router"]);
    net.flow(
        "up",
        &group(OUTSIDE, other),
        &["a", "b", "v", "w", "router"],
    );
    net.evb.stop();
}
