//! From the file form to the [`Config`]: defaults, references between tables, and every check.
//!
//! Tables become *seats*, one per bridge port with the places of its words, and parts of the
//! `Config`; then each relay is checked as a whole over its seats. A part in which a fault was found
//! is left out or filled with a default, and the reading goes on to find the next.

#![allow(
    clippy::ref_option,
    reason = "words are handed on as they stand in their table"
)]

mod cable;
mod check;
mod load;
mod patch;
mod port;
mod relay;
mod settings;
mod sriov;
mod tap;
mod uplink;
mod useless;
mod vlan;
pub(super) mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use toml::Spanned;

pub(super) use self::port::QUEUES_OF_VM;
use self::relay::Relays;
use self::settings::Marks;
use self::words::{Faults, choice, directory, number, place, socket};
use super::file::{DaemonTable, PatchTable};
use super::model::{Config, Daemon, Poll, Port};
use super::read::{Broken, File};
use super::report::{Fault, Span};
use crate::relay::{MacPolicy, Mode, PortConfig, Role};

/// Forwarding threads, at most.
const WORKERS_MAX: i64 = 64;
/// CPU numbers that a Linux kernel can be built for.
const CPU_MAX: i64 = 8191;

/// One bridge port, with the places that faults about it point to.
#[derive(Debug)]
struct Seat {
    name: String,
    at: Span,
    relay: String,
    settings: PortConfig,
    marks: Marks,
    plug: Plug,
}

impl Seat {
    fn is_local(&self) -> bool {
        self.settings.role == Role::Local
    }
}

/// What is plugged into a seat.
#[derive(Debug)]
enum Plug {
    Vm,
    Host,
    Load,
    Patch,
    /// An uplink to the outside, and where it says that it shares its NIC.
    Outside {
        shared: Option<Span>,
    },
}

/// What the tables of uplinks and patches have to know of the others.
struct Surroundings<'a> {
    relays: &'a Relays,
    broken: &'a Broken,
    /// How many workers there are.
    workers: usize,
    vepa: BTreeSet<String>,
}

impl Surroundings<'_> {
    /// Whether the relay has a VEPA port.
    fn has_vepa(&self, relay: &str) -> bool {
        self.vepa.contains(relay)
    }
}

/// What the tables before have taken: names, sockets, devices and descriptors, and where.
#[derive(Debug, Default)]
struct Claims {
    names: HashMap<String, (&'static str, Span)>,
    sockets: HashMap<PathBuf, Span>,
    devices: HashMap<String, (Span, bool)>,
    descriptors: HashMap<i32, Span>,
    /// Whether some table makes no seat, for a fault in it that is already reported.
    lost: bool,
}

impl Claims {
    /// Ports, uplinks and patches share one space of names: commands and counters name them alike.
    fn name(&mut self, name: &str, kind: &'static str, at: &Span, faults: &mut Faults) {
        match self.names.get(name) {
            None => {
                self.names.insert(name.to_owned(), (kind, at.clone()));
            }
            Some((other, first)) if *other == kind => faults.push(
                Fault::at(at.clone(), format!("two {kind}s are named `{name}`"))
                    .with(first.clone(), "the first")
                    .help("give one of them another name"),
            ),
            Some((other, first)) => faults.push(
                Fault::at(
                    at.clone(),
                    format!("this {kind} and a {other} are both named `{name}`"),
                )
                .with(first.clone(), format!("the {other}"))
                .help("give one of them another name"),
            ),
        }
    }

    fn socket(&mut self, path: &Path, at: &Span, faults: &mut Faults) {
        match self.sockets.get(path) {
            None => {
                self.sockets.insert(path.to_owned(), at.clone());
            }
            Some(first) => faults.push(
                Fault::at(at.clone(), format!("{} is used twice", path.display()))
                    .with(first.clone(), "first here")
                    .help("give each its own socket"),
            ),
        }
    }

    fn descriptor(&mut self, number: i32, at: &Span, faults: &mut Faults) {
        match self.descriptors.get(&number) {
            None => {
                self.descriptors.insert(number, at.clone());
            }
            Some(first) => faults.push(
                Fault::at(at.clone(), format!("descriptor {number} is used twice"))
                    .with(first.clone(), "first here")
                    .help("each queue has a descriptor of its own"),
            ),
        }
    }

    /// `alone`: the device cannot be shared.
    fn device(&mut self, name: &str, at: &Span, alone: bool, faults: &mut Faults) {
        match self.devices.get(name) {
            None => {
                self.devices.insert(name.to_owned(), (at.clone(), alone));
            }
            Some((_, false)) if !alone => {}
            Some((first, _)) => faults.push(
                Fault::at(at.clone(), format!("device `{name}` is used twice"))
                    .with(first.clone(), "first here")
                    .help("give each its own device"),
            ),
        }
    }
}

/// Converts what was read; what is wrong is added to `faults`.
pub fn convert(file: &File, faults: &mut Faults) -> Config {
    let mut claims = Claims::default();
    let before = faults.len();
    let daemon = daemon(file.daemon.as_ref(), &mut claims, faults);
    // Where their number is not known, none is missing.
    let workers = if faults.len() > before || file.broken.any("daemon") {
        WORKERS_MAX as usize
    } else {
        daemon.workers
    };
    let relays = Relays::read(&file.relays, &file.broken, faults);
    let (mut seats, mut ports) = port::read(
        &file.groups,
        &file.ports,
        &file.broken,
        &relays,
        workers,
        &mut claims,
        faults,
    );
    let around = Surroundings {
        relays: &relays,
        broken: &file.broken,
        workers,
        vepa: with_vepa(&seats, &file.patches),
    };
    let (ends, patches) = patch::read(&file.patches, &around, &mut claims, faults);
    let (outside, uplinks) = uplink::read(&file.uplinks, &around, &mut claims, faults);
    seats.extend(ends);
    seats.extend(outside);
    // Where a table is missing, a relay only seems to lack what it holds.
    let incomplete = ["port", "group", "patch", "uplink", "relay"]
        .iter()
        .any(|kind| file.broken.any(kind))
        || claims.lost;
    let drafts = relays.drafts;
    pin_to_shared_nic(&mut seats, &mut ports);
    check::relays(&drafts, &seats, incomplete, faults);

    let mut by_relay: BTreeMap<&str, Vec<&Seat>> = BTreeMap::new();
    for seat in &seats {
        by_relay.entry(&seat.relay).or_default().push(seat);
    }
    let relays = drafts
        .into_iter()
        .map(|(name, draft)| {
            let seats = by_relay
                .get(name.as_str())
                .map(Vec::as_slice)
                .unwrap_or_default();
            let relay = draft.finish(seats, incomplete, faults);
            (name, relay)
        })
        .collect();
    Config {
        daemon,
        relays,
        ports,
        uplinks,
        patches,
    }
}

/// Behind a MACVTAP device that shares its NIC, a VM with one address is pinned to it unless it says otherwise:
/// nothing would arrive for others.
fn pin_to_shared_nic(seats: &mut [Seat], ports: &mut BTreeMap<String, Port>) {
    let shared = |seat: &Seat| matches!(seat.plug, Plug::Outside { shared: Some(_) });
    let relays: BTreeSet<String> = seats
        .iter()
        .filter(|seat| shared(seat))
        .map(|seat| seat.relay.clone())
        .collect();
    for seat in seats.iter_mut().filter(|seat| relays.contains(&seat.relay)) {
        let one = seat.settings.macs.len() == 1;
        if matches!(seat.plug, Plug::Vm) && one && seat.marks.policy.is_none() {
            seat.settings.mac_policy = MacPolicy::Pinned;
            if seat.marks.flood.is_none() {
                seat.settings.flood_unknown = false;
            }
            if let Some(port) = ports.get_mut(&seat.name) {
                port.settings.clone_from(&seat.settings);
            }
        }
    }
}

/// Relays with a VEPA port, be it the end of a patch.
fn with_vepa(seats: &[Seat], patches: &[Spanned<PatchTable>]) -> BTreeSet<String> {
    let ports = seats
        .iter()
        .filter(|seat| seat.settings.mode == Mode::Vepa)
        .map(|seat| seat.relay.clone());
    let ends = patches
        .iter()
        .flat_map(|patch| [&patch.get_ref().a, &patch.get_ref().b])
        .flatten()
        .map(Spanned::get_ref)
        .filter(|end| {
            end.mode
                .as_ref()
                .is_some_and(|mode| mode.get_ref() == "vepa")
        })
        .filter_map(|end| Some(end.relay.as_ref()?.get_ref().clone()));
    ports.chain(ends).collect()
}

fn daemon(table: Option<&DaemonTable>, claims: &mut Claims, faults: &mut Faults) -> Daemon {
    let default = Daemon::default();
    let Some(table) = table else { return default };
    let control = table.control.as_ref().and_then(|word| {
        let path = socket(word.get_ref(), word.span(), faults)?;
        claims.socket(&path, &word.span(), faults);
        Some(path)
    });
    let state = table
        .state
        .as_ref()
        .and_then(|word| directory(word.get_ref(), word.span(), faults));
    let polls = [
        ("adaptive", Poll::Adaptive),
        ("busy", Poll::Busy),
        ("sleep", Poll::Sleep),
    ];
    let workers = match &table.workers {
        Some(_) => number(&table.workers, "workers", 1..=WORKERS_MAX, faults),
        None => Some(default.workers),
    };
    let mut micros =
        |word, key| number(word, key, 0..=1_000_000, faults).map(std::time::Duration::from_micros);
    let rx_wait = micros(&table.rx_wait_us, "rx_wait_us").unwrap_or(default.rx_wait);
    let cool = micros(&table.cool_us, "cool_us").unwrap_or(default.cool);
    Daemon {
        control,
        state,
        workers: workers.unwrap_or(default.workers),
        cpus: cpus(table, workers, faults),
        poll: choice(&table.poll, "poll", &polls, faults).unwrap_or(default.poll),
        rx_wait,
        cool,
    }
}

/// One CPU for each worker, or none at all. `workers` is none where the number is wrong.
fn cpus(table: &DaemonTable, workers: Option<usize>, faults: &mut Faults) -> Vec<usize> {
    let Some(list) = &table.cpus else {
        return Vec::new();
    };
    let mut cpus: Vec<usize> = Vec::new();
    for item in list.get_ref() {
        let word = Some(item.clone());
        let Some(cpu) = number(&word, "cpus", 0..=CPU_MAX, faults) else {
            continue;
        };
        if cpus.contains(&cpu) {
            faults.push(
                Fault::at(item.span(), format!("CPU {cpu} is listed twice"))
                    .help("two workers on one CPU would take turns: list each once"),
            );
        }
        cpus.push(cpu);
    }
    let count = list.get_ref().len();
    if let Some(workers) = workers.filter(|workers| count != 0 && count != *workers) {
        let mut fault = Fault::at(
            list.span(),
            format!(
                "{count} CPUs are listed for {workers} {}",
                plural(workers, "worker")
            ),
        );
        if let Some(at) = place(&table.workers) {
            fault = fault.with(at, "the number of workers");
        }
        faults.push(fault.help("list one CPU for each worker"));
    }
    cpus
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}
