//! What the daemon tells of itself: events in the log, and the answers of the API.

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
        log::warn!("port {port}: a frame of {len} bytes exceeds the MTU of the port and was dropped");
    }
}
