//! The counters of one port in one worker.

use std::ops::{Add, AddAssign};
use std::sync::atomic::{AtomicU64, Ordering};

use super::DropReason;

/// Number of drop reasons.
const REASONS: usize = DropReason::ALL.len();

/// Generates the atomic block and its plain copy from one list of counters.
macro_rules! counters {
    ($($field:ident $doc:literal;)*) => {
        /// Counters of one port, written by one worker only.
        ///
        /// Load and store instead of read-modify-write: the single writer makes that exact. Blocks of two workers
        /// are side by side, and x86-64 fetches cache lines in pairs.
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct PortCounters {
            $($field: AtomicU64,)*
            drops: [AtomicU64; REASONS],
        }

        /// A plain copy of counters, to sum over workers.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Totals {
            $(#[doc = $doc] pub $field: u64,)*
            /// Frames dropped, by reason.
            drops: [u64; REASONS],
        }

        impl Default for PortCounters {
            fn default() -> PortCounters {
                PortCounters {
                    $($field: AtomicU64::new(0),)*
                    drops: [const { AtomicU64::new(0) }; REASONS],
                }
            }
        }

        impl Default for Totals {
            fn default() -> Totals {
                Totals { $($field: 0,)* drops: [0; REASONS] }
            }
        }

        impl PortCounters {
            /// What has been counted so far.
            pub fn snapshot(&self) -> Totals {
                let mut totals = Totals {
                    $($field: self.$field.load(Ordering::Relaxed),)*
                    drops: [0; REASONS],
                };
                for (total, drop) in totals.drops.iter_mut().zip(&self.drops) {
                    *total = drop.load(Ordering::Relaxed);
                }
                totals
            }

            /// Adds a burst's counts. Only the owning worker may call this.
            pub fn add(&self, burst: &Totals) {
                $(bump(&self.$field, burst.$field);)*
                for (drop, more) in self.drops.iter().zip(&burst.drops) {
                    bump(drop, *more);
                }
            }

            $(
                #[doc = concat!("Adds to `", stringify!($field), "`. Only the owning worker may call this.")]
                pub fn $field(&self, more: u64) {
                    bump(&self.$field, more);
                }
            )*
        }

        impl AddAssign<&Totals> for Totals {
            fn add_assign(&mut self, other: &Totals) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
                for (total, more) in self.drops.iter_mut().zip(&other.drops) {
                    *total = total.wrapping_add(*more);
                }
            }
        }

        impl Totals {
            /// The counters without the drops, as name and value.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    tx_frames "Frames the port sent.";
    tx_bytes "Bytes the port sent.";
    tx_broadcast "Broadcast frames the port sent.";
    tx_multicast "Multicast frames the port sent, without broadcasts.";
    rx_frames "Frames delivered to the port.";
    rx_bytes "Bytes delivered to the port.";
    rx_broadcast "Broadcast frames delivered to the port.";
    rx_multicast "Multicast frames delivered to the port, without broadcasts.";
    calls "Notifications sent to the guest.";
    kicks "Notifications received from the guest.";
}

impl PortCounters {
    /// Counts dropped frames. Only the owning worker may call this.
    pub fn drop_frames(&self, reason: DropReason, frames: u64) {
        bump(&self.drops[reason as usize], frames);
    }
}

impl Totals {
    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Counts dropped frames.
    pub fn drop_frames(&mut self, reason: DropReason, frames: u64) {
        self.drops[reason as usize] += frames;
    }

    /// Frames dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }
}

impl Add for Totals {
    type Output = Totals;

    fn add(mut self, other: Totals) -> Totals {
        self += &other;
        self
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Totals>>(totals: I) -> Totals {
        totals.fold(Totals::default(), Add::add)
    }
}

/// Adds to a counter that nobody else writes.
pub(super) fn bump(counter: &AtomicU64, more: u64) {
    if more != 0 {
        let now = counter.load(Ordering::Relaxed);
        counter.store(now.wrapping_add(more), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{DropReason, PortCounters, Totals};

    #[test]
    fn bursts_add_up_and_workers_sum() {
        let first = PortCounters::default();
        let mut burst = Totals {
            tx_frames: 3,
            tx_bytes: 300,
            ..Totals::default()
        };
        burst.drop_frames(DropReason::Spoofed, 2);
        first.add(&burst);
        first.add(&burst);
        let second = PortCounters::default();
        second.tx_frames(1);
        second.drop_frames(DropReason::Runt, 5);

        let sum: Totals = [first.snapshot(), second.snapshot()].into_iter().sum();
        assert_eq!(sum.tx_frames, 7);
        assert_eq!(sum.tx_bytes, 600);
        assert_eq!(sum.dropped(DropReason::Spoofed), 4);
        assert_eq!(sum.dropped(DropReason::Runt), 5);
        assert_eq!(sum.dropped_total(), 9);
        assert!(sum.named().any(|named| named == ("tx_frames", 7)));
    }

    #[test]
    fn blocks_do_not_share_cache_lines() {
        assert_eq!(align_of::<PortCounters>(), 128);
    }
}
