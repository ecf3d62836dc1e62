//! What became of numbered frames: lost, late, twice.

use super::stamp::Stamp;

/// Numbers behind the newest one of a flow that are remembered one by one.
const WINDOW: u32 = 64;
/// A step so large is no loss: the flow has begun again.
const RESTART: u32 = 1 << 24;

/// What was found about the frames that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Stamped frames.
    pub received: u64,
    /// Numbers that were passed over and have not come since.
    pub missing: u64,
    /// Frames that came behind a later one of their flow.
    pub late: u64,
    /// Frames that came again.
    pub twice: u64,
}

/// The newest number of one flow, and which of those before it have come.
#[derive(Clone, Copy, Debug, Default)]
struct Track {
    /// Stream and flow, and that there is one at all.
    key: Option<(u16, u16)>,
    next: u32,
    /// Bit n: number `next - 1 - n` has come.
    seen: u64,
}

/// Follows the flows of any number of streams.
///
/// Its table has one place for several flows: the one that came last has it. Where there are no more flows than
/// places this happens seldom, and costs what was lost meanwhile, never a false alarm.
#[derive(Debug)]
pub struct Ledger {
    tracks: Box<[Track]>,
    tally: Tally,
}

impl Ledger {
    /// A ledger for about so many flows.
    pub fn new(flows: usize) -> Self {
        let places = flows.clamp(1, 1 << 16).next_power_of_two();
        Self {
            tracks: vec![Track::default(); places].into(),
            tally: Tally::default(),
        }
    }

    /// What was found until now.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Forgets what was found, not where flows are.
    pub fn restart(&mut self) {
        self.tally = Tally::default();
    }

    /// A frame has come.
    #[inline]
    pub fn note(&mut self, stamp: Stamp) {
        self.tally.received += 1;
        let Stamp {
            sequence,
            flow,
            stream,
        } = stamp;
        let key = Some((stream, flow));
        // Flows of one stream have places in a row.
        let place = usize::from(flow.wrapping_add(stream.wrapping_mul(0x9e37)));
        let place = place & (self.tracks.len() - 1);
        let track = &mut self.tracks[place];
        let ahead = sequence.wrapping_sub(track.next);
        if track.key == key && ahead == 0 {
            track.next = track.next.wrapping_add(1);
            track.seen = track.seen << 1 | 1;
            return;
        }
        if track.key != key {
            *track = Track {
                key,
                next: sequence.wrapping_add(1),
                // What came before it is not known to be missing.
                seen: u64::MAX,
            };
            return;
        }
        self.tally.unexpected(track, sequence, ahead);
    }
}

impl Tally {
    /// A frame that is not the next one of its flow.
    #[cold]
    fn unexpected(&mut self, track: &mut Track, sequence: u32, ahead: u32) {
        let behind = ahead.wrapping_neg();
        if ahead < RESTART {
            self.missing += u64::from(ahead);
            track.seen = track.seen.checked_shl(ahead + 1).unwrap_or(0) | 1;
            track.next = sequence.wrapping_add(1);
        } else if behind <= WINDOW {
            let bit = 1 << (behind - 1);
            if track.seen & bit == 0 {
                track.seen |= bit;
                self.late += 1;
                self.missing = self.missing.saturating_sub(1);
            } else {
                self.twice += 1;
            }
        } else if behind < RESTART {
            // Too old to tell whether it came before.
            self.late += 1;
        } else {
            track.next = sequence.wrapping_add(1);
            track.seen = u64::MAX;
        }
    }
}
