//! MACVTAP devices that are there already. They are used as they are, and stay.

use super::{open_queues, opened, what};
use crate::frame::mac::Mac;
use crate::sys::ethtool::name_of;
use crate::uplink::Opened;
use crate::uplink::error::LinkError;
use crate::uplink::netlink::{Client, Device, Settings, with_client};
use crate::uplink::spec::{Changed, Created, FoundSpec};

/// Takes the device if it is what it has to be.
pub fn open(spec: &FoundSpec) -> Result<Opened, LinkError> {
    with_client(async |client| {
        let device = client.get(&spec.name).await?;
        check(spec, &device).map_err(|wrong| LinkError::NotAsStated {
            device: spec.name.clone(),
            wrong,
        })?;
        check_parent(client, spec, &device).await?;
        let (nodes, uso) = open_queues(&spec.name, spec.queues, device.ifindex)?;
        let settings = Settings {
            mtu: spec.mtu.filter(|mtu| u32::from(*mtu) != device.mtu),
            // It filters groups by those that the host has joined on it, in every mode.
            all_multicast: !device.reception.all_groups,
            up: !device.up,
            ..Settings::default()
        };
        let changed = Changed {
            ifindex: device.ifindex,
            mtu: settings.mtu.map(|_| device.mtu()),
            few_groups: settings.all_multicast,
            down: settings.up,
        };
        let after = match client.change(device.ifindex, &spec.name, settings).await {
            Ok(()) => client.get(&spec.name).await,
            Err(error) => Err(error),
        };
        match after {
            Ok(device) => Ok(opened(device, uso, Some(Created::Changed(changed)), nodes)),
            Err(error) => {
                // The first error is the one to tell.
                if let Err(error) = changed.undo(client).await {
                    log::warn!("{} is not as it was: {error}", spec.name);
                }
                Err(error)
            }
        }
    })
}

/// What about the device is not as it has to be, and what would be right.
fn check(spec: &FoundSpec, device: &Device) -> Result<(), String> {
    let name = &spec.name;
    let Some(mode) = device.macvtap else {
        return Err(format!("is {}; name another", what(device)));
    };
    if mode != spec.mode {
        return Err(format!(
            "is a MACVTAP device in mode {mode}, not {}; write `mode = \"{mode}\"`, or name another",
            spec.mode
        ));
    }
    match (&spec.parent, parent_of(device)) {
        (Some(wanted), Some(parent)) if *wanted != parent => {
            return Err(format!(
                "is on {parent}, not on {wanted}; write `parent = \"{parent}\"`, or name another"
            ));
        }
        (Some(wanted), None) => {
            return Err(format!(
                "is on a device of another network namespace, not on {wanted}; leave `parent` out, or name another"
            ));
        }
        _ => {}
    }
    match spec.mac {
        Some(mac) if mac != device.mac => {
            let (mac, found) = (Mac::new(mac), Mac::new(device.mac));
            Err(format!(
                "has the address {found}, not {mac} as the VM behind it; set it with `ip link set dev {name} \
                 address {mac}`"
            ))
        }
        _ => Ok(()),
    }
}

/// The name of the device below, if that is in this network namespace.
fn parent_of(device: &Device) -> Option<String> {
    let here = device.lower.filter(|_| !device.lower_elsewhere);
    here.and_then(name_of)
}

/// Nothing is changed about the parent.
async fn check_parent(client: &Client, spec: &FoundSpec, device: &Device) -> Result<(), LinkError> {
    let Some(name) = parent_of(device) else {
        return Ok(());
    };
    let parent = client.get(&name).await?;
    if !parent.up {
        return Err(LinkError::Down { device: name });
    }
    match spec.mtu {
        Some(mtu) if u32::from(mtu) > parent.mtu => Err(LinkError::NotAsStated {
            device: spec.name.clone(),
            wrong: format!(
                "cannot have an MTU of {mtu} on {name}, which has one of {}; set that with `ip link set dev {name} \
                 mtu {mtu}`, or choose a smaller `mtu`",
                parent.mtu
            ),
        }),
        _ => Ok(()),
    }
}
