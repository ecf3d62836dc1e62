//! TAP devices: the host's own port of a relay, or a link that the host bridges or routes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use super::Opened;
use super::address::stable;
use super::error::LinkError;
use super::netlink::{Client, Device, Settings, with_client};
use super::spec::{Facts, Kind, TapSpec};
use crate::frame::vnet::VnetHeader;
use crate::sys::tun::{self, Attach};

const NODE: &str = "/dev/net/tun";

/// All that we take without repair; the last two came with Linux 6.2.
const OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Makes a TAP device, or takes a persistent one that is not in use.
pub fn open(spec: &TapSpec) -> Result<Opened, LinkError> {
    with_client(async |client| {
        let existing = client.find(&spec.name).await?;
        let multi_queue = match &existing {
            Some(device) => adoptable(spec, device)?,
            None => spec.queues > 1,
        };
        let mut exclusive = existing.is_none();
        let mut nodes = vec![];
        for _ in 0..spec.queues {
            let how = Attach {
                multi_queue,
                exclusive,
            };
            nodes.push(attach(&spec.name, how)?);
            exclusive = false;
        }
        let mut uso = true;
        for node in &nodes {
            uso &= set_up_queue(node)
                .map_err(|error| LinkError::admin("preparing the TAP device", &error))?;
        }
        if let Some(node) = nodes.first() {
            let owned = spec.owner.map_or(Ok(()), |user| tun::set_owner(node, user));
            let owned = owned.and_then(|()| spec.group.map_or(Ok(()), |g| tun::set_group(node, g)));
            owned.map_err(|error| LinkError::admin("giving the TAP device an owner", &error))?;
        }
        let made = existing.is_none().then(|| stable(&spec.name));
        let mac = spec.mac.or(made);
        let facts = set_up_device(client, spec, mac, uso).await?;
        let queues = nodes.into_iter().map(OwnedFd::from).collect();
        let created = None;
        Ok(Opened {
            facts,
            created,
            queues,
        })
    })
}

/// Whether a device that is there can be taken, and if so whether it is of the kind with several queues.
fn adoptable(spec: &TapSpec, device: &Device) -> Result<bool, LinkError> {
    let name = || spec.name.clone();
    let taken = |found: &str| {
        Err(LinkError::NameTaken {
            device: name(),
            found: found.to_owned(),
        })
    };
    let Some(tun) = device.tun else {
        return match &device.kind {
            Some(kind) => taken(&format!("a device of kind {kind}")),
            None => taken("a device that is no TAP device"),
        };
    };
    if !tun.tap {
        return taken("a TUN device, which carries no Ethernet frames");
    }
    // One that is not persistent is there only because a process has it.
    if !tun.persistent || tun.queues > 0 {
        return Err(LinkError::InUse { device: name() });
    }
    if spec.queues > 1 && !tun.multi_queue {
        return Err(LinkError::SingleQueue { device: name() });
    }
    Ok(tun.multi_queue)
}

fn attach(name: &str, how: Attach) -> Result<File, LinkError> {
    let node = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(NODE)
        .map_err(|error| LinkError::admin(format!("opening {NODE}"), &error))?;
    match tun::attach(&node, name, how) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(LinkError::InUse {
            device: name.to_owned(),
        }),
        Err(error) => Err(LinkError::admin("making a TAP device", &error)),
        Ok(()) => Ok(node),
    }
}

/// Prepares a queue of a TAP or MACVTAP device; whether the kernel segments UDP.
pub fn set_up_queue(node: &File) -> io::Result<bool> {
    tun::set_header_len(node, VnetHeader::LEN)?;
    if tun::set_offload(node, OFFLOADS | USO).is_ok() {
        return Ok(true);
    }
    tun::set_offload(node, OFFLOADS)?;
    Ok(false)
}

async fn set_up_device(
    client: &Client,
    spec: &TapSpec,
    mac: Option<[u8; 6]>,
    uso: bool,
) -> Result<Facts, LinkError> {
    let device = client.get(&spec.name).await?;
    let settings = Settings {
        mac,
        mtu: spec.mtu,
        up: true,
        ..Settings::default()
    };
    client.change(device.ifindex, &spec.name, settings).await?;
    let device = client.get(&spec.name).await?;
    Ok(Facts {
        kind: Kind::Tap,
        name: spec.name.clone(),
        ifindex: device.ifindex,
        mac: device.mac,
        mtu: device.mtu(),
        uso,
        generic: false,
    })
}
