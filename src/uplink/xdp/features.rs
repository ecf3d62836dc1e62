//! Features of a device that would take something out of frames before a program sees them.

use std::io;

use crate::sys::ethtool::{Ethtool, Feature, name_of};
use crate::uplink::error::LinkError;

/// What a device must not do with the frames that it receives: take the tag out, or make one of several.
/// GRO in software comes after the driver's programs, and not at all where the kernel runs one.
pub const RECEIVING: [&str; 4] = [PARSE, PARSE_S, "rx-lro", "rx-gro-hw"];
const PARSE: &str = "rx-vlan-hw-parse";
const PARSE_S: &str = "rx-vlan-stag-hw-parse";
/// Each feature that takes tags out, and the one by which frames with VIDs that the host has not asked for do
/// not arrive.
const FILTERS: [(&str, &str); 2] = [(PARSE, "rx-vlan-filter"), (PARSE_S, "rx-vlan-stag-filter")];
/// What the other device of a pair must not leave undone: the tag, and checksums.
pub const SENDING: [&str; 4] = [
    "tx-vlan-hw-insert",
    "tx-vlan-stag-hw-insert",
    "tx-checksum-ip-generic",
    "tx-checksum-sctp",
];

/// The filter of the tags that a feature takes out of frames.
fn filter_of(feature: &str) -> Option<&'static str> {
    let known = FILTERS.iter().find(|(parse, _)| *parse == feature);
    known.map(|(_, filter)| *filter)
}

/// Features that were switched off.
#[derive(Debug, PartialEq, Eq)]
pub struct SwitchedOff {
    ifindex: u32,
    features: Vec<Feature>,
}

impl SwitchedOff {
    /// Switches those of [`RECEIVING`] off. One that takes tags out of frames may stay on if no tagged frame is
    /// for us, and if the device filters VLANs: then none arrives.
    pub fn receiving(ifindex: u32, device: &str, untagged: bool) -> Result<Self, LinkError> {
        match Self::new(ifindex, device, &RECEIVING) {
            Err(LinkError::Feature { feature, .. })
                if untagged && filter_of(&feature).is_some() => {}
            done => return done,
        }
        let features = Ethtool::new()
            .and_then(|ethtool| ethtool.features(device))
            .map_err(|error| {
                LinkError::admin(format!("asking for the features of {device}"), &error)
            })?;
        let is_on = |name: &str| {
            let mut active = features.iter().filter(|feature| feature.active);
            active.any(|feature| feature.name == name)
        };
        let rest = RECEIVING
            .into_iter()
            .filter(|name| !filter_of(name).is_some_and(is_on));
        Self::new(ifindex, device, &rest.collect::<Vec<_>>())
    }

    /// Switches those of `names` off that are on, and makes sure of it.
    pub fn new(ifindex: u32, device: &str, names: &[&str]) -> Result<Self, LinkError> {
        let failed = |error: io::Error| {
            LinkError::admin(format!("switching features of {device} off"), &error)
        };
        let ethtool = Ethtool::new().map_err(failed)?;
        let ours = |feature: &Feature| names.contains(&feature.name.as_str());
        let mut features = ethtool.features(device).map_err(failed)?;
        features.retain(|feature| ours(feature) && (feature.wanted || feature.active));
        let off = Self { ifindex, features };
        if off.features.is_empty() {
            return Ok(off);
        }
        match ethtool.set(device, &off.features, false) {
            // One that cannot be changed is told below.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(failed(error)),
            _ => {}
        }
        let now = ethtool.features(device).map_err(failed)?;
        if let Some(feature) = now.iter().find(|feature| ours(feature) && feature.active) {
            off.give_up(device);
            return Err(LinkError::Feature {
                device: device.to_owned(),
                feature: feature.name.clone(),
            });
        }
        Ok(off)
    }

    /// Switches them on again that somebody wanted on. It is no error if the device is gone.
    pub fn restore(&self) -> Result<(), LinkError> {
        let Some(device) = name_of(self.ifindex) else {
            return Ok(());
        };
        let wanted = self.features.iter().filter(|feature| feature.wanted);
        let done = Ethtool::new().and_then(|ethtool| ethtool.set(&device, wanted, true));
        match done {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(LinkError::admin(
                format!("switching features of {device} on again"),
                &error,
            )),
            _ => Ok(()),
        }
    }

    /// Undoes it because of an error that is the one to tell.
    pub fn give_up(&self, device: &str) {
        if let Err(error) = self.restore() {
            log::warn!("{device} does not get its features back: {error}");
        }
    }
}
