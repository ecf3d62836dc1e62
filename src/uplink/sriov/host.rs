//! The system as seen from here: files of sysfs, and the kernel's answers by netlink.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::Address;
use super::error::SriovError;
use super::spec::{FunctionState, Setting};
use super::sysfs::Sysfs;
use crate::sys::ethtool::Ethtool;
use crate::uplink::error::{LinkError, Occupied};
use crate::uplink::netlink::{Device, Settings, with_client};

/// The kernel's name for the filter of VLANs.
pub(super) const VLAN_FILTER: &str = "rx-vlan-filter";

/// What is asked of the system. Each call waits for its answer.
pub trait Host {
    /// Where sysfs is mounted.
    fn sysfs(&self) -> Sysfs<'_>;

    /// Writes into a file of sysfs that exists.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;

    /// Whether a virtual machine has an IOMMU group.
    fn has_user(&self, group: u32) -> bool;

    /// What a driver tells of a virtual function; `None` if it tells nothing.
    fn state(&self, pf: &str, vf: u16) -> Result<Option<FunctionState>, LinkError>;

    /// Has a physical function set something for a virtual one.
    fn set(&self, pf: &str, vf: u16, setting: Setting) -> io::Result<()>;

    /// A network device.
    fn device(&self, name: &str) -> Result<Device, LinkError>;

    /// Whether a network device drops tagged frames but those of VLAN devices on it.
    fn filters_vlans(&self, name: &str) -> io::Result<bool>;

    /// What of the host depends on a network device.
    fn occupied(&self, ifindex: u32) -> Result<Occupied, LinkError>;

    /// Changes a network device.
    fn change(&self, device: &Device, name: &str, settings: Settings) -> Result<(), LinkError>;

    /// Has a network device receive frames for a further address.
    fn add_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError>;

    /// Takes such an address back.
    fn remove_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError>;

    /// Waits a moment for something that comes by itself.
    fn pause(&self);
}

/// The system that this process runs on.
#[derive(Debug, Default)]
pub struct Linux(());

impl Host for Linux {
    fn sysfs(&self) -> Sysfs<'_> {
        Sysfs::new(Path::new("/sys"))
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        // One call of the system is one request to the kernel.
        let mut open = OpenOptions::new().write(true).open(file)?;
        open.write_all(text.as_bytes())
    }

    fn has_user(&self, group: u32) -> bool {
        // A group is opened once at a time.
        let node = Path::new("/dev/vfio").join(group.to_string());
        let open = OpenOptions::new().read(true).write(true).open(node);
        open.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
    }

    fn state(&self, pf: &str, vf: u16) -> Result<Option<FunctionState>, LinkError> {
        with_client(async |client| client.function_state(pf, vf).await)
    }

    fn set(&self, pf: &str, vf: u16, setting: Setting) -> io::Result<()> {
        let answer = with_client(async |client| Ok(client.set_function(pf, vf, setting).await));
        answer.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn device(&self, name: &str) -> Result<Device, LinkError> {
        with_client(async |client| client.get(name).await)
    }

    fn filters_vlans(&self, name: &str) -> io::Result<bool> {
        let features = Ethtool::new()?.features(name)?;
        let mut filters = features
            .iter()
            .filter(|feature| feature.name == VLAN_FILTER);
        Ok(filters.any(|feature| feature.active))
    }

    fn occupied(&self, ifindex: u32) -> Result<Occupied, LinkError> {
        with_client(async |client| client.occupied_with_above(ifindex).await)
    }

    fn change(&self, device: &Device, name: &str, settings: Settings) -> Result<(), LinkError> {
        with_client(async |client| client.change(device.ifindex, name, settings).await)
    }

    fn add_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        with_client(async |client| client.add_address(ifindex, mac).await)
    }

    fn remove_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        with_client(async |client| client.remove_address(ifindex, mac).await)
    }

    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes the lock that tells the user of a function from the next; `None` if another has it. It ends
/// with the file.
pub(super) fn lock(sysfs: Sysfs<'_>, address: &Address) -> Result<Option<File>, SriovError> {
    lock_by(sysfs, address, File::try_lock)
}

/// The same for one of several who share the function.
pub(super) fn lock_shared(sysfs: Sysfs<'_>, address: &Address) -> Result<Option<File>, SriovError> {
    lock_by(sysfs, address, File::try_lock_shared)
}

fn lock_by(
    sysfs: Sysfs<'_>,
    address: &Address,
    take: fn(&File) -> Result<(), TryLockError>,
) -> Result<Option<File>, SriovError> {
    let path = sysfs.directory(address).join("vendor");
    let file = File::open(&path).map_err(|error| SriovError::file("reading", &path, &error))?;
    match take(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(SriovError::file("locking", &path, &error)),
    }
}
