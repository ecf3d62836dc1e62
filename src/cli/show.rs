//! Answers for people: aligned columns without frames, the same on a terminal and in a pipe.

use std::io::{self, Write};

use comfy_table::{Cell, ColumnConstraint, Row, Width};

use super::table::{Columns, print};
use crate::api_types::{
    FdbEntry, Flushed, LinkStatus, PortMode, PortRole, PortState, PortStatus, RelayStatus,
    Reloaded, Status,
};
use crate::frame::mac::Mac;
use crate::uplink::sriov::{FunctionState, PhysicalFunction};

/// Rows laid out at a time, so that a large FDB does not become a large table.
const BLOCK: usize = 1024;

/// Text that may hold what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn cell(text: &str) -> Cell {
    Cell::new_owned(plain(text))
}

fn optional(value: Option<impl ToString>) -> Cell {
    value.map_or_else(|| Cell::new("-"), Cell::new)
}

/// `evb status`.
pub(super) fn status(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let workers = status.workers.len();
    writeln!(
        out,
        "evb {}, pid {}, up {}, {workers} worker{}",
        plain(&status.version),
        status.pid,
        duration(status.uptime_s),
        if workers == 1 { "" } else { "s" }
    )?;
    let columns = Columns {
        names: &["WORKER", "CPU", "QUEUES", "BUSY"],
        numbers: &["WORKER", "CPU", "QUEUES", "BUSY"],
    };
    let mut table = columns.table();
    for worker in &status.workers {
        table.add_row(vec![
            Cell::new(worker.id),
            optional(worker.cpu),
            Cell::new(worker.queues),
            Cell::new_owned(format!("{}%", worker.busy_permille.div_ceil(10))),
        ]);
    }
    writeln!(out)?;
    print(out, &table)?;
    let columns = Columns {
        names: &["RELAY", "PORTS", "FDB", "LIMIT"],
        numbers: &["PORTS", "FDB", "LIMIT"],
    };
    let mut table = columns.table();
    for relay in &status.relays {
        table.add_row(vec![
            cell(&relay.name),
            Cell::new(relay.ports.len()),
            Cell::new(relay.fdb_entries),
            Cell::new(relay.fdb_limit),
        ]);
    }
    writeln!(out)?;
    print(out, &table)?;
    let columns = Columns {
        names: &[
            "PORT",
            "RELAY",
            "MODE",
            "STATE",
            "QUEUES",
            "WORKERS",
            "MTU",
            "TX",
            "TX BYTES",
            "RX",
            "RX BYTES",
            "DROPS",
            "SOCKET OR DEVICE",
        ],
        numbers: &["QUEUES", "MTU", "TX", "TX BYTES", "RX", "RX BYTES", "DROPS"],
    };
    let mut table = columns.table();
    for port in &status.ports {
        table.add_row(port_row(port));
    }
    writeln!(out)?;
    print(out, &table)?;
    let mut first = true;
    for note in status.ports.iter().flat_map(notes) {
        if std::mem::take(&mut first) {
            writeln!(out)?;
        }
        writeln!(out, "{}", plain(&note))?;
    }
    Ok(())
}

fn port_row(port: &PortStatus) -> Row {
    let mode = match (port.role, port.mode) {
        (PortRole::Uplink, _) => "uplink",
        (PortRole::Local, Some(PortMode::Bridge)) => "bridge",
        (PortRole::Local, Some(PortMode::Vepa)) => "vepa",
        (PortRole::Local, Some(PortMode::Private)) => "private",
        (PortRole::Local, Some(PortMode::Passthrough)) => "passthrough",
        (PortRole::Local, None) => "-",
    };
    let state = match port.state {
        PortState::Down => "down",
        PortState::Connected => "connected",
        PortState::Running => "running",
        PortState::Failed { .. } => "failed",
    };
    let counters = &port.counters;
    Row::from(vec![
        cell(&port.name),
        cell(&port.relay),
        Cell::new(mode),
        Cell::new(state),
        Cell::new(port.queues),
        cell(&workers(&port.workers)),
        optional(port.mtu),
        Cell::new(counters.tx_frames),
        Cell::new(counters.tx_bytes),
        Cell::new(counters.rx_frames),
        Cell::new(counters.rx_bytes),
        Cell::new(counters.drops.values().sum::<u64>()),
        cell(&behind(port)),
    ])
}

/// The workers of a port's queues, in the order of these; one stands for all where they have the same.
fn workers(of_queues: &[usize]) -> String {
    match of_queues {
        [] => "-".to_owned(),
        [first, rest @ ..] if rest.iter().all(|worker| worker == first) => first.to_string(),
        all => {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            all.join(",")
        }
    }
}

/// Where a port leads: its socket, or its device, which is the one in use where it has several.
fn behind(port: &PortStatus) -> String {
    let active = port.links.iter().find(|link| link.active);
    let link = active.or(port.links.first());
    let device = link.map(|link| match &link.mode {
        Some(mode) => format!("{} {} {mode}", link.kind, link.device),
        None => format!("{} {}", link.kind, link.device),
    });
    device.or(port.socket.clone()).unwrap_or("-".to_owned())
}

/// What is wrong with the device of a port, and how each link of a bond is.
fn link_notes(port: &PortStatus) -> impl Iterator<Item = String> {
    let bond = port.links.len() > 1;
    let told = port.links.iter().filter(move |link| bond || !link.active);
    told.map(move |link| {
        let name = if bond {
            format!("{}: link {}", port.name, link.name)
        } else {
            port.name.clone()
        };
        let state = match link {
            LinkStatus { present: false, .. } => "not there",
            LinkStatus { carrier: false, .. } => "no carrier",
            LinkStatus { active: false, .. } => "carrier",
            LinkStatus { active: true, .. } => "carrier, active",
        };
        format!("{name}: {} {}: {state}", link.kind, link.device)
    })
}

/// What does not fit a column: why a port failed, what it refused, what it dropped.
fn notes(port: &PortStatus) -> impl Iterator<Item = String> {
    let failed = match &port.state {
        PortState::Failed { reason } => Some(format!("{}: failed: {reason}", port.name)),
        _ => None,
    };
    let refused = port
        .refused_mac
        .map(|mac| format!("{}: refused address {mac}", port.name));
    let drops = &port.counters.drops;
    let dropped = (!drops.is_empty()).then(|| {
        let reasons: Vec<_> = drops
            .iter()
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        format!("{}: dropped {}", port.name, reasons.join(", "))
    });
    let load = port.load.as_ref();
    let load = load.map(|load| format!("{}: {}", port.name, super::load::note(load)));
    let notes = [failed, refused, dropped, load].into_iter().flatten();
    notes.chain(link_notes(port))
}

/// `evb vlans`.
pub(super) fn vlans(out: &mut impl Write, relays: &[RelayStatus]) -> io::Result<()> {
    let columns = Columns {
        names: &[
            "RELAY",
            "VLAN",
            "IN",
            "IN BYTES",
            "OUT",
            "OUT BYTES",
            "DROPS",
        ],
        numbers: &["VLAN", "IN", "IN BYTES", "OUT", "OUT BYTES", "DROPS"],
    };
    let mut table = columns.table();
    for relay in relays {
        for vlan in &relay.vlans {
            table.add_row(vec![
                cell(&relay.name),
                optional(vlan.vid),
                Cell::new(vlan.in_frames),
                Cell::new(vlan.in_bytes),
                Cell::new(vlan.out_frames),
                Cell::new(vlan.out_bytes),
                Cell::new(vlan.drops),
            ]);
        }
    }
    print(out, &table)
}

/// `evb fdb show`.
pub(super) fn fdb(out: &mut impl Write, mut entries: Vec<FdbEntry>) -> io::Result<()> {
    entries.sort_unstable_by(|a, b| {
        (&a.relay, a.vid, a.mac, &a.port).cmp(&(&b.relay, b.vid, b.mac, &b.port))
    });
    let columns = Columns {
        names: &["RELAY", "VLAN", "MAC", "PORT", "KIND", "AGE"],
        numbers: &["VLAN", "AGE"],
    };
    // Each block is a table of its own; names are the only cells whose width varies much.
    let widest = |name: fn(&FdbEntry) -> &str| {
        let width = entries
            .iter()
            .map(|entry| name(entry).chars().count())
            .max()
            .unwrap_or(0);
        ColumnConstraint::LowerBoundary(Width::Fixed(u16::try_from(width + 2).unwrap_or(u16::MAX)))
    };
    let at_least = |width| ColumnConstraint::LowerBoundary(Width::Fixed(width));
    let constraints = [
        widest(|entry| &entry.relay),
        at_least(6),
        at_least(19),
        widest(|entry| &entry.port),
        at_least(12),
        at_least(8),
    ];
    for (number, block) in entries.chunks(BLOCK).enumerate() {
        let mut table = columns.table();
        for entry in block {
            table.add_row(vec![
                cell(&entry.relay),
                optional(entry.vid),
                Cell::new(entry.mac),
                cell(&entry.port),
                Cell::new(entry.kind),
                optional(entry.age_s),
            ]);
        }
        table.set_constraints(constraints);
        // The columns are named once.
        for line in table.lines().skip(number.min(1)) {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    if entries.is_empty() {
        print(out, &columns.table())
    } else {
        Ok(())
    }
}

/// `evb fdb flush`.
pub(super) fn flushed(out: &mut impl Write, flushed: Flushed) -> io::Result<()> {
    let noun = if flushed.count == 1 {
        "entry"
    } else {
        "entries"
    };
    writeln!(out, "{} {noun} flushed", flushed.count)
}

/// `evb sriov list`.
pub(super) fn functions(out: &mut impl Write, list: &[PhysicalFunction]) -> io::Result<()> {
    let columns = Columns {
        names: &[
            "NIC", "VF", "ADDRESS", "DRIVER", "DEVICE", "GROUP", "MAC", "VLAN", "SPOOFCHK",
            "TRUST", "RATE",
        ],
        numbers: &["VF", "GROUP", "VLAN", "RATE"],
    };
    let mut table = columns.table();
    for pf in list {
        let text = |text: &Option<String>| cell(text.as_deref().unwrap_or("-"));
        let mut row = vec![
            cell(pf.name()),
            Cell::new_owned(format!("{}/{}", pf.made, pf.total)),
            Cell::new(&pf.address),
            text(&pf.driver),
            text(&pf.device),
        ];
        row.resize_with(columns.names.len(), || Cell::new(""));
        table.add_row(row);
        for vf in &pf.functions {
            let on = |on: fn(&FunctionState) -> bool| {
                Cell::new(match vf.state.as_ref().map(on) {
                    Some(true) => "on",
                    Some(false) => "off",
                    None => "-",
                })
            };
            table.add_row(vec![
                cell(pf.name()),
                Cell::new(vf.number),
                Cell::new(&vf.address),
                text(&vf.driver),
                text(&vf.device),
                optional(vf.iommu_group),
                optional(
                    vf.state
                        .map(|state| Mac::new(state.mac))
                        .filter(|mac| !mac.is_zero()),
                ),
                optional(vf.state.map(|state| state.vlan)),
                on(|state| state.spoofchk),
                on(|state| state.trust),
                optional(vf.state.map(|state| state.rate)),
            ]);
        }
    }
    print(out, &table)
}

/// `evb reload`.
pub(super) fn reloaded(out: &mut impl Write, reloaded: &Reloaded) -> io::Result<()> {
    if reloaded.changes.is_empty() {
        return writeln!(out, "nothing has changed");
    }
    reloaded
        .changes
        .iter()
        .try_for_each(|change| writeln!(out, "{}", plain(change)))
}

fn duration(seconds: u64) -> String {
    let (minutes, s) = (seconds / 60, seconds % 60);
    let (hours, m) = (minutes / 60, minutes % 60);
    let (d, h) = (hours / 24, hours % 24);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m {s:02}s"),
        (0, _, _) => format!("{h}h {m:02}m"),
        _ => format!("{d}d {h:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_name_two_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 00s"),
            (3_599, "59m 59s"),
            (3_600, "1h 00m"),
            (86_399, "23h 59m"),
            (86_400, "1d 00h"),
            (1_000_000, "11d 13h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
