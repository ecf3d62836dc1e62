//! Reload of the configuration: what changed changes, at once and in place, and nothing else notices.

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::net::{relay, relay_named};
use support::{BROADCAST, Evb, Guest, Net, eth, eventually, mac};

fn shout(n: u16) -> Vec<u8> {
    eth(BROADCAST, mac(n))
        .payload(0x88b6, &[n as u8; 80])
        .bytes()
}

fn tagged(n: u16, vid: u16) -> Vec<u8> {
    eth(BROADCAST, mac(n))
        .vlan(vid)
        .payload(0x88b6, &[n as u8; 80])
        .bytes()
}

/// Asserts that a guest's connection is the one that it has had.
fn assert_connected(guest: &mut Guest) {
    guest.front_end.get_features().unwrap();
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_is_told_about() {
    let good = relay(
        "",
        &[
            ("a", "access = 10"),
            ("b", "access = 10"),
            ("c", "access = 20"),
        ],
    );
    let mut net = Net::start(&good);
    let mistakes = [
        ("this is no toml [", "evb.toml"),
        ("[[port]]\nname = \"a\"\nrelay = \"r\"\n", "evb.toml"),
        (&*good.replace("access = 20", "access = 4095"), "4095"),
        (&*good.replace("access = 20", "acces = 20"), "acces"),
        (&*good.replace("access = 20", ""), "c"),
        (&*good.replace("name = \"c\"", "name = \"b\""), "b"),
        (&*good.replace("c.sock", "b.sock"), "b.sock"),
    ];
    for (text, word) in mistakes {
        let config = text.replace(
            "{dir}",
            net.evb.path("").to_str().unwrap().trim_end_matches('/'),
        );
        std::fs::write(net.evb.path("evb.toml"), config).unwrap();
        let (code, output) = net.reload_command();
        assert_eq!(code, Some(2), "{text}\n{output}");
        assert!(output.contains(word), "{text}\n{output}");
        let mark = net.evb.log_mark();
        net.evb.signal(libc::SIGHUP);
        net.evb.expect_log(mark, &["evb.toml"]);
        net.flow("a", &shout(1), &["b"]);
        net.flow("c", &shout(3), &[]);
    }
    // Nor does what is no file at all.
    let file = net.evb.path("evb.toml");
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    let (code, output) = net.reload_command();
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("a pipe, not a file"), "{output}");
    net.flow("a", &shout(1), &["b"]);
    std::fs::remove_file(&file).unwrap();
    net.reload(&good.replace("access = 20", "access = 10"));
    net.flow("a", &shout(1), &["b", "c"]);
    for port in ["a", "b", "c"] {
        assert_connected(net.at(port));
    }
    net.evb.stop();
}

#[test]
fn vlans_and_modes_change_under_the_traffic_of_others() {
    let config = |a: &str, b: &str| {
        relay(
            "",
            &[
                ("a", a),
                ("b", b),
                ("c", "access = 30"),
                ("d", "access = 30"),
                ("up", ""),
            ],
        )
    };
    let mut net = Net::start(&config("access = 10", "access = 10"));
    let (mut c, mut d) = (net.leave("c"), net.leave("d"));
    // d makes itself known, so that all of c's frames are for it alone.
    d.send(&shout(4));
    net.captured();
    c.recv(support::LIMIT).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) || number < 1000 {
                let frames: Vec<_> = (number..number + 32)
                    .map(|n| eth(mac(4), mac(3)).number(n).bytes())
                    .collect();
                c.send_burst(0, frames.iter().map(Vec::as_slice));
                for frame in &frames {
                    d.expect_frame(frame);
                }
                number += 32;
            }
            number
        });
        let at = |n, vid| tagged(n, vid);
        for _ in 0..4 {
            net.pass("a", &shout(1), &[("b", &shout(1)), ("up", &at(1, 10))]);
            net.reload(&config("access = 20", "access = 10"));
            net.pass("a", &shout(1), &[("up", &at(1, 20))]);
            net.pass("b", &shout(2), &[("up", &at(2, 10))]);
            net.reload(&config("access = 20", "trunk = [10, 20]"));
            net.pass("a", &shout(1), &[("b", &at(1, 20)), ("up", &at(1, 20))]);
            net.reload(&config("access = 20\nmode = \"vepa\"", "trunk = [10, 20]"));
            net.pass("a", &shout(1), &[("up", &at(1, 20))]);
            net.pass("up", &at(1, 20), &[("b", &at(1, 20))]);
            net.reload(&config(
                "access = 20\nmode = \"private\"",
                "trunk = [10, 20]",
            ));
            net.pass("a", &shout(1), &[("up", &at(1, 20))]);
            net.pass("up", &at(1, 20), &[]);
            net.reload(&config("qinq = 20", "trunk = [10, 20]"));
            let outer = eth(BROADCAST, mac(1))
                .tag(0x88a8, 20)
                .payload(0x88b6, &[1; 80])
                .bytes();
            net.pass("a", &shout(1), &[("b", &outer), ("up", &outer)]);
            net.reload(&config("access = 10", "access = 10"));
        }
        done.store(true, Ordering::Relaxed);
        assert!(traffic.join().unwrap() >= 1000);
    });
    for guest in [&mut c, &mut d] {
        assert_connected(guest);
    }
    for port in ["a", "b", "up"] {
        assert_connected(net.at(port));
    }
    net.evb.stop();
}

#[test]
fn what_was_learnt_in_a_vlan_is_of_no_use_in_another() {
    let config = |a: &str| relay("", &[("a", a), ("b", "access = 10"), ("c", "access = 10")]);
    let mut net = Net::start(&config("access = 10"));
    net.flow("a", &shout(1), &["b", "c"]);
    let to_a = eth(mac(1), mac(2)).bytes();
    net.flow("b", &to_a, &["a"]);
    net.reload(&config("access = 20"));
    net.flow("b", &to_a, &["c"]);
    net.reload(&config("access = 10"));
    net.flow("a", &shout(1), &["b", "c"]);
    net.flow("b", &to_a, &["a"]);
    net.evb.stop();
}

#[test]
fn what_was_learnt_where_a_port_is_no_more_does_not_count_against_its_limit() {
    let config = |vlans: &str| {
        let a = format!("{vlans}\nmac_policy = {{ learn = 1 }}");
        let b = if vlans.is_empty() { "" } else { "access = 10" };
        relay("", &[("a", &a), ("b", b)])
    };
    let mut net = Net::start(&config(""));
    net.flow("a", &shout(1), &["b"]);
    net.flow("b", &shout(2), &["a"]);
    for vlans in ["access = 10", ""] {
        net.reload(&config(vlans));
        assert_eq!(net.fdb(&[]), [], "{vlans:?}");
        net.flow("a", &shout(1), &["b"]);
        assert_eq!(net.addresses("a"), 1);
        assert_eq!(net.fdb(&["--port", "a"]).len(), 1);
    }
    // What still has its place keeps it.
    net.reload(&config("trunk = [20]\nnative = 10"));
    assert_eq!(net.fdb(&[]), []);
    net.flow("a", &shout(1), &["b"]);
    net.reload(&config("access = 10"));
    assert_eq!(net.addresses("a"), 1);
    net.evb.stop();
}

#[test]
fn relays_ports_and_patches_come_and_go() {
    let small = relay("", &[("a", ""), ("b", "")]);
    let more = small.clone() + &relay_named("s", "", &[("c", ""), ("d", "")]);
    let joined = more.clone() + "\n[[patch]]\na = { relay = \"r\" }\nb = { relay = \"s\" }\n";
    let mut net = Net::start(&small);
    let await_gone = |net: &Net, port: &str| {
        let socket = net.evb.path(&format!("{port}.sock"));
        eventually("a socket is gone", || (!socket.exists()).then_some(()));
    };
    for _ in 0..3 {
        net.flow("a", &shout(1), &["b"]);
        net.reload(&more);
        net.join("c", 3);
        net.join("d", 4);
        net.flow("a", &shout(1), &["b"]);
        net.flow("c", &shout(3), &["d"]);
        net.reload(&joined);
        net.flow("a", &shout(1), &["b", "c", "d"]);
        net.flow("c", &shout(3), &["a", "b", "d"]);
        net.flow("c", &eth(mac(1), mac(3)).bytes(), &["a"]);
        net.reload(&more);
        // What was behind the cable is unknown again.
        net.flow("c", &eth(mac(1), mac(3)).bytes(), &["d"]);
        net.flow("a", &eth(mac(3), mac(1)).bytes(), &["b"]);
        net.reload(&joined);
        net.flow("a", &shout(1), &["b", "c", "d"]);
        net.reload(&small);
        for port in ["c", "d"] {
            drop(net.leave(port));
            await_gone(&net, port);
        }
        net.flow("a", &shout(1), &["b"]);
        for port in ["a", "b"] {
            assert_connected(net.at(port));
        }
    }
    // Everything at once, and nothing.
    net.reload(&relay_named("x", "", &[]));
    for port in ["a", "b"] {
        drop(net.leave(port));
        await_gone(&net, port);
    }
    net.evb.assert_alive();
    net.evb.stop();
}

#[test]
fn two_ports_swap_their_sockets() {
    let straight = relay(
        "",
        &[
            ("a", "access = 10"),
            ("b", "access = 20"),
            ("t", "trunk = [10, 20]"),
        ],
    );
    let crossed = straight
        .replace("/a.sock", "/x")
        .replace("/b.sock", "/a.sock")
        .replace("/x", "/b.sock");
    let mut net = Net::start(&straight);
    for (config, vids) in [
        (&straight, [10, 20]),
        (&crossed, [20, 10]),
        (&straight, [10, 20]),
    ] {
        net.reload(config);
        for (n, port, vid) in [(1, "a", vids[0]), (2, "b", vids[1])] {
            // The guest at a socket: whether it had to come again or not.
            drop(net.leave(port));
            net.join(port, n);
            net.pass(port, &shout(n), &[("t", &tagged(n, vid))]);
            net.pass("t", &tagged(3, vid), &[(port, &shout(3))]);
        }
        assert_connected(net.at("t"));
    }
    net.evb.stop();
}

#[test]
fn a_port_moves_to_another_relay_without_its_guest_noticing() {
    let config = |first: &[(&str, &str)], second: &[(&str, &str)]| {
        relay("", first) + &relay_named("s", "", second)
    };
    let before = config(&[("a", ""), ("b", "")], &[("c", "")]);
    let mut net = Net::start(&before);
    net.flow("a", &shout(1), &["b"]);
    net.reload(&config(&[("b", "")], &[("a", ""), ("c", "")]));
    assert_connected(net.at("a"));
    net.flow("a", &shout(1), &["c"]);
    net.flow("c", &eth(mac(1), mac(3)).bytes(), &["a"]);
    net.flow("b", &shout(2), &[]);
    net.reload(&before);
    assert_connected(net.at("a"));
    net.flow("a", &shout(1), &["b"]);
    net.flow("b", &eth(mac(1), mac(2)).bytes(), &["a"]);
    net.evb.stop();
}

#[test]
fn settings_of_a_relay_change_in_place() {
    let lldp = eth([0x01, 0x80, 0xc2, 0, 0, 0x0e], mac(1))
        .payload(0x88cc, &[0; 60])
        .bytes();
    let group = eth([0x01, 0, 0x5e, 1, 2, 3], mac(1)).bytes();
    let ports = [
        ("a", "mode = \"vepa\""),
        ("b", "mode = \"vepa\""),
        ("c", "join = [\"01:00:5e:01:02:03\"]"),
        ("d", ""),
        ("up", ""),
    ];
    let mut net = Net::new("", &ports);
    net.flow("a", &shout(1), &["up"]);
    net.flow("a", &lldp, &[]);
    net.reload(&relay(
        "reflect = \"local\"\ngroup_fwd_mask = 0x4000",
        &ports,
    ));
    net.flow("a", &shout(1), &["b", "c", "d", "up"]);
    net.flow("a", &lldp, &["b", "c", "d", "up"]);
    net.flow("a", &group, &["b", "c", "d", "up"]);
    net.reload(&relay(
        "reflect = \"local\"\nmulticast = \"groups\"",
        &ports,
    ));
    net.flow("a", &lldp, &[]);
    net.flow("a", &group, &["c", "up"]);
    let with_static = "static = [{ mac = \"52:54:00:00:00:63\", port = \"d\" }]";
    net.reload(&relay(with_static, &ports));
    net.flow("c", &eth(mac(99), mac(3)).bytes(), &["d"]);
    net.reload(&relay("", &ports));
    net.flow("c", &eth(mac(99), mac(3)).bytes(), &["d", "up"]);
    assert_eq!(net.addresses("c"), 1);
    // Where the uplink reflects, c and d could not send without being learned, and that is refused.
    let still = ports.map(|(port, lines)| match port {
        "up" => (port, "reflective = false"),
        _ => (port, lines),
    });
    net.reload(&relay("ageing = 0", &still));
    net.flow(
        "up",
        &eth(BROADCAST, mac(600)).bytes(),
        &["a", "b", "c", "d"],
    );
    assert!(
        net.fdb(&[])
            .iter()
            .all(|(_, mac, ..)| mac != "52:54:00:00:02:58")
    );
    net.evb.stop();
}

#[test]
fn a_table_of_another_size_keeps_what_is_pinned() {
    let ports = [("v", "mode = \"vepa\""), ("b", ""), ("up", "")];
    let mut net = Net::new("", &ports);
    net.flow("v", &shout(77), &["up"]);
    let down = eth(mac(77), mac(600)).bytes();
    net.flow("up", &down, &["v"]);
    net.reload(&relay("max_entries = 100", &ports));
    net.flow("up", &down, &["v"]);
    net.flow("v", &shout(77), &["up"]);
    net.refused("v", &shout(78), "spoofed");
    net.flow("up", &down, &["v"]);
    assert_eq!(net.addresses("v"), 1);
    net.evb.stop();
}

#[test]
fn policies_of_a_port_change_in_place() {
    let config = |a: &str| relay("", &[("a", a), ("b", ""), ("c", "")]);
    let mut net = Net::start(&config(""));
    for n in 101..=103 {
        net.flow("a", &shout(n), &["b", "c"]);
    }
    net.reload(&config(
        "mac = [\"52:54:00:00:00:66\"]\nmac_policy = \"pinned\"",
    ));
    net.flow("a", &shout(102), &["b", "c"]);
    net.refused("a", &shout(101), "spoofed");
    net.refused("b", &shout(102), "address_taken");
    // Not flooded to a port whose addresses are all known, nor found there what it may not use.
    net.flow("b", &eth(mac(999), mac(2)).bytes(), &["c"]);
    net.reload(&config("flood_unknown = false\nmac_policy = \"trusted\""));
    net.flow("a", &shout(101), &["b", "c"]);
    net.flow("b", &eth(mac(999), mac(2)).bytes(), &["c"]);
    net.flow("b", &eth(mac(101), mac(2)).bytes(), &["a"]);
    net.reload(&config("mac_policy = \"pinned\""));
    net.flow("a", &shout(104), &["b", "c"]);
    net.refused("a", &shout(101), "spoofed");
    assert_connected(net.at("a"));
    net.evb.stop();
}

#[test]
fn another_mtu_is_a_new_link_for_its_port_alone() {
    let config = |a: &str| relay("", &[("a", a), ("b", "")]);
    let mut net = Net::start(&config(""));
    let mut jumbo = eth(mac(1), mac(2)).unpadded();
    jumbo.resize(1600, 1);
    net.flow("b", &jumbo, &["a"]);
    net.reload(&config("mtu = 1500"));
    let mut old = net.leave("a");
    assert!(old.front_end.get_features().is_err());
    net.join("a", 1);
    net.lost("b", &jumbo, "a", "oversize");
    assert_connected(net.at("b"));
    net.evb.stop();
}

/// Stops or continues the daemon's helper.
fn signal_helper(evb: &Evb, signal: &str) {
    let children = format!("/proc/{0}/task/{0}/children", evb.pid());
    let helper = std::fs::read_to_string(children).unwrap();
    let mut kill = Command::new("kill");
    assert!(
        kill.args([signal, helper.trim()])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn while_a_reload_waits_for_a_device_or_a_socket_all_else_goes_on() {
    let config = relay("", &[("a", ""), ("b", ""), ("c", "")]);
    let mut net = Net::start(&relay("", &[("a", ""), ("b", "")]));
    signal_helper(&net.evb, "-STOP");
    let mark = net.evb.log_mark();
    net.evb.reload(&config);
    let (code, output) = net.reload_command();
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("a reload is under way"), "{output}");
    // A front end that comes now gets all its answers, also those that wait for workers.
    drop(net.leave("b"));
    net.join("b", 2);
    net.pass("a", &shout(1), &[("b", &shout(1))]);
    assert!(!net.evb.logged_since(mark, &["reloaded"], Duration::ZERO));
    signal_helper(&net.evb, "-CONT");
    net.evb.expect_log(mark, &["reloaded"]);
    net.join("c", 3);
    net.pass("a", &shout(1), &[("b", &shout(1)), ("c", &shout(1))]);
}
