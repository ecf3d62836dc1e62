//! What sysfs says of physical and virtual functions.
//!
//! Nothing in it is trusted: links and files may be missing, go while they are read, or hold
//! anything.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::address::Address;
use super::error::SriovError;
use super::spec::FunctionState;
use crate::uplink::error::LinkError;
use crate::uplink::spec::is_name;

/// No file of sysfs that is read here is longer.
const TEXT_MAX: u64 = 4096;

/// A sysfs, mounted somewhere.
#[derive(Debug, Clone, Copy)]
pub struct Sysfs<'a> {
    root: &'a Path,
}

/// A PCI function that has, or can have, virtual functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhysicalFunction {
    /// Where it is.
    pub address: Address,
    /// Name of its network device, in this network namespace.
    pub device: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// How many virtual functions it can have.
    pub total: u16,
    /// How many there are.
    pub made: u16,
    /// Those, by their numbers.
    pub functions: Vec<VirtualFunction>,
}

/// A virtual function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtualFunction {
    /// Its number.
    pub number: u16,
    /// Where it is.
    pub address: Address,
    /// Name of its network device, in this network namespace.
    pub device: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// The group of devices that only together can be handed to a virtual machine.
    pub iommu_group: Option<u32>,
    /// What the physical function has set; nothing where nobody asked, or its driver does not tell.
    pub state: Option<FunctionState>,
}

impl PhysicalFunction {
    /// What it is called in sentences.
    pub fn name(&self) -> &str {
        self.device.as_deref().unwrap_or(self.address.as_ref())
    }

    /// The driver, for sentences.
    pub(super) fn driver_name(&self) -> String {
        self.driver.clone().unwrap_or_else(|| "nobody".to_owned())
    }

    /// The virtual function with a number.
    ///
    /// # Errors
    ///
    /// [`SriovError::OutOfRange`].
    pub fn function(&self, number: u16) -> Result<&VirtualFunction, SriovError> {
        let found = self.functions.iter().find(|vf| vf.number == number);
        found.ok_or_else(|| SriovError::OutOfRange {
            pf: self.name().to_owned(),
            vf: number,
            made: self.made,
            total: self.total,
        })
    }
}

impl<'a> Sysfs<'a> {
    /// The sysfs that is mounted at `root`.
    pub fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// All physical functions, by their addresses.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn physical_functions(&self) -> Result<Vec<PhysicalFunction>, SriovError> {
        let mut found = vec![];
        for address in names(&self.root.join("bus/pci/devices"))? {
            let Ok(address) = address.parse() else {
                continue;
            };
            found.extend(self.physical_at(&address)?);
        }
        found.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(found)
    }

    /// The physical function that has a network device.
    ///
    /// # Errors
    ///
    /// There is no such device, it has no virtual functions, or what cannot be read.
    pub fn physical_function(&self, device: &str) -> Result<PhysicalFunction, LinkError> {
        if !is_name(device) {
            let name = device.to_owned();
            return Err(LinkError::BadName { name });
        }
        let class = self.root.join("class/net").join(device);
        if !class.exists() {
            let device = device.to_owned();
            return Err(LinkError::Missing { device });
        }
        let address = target(&class.join("device")).and_then(|name| name.parse().ok());
        let found = match address {
            Some(address) => self.physical_at(&address)?,
            None => None,
        };
        let mut found = found.ok_or_else(|| SriovError::NotPhysical {
            pf: device.to_owned(),
        })?;
        // A function with several ports has several devices: it is called what it was asked for.
        found.device = Some(device.to_owned());
        Ok(found)
    }

    /// The virtual function at an address, and its physical function; `None` if it is none.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn virtual_function(
        &self,
        address: &Address,
    ) -> Result<Option<(PhysicalFunction, VirtualFunction)>, SriovError> {
        let link = self.directory(address).join("physfn");
        let Some(physical) = target(&link).and_then(|name| name.parse().ok()) else {
            return Ok(None);
        };
        let Some(physical) = self.physical_at(&physical)? else {
            return Ok(None);
        };
        let found = physical.functions.iter().find(|vf| vf.address == *address);
        Ok(found.cloned().map(|vf| (physical, vf)))
    }

    /// The PCI function behind a network device; `None` for one that is elsewhere.
    pub(super) fn address(&self, device: &str) -> Option<Address> {
        let link = self.root.join("class/net").join(device).join("device");
        target(&link)?.parse().ok()
    }

    /// The directory of a function.
    pub(super) fn directory(&self, address: &Address) -> PathBuf {
        self.root.join("bus/pci/devices").join(address.as_ref())
    }

    /// The directory of all PCI devices and drivers.
    pub(super) fn bus(&self) -> PathBuf {
        self.root.join("bus/pci")
    }

    /// The driver of a function.
    pub(super) fn driver(&self, address: &Address) -> Option<String> {
        target(&self.directory(address).join("driver"))
    }

    /// The network device of a function.
    pub(super) fn device(&self, address: &Address) -> Option<String> {
        let devices = names(&self.directory(address).join("net")).ok()?;
        devices.into_iter().filter(|name| is_name(name)).min()
    }

    /// Whether a network device is switched on.
    pub(super) fn is_up(&self, device: &str) -> Result<bool, SriovError> {
        let file = self.root.join("class/net").join(device).join("flags");
        let flags = text(&file)?;
        let flags = flags.strip_prefix("0x").unwrap_or(&flags);
        let flags = u32::from_str_radix(flags, 16).map_err(|_| strange(&file, "flags"))?;
        Ok(flags & libc::IFF_UP.cast_unsigned() != 0)
    }

    /// Whether a network device is switched on and has a link.
    pub(super) fn has_carrier(&self, device: &str) -> bool {
        let file = self.root.join("class/net").join(device).join("carrier");
        text(&file).is_ok_and(|carrier| carrier == "1")
    }

    /// A physical function; `None` for one that cannot have virtual ones.
    fn physical_at(&self, address: &Address) -> Result<Option<PhysicalFunction>, SriovError> {
        let directory = self.directory(address);
        let total = directory.join("sriov_totalvfs");
        if !total.exists() {
            return Ok(None);
        }
        let mut functions = vec![];
        for name in names(&directory)? {
            let number = name.strip_prefix("virtfn").map(str::parse);
            let Some(Ok(number)) = number else { continue };
            let Some(Ok(address)) = target(&directory.join(&name)).map(|name| name.parse()) else {
                return Err(strange(
                    &directory.join(&name),
                    "the link to a PCI function",
                ));
            };
            functions.push(self.virtual_at(number, address));
        }
        functions.sort_by_key(|function| function.number);
        Ok(Some(PhysicalFunction {
            address: address.clone(),
            device: self.device(address),
            driver: self.driver(address),
            total: number(&total)?,
            made: number(&directory.join("sriov_numvfs"))?,
            functions,
        }))
    }

    fn virtual_at(&self, number: u16, address: Address) -> VirtualFunction {
        let group = target(&self.directory(&address).join("iommu_group"));
        VirtualFunction {
            number,
            device: self.device(&address),
            driver: self.driver(&address),
            iommu_group: group.and_then(|group| group.parse().ok()),
            state: None,
            address,
        }
    }
}

/// The last part of what a link points to.
fn target(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// The names in a directory that can be written.
fn names(directory: &Path) -> Result<Vec<String>, SriovError> {
    let failed = |error: &io::Error| SriovError::file("reading", directory, error);
    let entries = fs::read_dir(directory).map_err(|error| failed(&error))?;
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(|error| failed(&error))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn text(file: &Path) -> Result<String, SriovError> {
    let mut text = String::new();
    let read = File::open(file).and_then(|open| open.take(TEXT_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(strange(file, "text")),
        Err(error) => Err(SriovError::file("reading", file, &error)),
    }
}

fn number(file: &Path) -> Result<u16, SriovError> {
    text(file)?
        .parse()
        .map_err(|_| strange(file, "a number of functions"))
}

fn strange(file: &Path, expected: &str) -> SriovError {
    SriovError::Strange {
        file: file.display().to_string(),
        expected: expected.to_owned(),
    }
}
