//! Settings of a virtual function: made by the physical one, read back, and held against what goes
//! over the link.

use std::io;

use super::error::{SriovError, errno_of};
use super::host::Host;
use super::spec::{FunctionSettings, FunctionState, Serves, Setting};
use super::sysfs::PhysicalFunction;
use crate::uplink::error::LinkError;

/// Has what differs set, and finds out what the driver made of it: `None` if it does not tell. What it refuses
/// and a link would mend is tried again, up to `patience` times in all.
pub fn apply(
    host: &impl Host,
    pf: &PhysicalFunction,
    vf: u16,
    wanted: &FunctionSettings,
    mut patience: u32,
) -> Result<Option<FunctionState>, LinkError> {
    let before = host.state(pf.name(), vf)?;
    let mut changed = false;
    for setting in wanted.list() {
        // A function in use may be disturbed even by what changes nothing.
        if before.is_some_and(|state| state.has(setting)) {
            continue;
        }
        set(host, pf, vf, setting, &mut patience)?;
        changed = true;
    }
    if !changed {
        return Ok(before);
    }
    let after = host.state(pf.name(), vf)?;
    if let Some(after) = after
        && let Some(setting) = wanted.list().find(|setting| !after.has(*setting))
    {
        return Err(SriovError::Ignored {
            pf: pf.name().to_owned(),
            vf,
            driver: pf.driver_name(),
            setting,
        }
        .into());
    }
    Ok(after)
}

fn set(
    host: &impl Host,
    pf: &PhysicalFunction,
    vf: u16,
    setting: Setting,
    patience: &mut u32,
) -> Result<(), LinkError> {
    let before = *patience;
    let mut done = host.set(pf.name(), vf, setting);
    while *patience > 0 && done.as_ref().is_err_and(needs_link) {
        *patience -= 1;
        host.pause();
        done = host.set(pf.name(), vf, setting);
    }
    if done.is_ok() && *patience < before {
        let tries = before - *patience;
        log::info!(
            "{} took `{setting}` for VF {vf} after {tries} refusals: its link is back",
            pf.name()
        );
    }
    done.map_err(|error| {
        if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
            let call = format!("`ip link set dev {} vf {vf} {setting}`", pf.name());
            return LinkError::admin(call, &error);
        }
        SriovError::Refused {
            pf: pf.name().to_owned(),
            vf,
            driver: pf.driver_name(),
            setting,
            errno: errno_of(&error),
        }
        .into()
    })
}

/// Whether a driver may have refused a setting because its NIC has no link yet.
fn needs_link(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EAGAIN | libc::EBUSY | libc::ENETDOWN)
    )
}

/// Whether the NIC lets through what goes over the link. An untrusted function serves one address,
/// its own, and one VLAN, the one that the physical function has put it in.
pub fn check(
    pf: &PhysicalFunction,
    vf: u16,
    state: &FunctionState,
    mac: [u8; 6],
    serves: &Serves,
) -> Result<(), SriovError> {
    if serves.tagged && state.vlan != 0 {
        return Err(SriovError::Tagged {
            pf: pf.name().to_owned(),
            vf,
            vlan: state.vlan,
        });
    }
    let Some(why) = needs_trust(serves, mac) else {
        return Ok(());
    };
    let needed = [Setting::Trust(true), Setting::Spoofchk(false)];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|setting| !state.has(*setting))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(SriovError::Untrusted {
        pf: pf.name().to_owned(),
        vf,
        why: why.to_owned(),
        missing,
    })
}

/// What of the traffic an untrusted function with the address `mac` would not carry.
fn needs_trust(serves: &Serves, mac: [u8; 6]) -> Option<&'static str> {
    if serves.tagged {
        Some("the uplink sends tagged frames")
    } else if serves.open {
        Some("ports of the relay may use addresses that nobody has named")
    } else if serves.macs.len() > 1 {
        Some("the relay serves several addresses")
    } else if serves.macs.iter().any(|served| *served != mac) {
        Some("its address is not the one that the relay serves")
    } else {
        None
    }
}
