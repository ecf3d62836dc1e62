//! `[[patch]]`: cables between relays, without loops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use toml::Spanned;

use super::settings::{Marks, of_end};
use super::vlan::VlanWords;
use super::words::{Faults, check_name, flag, place};
use super::{Claims, Plug, Seat, Surroundings};
use crate::config::file::{EndTable, PatchTable};
use crate::config::model::{End, Patch};
use crate::config::report::{Fault, Span};
use crate::relay::{Mode, PortConfig, Role};

/// Reads all patches.
pub fn read(
    tables: &[Spanned<PatchTable>],
    around: &Surroundings<'_>,
    claims: &mut Claims,
    faults: &mut Faults,
) -> (Vec<Seat>, BTreeMap<String, Patch>) {
    let mut seats = Vec::new();
    let mut patches = BTreeMap::new();
    let mut cables = Cables::default();
    for table in tables {
        let patch = table.get_ref();
        let (Some(a), Some(b)) = (&patch.a, &patch.b) else {
            let missing = if patch.a.is_none() { "a" } else { "b" };
            faults.push(
                Fault::at(
                    table.span(),
                    format!("end `{missing}` of this patch is missing"),
                )
                .help("a patch has two: `a = { relay = \"blue\" }` and `b = { relay = \"core\" }`"),
            );
            claims.lost = true;
            continue;
        };
        let ends = (read_end(a, around, faults), read_end(b, around, faults));
        let (Some(mut end_a), Some(mut end_b)) = ends else {
            claims.lost = true;
            continue;
        };
        let name = match &patch.name {
            Some(name) => name.get_ref().clone(),
            None => format!("{}-{}", end_a.0.relay, end_b.0.relay),
        };
        let at = place(&patch.name).unwrap_or_else(|| table.span());
        if patch.name.is_some() {
            check_name(&name, "patch", at.clone(), faults);
        }
        let (a_at, b_at) = (end_place(a), end_place(b));
        if let Some(path) = cables.add(&end_a.0.relay, &end_b.0.relay) {
            faults.push(
                Fault::at(
                    at,
                    format!("this patch closes a loop: {}", path.join(" → ")),
                )
                .help("frames would go round for ever: leave out one of the patches of the loop"),
            );
            claims.lost = true;
            continue;
        }
        mirror(a, &mut end_a.0, &end_b.0);
        mirror(b, &mut end_b.0, &end_a.0);
        claims.name(&name, "patch", &at, faults);
        for (end_name, (end, marks), end_at) in Patch::end_names(&name)
            .into_iter()
            .zip([&end_a, &end_b])
            .zip([a_at, b_at])
            .map(|((name, end), at)| (name, end, at))
        {
            claims.name(&end_name, "patch", &at, faults);
            seats.push(Seat {
                name: end_name,
                at: end_at,
                relay: end.relay.clone(),
                settings: end.settings.clone(),
                marks: marks.clone(),
                plug: Plug::Patch,
            });
        }
        patches.insert(
            name,
            Patch {
                a: end_a.0,
                b: end_b.0,
            },
        );
    }
    (seats, patches)
}

fn end_place(end: &Spanned<EndTable>) -> Span {
    place(&end.get_ref().relay).unwrap_or_else(|| end.span())
}

fn read_end(
    end: &Spanned<EndTable>,
    around: &Surroundings<'_>,
    faults: &mut Faults,
) -> Option<(End, Marks)> {
    let table = end.get_ref();
    if table.relay.is_none() {
        faults.push(
            Fault::at(end.span(), "this end does not say which relay it joins")
                .help("add `relay = \"blue\"`"),
        );
        return None;
    }
    let relay = around
        .relays
        .resolve("patch", "", &table.relay, &end.span(), faults);
    let (settings, marks) = if flag(&table.uplink) == Some(true) {
        uplink_words(table, faults);
        let words = VlanWords::from(table);
        let mut settings = PortConfig::uplink(words.read(faults), false);
        let vepa = relay.as_deref().is_some_and(|relay| around.has_vepa(relay));
        settings.reflective = flag(&table.reflective).unwrap_or(vepa);
        (
            settings,
            Marks {
                vlan: words.place(),
                reflective: place(&table.reflective),
                ..Marks::default()
            },
        )
    } else {
        let (mut settings, marks) = of_end(table, faults);
        // Stations behind a cable to another relay may be heard from both sides, if that one reflects; it filters what
        // it gets back itself.
        settings.accept_own_src = settings.mode == Mode::Passthrough;
        (settings, marks)
    };
    Some((
        End {
            relay: relay?,
            settings,
        },
        marks,
    ))
}

/// A local end reflects if the uplink at the other end counts on it and the user does not say.
fn mirror(table: &Spanned<EndTable>, end: &mut End, other: &End) {
    let local = end.settings.role == Role::Local && end.settings.mode == Mode::Bridge;
    if local && other.settings.role == Role::Uplink && table.get_ref().reflective.is_none() {
        end.settings.reflective = other.settings.reflective;
    }
}

/// Words that mean nothing on an uplink.
fn uplink_words(table: &EndTable, faults: &mut Faults) {
    let words = [
        ("mode", place(&table.mode)),
        ("mac", place(&table.mac)),
        ("mac_policy", place(&table.mac_policy)),
        ("mac_limit", place(&table.mac_limit)),
        ("flood_unknown", place(&table.flood_unknown)),
        ("promiscuous", place(&table.promiscuous)),
    ];
    for (key, at) in words.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        let mut fault = Fault::at(at, format!("an uplink has no `{key}`"));
        if let Some(uplink) = place(&table.uplink) {
            fault = fault.with(uplink, "this end is its relay's uplink");
        }
        faults.push(fault.help("leave one of them out"));
    }
}

/// The relays that patches join, a forest as long as there is no loop.
#[derive(Default)]
struct Cables(BTreeMap<String, BTreeSet<String>>);

impl Cables {
    /// Adds a patch, or returns the loop that it would close, from `a` by its new neighbour
    /// back to `a`.
    fn add(&mut self, a: &str, b: &str) -> Option<Vec<String>> {
        if let Some(mut path) = self.path(b, a) {
            path.insert(0, a.to_owned());
            return Some(path);
        }
        self.0.entry(a.to_owned()).or_default().insert(b.to_owned());
        self.0.entry(b.to_owned()).or_default().insert(a.to_owned());
        None
    }

    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut came: BTreeMap<&str, &str> = BTreeMap::from([(from, from)]);
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            if at == to {
                let mut path = vec![at.to_owned()];
                let mut here = at;
                while here != from {
                    here = came.get(here)?;
                    path.push(here.to_owned());
                }
                path.reverse();
                return Some(path);
            }
            for next in self.0.get(at).into_iter().flatten() {
                if !came.contains_key(next.as_str()) {
                    came.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}
