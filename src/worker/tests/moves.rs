//! Queues that go from worker to worker.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use crate::stats::DropReason;
use crate::worker::egress::Patience;
use crate::worker::ingress::{Moment, Path, Turn};
use crate::worker::testing::{ALL, Guest, LIMIT, Net, frame, link};
use crate::worker::{Polling, Pool, PortId, Settings};

/// A flow of frames, as others see it.
#[derive(Default)]
struct Flow {
    received: AtomicU32,
    stop: AtomicBool,
}

/// Numbered frames until it is told to stop, a few at a time, of which the last is waited for: one that is forgotten
/// stays so.
fn talk(mut send: impl FnMut(u32), to: &mut Guest, flow: &Flow) {
    let (mut sent, mut received) = (0, 0);
    for burst in (1..=9).cycle() {
        for _ in 0..burst {
            send(sent);
            sent += 1;
        }
        while received < sent {
            match to.receive() {
                Some((_, number)) => {
                    assert_eq!(number, received, "a gap, or out of order");
                    received += 1;
                    flow.received.store(received, Ordering::Relaxed);
                    to.refill();
                }
                None => assert!(to.rx.wait(LIMIT).unwrap(), "frame {received} is lost"),
            }
        }
        if flow.stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < 2 * LIMIT, "a queue is not taken");
        std::thread::yield_now();
    }
}

fn from_guest(guest: &mut Guest, from: usize, to: usize) -> impl FnMut(u32) {
    move |number| guest.send(from, &[to], std::iter::once(number))
}

fn from_wire(wire: &UnixDatagram, from: usize, to: usize) -> impl FnMut(u32) {
    move |number| {
        let bytes = [&[0; 12][..], &frame(from, to, number)].concat();
        wire.send(&bytes).unwrap();
    }
}

/// Moves the queues of two guests and a device, each to the worker that has just left another.
fn flows_keep_their_order(polling: Polling, moves: usize) {
    let mut guests: Vec<_> = (0..5).map(|_| Guest::new(64)).collect();
    guests.iter_mut().for_each(Guest::refill);
    let (wire, link) = link();
    let net = Net::new(&guests, [link]);
    let settings = Settings {
        workers: 2,
        cpus: vec![],
        polling,
        rx_wait_ns: LIMIT.as_nanos() as u64,
    };
    let pool = Pool::start(settings, |_| {}).unwrap();
    let flows: [Flow; 3] = Default::default();
    let [one, to_one, two, to_two, to_wire] = &mut guests[..] else {
        unreachable!()
    };
    std::thread::scope(|scope| {
        let talking = [
            scope.spawn(|| talk(from_guest(one, 0, 1), to_one, &flows[0])),
            scope.spawn(|| talk(from_guest(two, 2, 3), to_two, &flows[1])),
            scope.spawn(|| talk(from_wire(&wire, 5, 4), to_wire, &flows[2])),
        ];
        let failed = || talking.iter().any(ScopedJoinHandle::is_finished);
        for turn in 0..moves {
            let worker = |port| (port / 2 + turn) % 2;
            pool.publish(net.snapshot(1, worker));
            for (port, flow) in [0, 2, 5].into_iter().zip(&flows) {
                until(|| failed() || net.worker(port) == Some(worker(port)));
                // It is served there, and not by chance at the next move.
                let before = flow.received.load(Ordering::Relaxed);
                until(|| failed() || flow.received.load(Ordering::Relaxed) >= before + 10);
            }
        }
        for flow in &flows {
            flow.stop.store(true, Ordering::Relaxed);
        }
    });
    for port in 0..6 {
        assert_eq!(net.drops(port, DropReason::RingFull), 0);
    }
}

#[test]
fn flows_keep_their_order_over_ten_thousand_moves() {
    flows_keep_their_order(Polling::Adaptive { cool_ns: 20_000 }, 10_000);
}

#[test]
fn flows_keep_their_order_where_workers_sleep_at_once() {
    flows_keep_their_order(Polling::Sleep, 1_000);
}

#[test]
fn a_flood_goes_on_at_another_worker() {
    const RECEIVERS: usize = 100;
    let mut guests: Vec<_> = (0..=RECEIVERS).map(|_| Guest::new(16)).collect();
    guests.iter_mut().for_each(Guest::refill);
    let net = Net::new(&guests, []);
    let mut paths = [Path::default(), Path::default()];
    let mut turn = |worker: usize, epoch| {
        let snapshot = net.snapshot(epoch, |_| worker);
        let at = Moment {
            worker,
            snapshot: epoch,
            now_s: 1,
            patience: Patience {
                now_ns: 1,
                limit_ns: 1,
            },
        };
        paths[worker].turn(&snapshot, PortId(0), 0, at)
    };
    let heard = |guests: &mut [Guest]| {
        let heard = guests[1..].iter_mut().map(|guest| guest.received().len());
        heard.sum::<usize>()
    };
    guests[0].send(0, &[ALL], 0..1);
    assert_eq!(turn(0, 1), Turn::Busy);
    assert_eq!(turn(1, 1), Turn::Busy);
    assert_eq!(turn(0, 1), Turn::Busy);
    assert_eq!(heard(&mut guests), RECEIVERS);
    // Ports may have become others when the world has changed, so what is left of a flood is dropped.
    guests[0].send(0, &[ALL], 1..2);
    assert_eq!(turn(0, 1), Turn::Busy);
    assert_eq!(turn(1, 2), Turn::Busy);
    assert!(heard(&mut guests) < RECEIVERS);
    assert_eq!(turn(1, 2), Turn::Idle);
    assert!(net.drops(0, DropReason::PortDown) > 0);
}
