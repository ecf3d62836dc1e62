//! The validated configuration: plain data in which every default is filled in.
//!
//! Everything is keyed by name, so that two configurations that say the same in another order are
//! equal. Settings of relays and bridge ports are the relay's own types.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;
use crate::load::{Flow, Rate};
use crate::relay::{PortConfig, RelayConfig};
use crate::uplink::sriov::FunctionSettings;

/// All that a daemon is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The process itself.
    pub daemon: Daemon,
    /// Relays by name.
    pub relays: BTreeMap<String, Relay>,
    /// Local ports by name, templates expanded.
    pub ports: BTreeMap<String, Port>,
    /// Uplinks by name.
    pub uplinks: BTreeMap<String, Uplink>,
    /// Cables between relays by name.
    pub patches: BTreeMap<String, Patch>,
}

impl Config {
    /// Every directory in which sockets and files are.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        let sockets = self.sockets().filter_map(Path::parent);
        sockets.chain(self.daemon.state.as_deref())
    }

    /// Every unix socket that is listened on or connected to.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        let ports = self.ports.values().filter_map(|port| match &port.backend {
            Backend::Listen(path) | Backend::Connect(path) => Some(path),
            Backend::Tap(_) | Backend::Handed(_) | Backend::Generator(_) | Backend::Sink => None,
        });
        let links = self
            .uplinks
            .values()
            .flat_map(|uplink| uplink.attachment.links());
        let links = links.filter_map(|link| match &link.kind {
            LinkKind::Listen(path) | LinkKind::Connect(path) => Some(path),
            _ => None,
        });
        self.daemon
            .control
            .iter()
            .chain(ports)
            .chain(links)
            .map(PathBuf::as_path)
    }

    /// Ports and uplinks that have a worker for good.
    pub fn pins(&self) -> impl Iterator<Item = (&str, usize)> {
        let ports = self.ports.iter().map(|(name, port)| (name, port.worker));
        let uplinks = self.uplinks.iter().map(|(name, up)| (name, up.worker));
        let all = ports.chain(uplinks);
        all.filter_map(|(name, worker)| Some((name.as_str(), worker?)))
    }
}

/// `[daemon]`: the process itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Socket of the API; none where it is not named.
    pub control: Option<PathBuf>,
    /// Directory for what ports remember over a restart; beside each socket where it is not named.
    pub state: Option<PathBuf>,
    /// Number of forwarding threads.
    pub workers: usize,
    /// CPUs of the workers, in their order; empty where they are not pinned.
    pub cpus: Vec<usize>,
    /// What workers do when there is nothing to do.
    pub poll: Poll,
    /// How long a sender waits for a full receive ring before its frame drops.
    pub rx_wait: Duration,
    /// How long after its last frame a queue is still polled.
    pub cool: Duration,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            control: None,
            state: None,
            workers: 1,
            cpus: Vec::new(),
            poll: Poll::Adaptive,
            rx_wait: Duration::from_millis(1),
            cool: Duration::from_micros(100),
        }
    }
}

/// What workers do when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Poll the queues that talk, sleep for the others.
    Adaptive,
    /// Never sleep.
    Busy,
    /// Never poll.
    Sleep,
}

/// `[[relay]]`: one edge relay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relay {
    /// What the relay itself is told.
    pub settings: RelayConfig,
    /// Addresses that the FDB holds from the start.
    pub statics: Vec<StaticEntry>,
}

/// An address that the FDB of a relay holds from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticEntry {
    /// The address.
    pub mac: Mac,
    /// Its VLAN; none in a flat relay.
    pub vid: Option<Vid>,
    /// Name of the local port or uplink that it is behind.
    pub port: String,
}

/// `[[port]]`: a local port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of its relay.
    pub relay: String,
    /// What is plugged into it.
    pub backend: Backend,
    /// Queue pairs offered.
    pub queues: u16,
    /// The worker that serves it for good; none where that may change.
    pub worker: Option<usize>,
    /// What the relay is told of it.
    pub settings: PortConfig,
}

/// What is plugged into a local port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// A VM that connects to this vhost-user socket.
    Listen(PathBuf),
    /// A VM whose vhost-user socket this is.
    Connect(PathBuf),
    /// The host, by a TAP device.
    Tap(Tap),
    /// The host, by a TAP device that was opened by whoever starts the daemon.
    Handed(Handed),
    /// Nobody: frames are made for it.
    Generator(Generator),
    /// Nobody: what it gets is counted.
    Sink,
}

/// Frames to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generator {
    /// How fast.
    pub rate: Rate,
    /// Bytes of the frames, in turn.
    pub sizes: Vec<usize>,
    /// Pairs of addresses, and their VLAN where they are tagged, in turn.
    pub flows: Vec<Flow>,
    /// Whether it begins at once, or when it is told to.
    pub start: bool,
}

/// A TAP device to create or take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Name of the device.
    pub name: String,
    /// Address of the host's side.
    pub mac: Option<Mac>,
    /// A user who may open the device when the daemon does not.
    pub owner: Option<u32>,
    /// A group that may.
    pub group: Option<u32>,
}

/// A device that was opened by whoever starts the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// What it has to be.
    pub kind: HandedKind,
    /// Its descriptors, one for each queue.
    pub descriptors: Vec<i32>,
    /// The name that it has to have.
    pub name: Option<String>,
    /// The address that it has to have.
    pub mac: Option<Mac>,
}

/// What a device has to be that was opened by whoever starts the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedKind {
    /// A TAP device.
    Tap,
    /// A MACVTAP device in this mode.
    Macvtap(MacvtapMode),
}

/// `[[uplink]]`: a relay's way to the adjacent switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Name of its relay.
    pub relay: String,
    /// How it leaves the daemon.
    pub attachment: Attachment,
    /// The worker that serves it for good; none where that may change.
    pub worker: Option<usize>,
    /// What the relay is told of it.
    pub settings: PortConfig,
}

/// How an uplink leaves the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attachment {
    /// By one link.
    Single(Link),
    /// By one of several at a time, the first one preferred.
    Bond(Vec<Member>),
}

impl Attachment {
    /// The links of the uplink `uplink` with their names: its own, or those of a bond's members.
    pub fn named_links<'a>(&'a self, uplink: &'a str) -> impl Iterator<Item = (&'a str, &'a Link)> {
        let (single, members) = match self {
            Attachment::Single(link) => (Some((uplink, link)), &[][..]),
            Attachment::Bond(members) => (None, members.as_slice()),
        };
        let members = members
            .iter()
            .map(|member| (member.name.as_str(), &member.link));
        single.into_iter().chain(members)
    }

    /// The links of the uplink.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.named_links("").map(|(_, link)| link)
    }
}

/// A named link in a bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the file.
    pub name: String,
    /// The link.
    pub link: Link,
}

/// One link to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Queue pairs; [`ALL_QUEUES`](crate::uplink::ALL_QUEUES) where the device decides.
    pub queues: u16,
    /// Whether a NIC may be taken that holds an address or a default route.
    pub take_parent: bool,
}

/// What a link to the outside is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// Another daemon or a VM connects to this vhost-user socket.
    Listen(PathBuf),
    /// The vhost-user socket of another daemon or a VM.
    Connect(PathBuf),
    /// A TAP device that the host bridges or routes.
    Tap(Tap),
    /// A MACVTAP device on a NIC.
    Macvtap {
        /// The NIC.
        parent: String,
        /// How it shares the NIC.
        mode: MacvtapMode,
    },
    /// A MACVTAP device that is there.
    Found {
        /// Its name.
        name: String,
        /// The NIC that it has to be on, if that is stated.
        parent: Option<String>,
        /// How it shares the NIC.
        mode: MacvtapMode,
    },
    /// A TAP or MACVTAP device that was opened by whoever starts the daemon.
    Handed(Handed),
    /// A packet socket on a device.
    AfPacket {
        /// The device.
        dev: String,
    },
    /// `AF_XDP` sockets on a device.
    AfXdp {
        /// The device.
        dev: String,
    },
    /// A virtual function of a NIC.
    Sriov(Sriov),
}

/// A virtual function of a NIC to make or take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sriov {
    /// The physical function.
    pub pf: String,
    /// Number of the virtual function.
    pub vf: u16,
    /// How its netdev is reached.
    pub via: Via,
    /// How many virtual functions are made where the NIC has none yet.
    pub create: Option<u16>,
    /// What the physical function is to set.
    pub settings: FunctionSettings,
}

/// How a MACVTAP device shares its NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvtapMode {
    /// It has the NIC for itself.
    Passthru,
    /// Siblings are reached directly.
    Bridge,
    /// Siblings are reached by way of the switch.
    Vepa,
    /// Siblings are not reached.
    Private,
}

/// How the netdev of a virtual function is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// By a MACVTAP device in passthru mode.
    Macvtap,
    /// By a packet socket.
    AfPacket,
    /// By `AF_XDP` sockets.
    AfXdp,
}

/// `[[patch]]`: a cable between two relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// One end.
    pub a: End,
    /// The other.
    pub b: End,
}

impl Patch {
    /// The names that the two ends have as bridge ports, given the patch's own.
    pub fn end_names(patch: &str) -> [String; 2] {
        [format!("{patch}.a"), format!("{patch}.b")]
    }
}

/// One end of a patch: a local port of its relay or, by `settings.role`, its uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Name of its relay.
    pub relay: String,
    /// What the relay is told of it.
    pub settings: PortConfig,
}
