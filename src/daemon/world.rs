//! The running state, and the snapshots made of it.
//!
//! Relays and ports live in places that stay theirs until they are removed, because workers and the
//! FDB know them by number. Parts of the last snapshot that did not change are used again.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use log::Level;

use super::balance;
use super::device::Device;
use super::links::Links;
use super::queues::Queues;
use crate::config::StaticEntry;
use crate::frame::mac::Mac;
use crate::log_limited;
use crate::relay::{
    self, Fdb, PortConfig, PortSet, Relay, RelayConfig, RelayError, Report, Slot, StaticError,
};
use crate::stats::{PortCounters, Totals, VlanCounters, VlanTotals};
use crate::sys::rate_limit::RateLimit;
use crate::worker::load::LoadPort;
use crate::worker::{self, Attachment, PortId, PortRings, RelayView, Snapshot};

/// Ports that a daemon can have.
pub const MAX_PORTS: usize = 16384;

/// Messages about one port: so many at once, then one per interval.
const NEWS: (u32, Duration) = (20, Duration::from_secs(5));

/// A relay and who is in it.
pub struct RelayEntry {
    pub name: String,
    pub config: RelayConfig,
    pub fdb: Arc<Fdb>,
    pub tables: Arc<Relay>,
    /// Addresses that the configuration put into the FDB.
    statics: Vec<StaticEntry>,
    /// Which port each slot is.
    slots: Vec<Option<PortId>>,
    /// Counters of its VLANs, by worker.
    vlans: Arc<[VlanCounters]>,
    view: Option<Arc<RelayView>>,
}

/// What is behind a port.
pub enum Kind {
    /// A vhost-user front end, present or not.
    VhostUser(Device),
    /// The other end of a cable; `None` until both ends exist.
    Patch(Option<PortId>),
    /// Devices of the host, present or not.
    Links(Links),
    /// A generator or a sink.
    Load(Arc<LoadPort>),
}

/// A port of a relay.
pub struct PortEntry {
    pub name: String,
    pub relay: usize,
    pub slot: Slot,
    /// Its settings and state, as its relay has them.
    pub bridge: Arc<relay::Port>,
    pub kind: Kind,
    /// The source address refused last.
    pub refused: Option<Mac>,
    /// Keeps whoever makes much news of the port from filling the log.
    pub news: Arc<RateLimit>,
    /// Those that its frames come from.
    pub queues: Queues,
    counters: Arc<[PortCounters]>,
    published: Option<Arc<worker::Port>>,
}

impl PortEntry {
    /// The device of a vhost-user port.
    pub fn device(&self) -> Option<&Device> {
        match &self.kind {
            Kind::VhostUser(device) => Some(device),
            Kind::Patch(_) | Kind::Links(_) | Kind::Load(_) => None,
        }
    }

    /// The devices of a port that has some.
    pub fn links(&self) -> Option<&Links> {
        match &self.kind {
            Kind::Links(links) => Some(links),
            Kind::VhostUser(_) | Kind::Patch(_) | Kind::Load(_) => None,
        }
    }

    /// What is behind a load port.
    pub fn load(&self) -> Option<&Arc<LoadPort>> {
        match &self.kind {
            Kind::Load(load) => Some(load),
            Kind::VhostUser(_) | Kind::Patch(_) | Kind::Links(_) => None,
        }
    }

    /// Whether frames can come and go.
    pub fn is_active(&self) -> bool {
        match &self.kind {
            Kind::VhostUser(device) => device.is_active(),
            Kind::Patch(peer) => peer.is_some(),
            Kind::Links(links) => links.is_active(),
            Kind::Load(_) => true,
        }
    }

    /// Logs what happened to the port, unless that happens all the time.
    pub fn note(&self, level: Level, what: impl Display) {
        log_limited!(self.news, level, "port {}: {what}", self.name);
    }

    /// All that was counted, over all workers.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for counters in self.counters.iter() {
            sum += &counters.snapshot();
        }
        sum
    }

    /// What workers see of the port.
    fn publish(&mut self) -> Arc<worker::Port> {
        let attachment = match &self.kind {
            Kind::VhostUser(device) => device.attachment(),
            Kind::Patch(Some(peer)) => Attachment::Patch(*peer),
            Kind::Patch(None) => Attachment::Rings(Arc::new(PortRings::none(0))),
            Kind::Links(links) => links.attachment(),
            Kind::Load(load) => Attachment::Load(Arc::clone(load)),
        };
        Arc::clone(self.published.get_or_insert_with(|| {
            Arc::new(worker::Port {
                name: self.name.clone(),
                relay: self.relay,
                slot: self.slot,
                counters: Arc::clone(&self.counters),
                queues: self.queues.assignments(),
                attachment,
            })
        }))
    }
}

/// All relays and ports.
pub struct World {
    relays: Vec<Option<RelayEntry>>,
    ports: Vec<Option<PortEntry>>,
    worker_count: usize,
    /// How busy each worker was lately, in thousandths of its time.
    busy: Vec<u32>,
    /// Counts what changes the meaning of a decision, see [`Snapshot::epoch`].
    epoch: u64,
}

/// Why something cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The relay's tables cannot be built.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// No number is left.
    #[error("there are {MAX_PORTS} ports, which is the limit of one daemon")]
    TooManyPorts,
    /// No slot is left.
    #[error("the relay has {} ports, which is its limit", relay::MAX_PORTS)]
    TooManySlots,
}

impl RelayEntry {
    /// What was counted in each VLAN, over all workers; 0 stands for frames without a VLAN.
    pub fn vlan_totals(&self) -> BTreeMap<u16, VlanTotals> {
        let mut sums: BTreeMap<_, VlanTotals> = BTreeMap::new();
        for (vid, totals) in self.vlans.iter().flat_map(VlanCounters::totals) {
            *sums.entry(vid).or_default() += totals;
        }
        sums
    }

    /// A slot for a port, without anything left of the port that had it before: workers may have
    /// learned more from that one after it was removed.
    fn vacant_slot(&mut self) -> Result<Slot, WorldError> {
        let place = free_place(&mut self.slots);
        let slot = Slot::new(place).ok_or(WorldError::TooManySlots)?;
        self.tables.port_down(slot);
        Ok(slot)
    }
}

impl World {
    /// Nothing, for `worker_count` workers.
    pub fn new(worker_count: usize) -> Self {
        Self {
            relays: vec![],
            ports: vec![],
            worker_count,
            busy: vec![0; worker_count],
            epoch: 0,
        }
    }

    /// Relays with their places.
    pub fn relays(&self) -> impl Iterator<Item = (usize, &RelayEntry)> {
        self.relays
            .iter()
            .enumerate()
            .filter_map(|(place, relay)| Some((place, relay.as_ref()?)))
    }

    /// Queues of each worker.
    pub fn load(&self) -> Vec<usize> {
        let mut load = vec![0; self.worker_count];
        for worker in self.ports().flat_map(|(_, port)| port.queues.workers()) {
            load[worker] += 1;
        }
        load
    }

    /// Measures the work of `elapsed_ns`, the time since the last call, and moves queues to other workers where that
    /// helps; whether it has moved any.
    pub fn balance(&mut self, elapsed_ns: u64) -> bool {
        let mut places = vec![];
        let mut loads = vec![];
        for (id, port) in self.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            port.queues.measure(elapsed_ns);
            let of_port = port.queues.loads().enumerate();
            for (queue, load) in of_port {
                places.push((id, queue));
                loads.push(load);
            }
        }
        self.busy = balance::totals(&loads, self.worker_count);
        let moves = balance::plan(&loads, self.worker_count);
        for step in &moves {
            let (id, queue) = places[step.queue];
            if let Some(port) = &mut self.ports[id] {
                port.queues.assign(queue, step.to);
                port.published = None;
                let (was, to) = (loads[step.queue].worker, step.to);
                let what = format_args!("queue {queue} moves from worker {was} to worker {to}");
                port.note(Level::Info, what);
            }
        }
        !moves.is_empty()
    }

    /// Gives all queues of a port to one worker for good, or leaves them where they are and free to move.
    pub fn pin(&mut self, id: PortId, worker: Option<usize>) {
        if let Some(Some(port)) = self.ports.get_mut(id.index())
            && port.queues.pin(worker)
        {
            port.published = None;
        }
    }

    /// What each port has to report, by name. The address that it refused last is kept.
    pub fn take_reports(&mut self) -> impl Iterator<Item = (&str, Report)> {
        self.ports.iter_mut().flatten().map(|port| {
            let report = port.bridge.state().take_report();
            port.refused = report.refused.or(port.refused);
            (port.name.as_str(), report)
        })
    }

    pub fn relay(&self, index: usize) -> Option<&RelayEntry> {
        self.relays.get(index)?.as_ref()
    }

    pub fn relay_named(&self, name: &str) -> Option<usize> {
        self.relays
            .iter()
            .position(|r| r.as_ref().is_some_and(|r| r.name == name))
    }

    pub fn ports(&self) -> impl Iterator<Item = (PortId, &PortEntry)> {
        (0..)
            .map(PortId)
            .zip(&self.ports)
            .filter_map(|(id, port)| Some((id, port.as_ref()?)))
    }

    pub fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(id.index())?.as_ref()
    }

    pub fn port_named(&self, name: &str) -> Option<PortId> {
        self.ports()
            .find(|(_, port)| port.name == name)
            .map(|(id, _)| id)
    }

    /// A device, to be changed; workers see the change with the next snapshot.
    pub fn device_mut(&mut self, id: PortId) -> Option<&mut Device> {
        match self.kind_mut(id)? {
            Kind::VhostUser(device) => Some(device),
            Kind::Patch(_) | Kind::Links(_) | Kind::Load(_) => None,
        }
    }

    /// The queues of a port.
    pub fn queues_mut(&mut self, id: PortId) -> Option<&mut Queues> {
        let port = self.ports.get_mut(id.index())?.as_mut()?;
        Some(&mut port.queues)
    }

    /// The devices of the host behind a port; the same goes for them.
    pub fn links_mut(&mut self, id: PortId) -> Option<&mut Links> {
        match self.kind_mut(id)? {
            Kind::Links(links) => Some(links),
            Kind::VhostUser(_) | Kind::Patch(_) | Kind::Load(_) => None,
        }
    }

    fn kind_mut(&mut self, id: PortId) -> Option<&mut Kind> {
        let port = self.ports.get_mut(id.index())?.as_mut()?;
        port.published = None;
        if let Some(Some(relay)) = self.relays.get_mut(port.relay) {
            relay.view = None;
        }
        Some(&mut port.kind)
    }

    /// Adds a relay without ports and returns its place.
    pub fn add_relay(&mut self, name: &str, config: RelayConfig) -> Result<usize, WorldError> {
        let fdb = Arc::new(Fdb::new(config.max_entries));
        let tables = Arc::new(Relay::new(config.clone(), vec![], Arc::clone(&fdb))?);
        let name = name.to_owned();
        let relay = RelayEntry {
            name,
            config,
            fdb,
            tables,
            statics: vec![],
            slots: vec![],
            vlans: (0..self.worker_count)
                .map(|_| VlanCounters::default())
                .collect(),
            view: None,
        };
        let place = free_place(&mut self.relays);
        self.relays[place] = Some(relay);
        Ok(place)
    }

    /// Changes the settings of a relay. A table of another size starts with what is pinned.
    pub fn set_relay(&mut self, place: usize, config: RelayConfig) {
        if let Some(Some(relay)) = self.relays.get_mut(place) {
            if relay.config.max_entries != config.max_entries {
                relay.fdb = Arc::new(Fdb::new(config.max_entries));
                relay.tables.copy_pins(&relay.fdb);
            }
            relay.config = config;
        }
    }

    pub fn remove_relay(&mut self, place: usize) {
        if let Some(relay) = self.relays.get_mut(place) {
            *relay = None;
        }
    }

    /// Adds a port to a relay; [`World::rebuild`] makes the relay know it.
    pub fn add_port(
        &mut self,
        name: &str,
        relay: usize,
        config: PortConfig,
        kind: Kind,
    ) -> Result<PortId, WorldError> {
        let place = free_place(&mut self.ports);
        let id = u16::try_from(place)
            .ok()
            .filter(|_| place < MAX_PORTS)
            .map(PortId);
        let id = id.ok_or(WorldError::TooManyPorts)?;
        let Some(Some(entry)) = self.relays.get_mut(relay) else {
            return Err(WorldError::TooManySlots);
        };
        let slot = entry.vacant_slot()?;
        entry.slots[slot.index()] = Some(id);
        let pairs = match &kind {
            Kind::VhostUser(device) => device.queue_pairs,
            Kind::Patch(_) => 0,
            Kind::Links(links) => links.queues(),
            Kind::Load(load) => load.is_generator().into(),
        };
        let queues = Queues::new(self.assign(pairs));
        self.ports[place] = Some(PortEntry {
            name: name.to_owned(),
            relay,
            slot,
            bridge: relay::Port::new(config, Arc::default()),
            kind,
            refused: None,
            news: Arc::new(RateLimit::new(NEWS.0, NEWS.1)),
            counters: (0..self.worker_count)
                .map(|_| PortCounters::default())
                .collect(),
            queues,
            published: None,
        });
        Ok(id)
    }

    /// Takes a port to another relay, which knows nothing of it yet.
    pub fn move_port(&mut self, id: PortId, relay: usize) -> Result<(), WorldError> {
        let Some(Some(port)) = self.ports.get_mut(id.index()) else {
            return Ok(());
        };
        let Some(Some(next)) = self.relays.get_mut(relay) else {
            return Err(WorldError::TooManySlots);
        };
        let slot = next.vacant_slot()?;
        next.slots[slot.index()] = Some(id);
        if let Some(Some(last)) = self.relays.get_mut(port.relay) {
            last.tables.port_removed(port.slot);
            last.slots[port.slot.index()] = None;
        }
        let config = port.bridge.config().clone();
        port.bridge = relay::Port::new(config, Arc::default());
        (port.relay, port.slot, port.published) = (relay, slot, None);
        Ok(())
    }

    /// Changes what the relay is told of a port.
    pub fn set_port(&mut self, id: PortId, config: PortConfig) {
        if let Some(Some(port)) = self.ports.get_mut(id.index())
            && *port.bridge.config() != config
        {
            port.bridge = relay::Port::new(config, Arc::clone(port.bridge.state()));
        }
    }

    /// Makes two ends of a cable know each other.
    pub fn join(&mut self, a: PortId, b: PortId) {
        for (end, peer) in [(a, b), (b, a)] {
            if let Some(Some(port)) = self.ports.get_mut(end.index()) {
                port.kind = Kind::Patch(Some(peer));
                port.published = None;
            }
        }
    }

    /// Takes a port out of the world. Its slot stays taken until [`World::release`].
    pub fn take_port(&mut self, id: PortId) -> Option<PortEntry> {
        let port = self.ports.get_mut(id.index())?.take()?;
        if let Kind::Patch(Some(peer)) = &port.kind
            && let Some(Some(other)) = self.ports.get_mut(peer.index())
        {
            other.kind = Kind::Patch(None);
            other.published = None;
        }
        for relay in self.relays.iter_mut().flatten() {
            relay.view = None;
        }
        Some(port)
    }

    /// Forgets what a relay has learned of a port that was taken out, and gives its slot away. No
    /// worker may know the port any more.
    pub fn release(&mut self, port: &PortEntry) {
        if let Some(Some(relay)) = self.relays.get_mut(port.relay) {
            relay.tables.port_removed(port.slot);
            if let Some(slot) = relay.slots.get_mut(port.slot.index()) {
                *slot = None;
            }
        }
    }

    /// Builds the tables of a relay after its settings or its ports' have changed; whether that calls for
    /// [`Relay::forget_strays`].
    pub fn rebuild(&mut self, place: usize) -> Result<bool, WorldError> {
        let Some(Some(relay)) = self.relays.get_mut(place) else {
            return Ok(false);
        };
        let ports = relay.slots.iter().map(|id| {
            Some(Arc::clone(
                &self.ports.get((*id)?.index())?.as_ref()?.bridge,
            ))
        });
        let tables = Relay::new(
            relay.config.clone(),
            ports.collect(),
            Arc::clone(&relay.fdb),
        )?;
        let strays = tables.divides_otherwise(&relay.tables);
        relay.tables = Arc::new(tables);
        relay.view = None;
        Ok(strays)
    }

    /// Makes the static entries of a relay those in `wanted`; what cannot be added is returned.
    pub fn set_statics(
        &mut self,
        place: usize,
        wanted: &[StaticEntry],
    ) -> Vec<(StaticEntry, StaticError)> {
        let slot_of = |name: &str| {
            let (_, port) = self
                .ports()
                .find(|(_, p)| p.name == name && p.relay == place)?;
            Some(port.slot)
        };
        let slots: Vec<_> = wanted.iter().map(|entry| slot_of(&entry.port)).collect();
        let Some(Some(relay)) = self.relays.get_mut(place) else {
            return vec![];
        };
        for entry in std::mem::take(&mut relay.statics) {
            if !wanted.contains(&entry) {
                relay.tables.remove_static(entry.vid, entry.mac);
            }
        }
        let mut refused = vec![];
        for (entry, slot) in wanted.iter().zip(slots) {
            let added = slot
                .ok_or(StaticError::NoPort)
                .and_then(|slot| relay.tables.add_static(entry.vid, entry.mac, slot));
            match added {
                Ok(()) => relay.statics.push(entry.clone()),
                Err(error) => refused.push((entry.clone(), error)),
            }
        }
        refused
    }

    /// What was decided until now is to be decided again.
    pub fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// What workers are to see from now on.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut relays = Vec::with_capacity(self.relays.len());
        for entry in &mut self.relays {
            let Some(relay) = entry else {
                relays.push(None);
                continue;
            };
            let view = relay.view.get_or_insert_with(|| {
                let active: PortSet = (0..)
                    .map_while(Slot::new)
                    .zip(&relay.slots)
                    .filter(|(_, id)| {
                        let port = id.and_then(|id| self.ports.get(id.index())?.as_ref());
                        port.is_some_and(PortEntry::is_active)
                    })
                    .map(|(slot, _)| slot)
                    .collect();
                let relay_tables = Arc::clone(&relay.tables);
                Arc::new(RelayView {
                    relay: relay_tables,
                    active,
                    ports: relay.slots.clone(),
                    vlans: Arc::clone(&relay.vlans),
                })
            });
            relays.push(Some(Arc::clone(view)));
        }
        let ports = self
            .ports
            .iter_mut()
            .map(|port| Some(port.as_mut()?.publish()))
            .collect();
        Snapshot {
            epoch: self.epoch,
            ports,
            relays,
        }
    }

    /// Workers for so many new queues: each the one with the least to do, and the fewest queues among those that are
    /// about as busy.
    pub fn assign(&self, queues: u16) -> impl Iterator<Item = usize> + use<> {
        let mut load = self.load();
        let busy = self.busy.clone();
        (0..queues).map(move |_| {
            let workers = 0..load.len();
            let worker = workers.min_by_key(|&worker| (busy[worker] / balance::GAIN, load[worker]));
            let worker = worker.unwrap_or(0);
            load[worker] += 1;
            worker
        })
    }
}

/// The first vacant place, made at the end where there is none.
fn free_place<T>(places: &mut Vec<Option<T>>) -> usize {
    places.iter().position(Option::is_none).unwrap_or_else(|| {
        places.push(None);
        places.len() - 1
    })
}
