//! `evb bench`: front ends of our own drive a real back end through real vhost-user sockets.
//!
//! The back end is a daemon of this very program, started for the purpose with a configuration of its own, or any other
//! that listens. Every pair of ports has two *stations*, guests without a machine around them, whose threads send
//! and receive without sleeping. Frames are numbered and checked, so that a wrong switch cannot look fast.
//!
//! *Threads.* The main thread plans, waits and writes; generators' threads own the stations while they run; a thread
//! listens for Ctrl-C. *Invariant*: whatever happens, the daemon and its directory are gone in the end.
//!
//! It knows nothing of how a bridge works: it sees sockets, rings and frames.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "rates and times are shown with three or four digits, and none is negative"
)]

mod clock;
mod error;
mod filler;
mod host;
mod latency;
mod measure;
mod outcome;
mod placement;
mod plan;
mod queues;
mod report;
mod station;
mod stop;
mod traffic;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::cli;
use crate::cli::bench::Bench;
use clock::Clock;
pub use error::BenchError;
use host::Host;
use measure::Bed;
use outcome::Outcome;
use placement::Placement;
pub use placement::round_trip;
use plan::{Case, Subject};

/// Measures and writes what came of it, for `main`.
///
/// It ends with 1 where a frame came late, twice, damaged or to the wrong receiver; lost frames are only shown.
pub fn run(options: &Bench) -> ExitCode {
    match measure_all(options) {
        Ok((placement, outcomes)) => {
            let mut out = io::BufWriter::new(io::stdout().lock());
            let written = if options.json {
                report::json(&mut out, options, &placement, &outcomes)
            } else {
                report::table(&mut out, &placement, &outcomes)
            };
            match written.and_then(|()| out.flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(
                    cli::EXIT_RUNTIME,
                    &format!("cannot write the result: {error}"),
                ),
                _ if outcomes.iter().any(Outcome::is_wrong) => ExitCode::from(cli::EXIT_RUNTIME),
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error @ BenchError::Options(_)) => fail(cli::EXIT_USAGE, &error.to_string()),
        Err(error) => fail(cli::EXIT_RUNTIME, &error.to_string()),
    }
}

fn fail(code: u8, error: &str) -> ExitCode {
    eprintln!("evb: {error}");
    ExitCode::from(code)
}

fn measure_all(options: &Bench) -> Result<(Placement, Vec<Outcome>), BenchError> {
    let cases = plan::cases(options)?;
    let placement = Placement::choose(options)?;
    stop::listen()?;
    let clock = Clock::start();
    let needed = cases.iter().any(|case| case.subject == Subject::Daemon);
    let host = needed
        .then(|| Host::start(options, &placement.workers, clock))
        .transpose()?;
    let mut bed = Bed {
        options,
        placement: &placement,
        clock,
        host,
    };
    let mut outcomes: Vec<_> = cases
        .into_iter()
        .map(|case| Outcome {
            case,
            rounds: vec![],
        })
        .collect();
    let progress = Progress::new(outcomes.len() * usize::from(options.rounds));
    // All cases in turn, again and again: what disturbs the machine for a while disturbs them all.
    for _ in 0..options.rounds {
        for outcome in &mut outcomes {
            progress.show(outcome);
            let round = bed.measure(&outcome.case)?;
            outcome.rounds.push(round);
            progress.step();
        }
    }
    drop(progress);
    drop(bed);
    Ok((placement, outcomes))
}

/// A line on a terminal that says how far it has come.
struct Progress {
    on: bool,
    all: usize,
    done: std::cell::Cell<usize>,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self {
            on: io::stderr().is_terminal(),
            all,
            done: std::cell::Cell::new(0),
        }
    }

    fn show(&self, outcome: &Outcome) {
        if !self.on {
            return;
        }
        let Case {
            subject,
            test,
            size,
            flows,
            format,
        } = outcome.case;
        let last = match outcome.rounds.last() {
            Some(round) => format!(", last {:.3} Mframe/s", round.frames_per_s / 1e6),
            None => String::new(),
        };
        // A terminal that does not take it misses nothing that matters.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{}/{}  {} {} {size}, {flows} flows, {}{last}",
            self.done.get() + 1,
            self.all,
            subject.name(),
            test.name(),
            format.name(),
        );
    }

    fn step(&self) {
        self.done.set(self.done.get() + 1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
