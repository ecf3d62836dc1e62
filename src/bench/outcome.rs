//! Figures: of one measurement, and what several of them say together.

use serde::Serialize;

use super::latency::Latency;
use super::plan::Case;
use super::traffic::Count;

/// What one measurement came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Round {
    /// Frames received, per second.
    pub frames_per_s: f64,
    /// Bits of these, from the destination address to the last byte of the payload.
    pub bits_per_s: f64,
    /// Frames sent, from the warm-up to the end.
    pub sent: u64,
    /// Frames that came of these.
    pub received: u64,
    /// Those that did not.
    pub lost: u64,
    /// Those that came behind a later one of their flow.
    pub late: u64,
    /// Those that came twice.
    pub twice: u64,
    /// Frames that were meant for somebody else.
    pub stray: u64,
    /// Frames, of those that were looked at as a whole, that are not what was sent.
    pub corrupt: u64,
    /// The part of the sender's turns that ended at a full ring: where it is near 0, the generator is the limit.
    pub ring_full: f64,
    /// Processor time of the back end for each frame, in nanoseconds.
    pub cpu_ns_per_frame: Option<f64>,
    /// Times of frames, where they were measured.
    pub latency: Option<Latency>,
    /// The mean distance of the CPUs before and after, in nanoseconds there and back.
    pub trip_ns: Option<f64>,
}

impl Round {
    /// The figures of all threads of the generator.
    pub fn of(counts: &[Count], trip_ns: Option<f64>) -> Self {
        let sum = |field: fn(&Count) -> u64| counts.iter().map(field).sum::<u64>();
        let rate = |field: fn(&Count) -> u64| -> f64 {
            let rates = counts.iter().map(|c| field(c) as f64 / c.seconds.max(1e-9));
            rates.sum()
        };
        let (sent, received) = (sum(|c| c.sent), sum(|c| c.tally.received));
        let frames_per_s = rate(|c| c.frames);
        let turns = counts.len().max(1) as f64;
        Self {
            frames_per_s,
            bits_per_s: rate(|c| c.bytes) * 8.0,
            sent,
            received,
            lost: (sent + sum(|c| c.tally.twice)).saturating_sub(received),
            late: sum(|c| c.tally.late),
            twice: sum(|c| c.tally.twice),
            stray: sum(|c| c.stray),
            corrupt: sum(|c| c.corrupt),
            ring_full: counts.iter().map(|c| c.full).sum::<f64>() / turns,
            cpu_ns_per_frame: counts.iter().find_map(|c| {
                let frames = frames_per_s * c.seconds;
                (frames > 0.0).then_some(c.cpu?.as_nanos() as f64 / frames)
            }),
            latency: counts.iter().find_map(|c| c.latency),
            trip_ns,
        }
    }

    /// The part of the frames that got lost.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// Whether the back end did what a switch must not do, however fast it is.
    pub fn is_wrong(&self) -> bool {
        self.late + self.twice + self.stray + self.corrupt > 0
    }
}

/// One case and all its rounds.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was measured.
    pub case: Case,
    /// In the order of time.
    pub rounds: Vec<Round>,
}

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of both in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; none where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted[sorted.len() / 2];
        let lower = sorted[(sorted.len() - 1) / 2];
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }

    /// Half the distance of the extremes, in percent of the median.
    pub fn percent(&self) -> f64 {
        if self.median > 0.0 {
            (self.max - self.min) / 2.0 / self.median * 100.0
        } else {
            0.0
        }
    }
}

impl Outcome {
    /// A figure over the rounds that have it.
    pub fn spread(&self, figure: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(figure))
    }

    /// A count over all rounds.
    pub fn sum(&self, count: impl Fn(&Round) -> u64) -> u64 {
        self.rounds.iter().map(count).sum()
    }

    /// See [`Round::is_wrong`].
    pub fn is_wrong(&self) -> bool {
        self.rounds.iter().any(Round::is_wrong)
    }
}
