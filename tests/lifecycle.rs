//! Start, reload, end.

mod support;

use std::time::Duration;

use evb::vhost_user::front_end::{Order, RingSetup};
use support::evb::{bridge_config, run};
use support::{BROADCAST, Evb, Guest, GuestOptions, eth, eventually, mac, silence};

#[test]
fn sigterm_ends_it_cleanly_with_and_without_guests() {
    Evb::bridge(3).stop();
    let evb = Evb::bridge(3);
    let guests: [_; 3] = evb.guests();
    evb.stop();
    drop(guests);
}

#[test]
fn sigint_ends_it_too() {
    let evb = Evb::bridge(1);
    evb.signal(libc::SIGINT);
    assert_eq!(evb.finish().code, Some(0));
}

#[test]
fn whoever_starts_it_the_daemon_has_no_capability_and_its_helper_few() {
    let evb = Evb::bridge(1);
    let children = format!("/proc/{0}/task/{0}/children", evb.pid());
    let helper = std::fs::read_to_string(children).unwrap();
    // Those of docs/uplinks.md, by their numbers.
    let few: u64 = [1, 12, 13, 14, 27, 39].iter().map(|bit| 1 << bit).sum();
    for (pid, most) in [(evb.pid().to_string(), 0), (helper.trim().to_owned(), few)] {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap()[name.len()..].trim().to_owned()
        };
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            let has = u64::from_str_radix(&line(set), 16).unwrap();
            assert_eq!(has & !most, 0, "{set} {has:x}");
        }
        assert_eq!(line("NoNewPrivs:"), "1");
    }
    evb.stop();
}

#[test]
fn a_stale_socket_is_no_obstacle_and_a_file_is() {
    let evb = Evb::bridge(1);
    let path = evb.path("p0.sock");
    let text = std::fs::read_to_string(evb.path("evb.toml")).unwrap();
    // The helper process may have removed what the crash left; a socket that nobody listens on is the same.
    let dir = evb.crash();
    if !path.exists() {
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        // Processes that other tests start have it as well, until they run their program.
        eventually("nobody listens any more", || {
            let tried = std::os::unix::net::UnixStream::connect(&path);
            tried
                .err()
                .filter(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
    }
    let mut again = Evb::spawn(&text);
    eventually("the second daemon listens", || {
        again.assert_alive();
        std::os::unix::net::UnixStream::connect(&path).ok()
    });
    again.stop();
    std::fs::write(&path, "not a socket").unwrap();
    let failed = Evb::spawn(&text).finish();
    assert_eq!(failed.code, Some(1), "{}", failed.output);
    assert!(failed.output.contains("p0.sock"), "{}", failed.output);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
    drop(dir);
}

#[test]
fn a_bad_configuration_is_refused_with_its_line() {
    let good = bridge_config(1, "");
    for (bad, word) in [
        (
            good.replace("relay = \"r\"", "relay = \"nowhere\""),
            "nowhere",
        ),
        (format!("{good}color = \"blue\"\n"), "color"),
        (format!("{good}mode = \"hub\"\n"), "hub"),
        (format!("{good}access = 4095\n"), "4095"),
        ("[[port]\n".to_owned(), "evb.toml"),
    ] {
        let failed = Evb::spawn(&bad).finish();
        assert_eq!(failed.code, Some(2), "{bad}\n{}", failed.output);
        assert!(failed.output.contains(word), "{bad}\n{}", failed.output);
    }
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evb.toml");
    std::fs::write(&file, bridge_config(2, "").replace("{dir}", "/tmp")).unwrap();
    let file = file.to_str().unwrap();
    let code = |args: &[&str]| run(args, dir.path()).code;
    assert_eq!(code(&["check", "--config", file]), Some(0));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["--version"]), Some(0));
    // What could not be done, although what was asked is right.
    let nobody = ["status", "--control", "/nonexistent/control.sock"];
    assert_eq!(code(&nobody), Some(1));
    // What was asked is wrong: the configuration or the command line.
    assert_eq!(
        code(&["check", "--config", "/nonexistent/evb.toml"]),
        Some(2)
    );
    assert_eq!(code(&["run", "--config", "/nonexistent/evb.toml"]), Some(2));
    assert_eq!(code(&["run", "--no-such-option"]), Some(2));
    assert_eq!(code(&["no-such-command"]), Some(2));
    assert_eq!(code(&[]), Some(2));
}

#[test]
fn reload_adds_and_removes_ports_and_leaves_the_others_alone() {
    let mut evb = Evb::start(&bridge_config(2, ""));
    let [mut a, mut b] = evb.guests();
    let frame = eth(mac(2), mac(1)).bytes();
    a.send(&frame);
    b.expect_frame(&frame);
    evb.reload(&bridge_config(3, ""));
    let mut c = evb.guest("p2", 3);
    let hello = eth(BROADCAST, mac(3)).bytes();
    c.send(&hello);
    a.expect_frame(&hello);
    b.expect_frame(&hello);
    evb.reload(&bridge_config(2, ""));
    eventually("p2 is gone", || {
        (!evb.path("p2.sock").exists()).then_some(())
    });
    // p0 and p1 have not noticed: same connections, same rings, same learnt addresses.
    a.send(&frame);
    b.expect_frame(&frame);
    a.front_end.get_features().unwrap();
    b.front_end.get_features().unwrap();
    silence(&mut a, &mut [&mut b]);
    evb.stop();
}

#[test]
fn a_bad_file_changes_nothing() {
    let mut evb = Evb::start(&bridge_config(2, ""));
    let [mut a, mut b] = evb.guests();
    for (n, bad) in (0..).zip([
        "this is no toml [",
        "[[port]]\nname = \"p0\"\nrelay = \"nowhere\"\nlisten = \"{dir}/p0.sock\"\n",
    ]) {
        let mark = evb.log_mark();
        let path = evb.path("evb.toml");
        std::fs::write(&path, bad).unwrap();
        evb.signal(libc::SIGHUP);
        evb.expect_log(mark, &["evb.toml"]);
        evb.assert_alive();
        let frame = eth(mac(2), mac(1)).number(n).bytes();
        a.send(&frame);
        b.expect_frame(&frame);
    }
    let mark = evb.log_mark();
    evb.reload(&bridge_config(3, ""));
    evb.expect_log(mark, &["reloaded", "port p2"]);
    evb.stop();
}

#[test]
fn reload_changes_a_running_port() {
    let mut evb = Evb::start(&bridge_config(2, ""));
    let [mut a, mut b] = evb.guests();
    let frame = eth(BROADCAST, mac(1)).bytes();
    a.send(&frame);
    b.expect_frame(&frame);
    let private = bridge_config(2, "mode = \"private\"\n");
    evb.reload(&private);
    eventually("private ports do not talk", || {
        a.send(&frame);
        b.recv(Duration::from_millis(50)).is_none().then_some(())
    });
    evb.reload(&bridge_config(2, ""));
    eventually("bridge ports do", || {
        a.send(&frame);
        b.recv(Duration::from_millis(50))
    });
    evb.stop();
}

/// A daemon that ended may have used the last of what a guest sent, and called nobody. With its ring
/// full the guest waits for that call, and kicks no more.
#[test]
fn an_empty_ring_brings_the_call_that_may_be_lost() {
    let evb = Evb::bridge(1);
    let options = GuestOptions::default();
    let front_end = support::guest::connect(&evb.path("p0.sock"), &options.front_end);
    let mut guest = Guest::cold(front_end, 1, options);
    let rings = [
        RingSetup::of_rx(&guest.rx[0], Order::Qemu),
        RingSetup::of_tx(&guest.tx[0], Order::Qemu),
    ];
    guest.front_end.start(&guest.memory, &rings).unwrap();
    eventually("a call for nothing new", || {
        guest.tx[0].call_fd().read().ok()
    });
    evb.stop();
}
