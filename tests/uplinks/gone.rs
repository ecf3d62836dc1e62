//! A device is removed and comes back while frames go both ways: each frame is accounted for, none is lost
//! before or after, and guests on the same relay notice nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::Duration;

use crate::support::netns::{in_namespace, ip};
use crate::support::{Evb, Guest, LIMIT, Net, Wire, eth, eventually, mac};
use crate::{config, drops, expect_state, port_status, start, uplink};

const OUTSIDE: u16 = 600;
const ROUNDS: usize = 2;
/// Frames that pass between two events.
const SOME: u32 = 200;
/// Between two frames of a sender, so that processors are left to those who change devices.
const PACE: Duration = Duration::from_micros(200);

/// A frame with a number, which came from or goes by a cable.
fn numbered(dst: u16, src: u16, cable: usize, number: u32) -> Vec<u8> {
    let data = [&(cable as u32).to_be_bytes()[..], &number.to_be_bytes()].concat();
    eth(mac(dst), mac(src)).payload(0x88b6, &data).bytes()
}

/// Cable and number of a frame between these stations.
fn number_of(frame: &[u8], dst: u16, src: u16) -> Option<(usize, u32)> {
    if frame[..6] != mac(dst) || frame[6..12] != mac(src) {
        return None;
    }
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    Some((word(14) as usize, word(18)))
}

/// How far the traffic has got, for who waits for it.
#[derive(Default)]
struct Progress {
    sent: AtomicU32,
    went_out: AtomicU32,
    came_in: AtomicU32,
}

impl Progress {
    /// Waits until so many more of these frames have passed.
    fn pass(&self, what: &str, counter: impl Fn(&Self) -> &AtomicU32) {
        let from = counter(self).load(Ordering::Relaxed);
        eventually(what, || {
            let now = counter(self).load(Ordering::Relaxed);
            (now >= from + SOME).then_some(())
        });
    }

    fn both_ways(&self) {
        self.pass("frames on the wire", |p| &p.went_out);
        self.pass("frames from the wire", |p| &p.came_in);
    }
}

/// What became of the frames.
struct Tally {
    /// Frames that the guest has sent.
    out_sent: u32,
    /// Those that were on each wire.
    out: Vec<Vec<u32>>,
    /// Frames that each wire has taken.
    in_sent: Vec<BTreeSet<u32>>,
    /// Those that the guest has got.
    came_in: Vec<Vec<u32>>,
}

/// Traffic between a guest and the far ends of cables, by a thread of its own.
struct Traffic {
    guest: Guest,
    /// The far ends as they are now, and all that there were.
    wires: Vec<Wire>,
    old: Vec<(usize, Wire)>,
    progress: Arc<Progress>,
    tally: Tally,
}

impl Traffic {
    fn new(guest: Guest, wires: Vec<Wire>) -> Self {
        let none = || wires.iter().map(|_| vec![]).collect();
        let tally = Tally {
            out_sent: 0,
            out: none(),
            in_sent: wires.iter().map(|_| BTreeSet::new()).collect(),
            came_in: none(),
        };
        Self {
            guest,
            tally,
            wires,
            old: vec![],
            progress: Arc::default(),
        }
    }

    /// Goes on until there are no more orders, which are cables to replace; then until the last frames are there.
    fn run(mut self, orders: &mpsc::Receiver<(usize, Wire)>) -> Tally {
        let mut number = 0;
        loop {
            match orders.try_recv() {
                Ok((cable, wire)) => {
                    let old = std::mem::replace(&mut self.wires[cable], wire);
                    self.old.push((cable, old));
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => break,
            }
            self.send(number);
            self.look();
            number += 1;
            thread::sleep(PACE);
        }
        let last = number - 1;
        eventually("the last frames", || {
            self.look();
            let has_last = |all: &[Vec<u32>]| all.iter().any(|list| list.last() == Some(&last));
            (has_last(&self.tally.out) && has_last(&self.tally.came_in)).then_some(())
        });
        self.tally
    }

    /// One frame of the guest, and one from the far end of each cable, if that takes it.
    fn send(&mut self, number: u32) {
        self.guest.send(&numbered(OUTSIDE, 1, 0, number));
        self.tally.out_sent += 1;
        self.progress.sent.store(number, Ordering::Relaxed);
        for (cable, wire) in self.wires.iter().enumerate() {
            let frame = numbered(1, OUTSIDE, cable, number);
            if wire.try_send(&[0; 12], &frame).is_ok() {
                self.tally.in_sent[cable].insert(number);
            }
        }
    }

    /// Notes what has arrived anywhere.
    fn look(&mut self) {
        let old = self.old.iter_mut().map(|(cable, wire)| (*cable, wire));
        for (cable, wire) in old.chain(self.wires.iter_mut().enumerate()) {
            while let Some(frame) = wire.recv(Duration::ZERO) {
                if let Some((_, number)) = number_of(&frame, OUTSIDE, 1) {
                    self.tally.out[cable].push(number);
                    self.progress.went_out.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        while let Some(frame) = self.guest.recv_any(Duration::ZERO) {
            if let Some((cable, number)) = number_of(&frame.bytes, 1, OUTSIDE) {
                self.tally.came_in[cable].push(number);
                self.progress.came_in.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The number of the next frame from `src`.
fn heard(guest: &mut Guest, dst: u16, src: u16) -> u32 {
    loop {
        let frame = guest.recv(LIMIT).expect("a frame between guests is lost");
        if let Some((_, number)) = number_of(&frame.bytes, dst, src) {
            return number;
        }
    }
}

/// Two guests that send each other frames, each of which arrives, until they are told to stop.
fn chat(mut q: Guest, mut r: Guest, stop: &AtomicBool, chatted: &AtomicU32) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        q.send(&numbered(3, 2, 0, number));
        assert_eq!(heard(&mut r, 3, 2), number);
        r.send(&numbered(2, 3, 0, number));
        assert_eq!(heard(&mut q, 2, 3), number);
        number += 1;
        chatted.store(number, Ordering::Relaxed);
        thread::sleep(PACE);
    }
}

/// How many frames in a row are missing where, of the `sent`, in the order in which they went.
fn holes(sent: impl IntoIterator<Item = u32>, arrived: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut holes: Vec<(u32, u32)> = vec![];
    let mut before = true;
    for number in sent {
        let here = arrived.contains(&number);
        match (here, before) {
            (false, true) => holes.push((number, number)),
            (false, false) => holes.last_mut().unwrap().1 = number,
            (true, _) => {}
        }
        before = here;
    }
    holes
}

/// Each number once, in their order.
fn in_order(numbers: &[u32], what: &str) -> BTreeSet<u32> {
    assert!(numbers.is_sorted_by(|a, b| a < b), "{what}: {numbers:?}");
    numbers.iter().copied().collect()
}

/// What happened at the ports `p` and `up` since the start.
struct Counted {
    /// Frames to a station behind the uplink: announcements are for everybody.
    to_wire: u64,
    from_wire: u64,
    /// Why frames were dropped, at `p` and at `up`.
    drops: [BTreeMap<String, u64>; 2],
}

impl Counted {
    fn now(evb: &Evb) -> Self {
        let status = port_status(evb, "up");
        let count = |name: &str| status["counters"][name].as_u64().unwrap();
        Self {
            to_wire: count("rx_frames") - count("rx_broadcast"),
            from_wire: count("tx_frames"),
            drops: ["p", "up"].map(|port| drops(evb, port)),
        }
    }

    /// Drops of `port` since `before` for these reasons.
    fn dropped(&self, before: &Self, port: usize, reasons: &[&str]) -> u64 {
        let count = |counted: &Self, reason: &str| *counted.drops[port].get(reason).unwrap_or(&0);
        let since = |reason: &&str| count(self, reason) - count(before, reason);
        reasons.iter().map(since).sum()
    }
}

/// Reasons by which a frame ends on its way out: at the guest's port, where nobody else takes it, and at the
/// uplink; and on its way in.
const OUT_AT_GUEST: [&str; 2] = ["no_receiver", "no_uplink"];
const OUT_AT_UPLINK: [&str; 3] = ["port_down", "uplink_busy", "uplink_error"];
const IN_AT_GUEST: [&str; 1] = ["ring_full"];
const IN_AT_UPLINK: [&str; 1] = ["missed"];

/// How a device goes and comes.
struct Cable {
    /// The device that goes, with its far end.
    device: &'static str,
    far: &'static str,
}

impl Cable {
    /// Puts it there, and nothing is on the wire before its far end looks.
    fn lay(&self) -> Wire {
        let Self { device, far } = self;
        ip(&format!("link add {device} type veth peer name {far}"));
        ip(&format!("link set {far} up"));
        let wire = Wire::new(far);
        ip(&format!("link set {device} up"));
        wire
    }
}

const BOND: &str = "[[uplink]]\nname = \"up\"\nrelay = \"r\"\nbond = [\"a\", \"b\"]\n\
                    [[uplink]]\nname = \"a\"\nmacvtap = { parent = \"va\" }\n\
                    [[uplink]]\nname = \"b\"\naf_packet = { dev = \"vc\" }\n";

/// Removes the device of the first cable again and again, with these lines for the uplink.
fn is_removed(lines: &str, cables: &[Cable]) {
    let wires: Vec<_> = cables.iter().map(Cable::lay).collect();
    let taken = |n| format!("mac = [\"52:54:00:00:00:0{n}\"]\nmac_policy = \"pinned\"\n");
    let macs = [1, 2, 3].map(taken);
    let ports = ["p", "q", "r"];
    let ports: Vec<_> = ports
        .into_iter()
        .zip(macs.iter().map(String::as_str))
        .collect();
    let mut net = start(&config(&ports, lines), &["up"]);
    // A device of evb's own is there by now.
    let wires = match cables {
        [] => vec![Wire::new("tap0")],
        _ => wires,
    };
    let (guest, q, r) = (net.leave("p"), net.leave("q"), net.leave("r"));
    let before = Counted::now(&net.evb);
    let traffic = Traffic::new(guest, wires);
    let progress = Arc::clone(&traffic.progress);
    let (order, orders) = mpsc::channel();
    let traffic = thread::spawn(move || traffic.run(&orders));
    let (stop, chatted) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    let chatting = {
        let (stop, chatted) = (Arc::clone(&stop), Arc::clone(&chatted));
        thread::spawn(move || chat(q, r, &stop, &chatted))
    };
    for _ in 0..ROUNDS {
        progress.both_ways();
        remove(&net, cables, &progress);
        let talked = chatted.load(Ordering::Relaxed);
        eventually("guests talk", || {
            (chatted.load(Ordering::Relaxed) > talked + SOME).then_some(())
        });
        progress.pass("frames while it is gone", |p| &p.sent);
        let mark = net.evb.log_mark();
        let wire = match cables {
            [] => Wire::new("tap0"),
            [cable, ..] => cable.lay(),
        };
        order.send((0, wire)).unwrap();
        if cables.len() == 2 {
            net.evb.expect_log(mark, &["port up", "a carries"]);
        }
        expect_state(&net.evb, "up", "running");
        progress.both_ways();
    }
    drop(order);
    let tally = traffic.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    chatting.join().unwrap();
    check(&tally, &before, &Counted::now(&net.evb), lines);
    net.evb.stop();
    for cable in cables {
        ip(&format!("link delete {}", cable.device));
    }
}

/// Takes the device away, and waits until that is known, or until it is back where evb makes it itself.
fn remove(net: &Net, cables: &[Cable], progress: &Progress) {
    let mark = net.evb.log_mark();
    match cables {
        [] => {
            ip("link delete tap0");
            net.evb.expect_log(mark, &["port up", "tap0 is back"]);
            expect_state(&net.evb, "up", "running");
        }
        [cable] => {
            ip(&format!("link delete {}", cable.device));
            net.evb.expect_log(mark, &["port up", "is gone"]);
            expect_state(&net.evb, "up", "down");
        }
        [cable, ..] => {
            ip(&format!("link delete {}", cable.device));
            net.evb.expect_log(mark, &["port up", "b carries"]);
            expect_state(&net.evb, "up", "running");
            progress.both_ways();
        }
    }
}

/// Everything that was sent arrived, or was lost while the device was away, which is counted.
fn check(tally: &Tally, before: &Counted, after: &Counted, lines: &str) {
    let drops = &after.drops;
    let kinds = tally.out.len();
    // Out: what has not gone to the device was counted, and what has was on the wire until it was removed.
    let to_device = after.to_wire - before.to_wire;
    let dropped =
        after.dropped(before, 0, &OUT_AT_GUEST) + after.dropped(before, 1, &OUT_AT_UPLINK);
    let sent = u64::from(tally.out_sent);
    let mut out = BTreeSet::new();
    let mut arrived = 0;
    for (cable, numbers) in tally.out.iter().enumerate() {
        out.extend(in_order(numbers, &format!("{lines}: out by {cable}")));
        arrived += numbers.len();
    }
    assert_eq!(out.len(), arrived, "{lines}: twice");
    // An AF_XDP socket has taken those that it loses, because the device turns out to be away.
    let taken = if lines.contains("af_xdp") {
        after.dropped(before, 1, &["uplink_busy"])
    } else {
        0
    };
    assert_eq!(to_device + dropped - taken, sent, "{lines}: {drops:?}");
    assert!(arrived as u64 + dropped <= sent, "{lines}: {drops:?}");
    // The other link of a bond takes over, and gives back.
    let lost = holes(0..tally.out_sent, &out);
    assert!(lost.len() <= ROUNDS * kinds, "{lines}: lost {lost:?}");
    // In.
    let mut arrived = 0;
    for (cable, numbers) in tally.came_in.iter().enumerate() {
        let came = in_order(numbers, &format!("{lines}: in by {cable}"));
        arrived += came.len() as u64;
        let lost = holes(tally.in_sent[cable].iter().copied(), &came);
        // What a link receives that does not carry is for nobody.
        assert!(lost.len() <= ROUNDS + cable, "{lines}: {cable}: {lost:?}");
    }
    let dropped = after.dropped(before, 0, &IN_AT_GUEST);
    assert_eq!(
        after.from_wire - before.from_wire,
        arrived + dropped,
        "{lines}"
    );
    // Nothing was dropped for any other reason.
    let known = [
        [&OUT_AT_GUEST[..], &IN_AT_GUEST].concat(),
        [&OUT_AT_UPLINK[..], &IN_AT_UPLINK].concat(),
    ];
    for port in 0..2 {
        let others = drops[port].iter().filter(|(reason, count)| {
            let had = before.drops[port].get(*reason).unwrap_or(&0);
            !known[port].contains(&reason.as_str()) && *count > had
        });
        let others: Vec<_> = others.collect();
        assert!(others.is_empty(), "{lines}: {others:?}");
    }
}

const FIRST: Cable = Cable {
    device: "va",
    far: "vb",
};
const SECOND: Cable = Cable {
    device: "vc",
    far: "vd",
};

#[test]
fn a_tap_device_is_removed_in_the_middle_of_traffic() {
    in_namespace(|| is_removed(&uplink("tap = { name = \"tap0\" }"), &[]));
}

#[test]
fn a_nic_is_removed_in_the_middle_of_traffic_and_comes_back() {
    in_namespace(|| {
        for link in [
            "macvtap = { parent = \"va\" }",
            "af_packet = { dev = \"va\" }",
            "af_xdp = { dev = \"va\" }",
        ] {
            is_removed(&uplink(link), &[FIRST]);
        }
    });
}

#[test]
fn a_link_of_a_bond_is_removed_in_the_middle_of_traffic_and_comes_back() {
    in_namespace(|| is_removed(BOND, &[FIRST, SECOND]));
}
