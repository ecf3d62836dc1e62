//! Floods: of frames from the wire that cannot be, and of frames for a device that takes no more. Each is counted
//! by its reason, and all others are served.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use evb::sys::ethtool::Ethtool;

use crate::support::guest::hex;
use crate::support::netns::{in_namespace, ip, skip, try_run, veth, without_offloads};
use crate::support::packets::{Packet, TCPV4, read};
use crate::support::{Guest, LIMIT, Net, Wire, eth, eventually, mac};
use crate::{arrived, config, drops, start, uplink};

const OUTSIDE: u16 = 600;
const VID: u16 = 10;

/// Links, with the device at the far end of each.
const LINKS: [(&str, &str); 4] = [
    ("tap = { name = \"tap0\" }", "tap0"),
    ("macvtap = { parent = \"va\" }", "vb"),
    ("af_packet = { dev = \"va\" }", "vb"),
    ("af_xdp = { dev = \"va\" }", "vb"),
];

/// Rounds of a flood, and frames of each kind in a round: as many as fit into the queue of any device.
const ROUNDS: u64 = 100;
const AT_ONCE: u64 = 20;

/// What becomes of a frame of the flood.
enum Fate {
    /// It is dropped on account of this port.
    Dropped(&'static str, &'static str),
    /// It arrives as the guest sees it.
    Arrives(Vec<u8>),
    /// It arrives in three pieces, with this data.
    ArrivesCut(Vec<u8>),
    /// It does not get to evb.
    Eaten,
}

impl Fate {
    /// What the guest gets of it.
    fn is_seen(&self, guest: &mut Guest) {
        match self {
            Self::Arrives(frame) => assert_eq!(hex(&arrived(guest)), hex(frame)),
            Self::ArrivesCut(data) => {
                for piece in data.chunks(data.len() / 3) {
                    assert_eq!(read(&arrived(guest)).data, piece);
                }
            }
            Self::Dropped(..) | Self::Eaten => {}
        }
    }
}

/// A header for the kernel, a frame, and what becomes of it.
type Flood = ([u8; 12], Vec<u8>, Fate);

/// The frames that are sent again and again by this link.
fn flood(link: &str) -> Vec<Flood> {
    let from = |src| eth(mac(1), src).tag(0x8100, VID);
    let good = || from(mac(OUTSIDE));
    let group = [0x53, 0x54, 0, 0, 0, 1];
    let up = |reason| Fate::Dropped("up", reason);
    let plain = |frame, fate| ([0; 12], frame, fate);
    // The kernel takes tags out of frames, and drops those in which one is cut off.
    let as_it_is = link.starts_with("tap") || link.starts_with("af_xdp");
    let cut = eth(mac(1), mac(OUTSIDE)).payload(0x8100, &[]).unpadded();
    let cut_later = eth(mac(1), mac(OUTSIDE))
        .payload(0x8100, &[0, 10])
        .unpadded();
    let runt = || if as_it_is { up("runt") } else { Fate::Eaten };
    let etag = eth(mac(1), mac(OUTSIDE)).payload(0x893f, &[0; 60]).bytes();
    let last_vid = eth(mac(1), mac(OUTSIDE)).tag(0x8100, 4095).bytes();
    let long = good().payload(0x88b6, &[1; 1450]).bytes();
    let mut all = vec![
        plain(cut, runt()),
        plain(cut_later, runt()),
        plain(etag, up("etag")),
        plain(last_vid, up("reserved_vid")),
        plain(from([0; 6]).bytes(), up("zero_source")),
        plain(from(group).bytes(), up("group_source")),
        plain(long, Fate::Dropped("p", "oversize")),
    ];
    // Lengths that IP does not have: of a packet that is beyond the frame, and of no packet. Nobody who forwards
    // Ethernet frames has to look.
    for len in [[0xff, 0xff], [0, 0]] {
        let lies = |frame: crate::support::Eth, ip: usize| {
            let mut frame = frame.udp([10, 0, 0, 9], [10, 0, 0, 1], &[9; 99]).bytes();
            frame[ip + 2..ip + 4].copy_from_slice(&len);
            frame
        };
        let seen = lies(eth(mac(1), mac(OUTSIDE)), 14);
        all.push(plain(lies(good(), 18), Fate::Arrives(seen)));
    }
    // The same of a packet that is to be cut: the pieces have lengths of their own. What is to be cut as TCP and says
    // that it is UDP cannot be, which the kernel finds out by itself.
    let packet = Packet::new(false, false, 3000).tagged(&[(0x8100, VID)]);
    let mut frame = packet.partial();
    frame[..6].copy_from_slice(&mac(1));
    frame[6..12].copy_from_slice(&mac(OUTSIDE));
    let header = packet.header(TCPV4, 1000);
    let mut lies = frame.clone();
    lies[20..22].copy_from_slice(&[0xff, 0xff]);
    all.push((header, lies, Fate::ArrivesCut(packet.data)));
    frame[27] = 17;
    all.push((header, frame, Fate::Eaten));
    all
}

/// A port with an address of its own, in the VLAN.
fn port(number: u16, more: &str) -> String {
    format!("access = {VID}\nmac = [\"52:54:00:00:00:0{number}\"]\nmac_policy = \"pinned\"\n{more}")
}

/// Guests that send each other frames until they are told to stop, all of which arrive.
struct Chat {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    thread: thread::JoinHandle<()>,
}

impl Chat {
    fn start(mut q: Guest, mut r: Guest) -> Self {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                pass(&mut q, &mut r, number);
                pass(&mut r, &mut q, number);
                // So that processors are left to others.
                thread::sleep(Duration::from_micros(200));
            }
        });
        Self {
            stop,
            count,
            thread,
        }
    }

    /// Waits until more frames have been exchanged.
    fn goes_on(&self) {
        let before = self.count.load(Ordering::Relaxed);
        eventually("guests talk", || {
            let now = self.count.load(Ordering::Relaxed);
            (now > before + 10).then_some(())
        });
    }

    fn end(self) {
        self.goes_on();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A frame from one guest to another arrives.
fn pass(from: &mut Guest, to: &mut Guest, number: u32) {
    let frame = eth(to.mac, from.mac).number(number).bytes();
    from.send(&frame);
    assert_eq!(hex(&arrived(to)), hex(&frame));
}

/// Drops at all ports, of reasons that occurred.
fn all_drops(net: &Net) -> BTreeMap<(&'static str, String), u64> {
    let ports = ["up", "p", "q", "r"].into_iter();
    ports
        .flat_map(|port| {
            let drops = drops(&net.evb, port).into_iter();
            drops.map(move |(reason, count)| ((port, reason), count))
        })
        .collect()
}

#[test]
fn a_flood_of_frames_that_cannot_be_is_counted_and_disturbs_nobody() {
    in_namespace(|| {
        veth("va", "vb");
        for (link, far) in LINKS {
            let lines = [port(1, "mtu = 1400\n"), port(2, ""), port(3, "")];
            let [p, q, r] = lines.each_ref().map(String::as_str);
            let ports = [("p", p), ("q", q), ("r", r)];
            let trunk = format!("{link}\ntrunk = [{VID}]");
            let mut net = start(&config(&ports, &uplink(&trunk)), &["up"]);
            let wire = Wire::new(far);
            let chat = Chat::start(net.leave("q"), net.leave("r"));
            let flood = flood(link);
            let mut wanted = all_drops(&net);
            let mark = net.evb.log_mark();
            for round in 0..ROUNDS {
                for (header, frame, fate) in &flood {
                    for _ in 0..AT_ONCE {
                        let sent = wire.try_send(header, frame);
                        // The kernel may say that it drops a frame.
                        assert!(sent.is_ok() || matches!(fate, Fate::Eaten), "{sent:?}");
                    }
                }
                // Behind all of them, which are done when it arrives.
                let number = u32::try_from(round).unwrap().to_be_bytes().repeat(20);
                let last = |frame: crate::support::Eth| frame.payload(0x88b6, &number).bytes();
                wire.send(&last(eth(mac(1), mac(OUTSIDE)).tag(0x8100, VID)));
                for (_, _, fate) in &flood {
                    for _ in 0..AT_ONCE {
                        fate.is_seen(net.at("p"));
                    }
                }
                let frame = last(eth(mac(1), mac(OUTSIDE)));
                assert_eq!(hex(&arrived(net.at("p"))), hex(&frame), "{link}");
            }
            chat.end();
            let mut sent = 0;
            for (_, _, fate) in &flood {
                sent += ROUNDS * AT_ONCE;
                if let Fate::Dropped(port, reason) = fate {
                    *wanted.entry((*port, (*reason).to_owned())).or_default() += ROUNDS * AT_ONCE;
                }
            }
            assert_eq!(all_drops(&net), wanted, "{link}");
            // A port tells of what it has dropped now and then, and not of each frame.
            let lines = net.evb.log_mark() - mark;
            assert!(
                lines as u64 <= sent / 500,
                "{lines} lines:\n{}",
                net.evb.log()
            );
            net.evb.expect_log(mark, &["port p", "1464 bytes", "MTU"]);
            net.evb.stop();
        }
    });
}

/// Frame `number` to the outside.
fn out(number: u32) -> Vec<u8> {
    eth(mac(OUTSIDE), mac(1)).number(number).bytes()
}

/// The far end takes frames out of its queue, which then holds 256, once in so many nanoseconds; 0 for at once.
fn look_every(nanoseconds: u32) {
    let set = |name, value: u32| fs::write(format!("/sys/class/net/vb/{name}"), value.to_string());
    set("napi_defer_hard_irqs", nanoseconds).unwrap();
    set("gro_flush_timeout", nanoseconds).unwrap();
}

/// A cable that tells its near end when the far end has no room for more, which has a queue of its own.
fn cable_that_fills() -> Result<(), String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    if numbers.take(2).lt([6, 16]) {
        return Err(format!("before Linux 6.16 none can be: {release}"));
    }
    veth("va", "vb");
    // Small frames, of which the far end of the test can have many.
    for device in ["va", "vb"] {
        ip(&format!("link set {device} mtu 500"));
    }
    without_offloads("va");
    let ethtool = Ethtool::new().unwrap();
    let mut merging = ethtool.features("vb").unwrap();
    merging.retain(|feature| feature.name == "rx-gro");
    ethtool.set("vb", &merging, true).unwrap();
    try_run("tc", "qdisc add dev va root pfifo")
}

#[test]
fn an_af_xdp_socket_that_takes_no_more_holds_up_nobody() {
    in_namespace(|| {
        if let Err(error) = cable_that_fills() {
            skip(&format!("no device that is full: {error}"));
            return;
        }
        let taken = |n| format!("mac = [\"52:54:00:00:00:0{n}\"]\nmac_policy = \"pinned\"\n");
        let macs = [1, 2, 3].map(taken);
        let [p, q, r] = macs.each_ref().map(String::as_str);
        let ports = [("p", p), ("q", q), ("r", r)];
        let link = uplink("af_xdp = { dev = \"va\" }");
        let mut net = start(&config(&ports, &link), &["up"]);
        let mut wire = Wire::new("vb");
        let chat = Chat::start(net.leave("q"), net.leave("r"));
        for round in 0..2 {
            let mut wanted = all_drops(&net);
            let before = net.evb.counter("up", "uplink_busy");
            look_every(1_000_000_000);
            let (mut sent, mut came) = (0, vec![]);
            let busy = eventually("too much", || {
                let burst: Vec<_> = (sent..sent + 512).map(out).collect();
                net.at("p").send_burst(0, burst.iter().map(Vec::as_slice));
                net.at("p").drain(0);
                sent += 512;
                while let Some(frame) = wire.recv(Duration::ZERO) {
                    came.push(frame);
                }
                let busy = net.evb.counter("up", "uplink_busy") - before;
                (busy > 1000).then_some(busy)
            });
            // All others go on.
            chat.goes_on();
            for number in 0..100 {
                let frame = eth(mac(1), mac(OUTSIDE)).number(number).bytes();
                wire.send(&frame);
                assert_eq!(hex(&arrived(net.at("p"))), hex(&frame));
            }
            // What is in line goes when there is room, and nothing else is lost.
            look_every(0);
            while came.len() as u64 + busy < sent.into() {
                let frame = wire.recv(LIMIT);
                came.push(frame.unwrap_or_else(|| panic!("{} of {sent}, {busy}", came.len())));
            }
            *wanted.entry(("up", "uplink_busy".to_owned())).or_default() += busy;
            assert_eq!(all_drops(&net), wanted, "round {round}");
            net.at("p").send(&out(sent));
            wire.expect(&out(sent));
            let number_of = |frame: &Vec<u8>| u32::from_be_bytes(frame[21..25].try_into().unwrap());
            let numbers = came.iter().map(number_of);
            assert!(numbers.is_sorted_by(|a, b| a < b), "round {round}");
            assert!(came.iter().all(|frame| *frame == out(number_of(frame))));
        }
        chat.end();
        net.evb.stop();
    });
}
