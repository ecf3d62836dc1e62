//! From a specification to a virtual function whose network device can be opened.

use std::fs::File;

use super::error::{SriovError, errno_of};
use super::handover::VFIO;
use super::held::HeldFunction;
use super::host::{Host, lock};
use super::settings;
use super::spec::{FunctionSettings, SriovSpec, Via};
use super::sysfs::{PhysicalFunction, VirtualFunction};
use crate::uplink::error::LinkError;
use crate::uplink::netlink::{Device, Settings};

/// How many times a device that a driver is making is looked for.
const PATIENCE: u32 = 100;
/// How many times a setting is tried on a NIC that may have no link because functions were just made.
const LINK_PATIENCE: u32 = 500;

/// A virtual function that can be used.
pub struct Ready {
    /// The name of its network device.
    pub device: String,
    /// What ends with its use.
    pub held: HeldFunction,
}

/// Makes, checks and sets up the virtual function; its network device is switched on.
pub fn prepare(host: &impl Host, spec: &SriovSpec) -> Result<Ready, LinkError> {
    let (pf, patience) = physical(host, spec)?;
    let vf = pf.function(spec.vf)?;
    let lock = lock(host.sysfs(), &vf.address)?.ok_or_else(|| SriovError::InUse {
        pf: spec.pf.clone(),
        vf: spec.vf,
    })?;
    let (name, device) = device_of(host, spec, vf)?;
    if !spec.take_parent && spec.via != Via::Packet {
        let occupied = host.occupied(device.ifindex)?;
        if !occupied.is_free() {
            return Err(LinkError::Occupied {
                parent: name,
                occupied,
            });
        }
    }
    let wanted = wanted(spec);
    let state = settings::apply(host, &pf, spec.vf, &wanted, patience)?;
    let (name, device) = align(host, spec, vf, (name, device), &wanted)?;
    match state {
        Some(state) => settings::check(&pf, spec.vf, &state, device.mac, &spec.serves)?,
        None => log::warn!(
            "{} tells nothing of VF {}: whether it lets all frames through is not known",
            spec.pf,
            spec.vf
        ),
    }
    if spec.serves.tagged && filters_vlans(host, &name)? {
        return Err(SriovError::Filtered {
            pf: spec.pf.clone(),
            vf: spec.vf,
            device: name,
        }
        .into());
    }
    let settings = Settings {
        up: true,
        silent: true,
        ..Settings::default()
    };
    host.change(&device, &name, settings)
        .map_err(|error| not_up(spec, &name, error))?;
    let held = hold(host, spec, (&name, &device), lock)?;
    Ok(Ready { device: name, held })
}

/// The physical function, with its virtual ones made where that is wanted, and how many times it may refuse a
/// setting for want of a link.
fn physical(host: &impl Host, spec: &SriovSpec) -> Result<(PhysicalFunction, u32), LinkError> {
    let pf = host.sysfs().physical_function(&spec.pf)?;
    let Some(wanted) = spec.create.filter(|_| pf.made == 0) else {
        return Ok((pf, 0));
    };
    // Many drivers reset the NIC when they make functions, and some settings need its link. A carrier says
    // nothing for a while: it may be the one of before, or go once more.
    let had_carrier = host.sysfs().has_carrier(&spec.pf);
    let file = host.sysfs().directory(&pf.address).join("sriov_numvfs");
    host.write(&file, &wanted.to_string())
        .map_err(|error| SriovError::Create {
            pf: spec.pf.clone(),
            wanted,
            total: pf.total,
            errno: errno_of(&error),
        })?;
    log::info!("{}: {wanted} virtual functions made", spec.pf);
    let patience = if had_carrier { LINK_PATIENCE } else { 0 };
    Ok((host.sysfs().physical_function(&spec.pf)?, patience))
}

/// The function's network device, once its driver has made it.
fn device_of(
    host: &impl Host,
    spec: &SriovSpec,
    vf: &VirtualFunction,
) -> Result<(String, Device), LinkError> {
    let sysfs = host.sysfs();
    for _ in 0..PATIENCE {
        if let Some(name) = sysfs.device(&vf.address) {
            let device = host.device(&name)?;
            return Ok((name, device));
        }
        if sysfs.driver(&vf.address).as_deref() == Some(VFIO) {
            break;
        }
        host.pause();
    }
    let (pf, number) = (spec.pf.clone(), spec.vf);
    Err(match sysfs.driver(&vf.address) {
        None => SriovError::NoDriver {
            pf,
            vf: number,
            address: vf.address.clone(),
        },
        Some(driver) if driver == VFIO => SriovError::HandedOver { pf, vf: number },
        Some(driver) => SriovError::NoDevice {
            pf,
            vf: number,
            driver,
        },
    }
    .into())
}

/// What is to be set: where one station is served, its address is the function's.
fn wanted(spec: &SriovSpec) -> FunctionSettings {
    let only = match spec.serves.macs.as_slice() {
        [only] if !spec.serves.open => Some(*only),
        _ => None,
    };
    FunctionSettings {
        mac: spec.settings.mac.or(only),
        ..spec.settings
    }
}

/// Gives the network device the address that the physical function has set. Some drivers let it be
/// changed; others take it when they start, so the function is given to its driver anew.
fn align(
    host: &impl Host,
    spec: &SriovSpec,
    vf: &VirtualFunction,
    (name, device): (String, Device),
    wanted: &FunctionSettings,
) -> Result<(String, Device), LinkError> {
    let Some(mac) = wanted.mac.filter(|mac| *mac != device.mac) else {
        return Ok((name, device));
    };
    let settings = Settings {
        mac: Some(mac),
        ..Settings::default()
    };
    if host.change(&device, &name, settings).is_err() {
        let sysfs = host.sysfs();
        let driver = sysfs.directory(&vf.address).join("driver");
        for file in [driver.join("unbind"), sysfs.bus().join("drivers_probe")] {
            host.write(&file, vf.address.as_ref())
                .map_err(|error| SriovError::file("writing", &file, &error))?;
        }
        return device_of(host, spec, vf);
    }
    let device = host.device(&name)?;
    Ok((name, device))
}

fn filters_vlans(host: &impl Host, name: &str) -> Result<bool, LinkError> {
    let asked = host.filters_vlans(name);
    asked.map_err(|error| LinkError::admin(format!("asking for the features of {name}"), &error))
}

/// Has the device receive for the stations behind it whose address is not its own.
fn hold(
    host: &impl Host,
    spec: &SriovSpec,
    (name, device): (&str, &Device),
    lock: File,
) -> Result<HeldFunction, LinkError> {
    let mut held = HeldFunction::new(lock, device.ifindex);
    let others = spec.serves.macs.iter().filter(|mac| **mac != device.mac);
    for mac in others {
        if let Err(error) = host.add_address(device.ifindex, *mac) {
            for added in &held.addresses {
                host.remove_address(device.ifindex, *added)?;
            }
            return Err(not_added(spec, name, *mac, error));
        }
        held.addresses.push(*mac);
    }
    Ok(held)
}

/// What the kernel or the driver says when a device is not switched on. A missing capability stays what it is.
fn not_up(spec: &SriovSpec, device: &str, error: LinkError) -> LinkError {
    match error {
        LinkError::Os { errno, .. } => SriovError::NotUp {
            pf: spec.pf.clone(),
            vf: spec.vf,
            device: device.to_owned(),
            errno,
        }
        .into(),
        other => other,
    }
}

/// The same for an address. This process has the capability, or it would not have come so far: who says that it
/// is not permitted is the NIC.
fn not_added(spec: &SriovSpec, device: &str, mac: [u8; 6], error: LinkError) -> LinkError {
    let errno = match error {
        LinkError::Os { errno, .. } => errno,
        LinkError::Capability { .. } => libc::EPERM,
        other => return other,
    };
    SriovError::AddressRefused {
        pf: spec.pf.clone(),
        vf: spec.vf,
        device: device.to_owned(),
        mac,
        errno,
    }
    .into()
}
