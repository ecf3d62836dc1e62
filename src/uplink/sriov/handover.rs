//! Virtual functions handed to virtual machines by vfio-pci, and taken back.

use super::address::Address;
use super::error::{HandoverError, SriovError};
use super::host::{Host, lock};
use super::settings;
use super::spec::FunctionSettings;
use super::sysfs::{PhysicalFunction, VirtualFunction};

/// The driver that hands functions to virtual machines.
pub const VFIO: &str = "vfio-pci";

/// Gives a virtual function to vfio-pci, so that a virtual machine can have it, with the address `mac` if
/// there is one. It is no error if it is there already; then the virtual machine gets the address when
/// its driver starts.
///
/// # Errors
///
/// What stands against it, and what helps; the function then has the driver that it had.
pub fn bind(
    host: &impl Host,
    address: &Address,
    mac: Option<[u8; 6]>,
) -> Result<(), HandoverError> {
    let sysfs = host.sysfs();
    let Some((pf, function)) = sysfs.virtual_function(address)? else {
        return Err(not_virtual(address));
    };
    if function.driver.as_deref() == Some(VFIO) {
        set_mac(host, &pf, &function, mac)?;
        return Ok(());
    }
    if function.iommu_group.is_none() {
        return Err(HandoverError::NoIommu {
            address: address.clone(),
        });
    }
    if !sysfs.bus().join("drivers").join(VFIO).exists() {
        return Err(HandoverError::NoVfio);
    }
    // Held until the function has changed hands.
    let Some(_lock) = lock(sysfs, address)? else {
        return Err(HandoverError::InUse {
            address: address.clone(),
        });
    };
    if let Some(device) = function.device.clone()
        && sysfs.is_up(&device)?
    {
        return Err(HandoverError::Up {
            address: address.clone(),
            device,
        });
    }
    set_mac(host, &pf, &function, mac)?;
    let bound = change_driver(host, address, VFIO, function.driver.is_some())
        .map_err(HandoverError::from)
        .and_then(|()| {
            if sysfs.driver(address).as_deref() == Some(VFIO) {
                Ok(())
            } else {
                Err(HandoverError::NotTaken {
                    address: address.clone(),
                })
            }
        });
    if bound.is_err() {
        // The first error is the one to tell.
        let bound = sysfs.driver(address).is_some();
        if !bound && let Err(error) = change_driver(host, address, "", false) {
            log::warn!("{address} stays without a driver: {error}");
        }
    }
    bound
}

/// Takes a virtual function back from vfio-pci and gives it to the driver of its kind. Returns that
/// driver; `None` if none has taken it.
///
/// # Errors
///
/// What stands against it, and what helps.
pub fn unbind(host: &impl Host, address: &Address) -> Result<Option<String>, HandoverError> {
    let sysfs = host.sysfs();
    let Some((_, function)) = sysfs.virtual_function(address)? else {
        return Err(not_virtual(address));
    };
    if function.driver.as_deref() != Some(VFIO) {
        return Err(HandoverError::NotBound {
            address: address.clone(),
        });
    }
    // The kernel would wait until the virtual machine lets go.
    if function
        .iommu_group
        .is_some_and(|group| host.has_user(group))
    {
        return Err(HandoverError::Busy {
            address: address.clone(),
        });
    }
    change_driver(host, address, "", true)?;
    Ok(sysfs.driver(address))
}

fn set_mac(
    host: &impl Host,
    pf: &PhysicalFunction,
    function: &VirtualFunction,
    mac: Option<[u8; 6]>,
) -> Result<(), HandoverError> {
    if mac.is_some() {
        let wanted = FunctionSettings {
            mac,
            ..FunctionSettings::default()
        };
        settings::apply(host, pf, function.number, &wanted, 0)?;
    }
    Ok(())
}

/// Lets go of the driver that has a function, if one has it, and has the bus find `driver` for it, or
/// without one whichever fits.
fn change_driver(
    host: &impl Host,
    address: &Address,
    driver: &str,
    bound: bool,
) -> Result<(), SriovError> {
    let sysfs = host.sysfs();
    let directory = sysfs.directory(address);
    let write = |file: &std::path::Path, text: &str| {
        host.write(file, text)
            .map_err(|error| SriovError::file("writing", file, &error))
    };
    // An empty line takes back what was written before.
    let preference = directory.join("driver_override");
    write(&preference, &format!("{driver}\n"))?;
    let moved = if bound {
        write(&directory.join("driver/unbind"), address.as_ref())
    } else {
        Ok(())
    }
    .and_then(|()| write(&sysfs.bus().join("drivers_probe"), address.as_ref()));
    if moved.is_err() && !driver.is_empty() {
        write(&preference, "\n")?;
    }
    moved
}

fn not_virtual(address: &Address) -> HandoverError {
    HandoverError::NotVirtual {
        address: address.clone(),
    }
}
