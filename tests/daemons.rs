//! Daemons as each other's adjacent switch, over a vhost-user socket between them.
//!
//! A frame passes two daemons in their own time, so nothing is said of what has arrived nowhere before a marker, or
//! an answer, has come the same way behind it.

mod support;

use std::time::{Duration, Instant};

use support::guest::MODERN;
use support::{BROADCAST, Eth, Evb, Guest, GuestOptions, eth, eventually, mac, silence};

const C: u16 = 0x8100;
/// CSUM, GUEST_CSUM, GUEST_TSO4 and HOST_TSO4.
const OFFLOADS: u64 = 1 | 1 << 1 | 1 << 7 | 1 << 11;

/// A place for sockets that outlives a daemon.
struct Cables(tempfile::TempDir);

impl Cables {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("evb").tempdir().unwrap())
    }

    /// A daemon with one relay `r`. A port is its name and its lines; one with a slash in its kind is the end
    /// of a cable: `uplink/connect` or `port/listen`, and the like, whose socket has the name of the port.
    fn daemon(&self, ports: &[(&str, &str, &str)]) -> Evb {
        use std::fmt::Write;
        let mut config =
            "[daemon]\ncontrol = \"{dir}/control.sock\"\n[[relay]]\nname = \"r\"\n".to_owned();
        for (kind, name, lines) in ports {
            let (table, side, dir) = match kind.split_once('/') {
                Some((table, side)) => (table, side, self.0.path().to_str().unwrap()),
                None => (*kind, "listen", "{dir}"),
            };
            write!(
                config,
                "[[{table}]]\nname = \"{name}\"\nrelay = \"r\"\n{side} = \"{dir}/{name}.sock\"\n{lines}\n"
            )
            .unwrap();
        }
        Evb::start(&config)
    }
}

/// Waits until what `a` broadcasts reaches `b`.
fn meet(a: &mut Guest, b: &mut Guest) {
    eventually("one guest hears the other", || {
        let nonce = a.mark();
        let until = Instant::now() + Duration::from_millis(100);
        while let Some(frame) = b.recv_any(until.saturating_duration_since(Instant::now())) {
            if support::frames::marker_nonce(&frame.bytes) == Some(nonce) {
                return Some(());
            }
        }
        None
    });
}

/// A long frame from guest `n` to `dst`.
fn long(dst: [u8; 6], n: u16, tags: &[(u16, u16)]) -> Vec<u8> {
    tags.iter()
        .fold(eth(dst, mac(n)), |f: Eth, (tpid, tci)| f.tag(*tpid, *tci))
        .payload(0x88b6, &[n as u8; 700])
        .bytes()
}

/// A guest that segments nothing itself.
fn offloading() -> GuestOptions {
    let mut options = GuestOptions::default().features(MODERN | OFFLOADS);
    options.queue.buffers = 8;
    options.queue.buffer_len = 70_000;
    options
}

#[test]
fn a_trunk_between_two_daemons_carries_vlans() {
    let cables = Cables::new();
    let b = cables.daemon(&[
        (
            "port/listen",
            "cable",
            "trunk = [10, 20]\nmac_policy = \"trusted\"",
        ),
        ("port", "b10", "access = 10"),
        ("port", "bt", "trunk = [10, 20]"),
    ]);
    let a = cables.daemon(&[
        ("port", "a10", "access = 10"),
        ("port", "at", "trunk = [10, 20]"),
        ("uplink/connect", "cable", "trunk = [10, 20]"),
    ]);
    let (mut a10, mut at) = (a.guest("a10", 1), a.guest("at", 2));
    let (mut b10, mut bt) = (b.guest("b10", 3), b.guest("bt", 4));
    (at.marker_vid, bt.marker_vid) = (Some(20), Some(20));
    meet(&mut a10, &mut b10);
    meet(&mut bt, &mut at);
    // Both ways, tagged and untagged, the priority included.
    let (plain, ten) = (long(BROADCAST, 1, &[]), long(BROADCAST, 1, &[(C, 10)]));
    a10.send(&plain);
    b10.expect_frame(&plain);
    bt.expect_frame(&ten);
    at.expect_frame(&ten);
    let twenty = long(BROADCAST, 4, &[(C, 0xb014), (C, 7)]);
    bt.send(&twenty);
    at.expect_frame(&twenty);
    // An answer finds its way, and nobody else's.
    let back = long(mac(1), 3, &[]);
    b10.send(&back);
    a10.expect_frame(&back);
    let straight = long(mac(4), 2, &[(C, 20)]);
    at.send(&straight);
    bt.expect_frame(&straight);
    bt.marker_vid = Some(10);
    silence(&mut bt, &mut [&mut a10, &mut b10, &mut at]);
    // More than all rings hold, in their order.
    for n in 0..3000 {
        let frame = eth(mac(1), mac(3)).number(n).bytes();
        b10.send(&frame);
        a10.expect_frame(&frame);
        let frame = eth(mac(3), mac(1)).number(n).bytes();
        a10.send(&frame);
        b10.expect_frame(&frame);
    }
    drop((a10, at, b10, bt));
    a.stop();
    b.stop();
}

#[test]
fn a_frame_of_64_kib_crosses_whole() {
    let cables = Cables::new();
    let b = cables.daemon(&[
        (
            "port/listen",
            "cable",
            "trunk = [10]\nmac_policy = \"trusted\"",
        ),
        ("port", "b", "access = 10"),
    ]);
    let a = cables.daemon(&[
        ("port", "a", "access = 10"),
        ("uplink/connect", "cable", "trunk = [10]"),
    ]);
    let mut near = a.guest_with("a", 1, offloading());
    let mut far = b.guest_with("b", 2, offloading());
    meet(&mut near, &mut far);
    meet(&mut far, &mut near);
    let data: Vec<_> = (0..65_495_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let mut header = [0; 12];
    header[..2].copy_from_slice(&[1, 1]);
    for (at, field) in [(2, 54_u16), (4, 1448), (6, 34), (8, 16)] {
        header[at..at + 2].copy_from_slice(&field.to_le_bytes());
    }
    for round in 0..50 {
        let there = eth(mac(2), mac(1))
            .tcp([10, 0, 0, 1], [10, 0, 0, 2], &data)
            .bytes();
        near.send_with_header(0, &header, &there);
        let got = far.expect_frame(&there);
        assert_eq!(got.header[..10], header[..10], "round {round}");
        let back = eth(mac(1), mac(2))
            .tcp([10, 0, 0, 2], [10, 0, 0, 1], &data)
            .bytes();
        far.send_with_header(0, &header, &back);
        let got = near.expect_frame(&back);
        assert_eq!(got.header[..10], header[..10], "round {round}");
    }
    drop((near, far));
    a.stop();
    b.stop();
}

#[test]
fn a_guest_without_offloads_gets_segments_from_the_other_daemon() {
    let cables = Cables::new();
    let b = cables.daemon(&[
        ("port/listen", "cable", "mac_policy = \"trusted\""),
        ("port", "b", ""),
    ]);
    let a = cables.daemon(&[("port", "a", ""), ("uplink/connect", "cable", "")]);
    let mut near = a.guest_with("a", 1, offloading());
    let mut far = b.guest("b", 2);
    meet(&mut near, &mut far);
    let data = [0x5a; 5000];
    let frame = eth(mac(2), mac(1))
        .tcp([10, 0, 0, 1], [10, 0, 0, 2], &data)
        .bytes();
    let header = [1, 1, 54, 0, 0x78, 5, 34, 0, 16, 0, 0, 0];
    near.send_with_header(0, &header, &frame);
    let lengths = [(); 4].map(|()| far.recv(support::LIMIT).unwrap().bytes.len());
    assert_eq!(lengths, [1454, 1454, 1454, 854]);
    drop((near, far));
    a.stop();
    b.stop();
}

#[test]
fn traffic_resumes_when_the_other_daemon_comes_back() {
    let cables = Cables::new();
    let far = || {
        cables.daemon(&[
            ("port/listen", "cable", "mac_policy = \"trusted\""),
            ("port", "b", ""),
        ])
    };
    let mut b = far();
    let a = cables.daemon(&[
        ("port", "a", ""),
        ("port/connect", "cable", "mac_policy = \"trusted\""),
    ]);
    let mut near = a.guest("a", 1);
    for round in 0..2 {
        let mut guest = b.guest("b", 2 + round);
        meet(&mut near, &mut guest);
        let frame = long(mac(1), 2 + round, &[]);
        guest.send(&frame);
        near.expect_frame(&frame);
        assert_eq!(learnt(&a), 1);
        let fds = a.fds();
        let mark = a.log_mark();
        b.crash();
        drop(guest);
        // What is gone is forgotten, and its memory with it.
        a.expect_log(mark, &["cable", "down"]);
        eventually("the addresses behind the cable are forgotten", || {
            (learnt(&a) == 0).then_some(())
        });
        eventually("descriptors are given back", || {
            (a.fds() < fds).then_some(())
        });
        b = far();
    }
    drop(near);
    a.stop();
    b.stop();
}

/// How many addresses a daemon has learnt at the cable.
fn learnt(evb: &Evb) -> usize {
    let control = evb.path("control.sock");
    let control = control.to_str().unwrap();
    let shown = evb.command(&[
        "fdb",
        "show",
        "--json",
        "--control",
        control,
        "--port",
        "cable",
    ]);
    assert_eq!(shown.code, Some(0), "{}", shown.output);
    let entries: Vec<serde_json::Value> = serde_json::from_str(&shown.output).unwrap();
    entries.len()
}

/// A VEPA and the switch in front of it, which reflects or not.
fn vepa(cables: &Cables, reflects: bool) -> (Evb, Evb) {
    let reflective = format!("reflective = {reflects}");
    let b = cables.daemon(&[
        (
            "port/listen",
            "cable",
            &format!("mac_policy = \"trusted\"\n{reflective}"),
        ),
        ("port", "b", ""),
    ]);
    let a = cables.daemon(&[
        ("port", "v1", "mode = \"vepa\""),
        ("port", "v2", "mode = \"vepa\""),
        ("uplink/connect", "cable", &reflective),
    ]);
    (a, b)
}

#[test]
fn siblings_of_a_vepa_meet_by_way_of_the_reflecting_daemon() {
    let cables = Cables::new();
    let (a, b) = vepa(&cables, true);
    let (mut v1, mut v2) = (a.guest("v1", 1), a.guest("v2", 2));
    let mut outside = b.guest("b", 3);
    meet(&mut v1, &mut outside);
    meet(&mut v2, &mut outside);
    meet(&mut outside, &mut v1);
    let shout = long(BROADCAST, 1, &[]);
    v1.send(&shout);
    outside.expect_frame(&shout);
    v2.expect_frame(&shout);
    let before = b.counter("cable", "rx_frames");
    for n in 0..20 {
        let there = eth(mac(2), mac(1)).number(n).bytes();
        v1.send(&there);
        v2.expect_frame(&there);
        let back = eth(mac(1), mac(2)).number(n).bytes();
        v2.send(&back);
        v1.expect_frame(&back);
    }
    assert_eq!(b.counter("cable", "rx_frames"), before + 40);
    // Once each, and nothing back to the sender.
    silence(&mut outside, &mut [&mut v1, &mut v2]);
    silence(&mut v1, &mut [&mut outside]);
    drop((v1, v2, outside));
    a.stop();
    b.stop();
}

#[test]
fn siblings_of_a_vepa_do_not_meet_behind_a_daemon_that_does_not_reflect() {
    let cables = Cables::new();
    let (a, b) = vepa(&cables, false);
    let (mut v1, mut v2) = (a.guest("v1", 1), a.guest("v2", 2));
    let mut outside = b.guest("b", 3);
    meet(&mut v2, &mut outside);
    meet(&mut v1, &mut outside);
    meet(&mut outside, &mut v2);
    let shout = long(BROADCAST, 1, &[]);
    v1.send(&shout);
    v1.send(&long(mac(2), 1, &[]));
    outside.expect_frame(&shout);
    // Behind both frames to the other daemon, and from there back to the siblings.
    let nonce = v1.mark();
    outside.until(nonce);
    silence(&mut outside, &mut [&mut v1, &mut v2]);
    drop((v1, v2, outside));
    a.stop();
    b.stop();
}

#[test]
fn three_daemons_in_a_row_are_one_network() {
    let cables = Cables::new();
    let c = cables.daemon(&[
        ("port/listen", "bc", "mac_policy = \"trusted\""),
        ("port", "c", ""),
    ]);
    let b = cables.daemon(&[
        ("port/listen", "ab", "mac_policy = \"trusted\""),
        ("port", "b", ""),
        ("uplink/connect", "bc", ""),
    ]);
    let a = cables.daemon(&[("port", "a", ""), ("uplink/connect", "ab", "")]);
    let (mut first, mut middle, mut last) = (a.guest("a", 1), b.guest("b", 2), c.guest("c", 3));
    meet(&mut first, &mut last);
    meet(&mut last, &mut middle);
    let shout = long(BROADCAST, 1, &[]);
    first.send(&shout);
    middle.expect_frame(&shout);
    last.expect_frame(&shout);
    let back = long(mac(1), 3, &[]);
    last.send(&back);
    first.expect_frame(&back);
    silence(&mut last, &mut [&mut middle, &mut first]);
    drop((first, middle, last));
    for evb in [a, b, c] {
        evb.stop();
    }
}
