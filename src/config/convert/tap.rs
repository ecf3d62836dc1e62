//! TAP devices, and devices that whoever starts the daemon hands in as descriptors.

use toml::Spanned;

use super::Claims;
use super::port::{QUEUES_MAX, QUEUES_OF_DEVICE, QUEUES_OF_VM};
use super::words::{Faults, check_device, number, place, station};
use crate::config::file::{FdItem, MacvtapTable, TapTable, Word};
use crate::config::model::{Handed, HandedKind, MacvtapMode, Tap};
use crate::config::report::{Fault, Span};
use crate::frame::mac::Mac;

/// The first descriptor that can be handed in: those before are input, output and errors.
const FD_MIN: i64 = 3;
/// More than any process may have.
const FD_MAX: i64 = i32::MAX as i64;
/// The highest number of a user or a group; the one above stands for nobody in particular.
const ID_MAX: i64 = u32::MAX as i64 - 1;

/// Which device is meant.
pub enum Device {
    /// One to make or take.
    Named(Tap),
    /// One that is handed in.
    Handed(Handed),
}

/// A TAP device has a name, unless it is handed in.
pub fn named(tap: &Spanned<TapTable>, faults: &mut Faults) {
    if tap.get_ref().name.is_none() && tap.get_ref().fd.is_none() {
        faults.push(
            Fault::at(tap.span(), "the TAP device has no name")
                .help("name it: `tap = { name = \"evb0\" }`"),
        );
    }
}

/// The address of the host's side, with its place.
pub fn mac(tap: &TapTable, faults: &mut Faults) -> Option<(Mac, Span)> {
    let word = tap.mac.as_ref()?;
    Some((station(word.get_ref(), word.span(), faults)?, word.span()))
}

/// Where descriptors are handed in.
pub fn fd(tap: Option<&Spanned<TapTable>>) -> Option<Span> {
    place(&tap?.get_ref().fd)
}

/// The device of a TAP table; `fill` fills in its name.
pub fn device(
    table: &Spanned<TapTable>,
    mac: Option<Mac>,
    fill: impl Fn(&str) -> String,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<Device> {
    let tap = table.get_ref();
    let name = match &tap.name {
        None => None,
        Some(word) => {
            let name = fill(word.get_ref());
            if !check_device(&name, word.span(), faults) {
                return None;
            }
            claims.device(&name, &word.span(), true, faults);
            Some(name)
        }
    };
    let mut id = |word, key| number(word, key, 0..=ID_MAX, faults);
    let (owner, group) = (id(&tap.owner, "owner"), id(&tap.group, "group"));
    let Some(fd) = &tap.fd else {
        // A missing name was reported with the table.
        return Some(Device::Named(Tap {
            name: name?,
            mac,
            owner,
            group,
        }));
    };
    for (key, at) in [("owner", place(&tap.owner)), ("group", place(&tap.group))] {
        if let Some(at) = at {
            faults.push(
                Fault::at(at, format!("`{key}` concerns a device that evb makes"))
                    .with(fd.span(), "this one is handed in")
                    .help("leave it out"),
            );
        }
    }
    Some(Device::Handed(Handed {
        kind: HandedKind::Tap,
        descriptors: descriptors(fd, claims, faults),
        name,
        mac,
    }))
}

/// A MACVTAP device that is handed in as descriptors.
pub fn macvtap(
    table: &MacvtapTable,
    fd: &Spanned<FdItem>,
    mode: MacvtapMode,
    claims: &mut Claims,
    faults: &mut Faults,
) -> Option<Handed> {
    let words = [
        ("parent", place(&table.parent)),
        ("queues", place(&table.queues)),
    ];
    for (key, at) in words.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        faults.push(
            Fault::at(at, format!("`{key}` concerns a device that evb makes"))
                .with(fd.span(), "this one is handed in")
                .help("leave it out; each descriptor is a queue"),
        );
    }
    let name = table.name.as_ref();
    if let Some(name) = name {
        if !check_device(name.get_ref(), name.span(), faults) {
            return None;
        }
        claims.device(name.get_ref(), &name.span(), true, faults);
    }
    Some(Handed {
        kind: HandedKind::Macvtap(mode),
        descriptors: descriptors(fd, claims, faults),
        name: name.map(|name| name.get_ref().clone()),
        mac: None,
    })
}

/// The descriptors, of which no two links have the same.
fn descriptors(word: &Spanned<FdItem>, claims: &mut Claims, faults: &mut Faults) -> Vec<i32> {
    let FdItem(numbers) = word.get_ref();
    if !(1..=QUEUES_MAX as usize).contains(&numbers.len()) {
        faults.push(
            Fault::at(word.span(), format!("a link has 1 to {QUEUES_MAX} queues"))
                .help("list one descriptor for each queue: `fd = [5, 6]`"),
        );
    }
    let mut found = Vec::new();
    for value in numbers {
        let one = Some(Spanned::new(word.span(), *value));
        if let Some(number) = number(&one, "fd", FD_MIN..=FD_MAX, faults) {
            claims.descriptor(number, &word.span(), faults);
            found.push(number);
        }
    }
    found
}

/// Queue pairs of a port. A device that is handed in has as many as descriptors.
pub fn queues(word: &Word<i64>, tap: Option<&Spanned<TapTable>>, faults: &mut Faults) -> u16 {
    let queues = number(word, "queues", 1..=QUEUES_MAX, faults);
    let Some(tap) = tap else {
        return queues.unwrap_or(QUEUES_OF_VM);
    };
    let Some(fd) = &tap.get_ref().fd else {
        return queues.unwrap_or(QUEUES_OF_DEVICE);
    };
    if let Some(at) = place(word) {
        faults.push(
            Fault::at(
                at,
                "a device that is handed in has one queue for each descriptor",
            )
            .with(fd.span(), "its descriptors")
            .help("leave `queues` out"),
        );
    }
    u16::try_from(fd.get_ref().0.len()).unwrap_or(QUEUES_OF_DEVICE)
}
