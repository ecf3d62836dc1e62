//! Settings of a relay that contradict each other.

use std::sync::Arc;

use super::config::{MacPolicy, Mode, RelayConfig, Role, VlanConfig};
use super::port::{MAX_PORTS, Slot};
use super::tables::Port;
use super::vid_set::VidSet;
use crate::frame::ethernet::Vid;

/// Settings that contradict each other. The slot is that of the port to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// More ports than fit.
    #[error("a relay has at most {MAX_PORTS} ports")]
    TooManyPorts,
    /// A second uplink.
    #[error("a relay has at most one uplink")]
    SecondUplink(Slot),
    /// A local port without a VLAN key beside ports that have one.
    #[error("some ports of the relay have a VLAN key, so every local port needs one")]
    VlanKeyMissing(Slot),
    /// Learning on a VEPA or private port.
    #[error("a VEPA or private port does not learn: its mac_policy must be pinned")]
    LearningWithoutBridge(Slot),
    /// A passthrough port that is not alone with an uplink.
    #[error("a passthrough relay has exactly one local port and one uplink")]
    PassthroughNotAlone(Slot),
    /// VLAN keys in a passthrough relay.
    #[error("a passthrough relay has no VLAN keys")]
    PassthroughVlan(Slot),
    /// A translation to one internal VID from two external ones.
    #[error("two external VIDs translate to VID {1}")]
    TranslationNotBijective(Slot, Vid),
    /// A VID in two sets of shared learning.
    #[error("VID {0} is in two fid sets")]
    VidInTwoFids(Vid),
}

/// Finds settings that contradict each other.
pub(super) fn check(config: &RelayConfig, ports: &[Option<Arc<Port>>]) -> Result<(), RelayError> {
    if ports.len() > MAX_PORTS {
        return Err(RelayError::TooManyPorts);
    }
    let ports = || {
        let slots = (0..).map_while(Slot::new);
        slots
            .zip(ports)
            .filter_map(|(slot, port)| Some((slot, &port.as_ref()?.config)))
    };
    let locals = || ports().filter(|(_, port)| port.role == Role::Local);
    if let Some((slot, _)) = ports().filter(|(_, port)| port.role == Role::Uplink).nth(1) {
        return Err(RelayError::SecondUplink(slot));
    }
    let keyed = ports().find(|(_, port)| port.vlan != VlanConfig::Flat);
    if let Some((slot, _)) = locals().find(|(_, port)| port.mode == Mode::Passthrough) {
        if ports().count() != 2 || locals().count() != 1 {
            return Err(RelayError::PassthroughNotAlone(slot));
        }
        if let Some((slot, _)) = keyed {
            return Err(RelayError::PassthroughVlan(slot));
        }
    }
    for (slot, port) in locals() {
        if keyed.is_some() && port.vlan == VlanConfig::Flat {
            return Err(RelayError::VlanKeyMissing(slot));
        }
        let isolated = matches!(port.mode, Mode::Vepa | Mode::Private);
        if isolated && port.mac_policy != MacPolicy::Pinned {
            return Err(RelayError::LearningWithoutBridge(slot));
        }
    }
    for (slot, port) in ports() {
        if let VlanConfig::Translate(pairs) = &port.vlan {
            let mut seen = VidSet::new();
            if let Some(vid) = pairs.values().find(|vid| !seen.insert(**vid)) {
                return Err(RelayError::TranslationNotBijective(slot, *vid));
            }
        }
    }
    let mut seen = VidSet::new();
    for set in &config.fids {
        if let Some(vid) = set.iter().find(|vid| !seen.insert(*vid)) {
            return Err(RelayError::VidInTwoFids(vid));
        }
    }
    Ok(())
}
