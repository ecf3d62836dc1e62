//! How long frames take: there and back one at a time, one way at a fixed rate, or one way into a sleeping back end.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::{Clock, ns};
use super::error::BenchError;
use super::station::Station;
use super::traffic::{Guard, Pair, Pattern, Task};

/// The longest time that is told apart from longer ones.
const LONGEST_NS: u64 = 10_000_000_000;
/// Looks for a frame between two at the clock.
const LOOKS: usize = 1024;
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

/// Sends one frame at a time, as the task's pattern says: there and back, or one way after a pause. The times of those
/// that began at `begin_ns` or while it is measured after that.
pub fn one_by_one(
    Pair { a, b }: &mut Pair,
    task: &Task<'_>,
    begin_ns: u64,
) -> Result<Histogram<u64>, BenchError> {
    let clock = task.clock;
    let mut guard = Guard::new(clock.now_ns());
    let mut times = histogram();
    let mut end_ns = None;
    loop {
        if task.pattern == Pattern::Wake {
            rest(b, clock)?;
        }
        let sent_ns = clock.now_ns();
        let measured = sent_ns >= begin_ns;
        if measured && sent_ns >= *end_ns.get_or_insert(sent_ns + ns(task.measure)) {
            return Ok(times);
        }
        pass(a, b, sent_ns, clock, &mut guard)?;
        if task.pattern == Pattern::PingPong {
            pass(b, a, sent_ns, clock, &mut guard)?;
        }
        let now_ns = clock.now_ns();
        if measured {
            times.saturating_record(now_ns - sent_ns);
        }
        guard.check(now_ns, [&*a, &*b])?;
    }
}

/// Looks for frames all the time until the back end sleeps, so that nobody else does.
fn rest(station: &mut Station, clock: Clock) -> Result<(), BenchError> {
    let rested_ns = clock.now_ns() + ns(PAUSE);
    while clock.now_ns() < rested_ns {
        station.receive(1)?;
    }
    Ok(())
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
    let mut sent = 0;
    loop {
        if sent == 0
            && let Some(sender) = from.senders.first_mut()
        {
            sent = sender.send(now_ns, 1)?;
        }
        for _ in 0..LOOKS {
            to.receive(1)?;
            if to.inbox.ledger.tally().received != before {
                return Ok(());
            }
        }
        guard.check(clock.now_ns(), [&*from, &*to])?;
    }
}
