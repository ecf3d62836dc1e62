//! A machine with a NIC, made of files and of a driver that does what it is told to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::handover::VFIO;
use super::host::Host;
use super::spec::{FunctionState, Setting};
use super::sysfs::Sysfs;
use crate::uplink::error::{LinkError, Occupied};
use crate::uplink::netlink::{Device, Settings};

/// Address of the NIC.
pub(crate) const PF: &str = "0000:01:00.0";

/// A machine with the NIC `eth1`, which can have seven virtual functions and has none.
pub(crate) struct Machine {
    directory: tempfile::TempDir,
    pub inner: RefCell<Inner>,
}

/// What the driver and the kernel know, and what they are told to do.
#[derive(Default)]
pub(crate) struct Inner {
    pub functions: BTreeMap<u16, FunctionState>,
    pub devices: BTreeMap<String, Device>,
    pub addresses: Vec<(u32, [u8; 6])>,
    /// Everything that was asked for and changes something.
    pub asked: Vec<String>,
    /// Files whose names end so are not written, and settings with that word not made, with this error.
    pub refused: Vec<(&'static str, i32)>,
    /// Settings with these words are taken and not made.
    pub ignored: Vec<&'static str>,
    /// Whether the driver says nothing of its functions.
    pub silent: bool,
    /// The driver that virtual functions get.
    pub driver: Option<&'static str>,
    /// Whether the address of a running device can be changed.
    pub fixed_addresses: bool,
    pub occupied: Occupied,
    /// How many times something was waited for.
    pub pauses: u32,
    /// How many times after functions were made one has to wait for a link, without which there is no rate.
    pub reset: u32,
    /// How many of these are left.
    pub linkless: u32,
    /// Whether the driver filters VLANs.
    pub filters_vlans: bool,
    /// The IOMMU group that a virtual machine uses.
    pub used_group: Option<u32>,
}

impl Machine {
    pub fn new() -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            inner: RefCell::new(Inner {
                driver: Some("igbvf"),
                ..Inner::default()
            }),
        };
        for driver in ["igb", "igbvf", VFIO] {
            fs::create_dir_all(machine.path("bus/pci/drivers").join(driver)).unwrap();
        }
        fs::create_dir_all(machine.path("class/net")).unwrap();
        machine.file("bus/pci/drivers_probe", "");
        machine.function(PF, "igb", 1);
        machine.file(&format!("bus/pci/devices/{PF}/sriov_totalvfs"), "7\n");
        machine.file(&format!("bus/pci/devices/{PF}/sriov_numvfs"), "0\n");
        machine.netdev(PF, "eth1");
        machine
    }

    /// The same with virtual functions.
    pub fn with_functions(count: u16) -> Self {
        let machine = Self::new();
        machine.make_functions(count);
        machine
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// A file with its directories.
    pub fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        let path = self.path(path);
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    /// What was asked for since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.borrow_mut().asked)
    }

    pub fn driver_of(&self, address: &str) -> Option<String> {
        self.sysfs().driver(&address.parse().unwrap())
    }

    /// The address of a virtual function.
    pub fn address(number: u16) -> String {
        format!("0000:01:10.{number}")
    }

    fn function(&self, address: &str, driver: &str, group: u32) {
        let directory = format!("bus/pci/devices/{address}");
        self.file(&format!("{directory}/vendor"), "0x8086\n");
        self.file(&format!("{directory}/driver_override"), "(null)\n");
        let group = format!("../../../kernel/iommu_groups/{group}");
        self.link(&format!("{directory}/iommu_group"), &group);
        if !driver.is_empty() {
            let driver = format!("../../../bus/pci/drivers/{driver}");
            self.link(&format!("{directory}/driver"), &driver);
        }
    }

    fn netdev(&self, address: &str, name: &str) {
        fs::create_dir_all(self.path(&format!("bus/pci/devices/{address}/net/{name}"))).unwrap();
        self.file(&format!("class/net/{name}/flags"), "0x1002\n");
        let target = format!("../../../{address}");
        self.link(&format!("class/net/{name}/device"), &target);
        let mut inner = self.inner.borrow_mut();
        let ifindex = inner.devices.len() as u32 + 10;
        let device = Device {
            ifindex,
            ethernet: true,
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, ifindex as u8],
            ..Device::default()
        };
        inner.devices.insert(name.to_owned(), device);
    }

    fn make_functions(&self, count: u16) {
        self.file(
            &format!("bus/pci/devices/{PF}/sriov_numvfs"),
            count.to_string(),
        );
        for number in 0..count {
            let address = Self::address(number);
            self.function(&address, "", 20 + u32::from(number));
            self.link(
                &format!("bus/pci/devices/{address}/physfn"),
                &format!("../{PF}"),
            );
            let link = format!("bus/pci/devices/{PF}/virtfn{number}");
            self.link(&link, &format!("../{address}"));
            let state = FunctionState {
                spoofchk: true,
                ..FunctionState::default()
            };
            self.inner.borrow_mut().functions.insert(number, state);
            self.probe(&address);
        }
    }

    /// Has the bus find a driver.
    fn probe(&self, address: &str) {
        let directory = format!("bus/pci/devices/{address}");
        let preferred = fs::read_to_string(self.path(&directory).join("driver_override")).unwrap();
        let driver = match preferred.trim() {
            "" | "(null)" => self.inner.borrow().driver,
            other => Some(other).filter(|name| *name == VFIO).and(Some(VFIO)),
        };
        let Some(driver) = driver else { return };
        if self
            .inner
            .borrow()
            .refused
            .contains(&(driver, libc::ENODEV))
        {
            return;
        }
        let target = format!("../../../bus/pci/drivers/{driver}");
        self.link(&format!("{directory}/driver"), &target);
        if driver != VFIO {
            let number = address.rsplit_once('.').unwrap().1;
            let name = format!("eth1v{number}");
            self.netdev(address, &name);
            let mut inner = self.inner.borrow_mut();
            let mac = inner.functions[&number.parse().unwrap()].mac;
            if mac != [0; 6] {
                inner.devices.get_mut(&name).unwrap().mac = mac;
            }
        }
    }

    fn unbind(&self, address: &str) {
        let directory = self.path(&format!("bus/pci/devices/{address}"));
        fs::remove_file(directory.join("driver")).unwrap();
        let _ = fs::remove_dir_all(directory.join("net"));
    }
}

fn refusal(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Host for Machine {
    fn sysfs(&self) -> Sysfs<'_> {
        Sysfs::new(self.directory.path())
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        let short = file.strip_prefix(self.directory.path()).unwrap();
        let short = short.display().to_string();
        let refused = self.inner.borrow().refused.clone();
        if let Some((_, errno)) = refused.iter().find(|(end, _)| short.ends_with(end)) {
            return Err(refusal(*errno));
        }
        let asked = format!("{} < {}", short.trim_start_matches("bus/pci/"), text.trim());
        self.inner.borrow_mut().asked.push(asked);
        if short.ends_with("sriov_numvfs") {
            {
                let mut inner = self.inner.borrow_mut();
                inner.linkless = inner.reset;
            }
            self.make_functions(text.parse().unwrap());
        } else if short.ends_with("driver/unbind") {
            self.unbind(text);
        } else if short.ends_with("drivers_probe") {
            self.probe(text);
        } else {
            fs::write(file, text)?;
        }
        Ok(())
    }

    fn has_user(&self, group: u32) -> bool {
        self.inner.borrow().used_group == Some(group)
    }

    fn state(&self, pf: &str, vf: u16) -> Result<Option<FunctionState>, LinkError> {
        assert_eq!(pf, "eth1");
        let inner = self.inner.borrow();
        Ok(inner.functions.get(&vf).copied().filter(|_| !inner.silent))
    }

    fn set(&self, pf: &str, vf: u16, setting: Setting) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        let word = setting.word();
        if let Some((_, errno)) = inner.refused.iter().find(|(refused, _)| *refused == word) {
            return Err(refusal(*errno));
        }
        if word == "rate" && inner.linkless > 0 {
            return Err(refusal(libc::EINVAL));
        }
        inner.asked.push(format!("{pf} vf {vf} {setting}"));
        if inner.ignored.contains(&word) {
            return Ok(());
        }
        let state = inner.functions.get_mut(&vf).unwrap();
        match setting {
            Setting::Mac(mac) => state.mac = mac,
            Setting::Vlan(vlan) => state.vlan = vlan,
            Setting::Rate(rate) => state.rate = rate,
            Setting::Trust(on) => state.trust = on,
            Setting::Spoofchk(on) => state.spoofchk = on,
        }
        Ok(())
    }

    fn device(&self, name: &str) -> Result<Device, LinkError> {
        let inner = self.inner.borrow();
        let device = name.to_owned();
        let found = inner.devices.get(name).cloned();
        found.ok_or(LinkError::Missing { device })
    }

    fn filters_vlans(&self, _: &str) -> io::Result<bool> {
        Ok(self.inner.borrow().filters_vlans)
    }

    fn occupied(&self, _: u32) -> Result<Occupied, LinkError> {
        Ok(self.inner.borrow().occupied.clone())
    }

    fn change(&self, device: &Device, name: &str, settings: Settings) -> Result<(), LinkError> {
        let mut inner = self.inner.borrow_mut();
        if settings.mac.is_some() && inner.fixed_addresses {
            return Err(LinkError::admin("address", &refusal(libc::EADDRNOTAVAIL)));
        }
        if let Some((_, errno)) = inner.refused.iter().find(|(what, _)| *what == "up")
            && settings.up
        {
            return Err(LinkError::admin("setting up", &refusal(*errno)));
        }
        inner.asked.push(match settings.mac {
            Some(_) => format!("{name} address"),
            None => format!("{name} up {} silent {}", settings.up, settings.silent),
        });
        let known = inner.devices.get_mut(name).unwrap();
        assert_eq!(known.ifindex, device.ifindex);
        known.up |= settings.up;
        known.mac = settings.mac.unwrap_or(known.mac);
        Ok(())
    }

    fn add_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        let mut inner = self.inner.borrow_mut();
        let full = inner.refused.iter().find(|(what, _)| *what == "address");
        if let Some((_, errno)) = full.filter(|_| !inner.addresses.is_empty()) {
            return Err(LinkError::admin("address", &refusal(*errno)));
        }
        inner.addresses.push((ifindex, mac));
        Ok(())
    }

    fn remove_address(&self, ifindex: u32, mac: [u8; 6]) -> Result<(), LinkError> {
        let mut inner = self.inner.borrow_mut();
        inner.addresses.retain(|known| *known != (ifindex, mac));
        Ok(())
    }

    fn pause(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.pauses += 1;
        inner.linkless = inner.linkless.saturating_sub(1);
    }
}
