//! The result: a table for people, JSON for programs.

use std::fs;
use std::io::{self, Write};

use comfy_table::{Cell, Row};
use serde::Serialize;

use super::outcome::{Outcome, Round, Spread};
use super::placement::Placement;
use super::plan::Subject;
use crate::cli::bench::Bench;
use crate::cli::table::{Columns, print};
use crate::load::Rate;

/// All that was measured, and where.
#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    machine: Machine,
    generator_cpus: &'a [usize],
    worker_cpus: &'a [usize],
    workers: Option<u16>,
    poll: Option<&'static str>,
    pairs: u16,
    queues: u16,
    ring_size: u16,
    in_order: bool,
    idle_ports: u16,
    fdb: u32,
    vlans: u16,
    seconds: f64,
    offered_frames_per_s: Option<u64>,
    offered_bits_per_s: Option<u64>,
    search_loss: Option<f64>,
    rows: Vec<RowReport<'a>>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
}

#[derive(Serialize)]
struct RowReport<'a> {
    subject: &'static str,
    test: &'static str,
    size: String,
    flows: u16,
    ring: &'static str,
    frames_per_s: Option<Spread>,
    bits_per_s: Option<Spread>,
    cpu_ns_per_frame: Option<Spread>,
    p50_ns: Option<Spread>,
    p99_ns: Option<Spread>,
    p999_ns: Option<Spread>,
    trip_ns: Option<Spread>,
    ring_full: Option<Spread>,
    sent: u64,
    lost: u64,
    late: u64,
    twice: u64,
    stray: u64,
    corrupt: u64,
    rounds: &'a [Round],
}

impl<'a> RowReport<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let case = &outcome.case;
        Self {
            subject: case.subject.name(),
            test: case.test.name(),
            size: case.size.to_string(),
            flows: case.flows,
            ring: case.format.name(),
            frames_per_s: outcome.spread(|r| Some(r.frames_per_s)),
            bits_per_s: outcome.spread(|r| Some(r.bits_per_s)),
            cpu_ns_per_frame: outcome.spread(|r| r.cpu_ns_per_frame),
            p50_ns: outcome.spread(|r| Some(r.latency?.p50_ns as f64)),
            p99_ns: outcome.spread(|r| Some(r.latency?.p99_ns as f64)),
            p999_ns: outcome.spread(|r| Some(r.latency?.p999_ns as f64)),
            trip_ns: outcome.spread(|r| r.trip_ns),
            ring_full: outcome.spread(|r| Some(r.ring_full)),
            sent: outcome.sum(|r| r.sent),
            lost: outcome.sum(|r| r.lost),
            late: outcome.sum(|r| r.late),
            twice: outcome.sum(|r| r.twice),
            stray: outcome.sum(|r| r.stray),
            corrupt: outcome.sum(|r| r.corrupt),
            rounds: &outcome.rounds,
        }
    }
}

/// Writes everything as JSON.
pub fn json(
    out: &mut impl Write,
    options: &Bench,
    placement: &Placement,
    outcomes: &[Outcome],
) -> io::Result<()> {
    let own = options.sockets.is_empty();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine: machine(),
        generator_cpus: &placement.generator,
        worker_cpus: &placement.workers,
        workers: own.then_some(options.workers),
        poll: own.then(|| options.poll.name()),
        pairs: options.pairs,
        queues: options.queues,
        ring_size: options.ring_size,
        in_order: options.in_order,
        idle_ports: options.idle_ports,
        fdb: options.fdb,
        vlans: options.vlans,
        seconds: options.seconds.as_secs_f64(),
        offered_frames_per_s: match options.rate {
            Some(Rate::Frames(rate)) => Some(rate),
            _ => None,
        },
        offered_bits_per_s: match options.rate {
            Some(Rate::Bits(rate)) => Some(rate),
            _ => None,
        },
        search_loss: options.search.then_some(options.loss / 100.0),
        rows: outcomes.iter().map(RowReport::new).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

/// Writes a table.
pub fn table(out: &mut impl Write, placement: &Placement, outcomes: &[Outcome]) -> io::Result<()> {
    let machine = machine();
    let (cpus, model) = (machine.cpus, &machine.cpu);
    let place = match (&placement.generator[..], &placement.workers[..]) {
        ([], _) => "not pinned".to_owned(),
        (generator, workers) => format!("generator on {generator:?}, back end on {workers:?}"),
    };
    writeln!(
        out,
        "{model}, {cpus} CPUs, Linux {}; {place}\n",
        machine.kernel
    )?;
    let columns = Columns {
        names: &[
            "TEST", "SIZE", "FLOWS", "RING", "MFRAME/S", "GBIT/S", "±%", "LOST", "FULL%", "CPU NS",
            "P50 US", "P99 US", "P99.9 US", "TRIP NS",
        ],
        numbers: &[
            "SIZE", "FLOWS", "MFRAME/S", "GBIT/S", "±%", "LOST", "FULL%", "CPU NS", "P50 US",
            "P99 US", "P99.9 US", "TRIP NS",
        ],
    };
    let mut table = columns.table();
    for outcome in outcomes {
        table.add_row(row(outcome));
    }
    print(out, &table)?;
    for outcome in outcomes.iter().filter(|outcome| outcome.is_wrong()) {
        let case = &outcome.case;
        writeln!(
            out,
            "\n{} {}, {} flows: WRONG: {} frames late, {} twice, {} for somebody else, {} damaged",
            case.test.name(),
            case.size,
            case.flows,
            outcome.sum(|r| r.late),
            outcome.sum(|r| r.twice),
            outcome.sum(|r| r.stray),
            outcome.sum(|r| r.corrupt),
        )?;
    }
    Ok(())
}

fn row(outcome: &Outcome) -> Row {
    let case = &outcome.case;
    let report = RowReport::new(outcome);
    let ring = if case.subject == Subject::Copy {
        "copy"
    } else {
        report.ring
    };
    let figure = |spread: Option<Spread>, unit: f64, digits: usize| match spread {
        Some(spread) => Cell::new(format!("{:.digits$}", spread.median / unit)),
        None => Cell::new("-"),
    };
    let percent = report.frames_per_s.map_or(0.0, |spread| spread.percent());
    Row::from(vec![
        Cell::new(report.test),
        Cell::new(&report.size),
        Cell::new(report.flows),
        Cell::new(ring),
        figure(report.frames_per_s, 1e6, 3),
        figure(report.bits_per_s, 1e9, 2),
        Cell::new(format!("{percent:.0}")),
        Cell::new(report.lost),
        figure(report.ring_full, 0.01, 0),
        figure(report.cpu_ns_per_frame, 1.0, 1),
        figure(report.p50_ns, 1e3, 2),
        figure(report.p99_ns, 1e3, 2),
        figure(report.p999_ns, 1e3, 2),
        figure(report.trip_ns, 1.0, 0),
    ])
}

/// What the kernel says of the machine; what it does not say is left empty.
fn machine() -> Machine {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |line: &str| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim().to_owned())
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Machine {
        cpu: info.lines().find_map(named).unwrap_or_default(),
        cpus: info
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        kernel: release.trim().to_owned(),
    }
}
