//! The words of `evb bench`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::load::Rate;

/// `evb bench`.
#[derive(Debug, Clone, PartialEq, Args)]
#[allow(clippy::struct_excessive_bools)] // each is a word of the command line
pub struct Bench {
    /// What to measure
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "uni,bidir,rr"
    )]
    pub tests: Vec<Test>,
    /// Bytes of a frame: numbers, `imix` (64, 594 and 1514 as 7:4:1) or `tso` (64 KiB in one piece)
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "64,1514"
    )]
    pub sizes: Vec<Size>,
    /// Pairs of MAC addresses in each direction
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub flows: Vec<u16>,
    /// Format of the virtqueues
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "split"
    )]
    pub rings: Vec<Format>,
    /// Descriptors in a virtqueue: a power of two
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = ring_size)]
    pub ring_size: u16,
    /// Acknowledge `IN_ORDER` where it is offered, which Linux guests do not
    #[arg(long)]
    pub in_order: bool,
    /// Pairs of ports that talk
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub pairs: u16,
    /// Queue pairs of each port
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub queues: u16,
    /// Frames per second that are offered in each direction, such as 500k or 2M; or bits, such as 10Gbit
    /// [default: as many as are taken; for `paced` 1M frames, or 20Gbit of large ones]
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// Search the highest rate without loss, instead of sending as fast as possible
    #[arg(long, conflicts_with = "rate")]
    pub search: bool,
    /// With --search: percent of frames whose loss counts as none
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, requires = "search", value_parser = percent)]
    pub loss: f64,
    /// Seconds of each measurement
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub seconds: Duration,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Measure a plain copy between the same CPUs beside it
    #[arg(long)]
    pub ceiling: bool,
    /// CPUs of the generator's threads, which share the pairs of ports
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub generator_cpus: Vec<usize>,
    /// CPUs of the daemon's workers
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub worker_cpus: Vec<usize>,
    /// Leave it to the kernel where threads run
    #[arg(long, conflicts_with_all = ["generator_cpus", "worker_cpus"])]
    pub no_pin: bool,
    /// Workers of the daemon
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// What they do when there is nothing to do
    #[arg(long, value_enum, default_value_t = Poll::Adaptive)]
    pub poll: Poll,
    /// Further ports, connected and silent
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1920))]
    pub idle_ports: u16,
    /// Further addresses in the forwarding database
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=900_000))]
    pub fdb: u32,
    /// VLANs of all ports, over which the flows are spread; 0 for a relay without VLANs
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=4094))]
    pub vlans: u16,
    /// Measure another back end that listens here; twice for each pair of ports
    #[arg(long = "socket", value_name = "PATH", conflicts_with_all = ["workers", "worker_cpus", "poll", "idle_ports", "fdb"])]
    pub sockets: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// One way to use a pair of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Test {
    /// One sends, the other receives
    Uni,
    /// Both send and receive
    Bidir,
    /// One frame goes there and back: the time that takes
    Rr,
    /// One way at a fixed rate: the time a frame takes
    Paced,
    /// One frame after each pause in which the daemon falls asleep: the time it takes
    Wake,
}

impl Test {
    /// Whether it is about rates, and not about single frames.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Uni | Self::Bidir)
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uni => "uni",
            Self::Bidir => "bidir",
            Self::Rr => "rr",
            Self::Paced => "paced",
            Self::Wake => "wake",
        }
    }
}

/// A format of virtqueues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Three areas
    Split,
    /// One area
    Packed,
}

impl Format {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Packed => "packed",
        }
    }
}

/// What workers do when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Poll {
    /// Poll for a while, then sleep
    Adaptive,
    /// Poll
    Busy,
    /// Sleep
    Sleep,
}

impl Poll {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Busy => "busy",
            Self::Sleep => "sleep",
        }
    }
}

/// Sizes of the frames of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All the same.
    Bytes(u32),
    /// A mixture.
    Imix,
    /// As large as TCP segmentation offload makes them.
    Tso,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("a size is a number from 64 to 9216, `imix` or `tso`, not `{text}`");
        match text {
            "imix" => Ok(Self::Imix),
            "tso" => Ok(Self::Tso),
            _ => match text.parse() {
                Ok(bytes @ 64..=9216) => Ok(Self::Bytes(bytes)),
                _ => Err(wrong()),
            },
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Imix => f.pad("imix"),
            Self::Tso => f.pad("tso"),
        }
    }
}

fn ring_size(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(size @ 8..=32768_u16) if size.is_power_of_two() => Ok(size),
        _ => Err("a ring has 8 to 32768 descriptors, a power of two".to_owned()),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a measurement takes 0.01 to 3600 seconds".to_owned()),
    }
}

pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(percent),
        _ => Err("percent are a number from 0 to less than 100".to_owned()),
    }
}
