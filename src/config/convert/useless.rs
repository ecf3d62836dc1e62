//! Words that others make useless: nothing would follow from them, or a port could say nothing.

use super::Seat;
use super::relay::Draft;
use super::words::Faults;
use crate::config::report::Fault;
use crate::relay::{MacPolicy, Mode};

/// Checks the words of one relay and its ports against each other.
pub fn words(relay: &str, draft: &Draft, seats: &[&Seat], incomplete: bool, faults: &mut Faults) {
    mute(relay, draft, seats, faults);
    let passthrough = |seat: &&Seat| seat.is_local() && seat.settings.mode == Mode::Passthrough;
    let flat = seats.iter().all(|seat| seat.marks.vlan.is_none());
    if let Some(at) = &draft.marks.fid
        && flat
        && !incomplete
        && !draft.settings.fids.is_empty()
        && !seats.iter().any(passthrough)
    {
        faults.push(
            Fault::at(at.clone(), "a relay without VLANs has no VIDs")
                .help("leave `fid` out, or give its ports VLAN keys"),
        );
    }
}

/// What is not learned and would be reflected drops, so that a port that only learns says nothing.
fn mute(relay: &str, draft: &Draft, seats: &[&Seat], faults: &mut Faults) {
    let reflects = |seat: &&&Seat| !seat.is_local() && seat.settings.reflective;
    let Some(uplink) = seats.iter().find(reflects) else {
        return;
    };
    let mute = |seat: &&&Seat| {
        let port = &seat.settings;
        seat.is_local()
            && port.mode == Mode::Bridge
            && port.mac_policy != MacPolicy::Pinned
            && port.macs.is_empty()
    };
    let (Some(port), Some(at), 0) = (
        seats.iter().find(mute),
        &draft.marks.ageing,
        draft.settings.ageing,
    ) else {
        return;
    };
    faults.push(
        Fault::at(
            at.clone(),
            format!(
                "relay `{relay}` learns nothing, and port `{}` could not send",
                port.name
            ),
        )
        .with(port.at.clone(), "it has no address but what is learned")
        .with(
            uplink
                .marks
                .reflective
                .clone()
                .unwrap_or_else(|| uplink.at.clone()),
            "frames of unknown stations would come back from here as others'",
        )
        .help("give `ageing` a time, or list the addresses of the port in `mac`"),
    );
}
