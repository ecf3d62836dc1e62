//! `AF_XDP` sockets: a link by way of a device's receive queues, past the host's stack.
//!
//! What needs a capability is done by [`open`]: sockets with their memory, the program that hands them the
//! frames, features switched off. Where frames are forwarded, [`start`] maps and binds the sockets, because
//! one that is bound cannot be mapped any more.

mod features;
mod queue;

use std::io;
use std::os::fd::OwnedFd;

use self::features::{SENDING, SwitchedOff};
pub use self::queue::{Lent, XdpMode, XdpQueue};
use super::Opened;
use super::error::LinkError;
use super::netlink::{Device, with_client};
use super::spec::{ALL_QUEUES, Created, Facts, Kind, MAX_QUEUES, XdpSpec};
use crate::frame::ethernet::TAG_LEN;
use crate::sys::bpf::{self, Runner};
use crate::sys::ethtool::{Ethtool, name_of};
use crate::sys::packet;
use crate::sys::xsk::{self, Layout, Mapping, Place};

/// Frames of a queue that can wait to be received, and to be sent.
const RECEIVE: u32 = 4096;
const SEND: u32 = 2048;
/// Bytes around a packet: an Ethernet header and two tags.
const AROUND: u32 = 14 + 2 * TAG_LEN as u8 as u32;
/// The largest MTU: what a page holds besides what drivers keep for themselves in front and behind.
const MAX_MTU: u32 = 4096 - xsk::HEADROOM - 320 - AROUND;
/// Descriptors of a link besides its sockets: their memory, the program's, and the one by which the device
/// receives what is for others.
const COMMON: usize = 3;

/// A device whose frames go to our sockets.
#[derive(Debug)]
pub struct Taken {
    program: OwnedFd,
    off: Vec<SwitchedOff>,
}

impl Taken {
    /// Takes the program away, whoever uses the sockets, and only then lets the device change frames again.
    pub(super) fn undo(&self) -> Result<(), LinkError> {
        bpf::detach(&self.program)
            .map_err(|error| LinkError::admin("detaching the XDP program", &error))?;
        self.off.iter().try_for_each(SwitchedOff::restore)
    }
}

/// Opens sockets for the first queues of a device, and lets its driver hand frames to them.
pub fn open(spec: &XdpSpec) -> Result<Opened, LinkError> {
    open_by(spec, Runner::Driver)
}

/// The same with the program run by `runner`, or by the kernel where the driver runs none.
pub(super) fn open_by(spec: &XdpSpec, runner: Runner) -> Result<Opened, LinkError> {
    let (device, has_vlans) = with_client(async |client| {
        let device = client.get(&spec.device).await?;
        if !device.ethernet {
            return Err(LinkError::NotEthernet {
                device: spec.device.clone(),
            });
        }
        if !device.up {
            return Err(LinkError::Down {
                device: spec.device.clone(),
            });
        }
        if !spec.take_parent {
            let occupied = client.occupied_with_above(device.ifindex).await?;
            if !occupied.is_free() {
                let parent = spec.device.clone();
                return Err(LinkError::Occupied { parent, occupied });
            }
        }
        let has_vlans = client.has_vlans(device.ifindex).await?;
        Ok((device, has_vlans))
    })?;
    let peer = peer_of(spec, &device)?;
    let layout = layout(&spec.device, device.mtu)?;
    let count = queues(spec)?;
    let off = switch_off(spec, &device, has_vlans, peer)?;
    match set_up(spec, &device, (count, layout), runner) {
        Ok((queues, program, runner)) => Ok(Opened {
            facts: Facts {
                kind: Kind::Xdp,
                name: spec.device.clone(),
                ifindex: device.ifindex,
                mac: device.mac,
                mtu: device.mtu(),
                uso: false,
                generic: runner == Runner::Kernel,
            },
            created: Some(Created::Xdp(Taken { program, off })),
            queues,
        }),
        Err(error) => {
            for off in &off {
                off.give_up(&spec.device);
            }
            Err(error)
        }
    }
}

/// The memory of a socket, for packets of `mtu` bytes.
fn layout(device: &str, mtu: u32) -> Result<Layout, LinkError> {
    if mtu > MAX_MTU {
        return Err(LinkError::MtuTooLarge {
            device: device.to_owned(),
            mtu,
            most: MAX_MTU,
        });
    }
    let is_small = mtu + AROUND + xsk::HEADROOM <= 2048;
    Ok(Layout {
        chunk: if is_small { 2048 } else { 4096 },
        rx: RECEIVE,
        tx: SEND,
    })
}

fn receive_queues(device: &str) -> Result<u32, LinkError> {
    Ethtool::new()
        .and_then(|ethtool| ethtool.receive_queues(device))
        .map_err(|error| LinkError::admin(format!("asking {device} for its queues"), &error))
}

/// How many queues are served.
fn queues(spec: &XdpSpec) -> Result<u16, LinkError> {
    let has = receive_queues(&spec.device)?;
    let device = spec.device.clone();
    match (spec.queues, u16::try_from(has)) {
        (ALL_QUEUES, Ok(all)) if all <= MAX_QUEUES => Ok(all),
        (ALL_QUEUES, _) => Err(LinkError::ManyQueues { device, has }),
        (queues, _) if u32::from(queues) > has => Err(LinkError::DeviceQueues {
            device,
            queues,
            has,
        }),
        (queues, _) => Ok(queues),
    }
}

/// The other device of a pair, whose number and name are known here; none for a NIC.
fn peer_of(spec: &XdpSpec, device: &Device) -> Result<Option<(u32, String)>, LinkError> {
    let unfit = |why: &str| {
        Err(LinkError::NoXdp {
            device: spec.device.clone(),
            why: why.to_owned(),
        })
    };
    match device.kind.as_deref() {
        None => Ok(None),
        // What one device of a pair leaves undone the other one never gets.
        Some("veth") if device.lower_elsewhere => unfit(
            "whose peer is in another network namespace, where evb cannot see to it that frames come whole",
        ),
        Some("veth") => {
            let lower = device.lower.unwrap_or_default();
            match name_of(lower) {
                Some(name) => Ok(Some((lower, name))),
                None => unfit("whose peer is gone"),
            }
        }
        Some(kind) => unfit(&format!("a device of kind {kind}")),
    }
}

/// Sees to it that frames reach the program whole.
fn switch_off(
    spec: &XdpSpec,
    device: &Device,
    has_vlans: bool,
    peer: Option<(u32, String)>,
) -> Result<Vec<SwitchedOff>, LinkError> {
    let untagged = spec.sheltered && !has_vlans;
    let receiving = SwitchedOff::receiving(device.ifindex, &spec.device, untagged)?;
    let Some((ifindex, name)) = peer else {
        return Ok(vec![receiving]);
    };
    match SwitchedOff::new(ifindex, &name, &SENDING) {
        Ok(sending) => Ok(vec![receiving, sending]),
        Err(error) => {
            receiving.give_up(&spec.device);
            Err(error)
        }
    }
}

/// Everything that goes with its descriptors: those for the user, and the program's once more, with who runs it.
fn set_up(
    spec: &XdpSpec,
    device: &Device,
    (queues, layout): (u16, Layout),
    runner: Runner,
) -> Result<(Vec<OwnedFd>, OwnedFd, Runner), LinkError> {
    let name = &spec.device;
    let opening = |error: io::Error| {
        let call = format!("opening an AF_XDP socket on {name}");
        LinkError::system(call, "CAP_NET_RAW", &error)
    };
    let loading =
        |error: io::Error| LinkError::system("loading the XDP program", "CAP_BPF", &error);
    let memory = xsk::file(layout.len() * usize::from(queues)).map_err(opening)?;
    let table = bpf::socket_table(queues.into()).map_err(loading)?;
    let mut descriptors = vec![];
    for queue in 0..queues {
        let socket = xsk::open().map_err(opening)?;
        let slice = slice(&memory, layout, queue).map_err(opening)?;
        xsk::register(&socket, &slice, layout).map_err(opening)?;
        bpf::put_socket(&table, queue.into(), &socket).map_err(loading)?;
        descriptors.push(socket);
    }
    let membership = packet::open().map_err(opening)?;
    let join = if spec.sheltered {
        packet::join_all_groups
    } else {
        packet::join_promiscuous
    };
    join(&membership, device.ifindex).map_err(opening)?;
    let program = bpf::load(&table).map_err(loading)?;
    let (link, runner) = attach(&program, name, device, runner)?;
    let ours = link.try_clone().map_err(opening)?;
    descriptors.extend([memory, link, membership]);
    Ok((descriptors, ours, runner))
}

/// Attaches the program; who runs it.
fn attach(
    program: &OwnedFd,
    name: &str,
    device: &Device,
    runner: Runner,
) -> Result<(OwnedFd, Runner), LinkError> {
    let refused = |error: io::Error| attach_refused(name, device.mtu, &error);
    match bpf::attach(program, device.ifindex, runner) {
        // Drivers that have some other use for programs say the second.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            log::info!("{name}: its driver does not run the XDP program: {error}");
        }
        done => return Ok((done.map_err(refused)?, runner)),
    }
    if !hands_over_whole_frames(device) {
        return Err(LinkError::NoXdp {
            device: name.to_owned(),
            why: "whose driver does not run the program and, as it is no PCI device, may hand over unfinished frames"
                .to_owned(),
        });
    }
    let link = bpf::attach(program, device.ifindex, Runner::Kernel).map_err(refused)?;
    Ok((link, Runner::Kernel))
}

/// Whether frames are as they were on the wire, though their driver does not see to it for the sake of
/// programs. Software, and devices of a hypervisor, leave checksums and segments for later.
pub(super) fn hands_over_whole_frames(device: &Device) -> bool {
    device.kind.is_none() && device.bus.as_deref() == Some("pci")
}

/// The memory of queue number `queue`.
fn slice(memory: &OwnedFd, layout: Layout, queue: u16) -> io::Result<Mapping> {
    let at = layout.len() * usize::from(queue);
    Mapping::new(
        memory,
        layout.len(),
        at.try_into().map_err(io::Error::other)?,
    )
}

fn attach_refused(name: &str, mtu: u32, error: &io::Error) -> LinkError {
    let device = name.to_owned();
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => LinkError::XdpTaken { device },
        // A driver's limit may be lower than ours; what all of them take is a packet of 1500 bytes.
        Some(libc::ERANGE) => LinkError::MtuTooLarge {
            device,
            mtu,
            most: 1500,
        },
        Some(libc::ENOSPC) => LinkError::PeerQueues { device },
        _ => LinkError::admin(format!("attaching the XDP program to {name}"), error),
    }
}

/// Binds the sockets of a device that was opened. Returns the queues, and what is to be kept as long as
/// they are.
pub fn start(
    facts: &Facts,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(Vec<XdpQueue>, Vec<OwnedFd>), LinkError> {
    let name = &facts.name;
    let binding =
        |error: io::Error| LinkError::admin(format!("binding an AF_XDP socket to {name}"), &error);
    let layout = layout(name, facts.mtu.into())?;
    let sockets = descriptors.len().saturating_sub(COMMON);
    let common = descriptors.split_off(sockets);
    let Some(memory) = common.first() else {
        return Err(binding(io::ErrorKind::InvalidInput.into()));
    };
    let mut queues = vec![];
    for (number, socket) in (0_u16..).zip(descriptors) {
        let memory = slice(memory, layout, number).map_err(binding)?;
        let place = Place {
            ifindex: facts.ifindex,
            queue: number.into(),
            copies: facts.generic,
        };
        let queue = XdpQueue::new(socket, memory, layout, place);
        queues.push(queue.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => LinkError::QueueTaken {
                device: name.clone(),
                queue: number,
            },
            _ => binding(error),
        })?);
    }
    tell(name, &queues);
    Ok((queues, common))
}

/// Tells the operator what cannot be seen elsewhere.
fn tell(name: &str, queues: &[XdpQueue]) {
    let count = queues.len();
    let modes = queues.iter().map(XdpQueue::mode);
    if let Some(mode) = modes.max() {
        log::info!("{name}: AF_XDP in {mode} mode, {count} queues");
    }
    match receive_queues(name) {
        Ok(has) if has as usize > count => log::warn!(
            "{name} has {has} receive queues, and the frames of those from the {count}th on go to the host; leave \
             `queues` out, or `ethtool -L {name} combined {count}`"
        ),
        Ok(_) => {}
        Err(error) => log::warn!("{error}"),
    }
}
