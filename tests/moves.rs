//! Queues that change their worker while they are in use.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::net::relay;
use support::{Evb, Finished, Guest, LIMIT, eth, eventually, mac};

/// A daemon with two workers and four ports, of which `p0` and `p2` have these words of their own.
fn config(words: [&str; 2]) -> String {
    let ports = [("p0", words[0]), ("p1", ""), ("p2", words[1]), ("p3", "")];
    relay("", &ports).replacen("[daemon]\n", "[daemon]\nworkers = 2\n", 1)
}

/// Has the daemon read this configuration; what it says to it.
fn reload(evb: &Evb, config: &str) -> Finished {
    let dir = evb.path("").display().to_string();
    std::fs::write(evb.path("evb.toml"), config.replace("{dir}/", &dir)).unwrap();
    let control = evb.path("control.sock").display().to_string();
    evb.command(&["reload", "--control", &control])
}

/// The workers of a port's queues, by the status.
fn workers(evb: &Evb, port: usize) -> Vec<u64> {
    let status = evb.status();
    let workers = status["ports"][port]["workers"].as_array().unwrap().clone();
    workers
        .iter()
        .map(|worker| worker.as_u64().unwrap())
        .collect()
}

/// Numbered frames from one guest to the other until the end, a few at a time; each has to arrive, in order.
fn talk(from: &mut Guest, to: &mut Guest, stop: &AtomicBool) {
    let (mut sent, mut received) = (0_u32, 0_u32);
    for burst in (1..=9).cycle() {
        let frames: Vec<_> = (sent..sent + burst)
            .map(|number| eth(to.mac, from.mac).number(number).bytes())
            .collect();
        from.send_burst(0, frames.iter().map(Vec::as_slice));
        sent += burst;
        for frame in frames {
            assert_eq!(
                to.recv(LIMIT).expect("a frame is lost").bytes,
                frame,
                "frame {received}"
            );
            received += 1;
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[test]
fn a_reload_moves_queues_and_no_frame_is_lost() {
    let evb = Evb::start(&config(["worker = 0", "worker = 1"]));
    let [mut a, mut b, mut c, mut d] = evb.guests();
    // Everybody is known, so that no frame goes to others.
    for guest in [&mut a, &mut b, &mut c, &mut d] {
        guest.send(&eth(guest.mac, guest.mac).bytes());
    }
    assert_eq!((workers(&evb, 0), workers(&evb, 2)), (vec![0], vec![1]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads = [
            scope.spawn(|| talk(&mut a, &mut b, &stop)),
            scope.spawn(|| talk(&mut c, &mut d, &stop)),
        ];
        for turn in 0..40 {
            let words = ["worker = 0", "worker = 1"];
            let done = reload(&evb, &config([words[(turn + 1) % 2], words[turn % 2]]));
            assert_eq!(done.code, Some(0), "{}", done.output);
            if threads
                .iter()
                .any(std::thread::ScopedJoinHandle::is_finished)
            {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!((workers(&evb, 0), workers(&evb, 2)), (vec![0], vec![1]));
    // Without a word for it a queue stays where it is.
    reload(&evb, &config(["", ""]));
    assert_eq!((workers(&evb, 0), workers(&evb, 2)), (vec![0], vec![1]));
    let status = evb.status();
    for worker in status["workers"].as_array().unwrap() {
        assert!(worker["busy_ns"].as_u64().unwrap() > 0);
    }
    evb.stop();
}

#[test]
fn a_worker_that_there_is_not_is_refused_and_told() {
    let evb = Evb::start(&config(["", ""]));
    let more = config(["worker = 2", ""]).replace("workers = 2", "workers = 3");
    let refused = reload(&evb, &more);
    assert_ne!(refused.code, Some(0));
    for words in [
        "port p0 is to have worker 2",
        "evb runs with 2",
        "start evb anew",
    ] {
        assert!(refused.output.contains(words), "{}", refused.output);
    }
    evb.stop();
}

#[test]
fn queues_that_are_busy_get_a_worker_each() {
    // Both begin at one worker: the other is given to ports that do nothing.
    let evb = Evb::start(&config(["worker = 0", "worker = 0"]));
    let [mut a, mut b, mut c, mut d] = evb.guests();
    reload(&evb, &config(["", ""]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (from, to) in [(&mut a, &mut b), (&mut c, &mut d)] {
            let stop = &stop;
            scope.spawn(move || {
                let frame = eth(mac(99), from.mac).payload(0x88b5, &[1; 1400]).bytes();
                let burst = vec![&frame[..]; 64];
                while !stop.load(Ordering::Relaxed) {
                    from.send_burst(0, burst.iter().copied());
                    while to.recv_any(Duration::ZERO).is_some() {}
                }
            });
        }
        eventually("they have a worker each", || {
            let have = (workers(&evb, 0), workers(&evb, 2));
            (have.0 != have.1).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    evb.stop();
}
