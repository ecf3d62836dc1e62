//! Log messages that others can cause at will, kept to a rate.
//!
//! A token bucket: so many at once, then one per interval. What it suppresses is counted and told with
//! the next message that passes; after the last one of a storm nothing follows, so the counters of the
//! subject itself have to be complete. One limit per subject (a port, a peer), so that one cannot silence
//! the messages about another. Any thread; it holds a lock for a few instructions.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A rate that messages are kept to.
#[derive(Debug)]
pub struct RateLimit {
    interval: Duration,
    /// How far ahead of one per interval the messages may be.
    ahead: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the bucket is full again.
    full: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// `burst` messages at once (at least one), then one per `interval`.
    pub const fn new(burst: u32, interval: Duration) -> RateLimit {
        let ahead = interval.saturating_mul(burst.saturating_sub(1));
        RateLimit {
            interval,
            ahead,
            state: Mutex::new(State {
                full: None,
                suppressed: 0,
            }),
        }
    }

    /// Whether a message may pass at this time. If so, how many did not since the last one that did.
    pub fn admit(&self, now: Instant) -> Option<Suppressed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = state.full.map_or(now, |full| full.max(now));
        if full - now > self.ahead {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        // An interval beyond the end of time never ends.
        state.full = Some(full.checked_add(self.interval).unwrap_or(full));
        Some(Suppressed(std::mem::take(&mut state.suppressed)))
    }
}

/// How many messages did not pass; displays as the end of the one that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suppressed(pub u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (one more like this was suppressed)"),
            more => write!(f, " ({more} more like this were suppressed)"),
        }
    }
}

/// Logs as `log!` does, unless the limit has been reached: `log_limited!(limit, Level::Warn, "…")`.
#[macro_export]
macro_rules! log_limited {
    ($limit:expr, $level:expr, $($message:tt)+) => {
        if ::log::log_enabled!($level)
            && let Some(suppressed) = $limit.admit(::std::time::Instant::now())
        {
            ::log::log!($level, "{}{}", ::core::format_args!($($message)+), suppressed);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let limit = RateLimit::new(3, Duration::from_secs(10));
        let start = Instant::now();
        let admit = |seconds| limit.admit(start + Duration::from_secs(seconds));
        for _ in 0..3 {
            assert_eq!(admit(0), Some(Suppressed(0)));
        }
        for second in 0..10 {
            assert_eq!(admit(second), None);
        }
        assert_eq!(admit(10), Some(Suppressed(10)));
        assert_eq!(admit(10), None);
        // After a long silence the bucket is full, and not more than full.
        assert_eq!(admit(1_000), Some(Suppressed(1)));
        assert_eq!(admit(1_000), Some(Suppressed(0)));
        assert_eq!(admit(1_000), Some(Suppressed(0)));
        assert_eq!(admit(1_000), None);
    }

    #[test]
    fn odd_settings_let_the_first_one_pass() {
        for limit in [
            RateLimit::new(0, Duration::from_secs(1)),
            RateLimit::new(1, Duration::MAX),
            RateLimit::new(u32::MAX, Duration::MAX),
        ] {
            assert!(limit.admit(Instant::now()).is_some());
        }
        let none = RateLimit::new(5, Duration::ZERO);
        let now = Instant::now();
        assert!((0..100).all(|_| none.admit(now).is_some()));
    }

    #[test]
    fn the_text_says_what_is_missing() {
        assert_eq!(Suppressed(0).to_string(), "");
        assert_eq!(
            Suppressed(1).to_string(),
            " (one more like this was suppressed)"
        );
        assert_eq!(
            Suppressed(7).to_string(),
            " (7 more like this were suppressed)"
        );
        let limit = RateLimit::new(1, Duration::from_mins(1));
        log_limited!(limit, log::Level::Warn, "port {}: {}", 1, "odd");
    }
}
