//! One measurement: stations connected anew, threads started, counts added up.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::clock::Clock;
use super::error::{BenchError, system};
use super::host::Host;
use super::outcome::Round;
use super::placement::Placement;
use super::plan::{Case, Subject};
use super::station::Station;
use super::stop;
use super::traffic::{self, Count, Pair, Task};
use crate::cli::bench::Bench;
use crate::load::{Rate, Search, Trial};
use crate::sys::{cpu, process};

/// The part of a measurement that goes before it and is not measured.
const WARM_UP: u32 = 10;
/// A search ends when it is as near as this.
const PRECISION: f64 = 0.01;

/// What is needed for each measurement.
pub struct Bed<'a> {
    pub options: &'a Bench,
    pub placement: &'a Placement,
    pub clock: Clock,
    /// The daemon; none where nothing or something else is measured.
    pub host: Option<Host>,
}

impl Bed<'_> {
    /// Measures a case once, or searches its highest rate once.
    pub fn measure(&mut self, case: &Case) -> Result<Round, BenchError> {
        let rate = case.rate(self.options);
        let result = if self.options.search {
            self.search(case)
        } else {
            self.trial(case, rate)
        };
        match (result, &mut self.host) {
            // That it ended says more than that it does not answer.
            (Err(error), Some(host)) if !stop::wanted() => {
                host.check()?;
                Err(error)
            }
            (Err(_), _) if stop::wanted() => Err(BenchError::Interrupted),
            (result, _) => result,
        }
    }

    /// The highest rate in each direction at which nothing, or no more than is allowed, gets lost.
    fn search(&mut self, case: &Case) -> Result<Round, BenchError> {
        let directions = f64::from(self.options.pairs) * case.pattern().directions();
        let unbounded = self.trial(case, Rate::Max)?;
        let loss = self.options.loss / 100.0;
        let mut search = Search::new(unbounded.frames_per_s / directions, PRECISION, loss);
        let mut best = Round::default();
        while let Some(rate) = search.next_rate() {
            let round = self.trial(case, Rate::Frames(rate.max(1.0) as u64))?;
            let trial = Trial {
                rate: round.frames_per_s,
                loss: round.loss(),
            };
            search.report(trial);
            if search.best() == Some(trial) {
                best = round;
            }
        }
        Ok(best)
    }

    fn trial(&self, case: &Case, rate: Rate) -> Result<Round, BenchError> {
        let before = self.placement.round_trip_ns();
        let mut pairs = vec![];
        for number in 0..self.options.pairs {
            pairs.push(self.pair(case, number)?);
        }
        let counts = self.run(case, rate, &mut pairs)?;
        let after = self.placement.round_trip_ns();
        let round_trip = before
            .zip(after)
            .map(|(before, after)| f64::midpoint(before, after));
        Ok(Round::of(&counts, round_trip))
    }

    fn pair(&self, case: &Case, number: u16) -> Result<Pair, BenchError> {
        let (a, b) = (2 * number, 2 * number + 1);
        Ok(Pair {
            a: self.station(case, a, b)?,
            b: self.station(case, b, a)?,
        })
    }

    fn station(&self, case: &Case, number: u16, peer: u16) -> Result<Station, BenchError> {
        let make = case.make(self.options, self.clock);
        let streams = case.streams((number, peer), self.options)?;
        match self.socket(case, number) {
            Some(socket) => Station::connect(&socket, &make, streams, peer),
            None => Station::alone(&make, streams, peer),
        }
    }

    fn socket(&self, case: &Case, number: u16) -> Option<PathBuf> {
        match case.subject {
            Subject::Daemon => self.host.as_ref().map(|host| host.socket(number)),
            Subject::Other => self.options.sockets.get(usize::from(number)).cloned(),
            Subject::Copy => None,
        }
    }

    /// The process whose time is measured.
    fn back_end(&self, case: &Case, pairs: &[Pair]) -> Option<u32> {
        match case.subject {
            Subject::Daemon => self.host.as_ref().map(Host::pid),
            Subject::Other => pairs.first()?.a.back_end(),
            Subject::Copy => None,
        }
    }

    fn run(&self, case: &Case, rate: Rate, pairs: &mut [Pair]) -> Result<Vec<Count>, BenchError> {
        let pid = self.back_end(case, pairs);
        let cpu_time = || process::cpu_time(pid?).ok();
        let measure = self.options.seconds;
        let task = |number: usize| Task {
            pattern: case.pattern(),
            rate,
            warm_up: measure / WARM_UP,
            measure,
            clock: self.clock,
            cpu: (number == 0).then_some(&cpu_time as &(dyn Fn() -> Option<Duration> + Sync)),
        };
        let mut wires = vec![];
        if case.subject == Subject::Copy {
            for Pair { a, b } in &*pairs {
                wires.extend(a.wire(b)?);
                wires.extend(b.wire(a)?);
            }
        }
        let threads = self.placement.threads().min(pairs.len()).max(1);
        let share = pairs.len().div_ceil(threads);
        let gate = Gate::new(pairs.len().div_ceil(share));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let copying = wires.len().div_ceil(self.options.workers.into()).max(1);
            // It says so as well when a thread cannot be started.
            let _stopper = Stopper(&over);
            for (number, wires) in wires.chunks_mut(copying).enumerate() {
                let cpu = self.placement.workers.get(number).copied();
                let over = &over;
                let copy = move || {
                    pin(cpu);
                    while !over.load(Ordering::Relaxed) {
                        for wire in &mut *wires {
                            wire.turn();
                        }
                    }
                };
                thread::Builder::new()
                    .name(format!("evb-copy-{number}"))
                    .spawn_scoped(scope, copy)
                    .map_err(system("start a thread"))?;
            }
            let mut generators = vec![];
            for (number, pairs) in pairs.chunks_mut(share).enumerate() {
                let cpu = self.placement.generator.get(number).copied();
                let (gate, task) = (&gate, task(number));
                let generate = move || {
                    pin(cpu);
                    let ready = traffic::acquaint(pairs, task.clock);
                    // Who does not get there keeps the others from waiting for ever.
                    if !gate.pass(ready.is_ok()) {
                        ready?;
                        return Err(BenchError::Interrupted);
                    }
                    traffic::run(pairs, &task)
                };
                let spawned = thread::Builder::new()
                    .name(format!("evb-generator-{number}"))
                    .spawn_scoped(scope, generate);
                if spawned.is_err() {
                    gate.pass(false);
                }
                generators.push(spawned.map_err(system("start a thread"))?);
            }
            let results = generators.into_iter().map(|generator| {
                generator
                    .join()
                    .unwrap_or_else(|panic| resume_unwind(panic))
            });
            first_error(results.collect())
        })
    }
}

/// Tells threads that copy that it is over, when it is dropped.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The counts of all threads, or what went wrong: what was no consequence of another's error.
fn first_error(results: Vec<Result<Count, BenchError>>) -> Result<Vec<Count>, BenchError> {
    let (mut counts, mut error) = (vec![], None);
    for result in results {
        match result {
            Ok(count) => counts.push(count),
            Err(BenchError::Interrupted) if error.is_some() => {}
            Err(other) => error = Some(other),
        }
    }
    error.map_or(Ok(counts), Err)
}

/// Runs where it may already, and is not better elsewhere.
fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu
        && let Err(error) = cpu::pin_current_thread(cpu)
    {
        log::warn!("CPU {cpu}: {error}; the kernel chooses one");
    }
}

/// Lets threads begin together.
struct Gate {
    threads: usize,
    ready: AtomicUsize,
    failed: AtomicBool,
}

impl Gate {
    fn new(threads: usize) -> Self {
        Self {
            threads,
            ready: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// Waits for the other threads; false if one of them is not `ready`.
    fn pass(&self, ready: bool) -> bool {
        if !ready {
            self.failed.store(true, Ordering::Relaxed);
            return false;
        }
        self.ready.fetch_add(1, Ordering::Relaxed);
        while self.ready.load(Ordering::Relaxed) < self.threads {
            if self.failed.load(Ordering::Relaxed) || stop::wanted() {
                return false;
            }
            thread::yield_now();
        }
        true
    }
}
