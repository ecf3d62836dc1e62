//! What stands against a virtual function, and what the operator can do about it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::address::Address;
use super::handover::VFIO;
use super::host::VLAN_FILTER;
use super::spec::Setting;
use crate::frame::mac::Mac;
use crate::uplink::error::LinkError;

/// Why a virtual function cannot be used. The text ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SriovError {
    /// The device cannot have virtual functions.
    #[error(
        "{pf} has no virtual functions: its driver or its firmware offers none; switch SR-IOV on in the \
         firmware, or choose another device"
    )]
    NotPhysical {
        /// The device.
        pf: String,
    },
    /// The NIC does not have so many of them.
    #[error("{}", out_of_range(pf, *vf, *made, *total))]
    OutOfRange {
        /// The physical function.
        pf: String,
        /// The number asked for.
        vf: u16,
        /// How many there are.
        made: u16,
        /// How many there can be.
        total: u16,
    },
    /// The virtual functions cannot be made.
    #[error(
        "{pf} cannot have {wanted} virtual functions: {}; {}",
        io::Error::from_raw_os_error(*errno),
        not_created(*errno, *total)
    )]
    Create {
        /// The physical function.
        pf: String,
        /// How many were to be made.
        wanted: u16,
        /// How many there can be.
        total: u16,
        /// The error of the system.
        errno: i32,
    },
    /// The function is handed to virtual machines.
    #[error(
        "VF {vf} of {pf} is bound to {VFIO}, for a virtual machine; take it back with `evb sriov unbind \
         {pf} {vf}`, or choose another"
    )]
    HandedOver {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
    },
    /// No driver has the function.
    #[error(
        "VF {vf} of {pf} ({address}) has no driver; load the one of its kind (`modprobe --all $(cat \
         /sys/bus/pci/devices/{address}/modalias)`), or bind it by `echo {address} > \
         /sys/bus/pci/drivers_probe`"
    )]
    NoDriver {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// Where it is.
        address: Address,
    },
    /// The function has a driver, and no network device here.
    #[error(
        "VF {vf} of {pf} has no network device in this network namespace, though {driver} drives it; \
         move the device here with `ip link set dev DEVICE netns`, or choose another"
    )]
    NoDevice {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// Its driver.
        driver: String,
    },
    /// Another process has the function.
    #[error(
        "VF {vf} of {pf} is in use by another uplink or another evb; remove that one, or choose another VF"
    )]
    InUse {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
    },
    /// The driver refused a setting.
    #[error(
        "{driver}, the driver of {pf}, refuses `{setting}` for VF {vf}: {}; {}",
        io::Error::from_raw_os_error(*errno),
        not_set(pf, *setting, *errno)
    )]
    Refused {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// The driver of the physical function.
        driver: String,
        /// What it refused.
        setting: Setting,
        /// With this error.
        errno: i32,
    },
    /// The driver took a setting and did not do it.
    #[error(
        "{driver}, the driver of {pf}, took `{setting}` for VF {vf} and does not show it; leave `{}` out, or \
         try `ip link set dev {pf} vf {vf} {setting}` and look at `ip link show dev {pf}`",
        setting.word()
    )]
    Ignored {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// The driver of the physical function.
        driver: String,
        /// What it did not do.
        setting: Setting,
    },
    /// The NIC would drop what goes over the link.
    #[error(
        "VF {vf} of {pf} would lose frames: {why}; run `ip link set dev {pf} vf {vf}{}`, or write \
         `trust = true, spoofchk = false` into `sriov`",
        words(missing)
    )]
    Untrusted {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// What goes over it.
        why: String,
        /// What the NIC does not grant yet.
        missing: Vec<Setting>,
    },
    /// Tags would be put on tags.
    #[error(
        "VF {vf} of {pf} is in VLAN {vlan}, which the NIC tags itself, and the uplink sends tags of its own; \
         run `ip link set dev {pf} vf {vf} vlan 0`, or make the uplink `access = {vlan}`"
    )]
    Tagged {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// Its VLAN.
        vlan: u16,
    },
    /// Tags would not arrive.
    #[error(
        "VF {vf} of {pf} would lose frames: {device} drops tagged ones, which the uplink takes; run `ethtool -K \
         {device} {VLAN_FILTER} off`, or, where its driver cannot do that, give the uplink one VLAN that the NIC \
         tags: `vlan = 10` in `sriov` and `access = 10`"
    )]
    Filtered {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// Its network device.
        device: String,
    },
    /// The function's device takes no further address.
    #[error(
        "{device}, which is VF {vf} of {pf}, does not take {}, the address of a station: {}; {}",
        Mac::new(*mac),
        io::Error::from_raw_os_error(*errno),
        not_added(pf, *vf, *errno)
    )]
    AddressRefused {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// Its network device.
        device: String,
        /// The address.
        mac: [u8; 6],
        /// The driver's error.
        errno: i32,
    },
    /// The function's device cannot be switched on.
    #[error(
        "{device}, which is VF {vf} of {pf}, cannot be switched on: {}; {}",
        io::Error::from_raw_os_error(*errno),
        not_up(pf, *errno)
    )]
    NotUp {
        /// The physical function.
        pf: String,
        /// The virtual function.
        vf: u16,
        /// Its network device.
        device: String,
        /// The driver's error.
        errno: i32,
    },
    /// A file of sysfs cannot be read or written.
    #[error(
        "{call} {file}: {}; {}",
        io::Error::from_raw_os_error(*errno),
        no_file(*errno)
    )]
    File {
        /// What was tried.
        call: String,
        /// The file.
        file: String,
        /// Its error.
        errno: i32,
    },
    /// A file of sysfs holds what nobody expects there.
    #[error("{file} does not hold {expected}; mount the kernel's own sysfs there")]
    Strange {
        /// The file.
        file: String,
        /// What should be in it.
        expected: String,
    },
}

impl From<SriovError> for HandoverError {
    fn from(error: SriovError) -> Self {
        Self::Link(error.into())
    }
}

impl SriovError {
    /// The system refused to `call` a file.
    pub(super) fn file(call: &str, file: &Path, error: &io::Error) -> Self {
        Self::File {
            call: call.to_owned(),
            file: file.display().to_string(),
            errno: errno_of(error),
        }
    }
}

/// Why a function cannot be handed to virtual machines, or taken back. The text ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Only virtual functions are handed over.
    #[error("{address} is no virtual function; `evb sriov list` shows those there are")]
    NotVirtual {
        /// The function.
        address: Address,
    },
    /// Nothing keeps the function's hands off the memory of others.
    #[error(
        "{address} is in no IOMMU group; switch the IOMMU on in the firmware, and start Linux with \
         `intel_iommu=on` where the processor is Intel's"
    )]
    NoIommu {
        /// The function.
        address: Address,
    },
    /// The driver is not loaded.
    #[error("there is no driver {VFIO}; load it with `modprobe {VFIO}`")]
    NoVfio,
    /// A daemon has the function.
    #[error("{address} is in use by evb; remove its `[[uplink]]` and reload, or choose another")]
    InUse {
        /// The function.
        address: Address,
    },
    /// The host has the function's network device switched on.
    #[error(
        "{address} is the host's {device}, which is up; run `ip link set dev {device} down` if nobody \
         needs it, or choose another"
    )]
    Up {
        /// The function.
        address: Address,
        /// Its network device.
        device: String,
    },
    /// A virtual machine has the function.
    #[error("a virtual machine uses {address}; stop it, or unplug the function there")]
    Busy {
        /// The function.
        address: Address,
    },
    /// It is not handed over.
    #[error("{address} is not bound to {VFIO}; there is nothing to take back")]
    NotBound {
        /// The function.
        address: Address,
    },
    /// The driver did not take it.
    #[error("{VFIO} did not take {address}; look into the kernel's log with `dmesg`")]
    NotTaken {
        /// The function.
        address: Address,
    },
    /// Something about its files, or its NIC.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The number of an error; those that the standard library made have none.
pub(super) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// The settings as `ip link` takes them, each after a blank.
fn words(settings: &[Setting]) -> String {
    settings.iter().fold(String::new(), |text, setting| {
        text + " " + &setting.to_string()
    })
}

fn out_of_range(pf: &str, vf: u16, made: u16, total: u16) -> String {
    let file = format!("/sys/class/net/{pf}/device/sriov_numvfs");
    let wanted = u32::from(vf) + 1;
    if vf >= total {
        let last = total.saturating_sub(1);
        format!("there is no VF {vf}: {pf} can have {total}; choose one of 0 to {last}")
    } else if made == 0 {
        format!(
            "{pf} has no virtual functions yet; make them with `echo {wanted} > {file}`, or write `create = \
             {wanted}` into `sriov`"
        )
    } else {
        let last = made.saturating_sub(1);
        format!(
            "there is no VF {vf}: {pf} has {made}; choose one of 0 to {last}, or make more, for which these \
             have to go first: `echo 0 > {file}; echo {wanted} > {file}`"
        )
    }
}

fn not_created(errno: i32, total: u16) -> String {
    match errno {
        libc::EACCES | libc::EPERM | libc::EROFS => no_file(errno).to_owned(),
        libc::ERANGE | libc::EINVAL => format!("ask for {total} at most"),
        libc::ENOENT | libc::ENOSYS | libc::EOPNOTSUPP => {
            "its driver makes none: look for an option of the driver's module, such as `max_vfs`"
                .to_owned()
        }
        libc::EBUSY => "others have been made meanwhile: start evb again".to_owned(),
        libc::ENOMEM | libc::ENOSPC => {
            "ask for fewer, or start Linux with `pci=realloc,assign-busses`".to_owned()
        }
        _ => "look into the kernel's log with `dmesg`".to_owned(),
    }
}

fn not_set(pf: &str, setting: Setting, errno: i32) -> String {
    let word = setting.word();
    match errno {
        libc::EOPNOTSUPP => format!("it cannot do that: leave `{word}` out, or choose another NIC"),
        libc::EAGAIN | libc::EBUSY | libc::ENETDOWN => {
            format!("switch the NIC on with `ip link set dev {pf} up` and try again")
        }
        libc::EINVAL | libc::ERANGE => match setting {
            Setting::Rate(_) => format!(
                "the limit has to be below the speed of {pf}, whose link has to be up: `ip link set dev {pf} \
                 up`, or leave `rate` out"
            ),
            Setting::Mac(_) => "choose another unicast address for `mac`".to_owned(),
            _ => format!("leave `{word}` out"),
        },
        _ => format!("look into the kernel's log with `dmesg`, or leave `{word}` out"),
    }
}

fn not_added(pf: &str, vf: u16, errno: i32) -> String {
    match errno {
        libc::ENOSPC | libc::ENOMEM => {
            "it has no room for more: put fewer addresses behind it, and the others \
                                        behind a further function"
                .to_owned()
        }
        libc::EPERM | libc::EACCES => format!(
            "the NIC does not let it: run `ip link set dev {pf} vf {vf} trust on`, or write `trust = true` into \
             `sriov`"
        ),
        libc::EOPNOTSUPP => {
            "its driver takes none: give the relay one VM with one `mac`, or choose another NIC"
                .to_owned()
        }
        libc::EINVAL | libc::EADDRNOTAVAIL => {
            "choose another unicast address for the `mac` of the port".to_owned()
        }
        _ => "look into the kernel's log with `dmesg`, or put fewer addresses behind it".to_owned(),
    }
}

fn not_up(pf: &str, errno: i32) -> String {
    match errno {
        libc::EADDRNOTAVAIL | libc::EINVAL => {
            "it may have no valid address: write `mac` into `sriov`".to_owned()
        }
        libc::ENETDOWN | libc::EAGAIN | libc::EBUSY | libc::EIO | libc::ETIMEDOUT => {
            format!("switch the NIC on with `ip link set dev {pf} up` and try again")
        }
        libc::ENOMEM | libc::ENOSPC => {
            "the NIC has no queues left for it: make fewer functions, or use fewer queues"
                .to_owned()
        }
        _ => "look into the kernel's log with `dmesg`".to_owned(),
    }
}

fn no_file(errno: i32) -> &'static str {
    match errno {
        libc::EACCES | libc::EPERM => "run it as root",
        libc::EROFS => {
            "sysfs is mounted read-only here: run it on the host, or give the container a writable one"
        }
        libc::ENOENT => "the device may have gone meanwhile: look with `evb sriov list`",
        _ => "look into the kernel's log with `dmesg`",
    }
}
