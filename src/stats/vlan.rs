//! The counters of one relay's VLANs in one worker.

use std::ops::AddAssign;
use std::sync::atomic::Ordering;

use super::counters::bump;
use crate::sys::zeroed::{CacheLine, CacheLines};

/// Numbers below which every VID is; 0 stands for frames without a VLAN.
const VIDS: usize = 4096;

/// Counters by VID, written by one worker only.
///
/// Each VLAN has a cache line of its own, so that a frame touches one line however many VLANs there are,
/// and workers share none. Memory is that of the pages in use: 4 KiB for each 64 VIDs in which something
/// was counted, of 256 KiB that are reserved.
#[derive(Debug)]
pub struct VlanCounters(CacheLines);

/// What was counted in one VLAN: a plain copy, to sum over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanTotals {
    /// Frames that ports sent in the VLAN.
    pub in_frames: u64,
    /// Bytes of these, as they were received.
    pub in_bytes: u64,
    /// Copies that were delivered to ports.
    pub out_frames: u64,
    /// Bytes of these, as they were delivered.
    pub out_bytes: u64,
    /// Frames, or copies of them, that were dropped after they were classified.
    pub drops: u64,
}

/// The words of a line, in the order of the fields of [`VlanTotals`].
const IN_FRAMES: usize = 0;
const IN_BYTES: usize = 1;
const OUT_FRAMES: usize = 2;
const OUT_BYTES: usize = 3;
const DROPS: usize = 4;

impl Default for VlanCounters {
    fn default() -> VlanCounters {
        VlanCounters(CacheLines::new(VIDS))
    }
}

impl VlanCounters {
    /// Frames came in, so many bytes in all. Only the owning worker may call this.
    #[inline]
    pub fn count_in(&self, vid: u16, frames: u64, bytes: u64) {
        let line = self.line(vid);
        bump(&line.0[IN_FRAMES], frames);
        bump(&line.0[IN_BYTES], bytes);
    }

    /// Copies were delivered, so many bytes in all. Only the owning worker may call this.
    #[inline]
    pub fn count_out(&self, vid: u16, frames: u64, bytes: u64) {
        let line = self.line(vid);
        bump(&line.0[OUT_FRAMES], frames);
        bump(&line.0[OUT_BYTES], bytes);
    }

    /// Frames or copies were dropped. Only the owning worker may call this.
    pub fn count_drops(&self, vid: u16, frames: u64) {
        bump(&self.line(vid).0[DROPS], frames);
    }

    /// What has been counted so far, by VID; VLANs without any count are left out.
    pub fn totals(&self) -> impl Iterator<Item = (u16, VlanTotals)> {
        (0..).zip(self.0.iter()).filter_map(|(vid, line)| {
            let word = |index: usize| line.0[index].load(Ordering::Relaxed);
            let totals = VlanTotals {
                in_frames: word(IN_FRAMES),
                in_bytes: word(IN_BYTES),
                out_frames: word(OUT_FRAMES),
                out_bytes: word(OUT_BYTES),
                drops: word(DROPS),
            };
            (totals != VlanTotals::default()).then_some((vid, totals))
        })
    }

    #[inline]
    fn line(&self, vid: u16) -> &CacheLine {
        &self.0[usize::from(vid) % VIDS]
    }
}

impl AddAssign for VlanTotals {
    fn add_assign(&mut self, other: VlanTotals) {
        let VlanTotals {
            in_frames,
            in_bytes,
            out_frames,
            out_bytes,
            drops,
        } = other;
        self.in_frames = self.in_frames.wrapping_add(in_frames);
        self.in_bytes = self.in_bytes.wrapping_add(in_bytes);
        self.out_frames = self.out_frames.wrapping_add(out_frames);
        self.out_bytes = self.out_bytes.wrapping_add(out_bytes);
        self.drops = self.drops.wrapping_add(drops);
    }
}

#[cfg(test)]
mod tests {
    use super::{CacheLine, VlanCounters, VlanTotals};

    #[test]
    fn every_vid_counts_by_itself_and_silent_ones_are_left_out() {
        let counters = VlanCounters::default();
        assert_eq!(counters.totals().count(), 0);
        counters.count_in(0, 1, 60);
        counters.count_in(4094, 1, 64);
        counters.count_in(4094, 1, 1518);
        counters.count_out(4094, 1, 60);
        counters.count_drops(7, 3);
        let seen: Vec<_> = counters.totals().collect();
        let expected = [
            (
                0,
                VlanTotals {
                    in_frames: 1,
                    in_bytes: 60,
                    ..VlanTotals::default()
                },
            ),
            (
                7,
                VlanTotals {
                    drops: 3,
                    ..VlanTotals::default()
                },
            ),
            (
                4094,
                VlanTotals {
                    in_frames: 2,
                    in_bytes: 1582,
                    out_frames: 1,
                    out_bytes: 60,
                    drops: 0,
                },
            ),
        ];
        assert_eq!(seen, expected);
        let mut sum = seen[2].1;
        sum += seen[1].1;
        assert_eq!((sum.in_bytes, sum.drops), (1582, 3));
    }

    #[test]
    fn all_vids_together_have_a_cache_line_each() {
        let counters = VlanCounters::default();
        for vid in 0..4096 {
            counters.count_in(vid, 1, u64::from(vid));
        }
        assert!(
            counters
                .totals()
                .all(|(vid, totals)| totals.in_bytes == u64::from(vid))
        );
        assert_eq!(counters.totals().count(), 4096);
        assert_eq!(size_of_val(&*counters.0), 256 << 10);
        assert_eq!(align_of::<CacheLine>(), 64);
    }
}
