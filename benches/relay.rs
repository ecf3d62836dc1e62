//! What a frame costs in relays of different sizes: `cargo bench --bench relay`.
//!
//! The question is whether the cost grows, so all sizes of a series are measured in turn, round after round, and
//! the answer is the median of the ratios to the first of the series within a round. Times of themselves say as
//! much about the machine as about the relay.

// Numbers are far below 2^52.
#![allow(clippy::cast_precision_loss)]

#[path = "common/frames.rs"]
mod frames;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/measure.rs"]
mod measure;
#[path = "common/relays.rs"]
mod relays;

use std::array;
use std::hint::black_box;
use std::time::{Duration, Instant};

use evb::frame::offloads::Offloads;
use evb::relay::{Fdb, MacPolicy, Mode, PortConfig, RelayConfig, VlanConfig};
use evb::stats::VlanCounters;
use evb::virtqueue::driver::Layout;
use frames::{Frame, mac};
use guests::{FORMATS, Scene, Stage};
use measure::{Run, series, timed};
use relays::{NOBODY, Net, Size};

/// Measurements of each size.
const ROUNDS: usize = 21;
/// Frames of a measurement.
const FRAMES: usize = 1 << 16;
/// Frames that come together.
const BURST: usize = 32;
/// Conversations that fit into the nearest caches whatever the size of the relay.
const FEW: usize = 32;

fn main() {
    let rounds = measure::rounds(ROUNDS);
    // First, as memory that was given back is not taken from the system again.
    memory();
    let size = |ports, vlans, entries| Size {
        ports,
        vlans,
        entries,
    };
    let entries = [2, 1024, 65_536, 1 << 20];
    // `cargo bench --bench relay -- learn` measures what has this in its name.
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let named = |what: &str, numbers: &[u64], run: &dyn Fn(u64) -> Run| {
        if wanted.as_ref().is_some_and(|wanted| !what.contains(wanted)) {
            return;
        }
        let runs = numbers.iter().map(|n| (n.to_string(), run(*n)));
        series(what, rounds, runs.collect());
    };
    named("forward, 32 conversations, FDB entries", &entries, &|n| {
        forward(size(2, 0, n), FEW)
    });
    named("forward, all addresses, FDB entries", &entries, &|n| {
        forward(size(2, 0, n), FRAMES)
    });
    named("forward, 32 conversations, ports", &[2, 32, 1024], &|n| {
        forward(size(n as usize, 0, 4096), FEW)
    });
    named("forward, 4,096 addresses, ports", &[2, 32, 1024], &|n| {
        forward(size(n as usize, 0, 4096), FRAMES)
    });
    named("forward, 32 conversations, VLANs", &[1, 64, 4094], &|n| {
        forward(size(2, n as u16, 8188), FEW)
    });
    named("forward, 8,188 addresses, VLANs", &[1, 64, 4094], &|n| {
        forward(size(2, n as u16, 8188), FRAMES)
    });
    named("forward, everything: 2 ports, or 1,024", &[2, 1024], &|n| {
        let large = n == 1024;
        forward(
            if large {
                size(1024, 4094, 1 << 20)
            } else {
                size(2, 1, 2)
            },
            FEW,
        )
    });
    named("refresh, FDB entries", &entries[1..], &|n| {
        refresh(size(2, 0, n))
    });
    named("learn, entries to be", &entries[1..], &|n| learn(n));
    named("learn, in a worker, entries to be", &entries[1..], &teach);
    named("count, VLANs", &[1, 64, 4094], &|n| count(n as u16));
}

/// Forwards frames of known addresses.
fn forward(size: Size, conversations: usize) -> Run {
    let mut net = Net::new(size);
    let sent = net.conversations(conversations);
    timed(move || {
        for _ in 0..FRAMES / sent.len() {
            for burst in sent.chunks(BURST) {
                net.forward_all(burst);
            }
        }
        FRAMES / sent.len() * sent.len()
    })
}

/// Forwards frames of addresses that were last seen a second ago.
fn refresh(size: Size) -> Run {
    let mut net = Net::new(size);
    let sent = net.conversations(FEW);
    timed(move || {
        for _ in 0..FRAMES / FEW {
            net.now += 1;
            net.forward_all(&sent);
        }
        FRAMES
    })
}

/// Fills an empty database; frames to nobody at two ports are floods of one.
fn learn(entries: u64) -> Run {
    let mut net = Net::empty(Size {
        ports: 2,
        vlans: 0,
        entries,
    });
    let batch = entries.min(FRAMES as u64);
    let mut first = 0;
    Box::new(move || {
        // To forget is not what is measured, nor is to make frames and to fetch so many.
        if first == 0 {
            net.fdb().flush(net.now, |_| true);
        }
        let mut time = Duration::ZERO;
        for number in (first..first + batch).step_by(2 * BURST) {
            // Addresses with numbers that are even are at one port, the others at the other.
            for port in 0..2 {
                let nth = |n| number + port + 2 * n as u64;
                let burst: [_; BURST] = array::from_fn(|n| net.frame(NOBODY, nth(n)));
                let start = Instant::now();
                net.forward_all(&burst);
                time += start.elapsed();
            }
        }
        first = (first + batch) % entries;
        (batch as usize, time)
    })
}

/// The same in a worker, with everything else that it does for a frame: a guest sends to another one from addresses
/// that are new.
fn teach(entries: u64) -> Run {
    // Those of the guests themselves are there already.
    let max_entries = entries as u32 + 2;
    let port = || PortConfig {
        mac_policy: MacPolicy::Trusted { limit: max_entries },
        ..PortConfig::local(Mode::Bridge, VlanConfig::Flat, Vec::new())
    };
    let scene = Scene {
        relay: RelayConfig {
            max_entries,
            ..RelayConfig::default()
        },
        ports: vec![port(), port()],
        accepts: Offloads::NONE,
        tagged: None,
        sender: 0,
        layout: Layout::default(),
        burst: vec![Frame::plain(mac(1), mac(0), 64); BURST],
        received: vec![(1, BURST)],
    };
    let mut stage = Stage::new(scene, FORMATS[0].1);
    let known = stage.fdb().len();
    let batch = entries.min(FRAMES as u64);
    let mut first = 0;
    Box::new(move || {
        if first == 0 {
            forget(stage.fdb());
        }
        let mut time = Duration::ZERO;
        for number in (first..first + batch).step_by(BURST) {
            for (frame, number) in stage.burst.iter_mut().zip(number..) {
                frame.bytes[6..12].copy_from_slice(&source(number));
            }
            stage.send();
            let start = Instant::now();
            stage.worker().pass();
            time += start.elapsed();
            stage.receive();
        }
        assert_eq!(
            stage.fdb().len() - known,
            (first + batch) as usize,
            "new addresses"
        );
        first = (first + batch) % entries;
        (batch as usize, time)
    })
}

/// An address that no guest has.
fn source(number: u64) -> [u8; 6] {
    let [.., a, b, c, d] = number.to_be_bytes();
    [2, 1, a, b, c, d]
}

/// Forgets all addresses but those of the guests.
fn forget(fdb: &Fdb) {
    fdb.flush(0, |entry| entry.mac.octets()[1] != 0);
}

/// Counts a frame in and out, in one VLAN after the other.
fn count(vlans: u16) -> Run {
    let counters = VlanCounters::default();
    timed(move || {
        for frame in 0..FRAMES {
            let vid = 1 + (frame % usize::from(vlans)) as u16;
            counters.count_in(black_box(vid), 1, 64);
            counters.count_out(vid, 1, 60);
        }
        FRAMES
    })
}

/// What a full database and the counters of all VLANs really occupy.
fn memory() {
    let entries = 1 << 20;
    let before = resident();
    let net = Net::new(Size {
        ports: 2,
        vlans: 0,
        entries,
    });
    let taken = resident() - before;
    let fdb = net.fdb().bytes() as f64 / entries as f64;
    let touched = taken as f64 / entries as f64;
    println!("\nbytes an FDB entry, at 1,048,576: {fdb:.1} reserved, {touched:.1} resident");
    let before = resident();
    let counters = VlanCounters::default();
    (1..=4094).for_each(|vid| counters.count_in(vid, 1, 64));
    let taken = (resident() - before) / 1024;
    println!("KiB for the counters of 4,094 VLANs in one worker: {taken} resident");
    black_box((net, counters));
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = status
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok());
    4096 * pages.unwrap_or(0)
}
