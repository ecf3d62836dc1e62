//! What is measured: every combination of what the options list.

use super::clock::Clock;
use super::error::BenchError;
use super::station::Make;
use super::traffic::Pattern;
use crate::cli::bench::{Bench, Format, Size, Test};
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;
use crate::load::{Flow, Kind, Rate, Stream};

/// Bytes of the largest frame: an IPv4 packet cannot be longer.
const TSO_LEN: usize = 65_535 + 14;
/// Payload of a segment on an Ethernet of ordinary length.
const SEGMENT: u16 = 1448;
/// The simple mixture of the internet, as it is usually given, without the frame check sequence.
const IMIX: [usize; 12] = [64, 594, 64, 594, 64, 64, 594, 64, 1514, 64, 594, 64];
/// What `paced` offers where nothing is said, and to frames for which that would be too much.
const PACED: Rate = Rate::Frames(1_000_000);
const PACED_LARGE: Rate = Rate::Bits(20_000_000_000);
/// The longest frame that is not large.
const LARGE: usize = 2500;
/// The first address of all stations.
const ADDRESSES: u64 = 0x0265_7600_0000;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A daemon of our own.
    Daemon,
    /// Another back end.
    Other,
    /// A thread that copies.
    Copy,
}

impl Subject {
    /// Its word in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Daemon => "evb",
            Self::Other => "other",
            Self::Copy => "copy",
        }
    }
}

/// One row of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who.
    pub subject: Subject,
    /// How.
    pub test: Test,
    /// With which frames.
    pub size: Size,
    /// With how many flows in each direction.
    pub flows: u16,
    /// Over which rings.
    pub format: Format,
}

/// All cases of these options.
pub fn cases(options: &Bench) -> Result<Vec<Case>, BenchError> {
    check(options)?;
    let subject = if options.sockets.is_empty() {
        Subject::Daemon
    } else {
        Subject::Other
    };
    let mut cases = vec![];
    for &test in &options.tests {
        for &size in &options.sizes {
            for &flows in &options.flows {
                for &format in &options.rings {
                    cases.push(Case {
                        subject,
                        test,
                        size,
                        flows,
                        format,
                    });
                }
                if options.ceiling {
                    cases.push(Case {
                        subject: Subject::Copy,
                        test,
                        size,
                        flows,
                        // A thread that copies has split rings.
                        format: Format::Split,
                    });
                }
            }
        }
    }
    Ok(cases)
}

fn check(options: &Bench) -> Result<(), BenchError> {
    let wrong = |text: String| Err(BenchError::Options(text));
    let pairs = usize::from(options.pairs);
    if !options.sockets.is_empty() && options.sockets.len() != 2 * pairs {
        return wrong(format!(
            "{} sockets are given for {pairs} pairs of ports: give --socket {} times",
            options.sockets.len(),
            2 * pairs
        ));
    }
    if options.search && options.tests.iter().any(|test| !test.is_stream()) {
        return wrong("--search goes with --tests uni and bidir".to_owned());
    }
    for &size in &options.sizes {
        let longest = sizes(size).into_iter().max().unwrap_or_default();
        let make = Make {
            ring_size: options.ring_size,
            longest,
            ..Make::idle(Clock::start())
        };
        let room = u64::from(options.ring_size) * u64::from(make.rx_buffer());
        if (longest as u64) * 2 > room {
            return wrong(format!(
                "a ring of {} descriptors has no room for frames of {size} bytes: say more for --ring-size",
                options.ring_size
            ));
        }
    }
    Ok(())
}

impl Case {
    /// How stations are made for it.
    pub fn make(&self, options: &Bench, clock: Clock) -> Make {
        Make {
            ring_size: options.ring_size,
            queues: options.queues,
            packed: self.format == Format::Packed,
            in_order: options.in_order,
            tso: self.size == Size::Tso,
            longest: self.longest(),
            timed: self.test == Test::Paced,
            clock,
            sampled: self.test.is_stream(),
        }
    }

    fn longest(&self) -> usize {
        sizes(self.size).into_iter().max().unwrap_or_default()
    }

    /// What pairs do in it.
    pub fn pattern(&self) -> Pattern {
        match self.test {
            Test::Uni | Test::Paced => Pattern::OneWay,
            Test::Bidir => Pattern::BothWays,
            Test::Rr => Pattern::PingPong,
            Test::Wake => Pattern::Wake,
        }
    }

    /// What is offered, before any search.
    pub fn rate(&self, options: &Bench) -> Rate {
        match (self.test, options.rate) {
            (Test::Rr | Test::Wake, _) => Rate::Max,
            (Test::Paced, None) if self.longest() > LARGE => PACED_LARGE,
            (Test::Paced, None) => PACED,
            (_, rate) => rate.unwrap_or(Rate::Max),
        }
    }

    /// What station `from` sends to station `to`, for each queue that has flows.
    pub fn streams(
        &self,
        (from, to): (u16, u16),
        options: &Bench,
    ) -> Result<Vec<Stream>, BenchError> {
        let kind = match self.size {
            Size::Tso => Kind::Tso { segment: SEGMENT },
            Size::Bytes(_) | Size::Imix => Kind::Udp,
        };
        let vid =
            |flow: u16| Vid::new(1 + flow % options.vlans.max(1)).filter(|_| options.vlans > 0);
        let flows: Vec<_> = (0..self.flows)
            .map(|flow| Flow {
                dst: address(to, flow),
                src: address(from, flow),
                vid: vid(flow),
            })
            .collect();
        let share = flows.len().div_ceil(options.queues.into());
        let mut streams = vec![];
        for (flows, number) in flows.chunks(share).zip(0..) {
            let first = number * share as u16;
            let stream = Stream::new((from, first), kind, &sizes(self.size), flows)?;
            let timed = self.test == Test::Paced;
            streams.push(if timed { stream.timed() } else { stream });
        }
        Ok(streams)
    }
}

/// The lengths of frames.
fn sizes(size: Size) -> Vec<usize> {
    match size {
        Size::Imix => IMIX.to_vec(),
        Size::Tso => vec![TSO_LEN],
        Size::Bytes(bytes) => vec![bytes as usize],
    }
}

/// Address number `number` of a station.
fn address(station: u16, number: u16) -> Mac {
    Mac::from_u64(ADDRESSES | u64::from(station) << 16 | u64::from(number))
}
