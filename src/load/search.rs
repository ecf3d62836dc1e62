//! The highest rate without loss (RFC 2544, 26.1), by halving.

/// One trial: how much of what was offered got lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Frames that left, per second.
    pub rate: f64,
    /// The part of them that did not arrive.
    pub loss: f64,
}

/// A search under way: asks for a rate, is told what came of it.
#[derive(Clone, Debug)]
pub struct Search {
    /// The highest rate that passed; none did if it is zero.
    low: f64,
    /// The lowest rate that failed, or the highest to try.
    high: f64,
    /// Whether `high` has been tried.
    tried: bool,
    best: Option<Trial>,
    /// Part of a rate that makes no difference.
    precision: f64,
    /// Below this nothing is tried.
    lowest: f64,
    /// Loss that counts as none.
    loss: f64,
}

impl Search {
    /// Up to `highest` frames per second, to within `precision` of the rate, where a `loss` of that part is none.
    pub fn new(highest: f64, precision: f64, loss: f64) -> Self {
        Self {
            low: 0.0,
            high: highest,
            tried: false,
            best: None,
            precision,
            lowest: highest * precision,
            loss,
        }
    }

    /// The rate to try next; none when the result is there.
    pub fn next_rate(&self) -> Option<f64> {
        if !self.tried {
            return Some(self.high);
        }
        let near = self.high - self.low <= self.high * self.precision;
        let done = near || self.high <= self.lowest;
        (!done).then_some(f64::midpoint(self.low, self.high))
    }

    /// What came of the rate asked for last.
    pub fn report(&mut self, trial: Trial) {
        let Some(asked) = self.next_rate() else {
            return;
        };
        self.tried = true;
        if trial.loss <= self.loss {
            self.low = asked;
            let better = self.best.is_none_or(|best| trial.rate > best.rate);
            if better {
                self.best = Some(trial);
            }
        } else {
            self.high = asked;
        }
    }

    /// The best trial that passed.
    pub fn best(&self) -> Option<Trial> {
        self.best
    }
}
