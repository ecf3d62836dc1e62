//! A receiver that takes nothing for a while costs its own frames, and nobody else's.

mod support;

use std::time::Duration;

use support::evb::bridge_config;
use support::{Evb, Guest, GuestOptions, LIMIT, eth, mac};

/// Frames with these numbers to `to`.
fn numbered(from: &Guest, to: [u8; 6], numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    let frames = numbers.map(|number| eth(to, from.mac).number(number).bytes());
    frames.collect()
}

/// Sends frames on a queue, one after the other, each of which has to arrive before the next.
fn talk(from: &mut Guest, queue: usize, to: &mut Guest) {
    for frame in numbered(from, to.mac, 0..300) {
        from.send_burst(queue, [&frame[..]]);
        assert_eq!(to.recv(LIMIT).expect("a frame is lost").bytes, frame);
    }
}

#[test]
fn other_ports_and_other_queues_go_on_while_a_frame_waits() {
    const BUFFERS: u32 = 128;
    let config = bridge_config(4, "queues = 2\n");
    // For as long as can be.
    let config = config.replacen("[daemon]\n", "[daemon]\nrx_wait_us = 1000000\n", 1);
    let evb = Evb::start(&config);
    let pairs = GuestOptions::default().pairs(2);
    let mut a = evb.guest_with("p0", 1, pairs);
    let mut slow = evb.guest("p1", 2);
    let mut fast = evb.guest("p2", 3);
    let mut c = evb.guest("p3", 4);
    // Where the receivers are is known.
    for (n, from) in [(2, &mut slow), (3, &mut fast)] {
        from.send(&eth(mac(n), mac(n)).bytes());
    }
    let fill = numbered(&a, slow.mac, 0..BUFFERS);
    a.send_burst(0, fill.iter().map(Vec::as_slice));
    a.drain(0);
    assert_eq!(evb.counter("p1", "ring_full"), 0);
    // Its ring is full: these wait, and with them all that is behind them in this queue.
    let more = numbered(&a, slow.mac, BUFFERS..2 * BUFFERS - 8);
    a.send_burst(0, more.iter().map(Vec::as_slice));
    talk(&mut c, 0, &mut fast);
    talk(&mut a, 1, &mut fast);
    assert_eq!(evb.counter("p2", "ring_full"), 0);
    // Now it takes them, in their order: all, if it was not too late for some.
    let (mut received, mut last) = (0, None);
    loop {
        // With one worker what was sent has arrived when it is given back.
        let all = a.try_drain(0, Duration::ZERO);
        while let Some(frame) = slow.recv(Duration::ZERO) {
            let number = u32::from_be_bytes(frame.bytes[21..25].try_into().unwrap());
            assert!(last.is_none_or(|last| last < number));
            last = Some(number);
            received += 1;
        }
        if all {
            break;
        }
    }
    assert_eq!(
        received + evb.counter("p1", "ring_full"),
        u64::from(2 * BUFFERS - 8)
    );
    evb.stop();
}
