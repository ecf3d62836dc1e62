//! What must hold in a relay as a whole.

use std::collections::{BTreeMap, HashMap};

use super::cable;
use super::relay::{Draft, Fids, member};
use super::useless;
use super::words::Faults;
use super::{Plug, Seat};
use crate::config::report::Fault;
use crate::frame::mac::Mac;
use crate::relay::{MAX_PORTS, MacPolicy, Mode, Multicast, VlanConfig};

/// Checks each relay over its seats. `incomplete`: some table could not be read, so that a relay
/// may seem to lack what it has.
pub fn relays(
    drafts: &BTreeMap<String, Draft>,
    seats: &[Seat],
    incomplete: bool,
    faults: &mut Faults,
) {
    let mut by_relay: BTreeMap<&str, Vec<&Seat>> = BTreeMap::new();
    for seat in seats {
        by_relay.entry(&seat.relay).or_default().push(seat);
    }
    for (name, seats) in &by_relay {
        let Some(draft) = drafts.get(*name) else {
            continue;
        };
        size(name, seats, faults);
        one_uplink(name, seats, faults);
        if seats
            .iter()
            .any(|seat| seat.is_local() && seat.settings.mode == Mode::Passthrough)
        {
            passthrough(name, draft, seats, incomplete, faults);
        } else {
            vlan_keys(name, seats, faults);
        }
        addresses(draft, seats, faults);
        joined(seats, faults);
        shared_nic(name, seats, incomplete, faults);
        useless::words(name, draft, seats, incomplete, faults);
    }
    cable::check(drafts, seats, &by_relay, incomplete, faults);
}

fn size(relay: &str, seats: &[&Seat], faults: &mut Faults) {
    if let Some(seat) = seats.get(MAX_PORTS) {
        faults.push(
            Fault::at(
                seat.at.clone(),
                format!("relay `{relay}` has more than {MAX_PORTS} ports"),
            )
            .help("share them out over several relays and patch these"),
        );
    }
}

fn one_uplink(relay: &str, seats: &[&Seat], faults: &mut Faults) {
    let mut uplinks = seats.iter().filter(|seat| !seat.is_local());
    let Some(first) = uplinks.next() else { return };
    for second in uplinks {
        faults.push(
            Fault::at(
                second.at.clone(),
                format!("relay `{relay}` has two uplinks"),
            )
            .with(first.at.clone(), "the first")
            .help("a relay has at most one: bond the two, or patch two relays"),
        );
    }
}

/// 802.1Q without the Q: one station, one wire.
fn passthrough(relay: &str, draft: &Draft, seats: &[&Seat], incomplete: bool, faults: &mut Faults) {
    let mut locals: Vec<&Seat> = seats
        .iter()
        .copied()
        .filter(|seat| seat.is_local())
        .collect();
    locals.sort_by_key(|seat| seat.settings.mode != Mode::Passthrough);
    let Some((first, others)) = locals.split_first() else {
        return;
    };
    let mode = first.marks.mode.clone().unwrap_or_else(|| first.at.clone());
    for other in others {
        faults.push(
            Fault::at(
                other.at.clone(),
                format!("relay `{relay}` is passthrough and has two local ports"),
            )
            .with(mode.clone(), "this port has the uplink for itself")
            .help("give each passthrough port a relay and an uplink of its own"),
        );
    }
    if !incomplete && !seats.iter().any(|seat| !seat.is_local()) {
        faults.push(
            Fault::at(
                mode.clone(),
                format!("relay `{relay}` is passthrough and has no uplink"),
            )
            .help(format!("add an `[[uplink]]` with `relay = \"{relay}\"`")),
        );
    }
    for seat in seats {
        if let Some(at) = &seat.marks.vlan {
            faults.push(
                Fault::at(at.clone(), "a passthrough relay has no VLANs")
                    .with(mode.clone(), "passthrough is here")
                    .help("leave the VLAN words out: every frame passes as it is, tags included"),
            );
        }
    }
    let words = [
        (
            "reflect",
            &draft.marks.reflect,
            draft.settings.reflect_local,
        ),
        (
            "multicast",
            &draft.marks.multicast,
            draft.settings.multicast != Multicast::Flood,
        ),
        (
            "group_fwd_mask",
            &draft.marks.group_fwd_mask,
            draft.settings.group_fwd_mask != 0,
        ),
        ("fid", &draft.marks.fid, !draft.settings.fids.is_empty()),
    ];
    for (key, at, said) in words {
        let Some(at) = at.clone().filter(|_| said) else {
            continue;
        };
        faults.push(
            Fault::at(at, format!("a passthrough relay has no `{key}`"))
                .with(mode.clone(), "passthrough is here")
                .help("leave it out: every frame passes as it is"),
        );
    }
    if draft.has_statics() {
        faults.push(
            Fault::at(
                draft.at.clone(),
                format!("relay `{relay}` is passthrough and has static addresses"),
            )
            .with(mode, "passthrough is here")
            .help("leave `static` out: a passthrough relay keeps no table of addresses"),
        );
    }
}

/// Where any port has a VLAN key, every local port has one.
fn vlan_keys(relay: &str, seats: &[&Seat], faults: &mut Faults) {
    let Some(keyed) = seats.iter().find_map(|seat| seat.marks.vlan.clone()) else {
        return;
    };
    for seat in seats
        .iter()
        .filter(|seat| seat.is_local() && seat.marks.vlan.is_none())
    {
        faults.push(
            Fault::at(
                seat.at.clone(),
                format!("port `{}` is in no VLAN", seat.name),
            )
            .with(keyed.clone(), format!("relay `{relay}` has VLANs"))
            .help("add `access = 10`, or `trunk = [10, 20]` with or without `native`"),
        );
    }
}

/// No two ports register one address where both would own it.
fn addresses(draft: &Draft, seats: &[&Seat], faults: &mut Faults) {
    let fids = Fids::new(&draft.settings.fids);
    let flat = seats.iter().all(|seat| seat.marks.vlan.is_none());
    let mut owners: HashMap<Mac, Vec<(&Seat, usize)>> = HashMap::new();
    for seat in seats {
        for (index, mac) in seat.settings.macs.iter().enumerate() {
            let others = owners.entry(*mac).or_default();
            let clash = others.iter().find_map(|(other, place)| {
                if flat {
                    return Some((other, *place, String::new()));
                }
                let vid = fids.common(&seat.settings.vlan, &other.settings.vlan)?;
                Some((other, *place, format!(" in VLAN {vid}")))
            });
            let at = |seat: &Seat, index: usize| {
                seat.marks
                    .macs
                    .get(index)
                    .cloned()
                    .unwrap_or_else(|| seat.at.clone())
            };
            if let Some((other, place, scope)) = clash {
                faults.push(
                    Fault::at(
                        at(seat, index),
                        format!(
                            "{mac} is registered on `{}` and on `{}`{scope}",
                            other.name, seat.name
                        ),
                    )
                    .with(at(other, place), format!("on `{}`", other.name))
                    .help("give each port its own address, or keep them in different VLANs"),
                );
            } else {
                others.push((seat, index));
            }
        }
    }
}

/// A group is joined in a VLAN of the port.
fn joined(seats: &[&Seat], faults: &mut Faults) {
    let flat = seats.iter().all(|seat| seat.marks.vlan.is_none());
    for seat in seats {
        for (group, at) in seat.settings.groups.iter().zip(&seat.marks.groups) {
            let Some(vid) = group.vid else { continue };
            if flat {
                faults.push(
                    Fault::at(at.clone(), "a relay without VLANs has no VIDs")
                        .help("leave `vid` out, or give its ports VLAN keys"),
                );
            } else if !member(&seat.settings.vlan, vid) && seat.settings.vlan != VlanConfig::Flat {
                faults.push(
                    Fault::at(
                        at.clone(),
                        format!("port `{}` is not in VLAN {vid}", seat.name),
                    )
                    .with(
                        seat.marks.vlan.clone().unwrap_or_else(|| seat.at.clone()),
                        "its VLANs",
                    )
                    .help("a group is joined in a VLAN of the port"),
                );
            }
        }
    }
}

/// A MACVTAP device that shares its NIC hears one station only, so there must be one, and known.
fn shared_nic(relay: &str, seats: &[&Seat], incomplete: bool, faults: &mut Faults) {
    if incomplete {
        return;
    }
    for seat in seats {
        let Plug::Outside { shared: Some(at) } = &seat.plug else {
            continue;
        };
        let mut fault = Fault::at(
            at.clone(),
            "a MACVTAP device that shares its NIC carries one known address",
        );
        let locals: Vec<&&Seat> = seats.iter().filter(|seat| seat.is_local()).collect();
        let [only] = locals.as_slice() else {
            faults.push(
                fault
                    .label(format!("relay `{relay}` needs more"))
                    .help("use `mode = \"passthru\"`, or give the relay exactly one local port, a VM with `mac`"),
            );
            continue;
        };
        let (macs, policy) = (&only.settings.macs, only.settings.mac_policy);
        if matches!(only.plug, Plug::Vm) && macs.len() == 1 && policy == MacPolicy::Pinned {
            continue;
        }
        if let Some(second) = only.marks.macs.get(1) {
            fault = fault.with(second.clone(), "nothing would arrive for this one");
        } else if let (1, Some(policy)) = (macs.len(), &only.marks.policy) {
            fault = fault.with(policy.clone(), "nothing would arrive for what it learns");
        } else {
            fault = fault.label(format!("relay `{relay}` needs more"));
        }
        faults.push(fault.help(
            "use `mode = \"passthru\"`, or make the only local port a VM with exactly one `mac`, pinned to it",
        ));
    }
}
