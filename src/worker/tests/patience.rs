//! What a receiver without buffers costs its senders, and others.

use crate::stats::DropReason;
use crate::worker::ingress::{Path, Turn};
use crate::worker::testing::{Guest, Net, moment};
use crate::worker::{PortId, Snapshot};

/// How long a frame waits.
const LIMIT: u64 = 100_000;
/// How long it waits where the operator has said nothing.
const LONG: u64 = 1_000_000;
/// Time between two turns.
const STEP: u64 = 5_000;

/// Guests, of which the test is the worker, and the clock.
struct Bench {
    guests: Vec<Guest>,
    net: Net,
    snapshot: Snapshot,
    path: Path,
    now_ns: u64,
    limit_ns: u64,
}

impl Bench {
    /// So many, and none has posted a buffer.
    fn new(guests: usize) -> Self {
        let guests: Vec<_> = (0..guests).map(|_| Guest::new(64)).collect();
        let net = Net::new(&guests, []);
        Self {
            snapshot: net.snapshot(1, |_| 0),
            net,
            guests,
            path: Path::default(),
            now_ns: 1_000_000,
            limit_ns: LIMIT,
        }
    }

    /// A turn of this port's queue.
    fn turn(&mut self, port: u16) -> Turn {
        let at = moment(self.now_ns, self.limit_ns);
        self.path.turn(&self.snapshot, PortId(port), 0, at)
    }

    fn dropped(&self, port: usize) -> u64 {
        self.net.drops(port, DropReason::RingFull)
    }

    /// Port 0 sends to `to` in turn, as fast as its ring takes it, for `turns` turns; port 1 posts a buffer every
    /// `pause` of them, and the others whenever they have none. Returns how many each has received.
    fn pour(&mut self, to: &[usize], turns: u64, pause: u64) -> Vec<usize> {
        let mut received = vec![0; self.guests.len()];
        let mut number = 0;
        let mut to = to.iter().cycle();
        for turn in 0..turns {
            let room = 64 - self.guests[0].tx.outstanding();
            for _ in 0..room {
                let to = [*to.next().unwrap()];
                self.guests[0].send(0, &to, std::iter::once(number));
                number += 1;
            }
            if turn % pause == 0 {
                self.guests[1].post(1);
            }
            self.guests[2..].iter_mut().for_each(Guest::refill);
            self.turn(0);
            self.now_ns += STEP;
            self.guests[0].tx.reclaim().unwrap();
            for (count, guest) in received.iter_mut().zip(&mut self.guests).skip(1) {
                *count += guest.received().len();
            }
        }
        received
    }
}

/// Turns between two buffers of a receiver that is slow, but not so slow that it would not be waited for.
const SLOW: u64 = LIMIT / STEP - 2;

#[test]
fn a_sender_that_talks_to_a_slow_receiver_only_waits_for_it() {
    let mut bench = Bench::new(2);
    let received = bench.pour(&[1], 100 * SLOW, SLOW);
    assert_eq!(received[1], 100);
    assert_eq!(bench.dropped(1), 0);
}

#[test]
fn a_slow_receiver_does_not_slow_what_its_sender_sends_to_others() {
    const TURNS: u64 = 400 * SLOW;
    let alone = Bench::new(3).pour(&[2], TURNS, 1)[2];
    // One frame in two, in eight, and in thirty is for the slow one, or all but those. The more are for others,
    // the less they may be held up.
    for (slow, fast) in [(1, 1), (1, 7), (1, 29), (7, 1), (29, 1)] {
        let to = [vec![1; slow], vec![2; fast]].concat();
        let mut bench = Bench::new(3);
        let received = bench.pour(&to, TURNS, SLOW);
        let all = slow + fast;
        let share = alone * fast / all;
        let held_up = share * all / (all + 8 * fast);
        assert!(
            received[2] + held_up + share / 20 >= share,
            "{slow} to {fast}: {} of {share}",
            received[2]
        );
        // It gets as much as it takes, as good as always.
        assert!(received[1] >= 380, "{slow} to {fast}: {}", received[1]);
        assert_eq!(bench.dropped(2), 0);
        assert!(bench.dropped(1) > 0);
    }
}

#[test]
fn rare_frames_to_others_do_not_cost_the_patience_with_a_slow_receiver() {
    let mut bench = Bench::new(3);
    let to = [vec![1; 999], vec![2]].concat();
    let received = bench.pour(&to, 3000 * SLOW, SLOW);
    assert_eq!(received[1..], [3000, 3]);
    assert_eq!(bench.dropped(1), 0);
}

#[test]
fn a_turn_that_does_nothing_but_wait_says_so() {
    let mut bench = Bench::new(3);
    bench.guests[1].post(1);
    bench.guests[2].post(2);
    bench.guests[0].send(0, &[1], 0..2);
    assert_eq!(bench.turn(0), Turn::Busy);
    assert_eq!(bench.turn(0), Turn::Waits);
    // What is for somebody else goes on.
    bench.guests[0].send(0, &[2], 2..3);
    assert_eq!(bench.turn(0), Turn::Busy);
    assert_eq!(bench.turn(0), Turn::Waits);
    bench.guests[1].post(1);
    assert_eq!(bench.turn(0), Turn::Busy);
    assert_eq!(bench.turn(0), Turn::Idle);
    assert_eq!(bench.dropped(1), 0);
}

#[test]
fn long_patience_with_one_receiver_is_not_at_the_expense_of_others() {
    let mut bench = Bench::new(3);
    bench.limit_ns = LONG;
    // The first gives no buffer any more, and nine frames of ten are for the other.
    let to = [vec![1], vec![2; 9]].concat();
    let turns = LONG / STEP;
    bench.guests[1].post(1);
    let received = bench.pour(&to, turns, turns);
    // Once the budget is spent, which is a tenth of that time, nothing waits.
    assert!(bench.dropped(1) > 0);
    let alone = Bench::new(3).pour(&[2], turns, 1)[2];
    assert!(
        received[2] * 10 >= alone * 9 * 8 / 10,
        "{} of {alone}",
        received[2]
    );
    // A queue that is for one receiver only waits all of it.
    let mut bench = Bench::new(2);
    bench.limit_ns = LONG;
    let slow = LONG / STEP - 2;
    let received = bench.pour(&[1], 10 * slow, slow);
    assert_eq!((received[1], bench.dropped(1)), (10, 0));
}
