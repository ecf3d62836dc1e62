//! What an operator can get wrong: the error names the port, the device and the remedy.

use std::process::Command;

use crate::support::netns::{exists, in_namespace, ip, veth};
use crate::support::{Evb, Finished};
use crate::{config, expect_state, start, uplink};

fn fails(lines: &str) -> String {
    let Finished { code, output } = Evb::spawn(&config(&[], lines)).finish();
    assert_eq!(code, Some(1), "{lines}\n{output}");
    output
}

/// Each of `words` is in the error that these lines make.
fn complains(lines: &str, words: &[&str]) {
    let output = fails(lines);
    for word in words {
        assert!(output.contains(word), "{word}:\n{output}");
    }
}

fn host(table: &str, more: &str) -> String {
    format!("[[port]]\nname = \"host\"\nrelay = \"r\"\ntap = {{ {table} }}\n{more}\n")
}

#[test]
fn devices_that_cannot_be_used_are_named_with_the_remedy() {
    in_namespace(|| {
        veth("va", "vb");
        let missing = "there is no device nil";
        complains(
            &uplink("af_packet = { dev = \"nil\" }"),
            &["port up", missing],
        );
        complains(
            &uplink("macvtap = { parent = \"nil\" }"),
            &["port up", missing],
        );
        complains(
            &uplink("af_packet = { dev = \"lo\" }"),
            &["port up", "carries no Ethernet"],
        );
        ip("link set va down");
        for link in [
            "af_packet = { dev = \"va\" }",
            "af_xdp = { dev = \"va\" }",
            "macvtap = { parent = \"va\" }",
        ] {
            complains(&uplink(link), &["port up", "`ip link set dev va up`"]);
        }
        ip("link set va up");
        complains(
            &uplink("af_xdp = { dev = \"va\", queues = 2 }"),
            &["port up", "va has 1 receive queues", "`queues = 1`"],
        );
        complains(
            &host("name = \"va\"", ""),
            &["port host", "the name is taken by a device of kind veth"],
        );
        complains(
            &uplink("af_packet = { dev = \"va\" }\nmtu = 9000"),
            &[
                "port up",
                "va has an MTU of 1500, below the port's 9000",
                "`ip link set dev va mtu 9000`",
            ],
        );
        ip("tuntap add dev single mode tap");
        complains(
            &host("name = \"single\"", "queues = 2"),
            &["port host", "has one queue only", "multi_queue"],
        );
        // A parent that somebody else has for themselves.
        ip("link add link va name theirs type macvlan mode passthru");
        complains(
            &uplink("macvtap = { parent = \"va\" }"),
            &["port up", "va is used by another MACVLAN"],
        );
        ip("link delete theirs");
        // All links of a bond.
        let bond = "[[uplink]]\nname = \"up\"\nrelay = \"r\"\nbond = [\"a\", \"b\"]\n\
                    [[uplink]]\nname = \"a\"\naf_packet = { dev = \"nil\" }\n\
                    [[uplink]]\nname = \"b\"\nmacvtap = { parent = \"nul\" }\n";
        complains(bond, &["port up", "device nil", "device nul"]);
        // None of them has left anything behind.
        for device in ["evb-up", "evb-a", "evb-b", "evb0"] {
            assert!(!exists(device), "{device}");
        }
        // What follows from one is not told as another.
        let alone = "[[relay]]\nname = \"alone\"\n[[port]]\nname = \"p\"\nrelay = \"alone\"\n\
                     mode = \"passthrough\"\nlisten = \"{dir}/p\"\n[[uplink]]\nname = \"away\"\n\
                     relay = \"alone\"\naf_packet = { dev = \"nil\" }\n";
        let output = fails(alone);
        assert!(output.contains("port away"), "{output}");
        assert!(!output.contains("relay alone"), "{output}");
        // Several mistakes are told at once.
        let both = host("name = \"va\"", "") + &uplink("af_packet = { dev = \"nil\" }");
        complains(&both, &["port host", "port up"]);
    });
}

#[test]
fn a_nic_that_connects_the_host_is_not_taken_by_accident() {
    in_namespace(|| {
        veth("va", "vb");
        ip("address add 192.0.2.5/24 dev va");
        ip("route add default via 192.0.2.1 dev va");
        let macvtap = uplink("macvtap = { parent = \"va\" }");
        complains(
            &macvtap,
            &[
                "port up",
                "va connects the host itself",
                "tap = { name = \"evb0\" }",
                "take_parent = true",
                "ip address add 192.0.2.5/24 dev evb0",
                "ip route replace default via 192.0.2.1 dev evb0",
            ],
        );
        // With that it is taken, and a packet socket leaves it to the host anyway.
        for link in [
            "macvtap = { parent = \"va\" }\ntake_parent = true",
            "af_packet = { dev = \"va\" }",
        ] {
            let net = start(&config(&[("p", "")], &uplink(link)), &["up"]);
            net.evb.stop();
        }
    });
}

#[test]
fn a_name_in_use_is_left_to_its_user() {
    in_namespace(|| {
        let net = start(&config(&[], &host("name = \"evb0\"", "")), &["host"]);
        complains(&host("name = \"evb0\"", ""), &["another process uses evb0"]);
        expect_state(&net.evb, "host", "running");
        net.evb.stop();
    });
}

#[test]
fn a_missing_capability_is_named_with_the_command_that_grants_it() {
    in_namespace(|| {
        veth("va", "vb");
        let starter = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
        for (lines, capability) in [
            (host("name = \"evb0\"", ""), "CAP_NET_ADMIN"),
            (uplink("macvtap = { parent = \"va\" }"), "CAP_NET_ADMIN"),
            (uplink("af_packet = { dev = \"va\" }"), "CAP_NET_RAW"),
        ] {
            let text = config(&[], &lines);
            let done = Evb::spawn_by(&starter, &text, || Ok(())).finish();
            assert_eq!(done.code, Some(1), "{}", done.output);
            for words in [
                &format!("needs {capability}"),
                "setcap cap_net_admin,",
                &format!("AmbientCapabilities={capability}"),
            ] {
                assert!(done.output.contains(words), "{words}:\n{}", done.output);
            }
        }
    });
}

#[test]
fn what_a_reload_cannot_open_is_told_and_the_rest_goes_on() {
    in_namespace(|| {
        veth("va", "vb");
        let other = "[[relay]]\nname = \"s\"\n[[uplink]]\nname = \"other\"\nrelay = \"s\"\n\
                     af_packet = { dev = \"va\" }\n";
        let mut net = start(&config(&[], &host("name = \"evb0\"", "")), &["host"]);
        // Both devices were named at start only in the one with all.
        net.evb.reload(&config(
            &[],
            &format!("{}{other}", host("name = \"evb0\"", "")),
        ));
        net.evb.expect_log(0, &["reload refused", ""]);
        net.evb.expect_log(0, &["va is not one of the devices"]);
        net.evb.stop();
        let all = config(&[], &format!("{}{other}", host("name = \"evb0\"", "")));
        let mut net = start(&all, &["host", "other"]);
        let without = config(&[], &host("name = \"evb0\"", ""));
        net.reload(&without);
        ip("link set va down");
        let mark = net.evb.log_mark();
        net.evb.reload(&all);
        net.evb
            .expect_log(mark, &["port other", "`ip link set dev va up`"]);
        expect_state(&net.evb, "host", "running");
        ip("link set va up");
        net.reload(&all);
        expect_state(&net.evb, "other", "running");
        net.evb.stop();
    });
}

#[test]
fn a_device_with_an_owner_can_be_opened_by_that_user() {
    in_namespace(|| {
        open_to_everybody("/dev/net/tun");
        let table = "name = \"evb0\", owner = 65534, group = 65533";
        let net = start(&config(&[], &host(table, "queues = 2")), &["host"]);
        for (file, id) in [("owner", "65534"), ("group", "65533")] {
            let shown = std::fs::read_to_string(format!("/sys/class/net/evb0/{file}")).unwrap();
            assert_eq!(shown.trim(), id);
        }
        // It attaches one more queue, which goes with it.
        let attach = |user: &str, group: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
            command.args(["ip", "tuntap", "del", "dev", "evb0"]);
            command.args(["mode", "tap", "multi_queue", "vnet_hdr"]);
            command.output().unwrap()
        };
        let done = attach("65534", "65533");
        assert!(done.status.success(), "{done:?}");
        for (user, group) in [("65533", "65533"), ("65534", "65534")] {
            assert!(!attach(user, group).status.success(), "{user}:{group}");
        }
        expect_state(&net.evb, "host", "running");
        net.evb.stop();
    });
}

/// Puts a device node of the same kind in the place of one, for this test alone. How the system has it is not of
/// interest.
fn open_to_everybody(node: &str) {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("node");
    let own = own.to_str().unwrap();
    for line in [
        format!("cp --archive {node} {own}"),
        format!("chmod 666 {own}"),
        format!("mount --bind {own} {node}"),
    ] {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        let done = command.args(words).output().unwrap();
        assert!(done.status.success(), "{line}: {done:?}");
    }
}
