//! How long frames take: there and back one at a time, one way at a fixed rate, or one way into a sleeping back end.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::{Clock, ns};
use super::error::BenchError;
use super::station::Station;
use super::traffic::Guard;

/// The longest time that is told apart from longer ones.
const LONGEST_NS: u64 = 10_000_000_000;
/// Round trips between two looks at the clock for other reasons.
const BATCH: usize = 64;
/// After so long without a frame every back end sleeps that ever does.
const PAUSE: Duration = Duration::from_millis(20);

/// Times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many there are.
    pub count: u64,
    /// The shortest.
    pub min_ns: u64,
    /// Half are not longer.
    pub p50_ns: u64,
    /// 99 of 100 are not longer.
    pub p99_ns: u64,
    /// 999 of 1000 are not longer.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Latency {
    /// What is to be said of so many times; none where there are none.
    pub fn of(times: &Histogram<u64>) -> Option<Self> {
        (!times.is_empty()).then(|| Self {
            count: times.len(),
            min_ns: times.min(),
            p50_ns: times.value_at_quantile(0.5),
            p99_ns: times.value_at_quantile(0.99),
            p999_ns: times.value_at_quantile(0.999),
            max_ns: times.max(),
        })
    }
}

/// Times up to ten seconds, each to a thousandth.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("constant bounds that are in order")
}

/// Sends one frame there and back at a time; the times of those that began at `begin_ns` or in the `measure_ns` after that.
pub fn ping_pong(
    (a, b): (&mut Station, &mut Station),
    (begin_ns, measure_ns): (u64, u64),
    clock: Clock,
    guard: &mut Guard,
) -> Result<Histogram<u64>, BenchError> {
    let mut times = histogram();
    let mut end_ns = None;
    loop {
        guard.check(clock.now_ns(), [&*a, &*b])?;
        for _ in 0..BATCH {
            let sent_ns = clock.now_ns();
            if sent_ns >= begin_ns && sent_ns >= *end_ns.get_or_insert(sent_ns + measure_ns) {
                return Ok(times);
            }
            pass(a, b, sent_ns, clock, guard)?;
            pass(b, a, sent_ns, clock, guard)?;
            if sent_ns >= begin_ns {
                times.saturating_record(clock.now_ns() - sent_ns);
            }
        }
    }
}

/// Sends one frame after each pause; the times until it has come, of those that began at `begin_ns` or in the
/// `measure_ns` after that. The receiver looks for it all the time, so only the back end sleeps.
pub fn wakes(
    (from, to): (&mut Station, &mut Station),
    (begin_ns, measure_ns): (u64, u64),
    clock: Clock,
    guard: &mut Guard,
) -> Result<Histogram<u64>, BenchError> {
    let mut times = histogram();
    let mut end_ns = None;
    loop {
        let rested_ns = clock.now_ns() + ns(PAUSE);
        while clock.now_ns() < rested_ns {
            to.receive(1)?;
        }
        guard.check(clock.now_ns(), [&*from, &*to])?;
        let sent_ns = clock.now_ns();
        if sent_ns >= begin_ns && sent_ns >= *end_ns.get_or_insert(sent_ns + measure_ns) {
            return Ok(times);
        }
        pass(from, to, sent_ns, clock, guard)?;
        if sent_ns >= begin_ns {
            times.saturating_record(clock.now_ns() - sent_ns);
        }
    }
}

/// One frame from one station to the other.
fn pass(
    from: &mut Station,
    to: &mut Station,
    now_ns: u64,
    clock: Clock,
    guard: &mut Guard,
) -> Result<(), BenchError> {
    let before = to.inbox.ledger.tally().received;
    let sender = from.senders.first_mut();
    let mut sent = 0;
    if let Some(sender) = sender {
        sent = sender.send(now_ns, 1)?;
    }
    let mut turns: u32 = 0;
    while to.inbox.ledger.tally().received == before {
        to.receive(1)?;
        turns += 1;
        if turns.is_multiple_of(1024) {
            guard.check(clock.now_ns(), [&*from, &*to])?;
            if sent == 0
                && let Some(sender) = from.senders.first_mut()
            {
                sent = sender.send(now_ns, 1)?;
            }
        }
    }
    Ok(())
}
