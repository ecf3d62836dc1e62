//! Whose addresses are whose (relay.md §4): policies, limits, floods of addresses, and the table that the operator sees.

mod support;

use support::net::relay;
use support::{BROADCAST, Net, eth, mac};

fn group(from: u16) -> Vec<u8> {
    eth(BROADCAST, mac(from)).bytes()
}

fn frame(from: u16, to: u16) -> Vec<u8> {
    eth(mac(to), mac(from)).bytes()
}

fn text(n: u16) -> String {
    let [high, low] = n.to_be_bytes();
    format!("52:54:00:00:{high:02x}:{low:02x}")
}

/// An entry of a flat relay as `Net::fdb` has it.
fn entry(n: u16, port: &str, kind: &str) -> (Option<u64>, String, String, String) {
    (None, text(n), port.to_owned(), kind.to_owned())
}

#[test]
fn a_pinned_port_has_its_addresses_and_no_others() {
    let pinned = "mac = [\"52:54:00:00:00:01\", \"52:54:00:00:00:0b\"]\nmac_policy = \"pinned\"";
    let mut net = Net::new("", &[("a", pinned), ("b", ""), ("up", "")]);
    net.flow("a", &group(1), &["b", "up"]);
    net.flow("a", &group(11), &["b", "up"]);
    for n in [12, 13] {
        let mark = net.evb.log_mark();
        net.refused("a", &group(n), "spoofed");
        net.evb.expect_complaint(mark, "a", &[&text(n)]);
    }
    // Nobody takes them either, neither from inside nor by saying so first.
    let mark = net.evb.log_mark();
    net.refused("b", &group(11), "address_taken");
    net.evb.expect_complaint(mark, "b", &[&text(11)]);
    let table = [entry(1, "a", "registered"), entry(11, "a", "registered")];
    assert_eq!(net.fdb(&["--port", "a"]), table);
    net.flow("b", &frame(2, 11), &["a"]);
    net.evb.stop();
}

#[test]
fn a_port_may_be_pinned_to_the_first_address_that_it_shows() {
    let mut net = Net::new(
        "",
        &[("a", "mac_policy = \"pinned\""), ("b", ""), ("up", "")],
    );
    let mark = net.evb.log_mark();
    // Not to one that no station can have.
    net.refused("a", &eth(BROADCAST, BROADCAST).bytes(), "group_source");
    net.flow("a", &group(21), &["b", "up"]);
    net.evb.expect_log(mark, &["a", "pinned", &text(21)]);
    net.refused("a", &group(22), "spoofed");
    assert_eq!(net.fdb(&["--port", "a"]), [entry(21, "a", "pinned")]);
    net.refused("b", &group(21), "address_taken");
    // Another driver on the same connection starts anew, and so does another front end.
    net.flow("b", &frame(2, 21), &["a"]);
    drop(net.leave("a"));
    support::eventually("the pin is gone", || {
        net.fdb(&["--port", "a"]).is_empty().then_some(())
    });
    net.join("a", 1);
    net.flow("a", &group(22), &["b", "up"]);
    assert_eq!(net.fdb(&["--port", "a"]), [entry(22, "a", "pinned")]);
    net.flow("b", &frame(2, 22), &["a"]);
    net.evb.stop();
}

#[test]
fn vepa_and_private_ports_are_pinned_by_themselves() {
    for mode in ["vepa", "private"] {
        let lines = format!("mode = \"{mode}\"");
        let mut net = Net::new("", &[("a", &lines), ("b", ""), ("up", "")]);
        net.flow("a", &group(31), &["up"]);
        net.refused("a", &group(32), "spoofed");
        net.flow("up", &frame(600, 31), &["a"]);
        net.evb.stop();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("evb.toml");
        for policy in ["{ learn = 4 }", "\"trusted\""] {
            let config = relay("", &[("a", &format!("{lines}\nmac_policy = {policy}"))]);
            std::fs::write(&file, config.replace("{dir}", "/tmp")).unwrap();
            let check =
                support::evb::run(&["check", "--config", file.to_str().unwrap()], dir.path());
            assert_eq!(check.code, Some(2), "{}", check.output);
            assert!(check.output.contains("mac_policy"), "{}", check.output);
        }
    }
}

#[test]
fn a_flood_of_addresses_fills_only_the_share_of_its_port() {
    let mut net = Net::new(
        "",
        &[
            ("flooder", ""),
            ("few", "mac_policy = { learn = 3 }"),
            ("c", ""),
            ("up", ""),
        ],
    );
    net.flow("c", &group(3), &["flooder", "few", "up"]);
    net.flow("few", &group(2), &["flooder", "c", "up"]);
    let mark = net.evb.log_mark();
    for n in 1000..1200 {
        // What is not learnt is forwarded: the uplink does not reflect.
        net.flow("flooder", &group(n), &["few", "c", "up"]);
        net.flow("few", &group(2000 + n), &["flooder", "c", "up"]);
    }
    net.evb.expect_complaint(mark, "flooder", &["limit"]);
    assert_eq!(net.addresses("flooder"), 8);
    assert_eq!(net.addresses("few"), 3);
    assert_eq!(net.evb.counter("flooder", "port_limit"), 0);
    assert_eq!(net.evb.counter("flooder", "unlearned"), 192);
    assert_eq!(net.evb.counter("few", "unlearned"), 198);
    assert_eq!(net.evb.counter("c", "unlearned"), 0);
    // Those that came first stayed, and the neighbours' are untouched.
    net.flow("c", &frame(3, 1000), &["flooder"]);
    net.flow("c", &frame(3, 1007), &["flooder"]);
    net.flow("c", &frame(3, 1008), &["flooder", "few", "up"]);
    net.flow("flooder", &frame(1000, 3), &["c"]);
    net.flow("flooder", &frame(1000, 2), &["few"]);
    net.evb.stop();
}

#[test]
fn an_address_too_many_drops_where_it_would_come_back_reflected() {
    let ports = [
        ("a", "mac_policy = { learn = 2 }"),
        ("v", "mode = \"vepa\""),
        ("b", ""),
        ("up", ""),
    ];
    let mut net = Net::new("", &ports);
    net.flow("a", &group(41), &["b", "up"]);
    net.flow("a", &group(42), &["b", "up"]);
    net.refused("a", &group(43), "port_limit");
    net.refused("a", &frame(43, 2), "port_limit");
    // The switch sends back the frames of the two, as those of a.
    net.flow("up", &group(41), &["v"]);
    net.evb.stop();
}

#[test]
fn a_relay_has_a_limit_too() {
    let trusted = "mac_policy = \"trusted\"\nmac_limit = 100";
    let mut net = Net::new(
        "max_entries = 32",
        &[("a", trusted), ("b", trusted), ("c", "")],
    );
    net.flow("b", &group(50), &["a", "c"]);
    for n in 1000..1100 {
        net.flow("a", &group(n), &["b", "c"]);
    }
    assert_eq!(net.fdb(&[]).len(), 32);
    net.flow("a", &frame(1000, 50), &["b"]);
    net.flow("c", &frame(3, 1000), &["a"]);
    net.evb.stop();
}

#[test]
fn static_addresses_do_not_move() {
    let statics = "static = [{ mac = \"52:54:00:00:00:33\", port = \"a\" }, { mac = \"52:54:00:00:00:34\", port = \"up\" }]";
    let mut net = Net::new(statics, &[("a", ""), ("b", ""), ("c", ""), ("up", "")]);
    assert_eq!(
        net.fdb(&[]),
        [entry(0x33, "a", "static"), entry(0x34, "up", "static")]
    );
    net.flow("b", &frame(2, 0x33), &["a"]);
    net.flow("b", &frame(2, 0x34), &["up"]);
    net.refused("c", &group(0x33), "address_taken");
    net.flow("a", &group(0x33), &["b", "c", "up"]);
    net.flow("b", &frame(2, 0x33), &["a"]);
    // A flush is for what was learnt.
    assert_eq!(net.flush(&["--port", "b"]), "1 entry flushed\n");
    net.flush(&[]);
    assert_eq!(
        net.fdb(&[]),
        [entry(0x33, "a", "static"), entry(0x34, "up", "static")]
    );
    net.evb.stop();
}

#[test]
fn without_ageing_time_nothing_is_learnt() {
    let mut net = Net::new("ageing = 0", &[("a", ""), ("b", ""), ("c", "")]);
    net.flow("b", &group(2), &["a", "c"]);
    net.flow("a", &frame(1, 2), &["b", "c"]);
    assert_eq!(net.fdb(&[]), []);
    net.evb.stop();
}

#[test]
fn what_was_learnt_is_forgotten_and_flooded_again() {
    let pinned = "mac = [\"52:54:00:00:00:04\"]\nmac_policy = \"pinned\"";
    let ports = [("a", ""), ("b", ""), ("c", ""), ("d", pinned)];
    let mut net = Net::new("ageing = 1", &ports);
    // How many are in the table, after a frame from d that keeps the daemon awake.
    let count = |net: &mut Net| {
        net.flow("d", &frame(4, 9), &["a", "b", "c"]);
        net.evb.counter("r", "fdb_entries")
    };
    support::eventually("two addresses are in the table", || {
        net.flow("b", &group(2), &["a", "c", "d"]);
        net.flow("c", &group(3), &["a", "b", "d"]);
        (count(&mut net) == 2).then_some(())
    });
    support::eventually("the table is empty", || {
        (count(&mut net) == 0).then_some(())
    });
    // What is registered stays.
    assert_eq!(net.fdb(&[]), [entry(4, "d", "registered")]);
    net.flow("a", &frame(1, 2), &["b", "c"]);
    net.flow("a", &frame(1, 4), &["d"]);
    net.evb.stop();
}

#[test]
fn the_table_is_shown_and_flushed_by_filter() {
    let trunk = "trunk = [10, 20]";
    let mut config = relay("", &[("a", trunk), ("b", trunk)]);
    config += &support::net::relay_named("s", "", &[("c", ""), ("d", "")]);
    let mut net = Net::start(&config);
    let tagged = |n, vid| {
        eth(BROADCAST, mac(n))
            .payload(0x88b6, &[1; 60])
            .vlan(vid)
            .bytes()
    };
    for (port, n, to) in [("a", 1, "b"), ("b", 2, "a")] {
        for vid in [10, 20] {
            net.flow(port, &tagged(n, vid), &[to]);
        }
    }
    net.flow("c", &group(1), &["d"]);
    let in_vlan = |vid, n, port: &str| (Some(vid), text(n), port.to_owned(), "learned".to_owned());
    let (a10, a20) = (in_vlan(10, 1, "a"), in_vlan(20, 1, "a"));
    let (b10, b20) = (in_vlan(10, 2, "b"), in_vlan(20, 2, "b"));
    let c = entry(1, "c", "learned");
    let one = text(1);
    let all = [&c, &a10, &b10, &a20, &b20].map(Clone::clone);
    assert_eq!(net.fdb(&[]), all);
    assert_eq!(net.fdb(&["--relay", "r"]), all[1..]);
    assert_eq!(net.fdb(&["--relay", "s"]), all[..1]);
    assert_eq!(net.fdb(&["--port", "b"]), [b10.clone(), b20.clone()]);
    assert_eq!(
        net.fdb(&["--vid", "20", "--relay", "r"]),
        [a20.clone(), b20.clone()]
    );
    assert_eq!(
        net.fdb(&["--mac", &one]),
        [c.clone(), a10.clone(), a20.clone()]
    );
    let narrow = ["--mac", &one, "--vid", "10", "--port", "a", "--relay", "r"];
    assert_eq!(net.fdb(&narrow), [a10]);
    assert_eq!(net.flush(&narrow), "1 entry flushed\n");
    assert_eq!(net.fdb(&[]), [c.clone(), b10.clone(), a20, b20.clone()]);
    assert_eq!(net.flush(&["--port", "a"]), "1 entry flushed\n");
    assert_eq!(net.flush(&["--port", "a"]), "0 entries flushed\n");
    assert_eq!(net.flush(&["--relay", "s"]), "1 entry flushed\n");
    assert_eq!(net.fdb(&[]), [b10, b20]);
    assert_eq!(net.flush(&[]), "2 entries flushed\n");
    assert_eq!(net.fdb(&[]), []);
    // What is not there is named.
    let control = net.evb.path("control.sock");
    let show = [
        "fdb",
        "show",
        "--control",
        control.to_str().unwrap(),
        "--port",
        "nobody",
    ];
    let shown = net.evb.command(&show);
    assert_eq!(shown.code, Some(2));
    assert!(shown.output.contains("nobody"), "{}", shown.output);
    net.evb.stop();
}

#[test]
fn thousands_of_addresses_are_shown() {
    let trusted = "mac_policy = \"trusted\"\nmac_limit = 20000";
    let mut net = Net::new("", &[("a", trusted), ("b", "")]);
    for first in (5000..17000).step_by(100) {
        let frames: Vec<_> = (first..first + 100).map(|n| frame(n, 2)).collect();
        net.at("a").send_burst(0, frames.iter().map(Vec::as_slice));
        net.at("a").drain(0);
        net.captured();
    }
    let entries = net.fdb(&[]);
    assert_eq!(entries.len(), 12000);
    for (n, shown) in (5000..).zip(&entries) {
        assert_eq!(*shown, entry(n, "a", "learned"));
    }
    let control = net.evb.path("control.sock");
    let shown = net
        .evb
        .command(&["fdb", "show", "--control", control.to_str().unwrap()]);
    assert_eq!(shown.output.lines().count(), 12001);
    assert_eq!(net.flush(&["--port", "a"]), "12000 entries flushed\n");
    net.evb.stop();
}

#[test]
fn groups_and_templates_make_ports() {
    let mut config = relay("", &[("b", "access = 30"), ("up", "")]);
    config += "
[[group]]
name = \"web\"
relay = \"r\"
mode = \"vepa\"
access = 20
mac_policy = \"pinned\"

[[port]]
name = \"web{n}\"
count = 3
group = \"web\"
listen = \"{dir}/web{n}.sock\"
mac = [\"52:54:00:00:10:fe\"]

[[port]]
name = \"own\"
group = \"web\"
access = 30
mode = \"bridge\"
mac_policy = \"trusted\"
listen = \"{dir}/own.sock\"
";
    // The template's ports are joined by hand, since one table makes three of them.
    let mut net = Net::start_named(&config, &["b", "own", "up", "web1", "web2", "web3"]);
    for (n, port) in (0x10fe_u16..).zip(["web1", "web2", "web3"]) {
        let plain = eth(BROADCAST, mac(n)).payload(0x88b6, &[1; 60]).bytes();
        let tagged = eth(BROADCAST, mac(n))
            .payload(0x88b6, &[1; 60])
            .vlan(20)
            .bytes();
        net.pass(port, &plain, &[("up", &tagged)]);
        net.refused(port, &group(0x10fd), "spoofed");
        let down = eth(mac(n), mac(600)).payload(0x88b6, &[1; 60]);
        net.pass(
            "up",
            &down.clone().vlan(20).bytes(),
            &[(port, &down.bytes())],
        );
    }
    let plain = eth(BROADCAST, mac(9)).payload(0x88b6, &[1; 60]);
    let tagged = plain.clone().vlan(30).bytes();
    net.pass(
        "own",
        &plain.bytes(),
        &[("b", &plain.bytes()), ("up", &tagged)],
    );
    net.evb.stop();
}
