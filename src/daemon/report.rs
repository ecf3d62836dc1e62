//! What the daemon writes to its log of events at ports and of changes.

use crate::config::{Change, Step};
use crate::relay::Report;

/// Logs what a port has to report.
pub fn log_report(port: &str, report: &Report) {
    if let Some(mac) = report.pinned {
        log::info!("port {port}: pinned to {mac}, the first address seen");
    }
    if let Some(mac) = report.refused {
        log::warn!(
            "port {port}: frames from {mac} are dropped: the address is not one of this port's, or \
             belongs to another; add it to `mac`, or choose another `mac_policy`"
        );
    }
    if let Some(mac) = report.moved {
        log::info!("port {port}: {mac} has moved here");
    }
    if let Some(mac) = report.damped {
        log::warn!("port {port}: {mac} moves between ports too often; it is held where it is");
    }
    if let Some(mac) = report.limited {
        log::warn!("port {port}: {mac} is not learned: the limit of addresses is reached");
    }
    if let Some(len) = report.oversize {
        log::warn!(
            "port {port}: a frame of {len} bytes exceeds the MTU of the port and was dropped"
        );
    }
}

/// A change of the configuration, in a phrase.
pub fn change(change: &Change) -> String {
    match change {
        Change::Daemon(update) => {
            format!(
                "daemon: {} changed, with the next start",
                update.words.join(", ")
            )
        }
        Change::Relay(name, step) => phrase("relay", name, step),
        Change::Port(name, step) => phrase("port", name, step),
        Change::Uplink(name, step) => phrase("uplink", name, step),
        Change::Patch(name, step) => phrase("patch", name, step),
    }
}

fn phrase<T>(what: &str, name: &str, step: &Step<T>) -> String {
    match step {
        Step::Add(_) => format!("{what} {name} added"),
        Step::Remove => format!("{what} {name} removed"),
        Step::Update(update) => format!("{what} {name}: {} changed", update.words.join(", ")),
    }
}
