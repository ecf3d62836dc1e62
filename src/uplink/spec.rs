//! Which device is wanted, and what it turned out to be: plain data that travels between the process
//! that opens devices and the one that uses them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::fnv;
use super::error::LinkError;
use super::netlink;
use super::sriov::{HeldFunction, SriovSpec};
use super::xdp::Taken;
use crate::frame::offloads::Offloads;
use crate::sys::tun;

/// Queues that a link can have.
pub const MAX_QUEUES: u16 = 64;
/// Stands for as many queues as the device has, where a link serves those of a device.
pub const ALL_QUEUES: u16 = 0;

/// A device to make or take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spec {
    /// A TAP device.
    Tap(TapSpec),
    /// A MACVTAP device.
    Macvtap(MacvtapSpec),
    /// A MACVTAP device that is there.
    Found(FoundSpec),
    /// A packet socket.
    Packet(PacketSpec),
    /// `AF_XDP` sockets.
    Xdp(XdpSpec),
    /// A virtual function of a NIC, and one of the above over it.
    Sriov(SriovSpec),
    /// A TAP or MACVTAP device that somebody else has opened.
    Handed(HandedSpec),
}

/// A TAP device: made where none has the name, and gone with its last descriptor; a persistent one of
/// that name is taken, and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapSpec {
    /// Name of the device.
    pub name: String,
    /// How many queues.
    pub queues: u16,
    /// Address of the host's side; where there is none, as it is, and made of names for a device that is made here.
    pub mac: Option<[u8; 6]>,
    /// MTU of the host's side; as it is where there is none.
    pub mtu: Option<u16>,
    /// A user who may attach; as it is where there is none.
    pub owner: Option<u32>,
    /// A group that may attach; as it is where there is none.
    pub group: Option<u32>,
}

/// A MACVTAP device, made on a parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacvtapSpec {
    /// Name of the device.
    pub name: String,
    /// Name of the device below.
    pub parent: String,
    /// How it shares the parent.
    pub mode: MacvtapMode,
    /// How many queues.
    pub queues: u16,
    /// The address whose frames it gets; one made of names where there is none. In passthru mode it is
    /// always the parent's.
    pub mac: Option<[u8; 6]>,
    /// The MTU, for which the parent's is raised where it must; the parent's where there is none.
    pub mtu: Option<u16>,
    /// Whether a parent may be taken that holds an address or a default route.
    pub take_parent: bool,
}

/// A MACVTAP device that is there, and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundSpec {
    /// Name of the device.
    pub name: String,
    /// The name that the device below has to have; any where there is none.
    pub parent: Option<String>,
    /// How it has to share the parent.
    pub mode: MacvtapMode,
    /// How many queues.
    pub queues: u16,
    /// The address that it has to have; any where there is none.
    pub mac: Option<[u8; 6]>,
    /// The MTU, which it has for as long as it is used; its own where there is none.
    pub mtu: Option<u16>,
}

/// A packet socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketSpec {
    /// Name of the device.
    pub device: String,
    /// How many sockets share its frames.
    pub queues: u16,
}

/// `AF_XDP` sockets on the first receive queues of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpSpec {
    /// Name of the device.
    pub device: String,
    /// How many of its receive queues, each of which has a socket; or [`ALL_QUEUES`].
    pub queues: u16,
    /// Whether a device may be taken that holds an address or a default route.
    pub take_parent: bool,
    /// Whether the link is for untagged frames to addresses that the device is told. It is then not made
    /// promiscuous, and may take the tags out of frames if it drops those that it does not know.
    pub sheltered: bool,
}

/// A TAP or MACVTAP device that somebody else has opened and set up. What is named here is checked,
/// and nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedSpec {
    /// The numbers of its descriptors, one for each queue.
    pub descriptors: Vec<i32>,
    /// The name that it has to have.
    pub name: Option<String>,
    /// The mode that a MACVTAP device has to have; none for a TAP device.
    pub macvtap: Option<MacvtapMode>,
    /// The address that it has to have.
    pub mac: Option<[u8; 6]>,
}

/// How a MACVTAP device shares its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MacvtapMode {
    /// It has the parent for itself.
    Passthru,
    /// Siblings are reached directly.
    Bridge,
    /// Siblings are reached by way of the switch.
    Vepa,
    /// Siblings are not reached.
    Private,
}

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A TAP device.
    Tap,
    /// A MACVTAP device.
    Macvtap,
    /// A packet socket.
    Packet,
    /// `AF_XDP` sockets.
    Xdp,
    /// A vhost-user back end, to which we are the front end.
    Peer,
}

/// What is known of a device that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: u32,
    /// Its address.
    pub mac: [u8; 6],
    /// Its MTU.
    pub mtu: u16,
    /// Whether the kernel segments UDP for us.
    pub uso: bool,
    /// Whether the kernel hands over frames for a driver that runs no XDP programs.
    pub generic: bool,
}

impl Facts {
    /// What the device takes without repair. The kernel does for a device without offloads what is
    /// missing, so this is what the kernel knows; `AF_XDP` goes past that.
    pub fn accepts(&self) -> Offloads {
        if self.kind == Kind::Xdp {
            return Offloads::NONE;
        }
        let tcp = Offloads::CSUM | Offloads::TSO4 | Offloads::TSO6 | Offloads::ECN;
        if self.uso {
            tcp | Offloads::USO4 | Offloads::USO6
        } else {
            tcp
        }
    }
}

/// What [`open`](super::open) has changed and what does not end with the descriptors.
#[derive(Debug)]
pub enum Created {
    /// A device that was made.
    Device(Made),
    /// A device that was there, and changed.
    Changed(Changed),
    /// A device whose frames go to our sockets.
    Xdp(Taken),
    /// A virtual function in use, and what was made over it.
    Function(HeldFunction, Option<Box<Created>>),
}

impl Created {
    /// What could not be undone yet by [`Created::remove`], because another device needs it still, will be with that:
    /// one of `others`, if any of them is on the same parent.
    pub fn bequeath<'a>(&self, others: impl IntoIterator<Item = &'a mut Created>) {
        let Some(made) = self.made() else { return };
        let mut heirs = others.into_iter().filter_map(Created::made_mut);
        heirs.any(|heir| made.bequeath(heir));
    }

    fn made(&self) -> Option<&Made> {
        match self {
            Self::Device(made) => Some(made),
            Self::Function(_, over) => over.as_ref()?.made(),
            Self::Changed(_) | Self::Xdp(_) => None,
        }
    }

    fn made_mut(&mut self) -> Option<&mut Made> {
        match self {
            Self::Device(made) => Some(made),
            Self::Function(_, over) => over.as_mut()?.made_mut(),
            Self::Changed(_) | Self::Xdp(_) => None,
        }
    }

    /// Undoes it. It is no error if somebody else has done so.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn remove(&self) -> Result<(), LinkError> {
        match self {
            Self::Device(made) => netlink::with_client(async |client| made.undo(client).await),
            Self::Changed(changed) => {
                netlink::with_client(async |client| changed.undo(client).await)
            }
            Self::Xdp(taken) => taken.undo(),
            Self::Function(held, over) => {
                // One that stays is no reason to keep the other.
                let removed = over.as_ref().map_or(Ok(()), |over| over.remove());
                let let_go = held.let_go();
                removed.and(let_go)
            }
        }
    }
}

/// A device that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its number.
    pub(super) ifindex: u32,
    /// The number of its parent.
    pub(super) parent: u32,
    /// The MTU that the parent had before; `None` where it was not raised.
    pub(super) parent_mtu: Option<u16>,
}

/// What was changed about a device that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its number.
    pub(super) ifindex: u32,
    /// The MTU that it had before; `None` where that is not changed.
    pub(super) mtu: Option<u16>,
    /// It did not receive frames for all groups.
    pub(super) few_groups: bool,
    /// It was switched off.
    pub(super) down: bool,
}

impl Changed {
    pub(super) async fn undo(&self, client: &netlink::Client) -> Result<(), LinkError> {
        client.put_back(self).await
    }
}

impl Made {
    pub(super) async fn undo(&self, client: &netlink::Client) -> Result<(), LinkError> {
        client.remove(self.ifindex).await?;
        let Some(before) = self.parent_mtu else {
            return Ok(());
        };
        // The kernel would lower that of the devices that others have on the parent.
        let needed = client.mtu_above(self.parent).await?;
        client.set_mtu(self.parent, before.max(needed)).await
    }

    /// Leaves what the parent's MTU was to another device on it; whether that is one.
    fn bequeath(&self, heir: &mut Made) -> bool {
        let is_heir = heir.parent == self.parent;
        if is_heir {
            heir.parent_mtu = heir.parent_mtu.into_iter().chain(self.parent_mtu).min();
        }
        is_heir
    }
}

impl fmt::Display for Kind {
    /// The word by which the configuration names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap => "tap",
            Self::Macvtap => "macvtap",
            Self::Packet => "af_packet",
            Self::Xdp => "af_xdp",
            Self::Peer => "vhost-user",
        })
    }
}

impl fmt::Display for MacvtapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthru => "passthru",
            Self::Bridge => "bridge",
            Self::Vepa => "vepa",
            Self::Private => "private",
        })
    }
}

impl Spec {
    /// The devices that are made, taken or changed.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        let (device, parent) = match self {
            Spec::Tap(spec) => (Some(&spec.name), None),
            Spec::Macvtap(spec) => (Some(&spec.name), Some(&spec.parent)),
            Spec::Found(spec) => (Some(&spec.name), None),
            Spec::Packet(spec) => (Some(&spec.device), None),
            Spec::Xdp(spec) => (Some(&spec.device), None),
            Spec::Handed(_) => (None, None),
            Spec::Sriov(spec) => (Some(&spec.pf), spec.made()),
        };
        device.into_iter().chain(parent).map(String::as_str)
    }

    /// The device that the link is named after.
    pub fn name(&self) -> &str {
        match self {
            Spec::Tap(spec) => &spec.name,
            Spec::Macvtap(spec) => &spec.name,
            Spec::Found(spec) => &spec.name,
            Spec::Packet(spec) => &spec.device,
            Spec::Xdp(spec) => &spec.device,
            Spec::Sriov(spec) => &spec.pf,
            Spec::Handed(spec) => spec.name.as_deref().unwrap_or("the device handed in"),
        }
    }

    /// What the link will be.
    pub fn kind(&self) -> Kind {
        match self {
            Spec::Tap(_) | Spec::Handed(HandedSpec { macvtap: None, .. }) => Kind::Tap,
            Spec::Macvtap(_) | Spec::Found(_) | Spec::Handed(_) => Kind::Macvtap,
            Spec::Packet(_) => Kind::Packet,
            Spec::Xdp(_) => Kind::Xdp,
            Spec::Sriov(spec) => spec.kind(),
        }
    }

    /// Whether a link that was opened for this is what is wanted `next`, too: they differ at most in
    /// what is asked before.
    pub fn serves(&self, next: &Spec) -> bool {
        match (self, next) {
            (Spec::Macvtap(now), Spec::Macvtap(next)) => {
                let now = MacvtapSpec {
                    take_parent: next.take_parent,
                    ..now.clone()
                };
                now == *next
            }
            (Spec::Xdp(now), Spec::Xdp(next)) => {
                let now = XdpSpec {
                    take_parent: next.take_parent,
                    ..now.clone()
                };
                now == *next
            }
            (Spec::Sriov(now), Spec::Sriov(next)) => {
                let now = SriovSpec {
                    create: next.create,
                    take_parent: next.take_parent,
                    ..now.clone()
                };
                now == *next
            }
            _ => self == next,
        }
    }

    /// How many queues are wanted; [`ALL_QUEUES`] where that is the device's affair.
    pub fn queues(&self) -> u16 {
        match self {
            Spec::Tap(spec) => spec.queues,
            Spec::Macvtap(spec) => spec.queues,
            Spec::Found(spec) => spec.queues,
            Spec::Packet(spec) => spec.queues,
            Spec::Xdp(spec) => spec.queues,
            // There are never as many as would not fit.
            Spec::Handed(spec) => spec.descriptors.len() as u16,
            Spec::Sriov(spec) => spec.queues,
        }
    }

    pub(super) fn check(&self) -> Result<(), LinkError> {
        if let Some(name) = self.devices().find(|name| !is_name(name)) {
            return Err(LinkError::BadName {
                name: name.to_owned(),
            });
        }
        let queues = self.queues();
        let open = queues == ALL_QUEUES && self.kind() == Kind::Xdp;
        if open || (1..=MAX_QUEUES).contains(&queues) {
            Ok(())
        } else {
            Err(LinkError::Queues { queues })
        }
    }
}

/// Whether a device can have the name. The kernel would take a `%` for a number of its choice.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= tun::NAME_MAX
        && name != "."
        && name != ".."
        && !name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b == b'%' || b == 0 || b.is_ascii_whitespace())
}

/// The name of the MACVTAP device that is made for the uplink `uplink`, where none is configured.
///
/// It is `evb-` and the name of the uplink if that makes a name; otherwise a number stands for it,
/// the same at each start.
pub fn macvtap_name(uplink: &str) -> String {
    let name = format!("evb-{uplink}");
    if is_name(&name) {
        return name;
    }
    // 44 bits of it fit.
    format!("evb-{:011x}", fnv(uplink.bytes()) >> 20)
}
