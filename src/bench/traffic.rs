//! What a generator's thread does with its pairs of stations.

use std::time::Duration;

use super::clock::{Clock, ns};
use super::error::BenchError;
use super::latency::{self, Latency};
use super::queues::Sender;
use super::station::Station;
use super::stop;
use crate::load::{Rate, Tally};

/// Frames that a queue sends in one turn, and that are taken from one.
const BURST: usize = 32;
const TAKE: usize = 64;
/// How often it is looked whether to go on.
const CHECK_NS: u64 = 20_000_000;
/// Without any frame for so long the back end is taken for dead.
const STALL: Duration = Duration::from_secs(5);
/// How long frames may take until all stations know each other.
const LEARN: Duration = Duration::from_secs(20);
/// After so long without any news a frame of the beginning is sent again.
const AGAIN: Duration = Duration::from_millis(300);
/// Without frames for so long, nothing is under way any more.
const QUIET: Duration = Duration::from_millis(10);
/// How long it is waited for that.
const DRAIN: Duration = Duration::from_secs(2);

/// Two stations that talk.
pub struct Pair {
    /// Always sends.
    pub a: Station,
    /// Sends if both do.
    pub b: Station,
}

/// What pairs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// A sends, B receives.
    OneWay,
    /// Both do.
    BothWays,
    /// One frame at a time goes there and back.
    PingPong,
    /// One frame after each pause goes from A to B.
    Wake,
}

impl Pattern {
    /// Directions in which frames of a pair go at the same time.
    pub fn directions(self) -> f64 {
        match self {
            Self::OneWay | Self::PingPong | Self::Wake => 1.0,
            Self::BothWays => 2.0,
        }
    }
}

/// What is measured, and when.
pub struct Task<'a> {
    pub pattern: Pattern,
    /// Offered in each direction of each pair.
    pub rate: Rate,
    /// Before it, time is not measured.
    pub warm_up: Duration,
    pub measure: Duration,
    pub clock: Clock,
    /// Reads the processor time of the back end, where this thread is to do that.
    pub cpu: Option<&'a (dyn Fn() -> Option<Duration> + Sync)>,
}

/// What one thread has counted.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Frames received while it was measured, their bytes, and how long that was.
    pub frames: u64,
    pub bytes: u64,
    pub seconds: f64,
    /// From the first frame of the warm-up to the last one.
    pub sent: u64,
    pub tally: Tally,
    pub stray: u64,
    pub corrupt: u64,
    /// The part of turns in which a ring was full.
    pub full: f64,
    pub latency: Option<Latency>,
    /// Processor time of the back end while it was measured.
    pub cpu: Option<Duration>,
}

/// Notices that it makes no sense to go on.
pub struct Guard {
    checked_ns: u64,
    received: u64,
    moved_ns: u64,
}

impl Guard {
    pub fn new(now_ns: u64) -> Self {
        Self {
            checked_ns: now_ns,
            received: 0,
            moved_ns: now_ns,
        }
    }

    /// Now and then, looks whether it was interrupted and whether the back end is still there.
    #[inline]
    pub fn check<'s>(
        &mut self,
        now_ns: u64,
        stations: impl IntoIterator<Item = &'s Station>,
    ) -> Result<(), BenchError> {
        if now_ns.saturating_sub(self.checked_ns) < CHECK_NS {
            return Ok(());
        }
        self.checked_ns = now_ns;
        self.look(now_ns, stations)
    }

    #[cold]
    fn look<'s>(
        &mut self,
        now_ns: u64,
        stations: impl IntoIterator<Item = &'s Station>,
    ) -> Result<(), BenchError> {
        stop::check()?;
        let mut received = 0;
        for station in stations {
            station.check()?;
            received += station.inbox.ledger.tally().received;
        }
        if received != self.received {
            self.received = received;
            self.moved_ns = now_ns;
        } else if now_ns.saturating_sub(self.moved_ns) > ns(STALL) {
            return Err(BenchError::Stalled(STALL.as_secs()));
        }
        Ok(())
    }
}

/// Makes both stations of each pair known to the back end, and waits until it is quiet.
pub fn acquaint(pairs: &mut [Pair], clock: Clock) -> Result<(), BenchError> {
    for pair in &mut *pairs {
        // What B sends first floods; what A sends then has a receiver that is known.
        introduce(&mut pair.b, &mut pair.a, clock)?;
        introduce(&mut pair.a, &mut pair.b, clock)?;
    }
    settle(pairs, clock)?;
    for pair in pairs {
        pair.a.restart();
        pair.b.restart();
    }
    Ok(())
}

/// Sends a frame of each flow, and waits until as many have come.
fn introduce(from: &mut Station, to: &mut Station, clock: Clock) -> Result<(), BenchError> {
    from.set_rate(Rate::Max);
    let flows: u64 = from.senders.iter().map(|s| s.flows() as u64).sum();
    let begin_ns = clock.now_ns();
    let mut left: Vec<usize> = from.senders.iter().map(Sender::flows).collect();
    let mut news_ns = begin_ns;
    let mut last = to.inbox.ledger.tally().received;
    let goal = last + flows;
    loop {
        let now_ns = clock.now_ns();
        for (sender, left) in from.senders.iter_mut().zip(&mut left) {
            *left -= sender.send(now_ns, BURST.min(*left))?;
        }
        to.receive(TAKE)?;
        // What is flooded comes back nowhere, but what others flood comes here, too.
        from.receive(TAKE)?;
        let got = to.inbox.ledger.tally().received;
        if got >= goal {
            return Ok(());
        }
        if got != last {
            (last, news_ns) = (got, now_ns);
        }
        stop::check()?;
        if now_ns - begin_ns > ns(LEARN) {
            return Err(BenchError::Silent {
                from: from.name(),
                to: to.name(),
                got: got + flows - goal,
                sent: flows,
                seconds: LEARN.as_secs(),
            });
        }
        if now_ns - news_ns > ns(AGAIN) {
            // The back end may not have been ready.
            from.check()?;
            to.check()?;
            news_ns = now_ns;
            left = from.senders.iter().map(Sender::flows).collect();
        }
    }
}

/// Receives until nothing is under way any more.
fn settle(pairs: &mut [Pair], clock: Clock) -> Result<(), BenchError> {
    let begin_ns = clock.now_ns();
    let mut news_ns = begin_ns;
    loop {
        // Before what has come is taken: a frame that is given back has come.
        let mut outstanding = 0;
        for pair in &mut *pairs {
            outstanding += pair.a.outstanding()? + pair.b.outstanding()?;
        }
        for pair in &mut *pairs {
            for station in [&mut pair.a, &mut pair.b] {
                while station.receive(TAKE)? > 0 {
                    news_ns = clock.now_ns();
                }
            }
        }
        let now_ns = clock.now_ns();
        let quiet = outstanding == 0 && now_ns - news_ns > ns(QUIET);
        if quiet || now_ns - begin_ns > ns(DRAIN) {
            return Ok(());
        }
        stop::check()?;
    }
}

/// Does what is to be done, all of it.
pub fn run(pairs: &mut [Pair], task: &Task<'_>) -> Result<Count, BenchError> {
    for pair in &mut *pairs {
        pair.a.set_rate(task.rate);
        pair.b.set_rate(task.rate);
    }
    let begin_ns = task.clock.now_ns() + ns(task.warm_up);
    let mut count = match task.pattern {
        Pattern::PingPong | Pattern::Wake => one_by_one(pairs, task, begin_ns)?,
        Pattern::OneWay | Pattern::BothWays => throughput(pairs, task, begin_ns)?,
    };
    settle(pairs, task.clock)?;
    let (mut turns, mut full) = (0, 0);
    for station in stations(pairs) {
        let tally = station.inbox.ledger.tally();
        count.sent += station.sent().0;
        count.tally.received += tally.received;
        count.tally.missing += tally.missing;
        count.tally.late += tally.late;
        count.tally.twice += tally.twice;
        count.stray += station.inbox.stray;
        count.corrupt += station.inbox.corrupt;
        turns += station.senders.iter().map(|s| s.turns).sum::<u64>();
        full += station.senders.iter().map(|s| s.full).sum::<u64>();
    }
    count.full = full as f64 / turns.max(1) as f64;
    Ok(count)
}

fn throughput(pairs: &mut [Pair], task: &Task<'_>, begin_ns: u64) -> Result<Count, BenchError> {
    let clock = task.clock;
    let mut guard = Guard::new(clock.now_ns());
    let mut begun = None;
    loop {
        let now_ns = clock.now_ns();
        if now_ns >= begin_ns && begun.is_none() {
            for pair in &mut *pairs {
                pair.b.inbox.delays.reset();
            }
            begun = Some((
                received(pairs),
                task.cpu.and_then(|cpu| cpu()),
                clock.now_ns(),
            ));
        }
        if let Some((first, cpu, begun_ns)) = begun
            && now_ns >= begun_ns + ns(task.measure)
        {
            let last = received(pairs);
            let used = task.cpu.and_then(|cpu| cpu()).zip(cpu);
            let mut delays = latency::histogram();
            for pair in &*pairs {
                // Both have the same bounds.
                let _ = delays.add(&pair.b.inbox.delays);
            }
            return Ok(Count {
                frames: last.0 - first.0,
                bytes: last.1 - first.1,
                seconds: (now_ns - begun_ns) as f64 / 1e9,
                cpu: used.map(|(end, begin)| end.saturating_sub(begin)),
                latency: Latency::of(&delays),
                ..Count::default()
            });
        }
        for Pair { a, b } in &mut *pairs {
            for sender in &mut a.senders {
                sender.send(now_ns, BURST)?;
            }
            if task.pattern == Pattern::BothWays {
                for sender in &mut b.senders {
                    sender.send(now_ns, BURST)?;
                }
                a.receive(TAKE)?;
            }
            b.receive(TAKE)?;
        }
        guard.check(now_ns, stations(pairs))?;
    }
}

fn one_by_one(pairs: &mut [Pair], task: &Task<'_>, begin_ns: u64) -> Result<Count, BenchError> {
    let mut count = Count::default();
    // Others would be under way while one waits: pairs do not take turns here.
    if let Some(pair) = pairs.first_mut() {
        let times = latency::one_by_one(pair, task, begin_ns)?;
        count.frames = times.len() * if task.pattern == Pattern::Wake { 1 } else { 2 };
        count.seconds = task.measure.as_secs_f64();
        count.latency = Latency::of(&times);
    }
    Ok(count)
}

fn stations(pairs: &[Pair]) -> impl Iterator<Item = &Station> {
    pairs.iter().flat_map(|pair| [&pair.a, &pair.b])
}

/// Frames and bytes that have come.
fn received(pairs: &[Pair]) -> (u64, u64) {
    let inboxes = stations(pairs).map(|station| &station.inbox);
    let sums = inboxes.map(|inbox| (inbox.ledger.tally().received, inbox.bytes));
    sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}
