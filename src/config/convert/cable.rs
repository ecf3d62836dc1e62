//! What must hold between the two ends of a patch.

use std::collections::BTreeMap;

use super::relay::Draft;
use super::words::Faults;
use super::{Plug, Seat};
use crate::config::report::Fault;
use crate::relay::{Mode, VidSet, VlanConfig};

/// Checks all patches; their ends stand side by side in `seats`.
pub fn check(
    drafts: &BTreeMap<String, Draft>,
    seats: &[Seat],
    by_relay: &BTreeMap<&str, Vec<&Seat>>,
    incomplete: bool,
    faults: &mut Faults,
) {
    let mut ends = seats.iter().filter(|seat| matches!(seat.plug, Plug::Patch));
    while let (Some(a), Some(b)) = (ends.next(), ends.next()) {
        for (outer, inner) in [(a, b), (b, a)] {
            nested(drafts, (outer, inner), by_relay, faults);
            reflection(outer, inner, faults);
        }
        if !incomplete {
            common_vlan(a, b, by_relay, faults);
        }
    }
}

/// A station behind two VEPA ports would need the frame reflected twice.
fn nested(
    drafts: &BTreeMap<String, Draft>,
    (outer, inner): (&Seat, &Seat),
    by_relay: &BTreeMap<&str, Vec<&Seat>>,
    faults: &mut Faults,
) {
    let vepa = |seat: &&&Seat| seat.is_local() && seat.settings.mode == Mode::Vepa;
    let behind = by_relay
        .get(inner.relay.as_str())
        .into_iter()
        .flatten()
        .find(vepa);
    let allowed = [outer, inner].iter().any(|seat| {
        drafts
            .get(&seat.relay)
            .is_some_and(|draft| draft.nested_reflect)
    });
    let Some(behind) = behind else { return };
    if allowed || inner.is_local() || !vepa(&&outer) {
        return;
    }
    let place = |seat: &Seat| seat.marks.mode.clone().unwrap_or_else(|| seat.at.clone());
    faults.push(
        Fault::at(
            place(outer),
            format!("VEPA port `{}` is behind a VEPA port of relay `{}`", behind.name, outer.relay),
        )
        .with(place(behind), "the inner VEPA port")
        .help(format!(
            "make this end a bridge port that is `reflective`, or set `nested_reflect = true` in relay `{}`",
            outer.relay
        )),
    );
}

/// One end reflects, and the other is the uplink of a relay that counts on it: both or neither.
fn reflection(outer: &Seat, inner: &Seat, faults: &mut Faults) {
    let bridge = outer.is_local() && outer.settings.mode == Mode::Bridge;
    let (reflects, counts) = (outer.settings.reflective, inner.settings.reflective);
    let Some(at) = &outer.marks.reflective else {
        // It follows the other end.
        return;
    };
    if !bridge || inner.is_local() || reflects == counts {
        return;
    }
    let place = inner.marks.reflective.as_ref().unwrap_or(&inner.at);
    let fault = if reflects {
        Fault::at(
            at.clone(),
            format!(
                "this end reflects, and relay `{}` would take that for others' frames",
                inner.relay
            ),
        )
        .with(place.clone(), "the uplink that does not reflect")
    } else {
        Fault::at(
            at.clone(),
            format!(
                "this end does not reflect, and relay `{}` counts on it",
                inner.relay
            ),
        )
        .with(place.clone(), "the uplink that does")
    };
    faults
        .push(fault.help("leave `reflective` out: this end then does what the other one expects"));
}

/// What the end of a patch sends and takes, as it is on the cable.
struct Wire {
    /// Frames of any kind.
    any: bool,
    untagged: bool,
    tags: VidSet,
}

impl Wire {
    fn of(end: &Seat, by_relay: &BTreeMap<&str, Vec<&Seat>>) -> Wire {
        let mut wire = Wire {
            any: false,
            untagged: false,
            tags: VidSet::new(),
        };
        match &end.settings.vlan {
            VlanConfig::Access(_) => wire.untagged = true,
            VlanConfig::Qinq(_) => wire.any = true,
            VlanConfig::Translate(pairs) => wire.tags.extend(pairs.keys().copied()),
            VlanConfig::Trunk { vids, native } => {
                wire.untagged = native.is_some();
                wire.tags
                    .extend(vids.iter().filter(|vid| Some(*vid) != *native));
            }
            // A trunk of what the others are in; where they are in none, tags mean nothing.
            VlanConfig::Flat => {
                let others = by_relay.get(end.relay.as_str());
                wire.any = true;
                for other in others.into_iter().flatten() {
                    wire.any &= other.marks.vlan.is_none();
                    match &other.settings.vlan {
                        VlanConfig::Flat => {}
                        VlanConfig::Access(vid) | VlanConfig::Qinq(vid) => {
                            wire.tags.insert(*vid);
                        }
                        VlanConfig::Trunk { vids, native } => {
                            wire.tags.extend(vids.iter().chain(*native));
                        }
                        VlanConfig::Translate(pairs) => wire.tags.extend(pairs.values().copied()),
                    }
                }
            }
        }
        wire
    }

    fn meets(&self, other: &Wire) -> bool {
        self.any
            || other.any
            || self.untagged && other.untagged
            || self.tags.iter().any(|vid| other.tags.contains(vid))
    }
}

/// Something can pass in both directions.
fn common_vlan(a: &Seat, b: &Seat, by_relay: &BTreeMap<&str, Vec<&Seat>>, faults: &mut Faults) {
    if Wire::of(a, by_relay).meets(&Wire::of(b, by_relay)) {
        return;
    }
    let place = |seat: &Seat| seat.marks.vlan.clone().unwrap_or_else(|| seat.at.clone());
    faults.push(
        Fault::at(place(b), "the ends of this patch have no VLAN in common")
            .with(place(a), "the other end")
            .help("frames leave one end as they must arrive at the other: give both the same `trunk`, or an `access` each"),
    );
}
