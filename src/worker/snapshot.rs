//! What workers see of the world: immutable, replaced as a whole.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_utils::CachePadded;
use vmm_sys_util::eventfd::EventFd;

use super::duty::Duty;
use super::flood::Progress;
use super::load::LoadPort;
use crate::frame::offloads::Offloads;
use crate::relay::{PortSet, Relay, Slot};
use crate::stats::{PortCounters, VlanCounters};
use crate::uplink::Link;
use crate::virtqueue::{Lock, RxRing, TxRing};

/// Index of a port in a [`Snapshot`]; stays the same for as long as the port exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

impl PortId {
    /// The index as such.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// Everything a worker needs, apart from the FDB, queue positions and counters.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The same in snapshots that differ in nothing but the workers of queues: what was decided in one of them
    /// holds in the others.
    pub epoch: u64,
    /// By [`PortId`]; `None` where a port was removed.
    pub ports: Vec<Option<Arc<Port>>>,
    /// By index; `None` where a relay was removed.
    pub relays: Vec<Option<Arc<RelayView>>>,
}

impl Snapshot {
    /// The port under `id`, if it exists.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_deref()
    }

    /// The relay under `index`, if it exists.
    #[inline]
    pub fn relay(&self, index: usize) -> Option<&RelayView> {
        self.relays.get(index)?.as_deref()
    }
}

/// One relay: its tables, and which of its ports are alive.
#[derive(Debug)]
pub struct RelayView {
    /// The tables made from the configuration.
    pub relay: Arc<Relay>,
    /// The ports whose rings run or whose carrier is up.
    pub active: PortSet,
    /// Which port each slot of the relay is.
    pub ports: Vec<Option<PortId>>,
    /// Counters of its VLANs, one block for each worker.
    pub vlans: Arc<[VlanCounters]>,
}

impl RelayView {
    /// The port in `slot`, if there is one.
    #[inline]
    pub fn port(&self, slot: Slot) -> Option<PortId> {
        *self.ports.get(slot.index())?
    }
}

/// One port: where it belongs and how its frames come and go.
#[derive(Debug)]
pub struct Port {
    /// The name given by the operator.
    pub name: String,
    /// Index of its relay.
    pub relay: usize,
    /// Its place in the relay.
    pub slot: Slot,
    /// One block of counters for each worker.
    pub counters: Arc<[PortCounters]>,
    /// Who is to serve each TX queue, by the number of the queue pair.
    pub queues: Vec<Assignment>,
    /// What is behind the port.
    pub attachment: Attachment,
}

/// The worker that is to serve a queue.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Its number.
    pub worker: usize,
    /// What stays when the queue moves to another.
    pub duty: Arc<Duty>,
}

impl Assignment {
    /// A queue that nobody has served yet, for worker `worker`.
    pub fn new(worker: usize) -> Self {
        let duty = Arc::new(Duty::new());
        Self { worker, duty }
    }
}

/// What is behind a port.
#[derive(Debug)]
pub enum Attachment {
    /// The rings of a vhost-user front end; none while it is away.
    Rings(Arc<PortRings>),
    /// The other end of a cable between two relays.
    Patch(PortId),
    /// A device of the host; `None` while it is away.
    Link(Option<Arc<Link>>),
    /// Frames are made or only counted.
    Load(Arc<LoadPort>),
}

impl Attachment {
    /// The rings of a vhost-user port.
    #[inline]
    pub fn rings(&self) -> Option<&PortRings> {
        match self {
            Self::Rings(rings) => Some(rings),
            Self::Patch(_) | Self::Link(_) | Self::Load(_) => None,
        }
    }

    /// The device of a port that has one.
    #[inline]
    pub fn link(&self) -> Option<&Arc<Link>> {
        match self {
            Self::Link(link) => link.as_ref(),
            Self::Rings(_) | Self::Patch(_) | Self::Load(_) => None,
        }
    }

    /// What is behind a load port.
    #[inline]
    pub fn load(&self) -> Option<&Arc<LoadPort>> {
        match self {
            Self::Load(load) => Some(load),
            Self::Rings(_) | Self::Patch(_) | Self::Link(_) => None,
        }
    }
}

/// The rings of a device that may be used now.
#[derive(Debug)]
pub struct PortRings {
    /// Counts the lives of the device: the number is another after each reset.
    pub life: u64,
    /// Bytes of the virtio-net header, 10 or 12.
    pub header_len: usize,
    /// What the driver takes without repair.
    pub accepts: Offloads,
    /// Enabled rings that the guest receives from.
    pub rx: Vec<Arc<RxRing>>,
    /// Enabled rings that the guest sends to.
    pub tx: Vec<TxQueue>,
}

impl PortRings {
    /// No rings, in the device's life number `life`.
    pub fn none(life: u64) -> Self {
        Self {
            life,
            header_len: 12,
            accepts: Offloads::NONE,
            rx: vec![],
            tx: vec![],
        }
    }

    /// Whether any ring can be used.
    pub fn is_empty(&self) -> bool {
        self.rx.is_empty() && self.tx.is_empty()
    }
}

/// A ring that a guest sends to, and what its worker needs besides.
pub struct TxQueue {
    /// The number of its queue pair.
    pub pair: u16,
    /// The ring.
    pub ring: Arc<TxRing>,
    /// Announces new frames; without it the ring is looked at in every turn.
    pub kick: Option<Arc<EventFd>>,
    /// Tells the front end that the ring was stopped because of an error.
    pub error: Option<Arc<EventFd>>,
    /// What is begun and not ended.
    pub(super) progress: Arc<QueueProgress>,
}

impl TxQueue {
    /// The queue of pair `pair`.
    pub fn new(
        pair: u16,
        ring: Arc<TxRing>,
        kick: Option<Arc<EventFd>>,
        error: Option<Arc<EventFd>>,
        progress: Arc<QueueProgress>,
    ) -> Self {
        Self {
            pair,
            ring,
            kick,
            error,
            progress,
        }
    }
}

/// What a queue has begun and not ended. It belongs to the queue for as long as its
/// ring runs, whatever else about the queue changes.
#[derive(Default)]
pub struct QueueProgress {
    pub(super) under_way: CachePadded<Lock<Progress>>,
    /// There was something in the ring once.
    pub(super) found: AtomicBool,
}

impl fmt::Debug for QueueProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueProgress").finish_non_exhaustive()
    }
}

impl fmt::Debug for TxQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxQueue")
            .field("pair", &self.pair)
            .finish_non_exhaustive()
    }
}
