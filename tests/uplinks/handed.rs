//! A daemon without any capability, with devices that its launcher has opened.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use evb::sys::tun::{self, Attach};

use crate::support::netns::{duplicate, in_namespace, ip, veth};
use crate::support::{Evb, Finished, Guest, GuestOptions, Wire, eth, mac};
use crate::{config, expect_state, links, uplink};

/// Starts a program as nobody, without capabilities and without a way to get any.
const NOBODY: &[&str] = &[
    "setpriv",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--no-new-privs",
];

fn tap(name: &str, multi_queue: bool) -> File {
    let node = node("/dev/net/tun");
    let how = Attach {
        multi_queue,
        exclusive: false,
    };
    tun::attach(&node, name, how).unwrap();
    node
}

fn node(path: &str) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

/// A daemon that finds `files` under the numbers from 210 on.
fn spawn(config: &str, files: &[&File]) -> Evb {
    let numbers: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
    Evb::spawn_by(NOBODY, config, move || {
        for (number, place) in numbers.iter().zip(210..) {
            duplicate(*number, place)?;
        }
        Ok(())
    })
}

fn finish(text: &str, files: &[&File]) -> Finished {
    spawn(text, files).finish()
}

fn host(lines: &str) -> String {
    format!("[[port]]\nname = \"host\"\nrelay = \"r\"\ntap = {{ {lines} }}\n")
}

#[test]
fn a_daemon_without_capabilities_uses_what_is_handed_in() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add link va name mv0 type macvtap mode passthru");
        ip("link set mv0 up");
        let queue = [tap("evb0", true), tap("evb0", true)];
        ip("link set evb0 up");
        let macvtap = macvtap("mv0");
        let text = config(
            &[("p", "")],
            &format!(
                "{}{}",
                host("fd = [210, 211], name = \"evb0\""),
                uplink("macvtap = { fd = 212 }")
            ),
        );
        let mut evb = spawn(&text, &[&queue[0], &queue[1], &macvtap]);
        drop((queue, macvtap));
        evb.await_ready();
        for port in ["host", "up"] {
            expect_state(&evb, port, "running");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", evb.pid())).unwrap();
        let capabilities = status
            .lines()
            .find(|line| line.starts_with("CapEff"))
            .unwrap();
        assert!(capabilities.ends_with("0000000000000000"), "{capabilities}");
        assert_eq!(links(&evb, "host")[0]["device"], "evb0");
        assert_eq!(links(&evb, "up")[0]["kind"], "macvtap");
        let mut guest = evb.guest_with("p", 1, GuestOptions::default());
        for (far, station) in [("evb0", 600), ("vb", 601)] {
            both_ways(&mut guest, &mut Wire::new(far), station);
        }
        // Who has made it is told what its guests would miss.
        evb.expect_log(0, &["`ip link set dev mv0 allmulticast on`"]);
        // A port that is removed can come back: the descriptors stay.
        let without = config(&[("p", "")], &uplink("macvtap = { fd = 212 }"));
        for text in [&without, &text] {
            let mark = evb.log_mark();
            evb.reload(text);
            evb.expect_log(mark, &["reloaded"]);
        }
        expect_state(&evb, "host", "running");
        both_ways(&mut guest, &mut Wire::new("evb0"), 602);
        // A descriptor that nobody has handed in cannot be named later.
        let mark = evb.log_mark();
        evb.reload(&text.replace("[210, 211]", "[210, 214]"));
        evb.expect_log(mark, &["descriptor 214", "was not handed in"]);
        both_ways(&mut guest, &mut Wire::new("evb0"), 603);
        evb.stop();
    });
}

fn both_ways(guest: &mut Guest, wire: &mut Wire, station: u16) {
    let frame = eth(mac(station), mac(1)).number(1).bytes();
    guest.send(&frame);
    wire.expect(&frame);
    let frame = eth(mac(1), mac(station)).number(2).bytes();
    wire.send(&frame);
    assert_eq!(crate::arrived(guest), frame);
}

/// A MACVTAP device's node, opened; the system has named it after the number that this network
/// gives to the device, which another has, too.
fn macvtap(name: &str) -> File {
    let directory = format!("/sys/class/net/{name}");
    let index = std::fs::read_to_string(format!("{directory}/ifindex")).unwrap();
    let number = std::fs::read_to_string(format!("{directory}/tap{}/dev", index.trim())).unwrap();
    let (major, minor) = number.trim().split_once(':').unwrap();
    let path = format!("/dev/evb-test-{}-{}", std::process::id(), index.trim());
    let path = std::path::PathBuf::from(path);
    let number = evb::sys::node::Number {
        major: major.parse().unwrap(),
        minor: minor.parse().unwrap(),
    };
    evb::sys::node::make_character(&path, number).unwrap();
    let file = node(path.to_str().unwrap());
    std::fs::remove_file(path).unwrap();
    let how = Attach {
        multi_queue: false,
        exclusive: false,
    };
    tun::attach(&file, name, how).unwrap();
    file
}

#[test]
fn what_is_handed_in_is_checked() {
    in_namespace(|| {
        veth("va", "vb");
        let good = tap("evb0", false);
        let other = File::open("/dev/null").unwrap();
        let gone = tap("evb1", false);
        ip("link delete evb1");
        let files = [&good, &other, &gone];
        for (lines, wanted) in [
            ("fd = 211", "descriptor 211 is no TAP or MACVTAP device"),
            (
                "fd = 212",
                "descriptor 212 belongs to a device that is gone",
            ),
            ("fd = 217", "descriptor 217 is not open"),
            ("fd = 210, name = \"evb7\"", "belongs to evb0, not to evb7"),
            (
                "fd = 210, mac = \"52:54:00:00:00:fe\"",
                "not 52:54:00:00:00:fe; set it with `ip link set dev evb0",
            ),
        ] {
            let done = finish(&config(&[], &host(lines)), &files);
            assert_ne!(done.code, Some(0));
            assert!(done.output.contains(wanted), "{wanted}:\n{}", done.output);
        }
        let large = host("fd = 210") + "mtu = 9000\n";
        let done = finish(&config(&[], &large), &files);
        let wanted = "evb0 has an MTU of 1500, below the port's 9000";
        assert!(done.output.contains(wanted), "{}", done.output);
        let done = finish(&config(&[], &uplink("macvtap = { fd = 210 }")), &files);
        let wanted = "evb0, a TAP device; write `tap` instead";
        assert!(done.output.contains(wanted), "{}", done.output);
    });
}
