//! What a second worker adds, and how much of that it costs when both share a relay, or a receiver.
//!
//! `cargo bench --bench scaling` uses the first two CPUs that it may, `cargo bench --bench scaling -- 2 6` these two.
//!
//! A thread has a worker and its guests, and they take turns: the sender puts a burst into its ring, the worker has a
//! pass, the receiver takes what came. Only passes count. Two such threads run at the same time, each on a CPU of its own.

// Numbers are far below 2^52.
#![allow(clippy::cast_precision_loss)]

#[path = "common/frames.rs"]
mod frames;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/measure.rs"]
mod measure;

use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use evb::bench::round_trip;
use evb::frame::offloads::Offloads;
use evb::relay::{Mode, PortConfig, RelayConfig, VlanConfig};
use evb::sys::cpu;
use evb::virtqueue::driver::{DriverFeatures, Layout};
use evb::worker::Manual;
use frames::{BROADCAST, Frame, mac};
use guests::{FORMATS, Guest, snapshot};
use measure::median;

const ROUNDS: usize = 21;
/// Before it is measured, and while it is.
const WARM_UP: Duration = Duration::from_millis(10);
const WINDOW: Duration = Duration::from_millis(50);
/// Frames of a burst: as many as the worker takes in a turn.
const BURST: usize = 32;
/// No frame drops, however long the thread of its receiver does not run.
const PATIENCE_NS: u64 = 60_000_000_000;
/// Turns in which what is under way arrives: a sender has 64 frames in its ring, the receiver room for 256.
const LAST_TURNS: usize = 8;

fn main() {
    let Some(cpus) = cpus() else {
        println!("two workers need two CPUs");
        return;
    };
    let rounds = measure::rounds(ROUNDS);
    for (format, features) in FORMATS {
        for len in [64, 1514] {
            let features = DriverFeatures::from_bits(features);
            let relay = |workers, receivers| relay(workers, receivers, len, features);
            let separate = [relay(1, 1), relay(1, 1)].into_iter().flatten().collect();
            let cases = [
                ("one worker", relay(1, 1)),
                ("two, nothing in common", separate),
                ("two of one relay", relay(2, 2)),
                ("two of one relay, one receiver", relay(2, 1)),
            ];
            compare(&format!("{len} bytes, {format} ring"), cases, cpus, rounds);
        }
    }
}

/// The CPUs that were named, or the first two.
fn cpus() -> Option<[usize; 2]> {
    let named = std::env::args().filter_map(|arg| arg.parse().ok());
    let named: Vec<usize> = named.collect();
    let all = cpu::allowed().expect("the kernel says where a thread may run");
    let chosen = if named.len() == 2 { named } else { all };
    chosen.first_chunk().copied()
}

/// Measures in turn and prints a line for each: frames a second, the median of the rounds, and medians of the ratios to
/// the first two in the same round.
fn compare(what: &str, mut cases: [(&str, Vec<Lane>); 4], cpus: [usize; 2], rounds: usize) {
    let mut rates = [const { vec![] }; 4];
    let mut trips = vec![];
    for _ in 0..rounds {
        trips.extend(round_trip(cpus[0], cpus[1]));
        for ((_, lanes), rates) in cases.iter_mut().zip(&mut rates) {
            rates.push(measure(lanes, cpus));
        }
    }
    print!("\n{what}, CPUs {cpus:?}");
    if !trips.is_empty() {
        print!(", {:.0} ns there and back", median(trips));
    }
    println!("\n{:>42}  Mframe/s   to one   to two apart", "");
    for ((name, _), own) in cases.iter().zip(&rates) {
        let ratio = |to: &[f64]| median(own.iter().zip(to).map(|(a, b)| a / b).collect());
        let rate = median(own.clone()) / 1e6;
        let (one, apart) = (ratio(&rates[0]), ratio(&rates[1]));
        println!("{name:>42} {rate:>9.2} {one:>8.2} {apart:>14.2}");
    }
}

/// Frames in a second of the workers' time, all workers together.
fn measure(lanes: &mut [Lane], cpus: [usize; 2]) -> f64 {
    let barrier = Barrier::new(lanes.len());
    let start = |(lane, cpu): (&mut Lane, usize)| {
        cpu::pin_current_thread(cpu).expect("a CPU that may be used");
        barrier.wait();
        lane.run()
    };
    let rate = thread::scope(|scope| {
        let lanes = lanes.iter_mut().zip(cpus);
        let threads: Vec<_> = lanes.map(|lane| scope.spawn(move || start(lane))).collect();
        let rates = threads.into_iter().map(ScopedJoinHandle::join);
        rates.map(|rate| rate.expect("no panic")).sum()
    });
    for _ in 0..LAST_TURNS {
        for lane in &mut *lanes {
            lane.pass();
            lane.collect();
        }
    }
    let sum = |field: fn(&Lane) -> usize| lanes.iter().map(field).sum::<usize>();
    assert_eq!(sum(|lane| lane.sent), sum(|lane| lane.received), "frames");
    rate
}

/// A worker and the guests on its thread.
struct Lane {
    worker: Manual,
    sender: Guest,
    /// Somebody else has the receiver.
    receiver: Option<Guest>,
    burst: Vec<Frame>,
    scratch: Vec<u8>,
    sent: usize,
    received: usize,
}

impl Lane {
    /// Frames in a second of the worker's time.
    fn run(&mut self) -> f64 {
        let begin = Instant::now();
        let (mut frames, mut time) = (0, Duration::ZERO);
        loop {
            let since = begin.elapsed();
            if since > WARM_UP + WINDOW && frames > 0 {
                return frames as f64 / time.as_secs_f64();
            }
            let before = self.sent;
            // The receiver may have had no room for the last one.
            if self.sender.room() >= BURST {
                self.sender.send(&self.burst);
                self.sent += BURST;
            }
            let pass = self.pass();
            self.collect();
            if since > WARM_UP {
                frames += self.sent - before;
                time += pass;
            }
        }
    }

    fn pass(&mut self) -> Duration {
        let start = Instant::now();
        self.worker.pass();
        start.elapsed()
    }

    fn collect(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            self.received += receiver.collect(&mut self.scratch);
        }
    }
}

/// A relay with a sender for each worker, and as many receivers, or one for them all. Every address is known.
fn relay(workers: usize, receivers: usize, len: usize, features: DriverFeatures) -> Vec<Lane> {
    let count = workers + receivers;
    let port = || PortConfig::local(Mode::Bridge, VlanConfig::Flat, vec![]);
    let ports = (0..count).map(|_| port()).collect();
    let guest = |_| Guest::new(features, len as u32 + 12, Layout::default(), Offloads::NONE);
    let mut guests: Vec<_> = (0..count).map(guest).collect();
    let serves: Vec<_> = (0..workers).chain(0..receivers).collect();
    let mut manuals =
        Manual::several(workers, PATIENCE_NS, |event| panic!("{event:?}")).expect("descriptors");
    manuals[0].publish(snapshot(RelayConfig::default(), ports, &guests, &serves));
    let mut scratch = vec![0; len.max(60) + 12];
    for number in 0..count {
        let hello = Frame::plain(BROADCAST, mac(number as u8), 60);
        guests[number].send(&[hello]);
        for worker in &mut manuals {
            worker.pass();
        }
        for guest in &mut guests {
            guest.collect(&mut scratch);
        }
    }
    let mut taking = guests.split_off(workers).into_iter();
    let lanes = manuals.into_iter().zip(guests).enumerate();
    lanes
        .map(|(number, (worker, sender))| {
            let to = workers + number % receivers;
            let frame = Frame::plain(mac(to as u8), mac(number as u8), len);
            Lane {
                worker,
                sender,
                receiver: taking.next(),
                burst: vec![frame; BURST],
                scratch: scratch.clone(),
                sent: 0,
                received: 0,
            }
        })
        .collect()
}
