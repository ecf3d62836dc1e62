//! The answers to the commands of the API.

use std::ops::ControlFlow;
use std::process;
use std::sync::Arc;

use super::Daemon;
use super::links::Links;
use super::load::load_status;
use super::world::{Kind, PortEntry, RelayEntry};
use crate::api::{Command, FdbWalk, Refusal, RefusalKind};
use crate::api_types::{
    Counters, FdbEntry, FdbFilter, FdbKind, Flushed, PortMode, PortRole, PortState, PortStatus,
    RelayStatus, Status, VlanStatus, WorkerStatus,
};
use crate::relay::{Entry, EntryKind, Fdb, Mode, Relay, Role, Slot};
use crate::vhost_user::feature_names;

impl Daemon {
    pub(super) fn command(&mut self, command: Command) {
        // A client that has gone meanwhile misses nothing.
        match command {
            Command::Status { reply } => drop(reply.send(self.status())),
            Command::Fdb { filter, reply } => drop(reply.send(self.fdb_walk(&filter))),
            Command::Flush { filter, reply } => drop(reply.send(self.flush(&filter))),
            Command::Reload { reply } => self.reload(Some(reply)),
            Command::Load { port, start, reply } => drop(reply.send(self.load(&port, start))),
        }
    }

    fn status(&self) -> Status {
        let load = self.world.load();
        let cpus = &self.config.daemon.cpus;
        let idle = self.pool.is_idle();
        let measured = self.busy.iter().zip(self.pool.busy_ns()).zip(load);
        let workers = measured
            .enumerate()
            .map(|(id, ((meter, busy_ns), queues))| WorkerStatus {
                id,
                cpu: cpus.get(id).copied(),
                queues,
                busy_permille: if idle { 0 } else { meter.share },
                busy_ns,
            });
        let relays = self.world.relays().map(|(place, relay)| RelayStatus {
            name: relay.name.clone(),
            ports: self.ports_of(place).map(|port| port.name.clone()).collect(),
            fdb_entries: relay.fdb.len() as u64,
            fdb_limit: relay.config.max_entries.into(),
            vlans: relay
                .vlan_totals()
                .iter()
                .map(|(vid, totals)| VlanStatus::new(*vid, totals))
                .collect(),
        });
        let mut relays: Vec<_> = relays.collect();
        relays.sort_by(|a, b| a.name.cmp(&b.name));
        let mut ports: Vec<_> = self
            .world
            .ports()
            .map(|(_, port)| self.port_status(port))
            .collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            workers: workers.collect(),
            relays,
            ports,
        }
    }

    fn ports_of(&self, relay: usize) -> impl Iterator<Item = &PortEntry> {
        self.world
            .ports()
            .map(|(_, port)| port)
            .filter(move |port| port.relay == relay)
    }

    fn port_status(&self, port: &PortEntry) -> PortStatus {
        let config = port.bridge.config();
        let state = port.bridge.state();
        let device = port.device();
        let relay = self.world.relay(port.relay);
        let queues = match &port.kind {
            Kind::VhostUser(device) => device.queues() as u16,
            Kind::Links(links) => links.queues(),
            Kind::Patch(_) => 0,
            Kind::Load(load) => load.is_generator().into(),
        };
        PortStatus {
            name: port.name.clone(),
            relay: relay.map(|relay| relay.name.clone()).unwrap_or_default(),
            role: match config.role {
                Role::Local => PortRole::Local,
                Role::Uplink => PortRole::Uplink,
            },
            mode: (config.role == Role::Local).then_some(match config.mode {
                Mode::Bridge => PortMode::Bridge,
                Mode::Vepa => PortMode::Vepa,
                Mode::Private => PortMode::Private,
                Mode::Passthrough => PortMode::Passthrough,
            }),
            state: match (&port.kind, device) {
                (_, Some(device)) if device.failed().is_some() => PortState::Failed {
                    reason: device.failed().unwrap_or_default().to_owned(),
                },
                _ if port.is_active() => PortState::Running,
                (Kind::VhostUser(device), _) if device.session.is_some() => PortState::Connected,
                _ => PortState::Down,
            },
            socket: device.map(|device| device.path().display().to_string()),
            links: port.links().map(Links::status).unwrap_or_default(),
            queues,
            workers: port.queues.workers().take(queues.into()).collect(),
            features: device
                .map(|device| feature_names(device.features))
                .unwrap_or_default()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            mtu: config.mtu,
            macs: config.macs.iter().copied().chain(state.pinned()).collect(),
            refused_mac: port.refused,
            load: port.load().map(|load| load_status(load)),
            counters: Counters {
                unlearned: state.unlearned(),
                ..Counters::from(&port.totals())
            },
        }
    }

    /// The relays that a filter means, with the slot of the port that it names.
    fn chosen(&self, filter: &FdbFilter) -> Result<Vec<Chosen<'_>>, Refusal> {
        let unknown = |what: &str, name: &str| {
            let error = format!("there is no {what} {name}");
            Refusal::new(
                RefusalKind::NotFound,
                error,
                "`evb status` lists relays and ports",
            )
        };
        let port = match &filter.port {
            Some(name) => {
                let id = self
                    .world
                    .port_named(name)
                    .ok_or_else(|| unknown("port", name))?;
                self.world.port(id)
            }
            None => None,
        };
        if let Some(name) = &filter.relay
            && self.world.relay_named(name).is_none()
        {
            return Err(unknown("relay", name));
        }
        let fits = |place: usize, relay: &RelayEntry| {
            filter.relay.as_ref().is_none_or(|name| *name == relay.name)
                && port.is_none_or(|port| port.relay == place)
        };
        let chosen = self
            .world
            .relays()
            .filter(|(place, relay)| fits(*place, relay));
        Ok(chosen
            .map(|(place, relay)| Chosen {
                place,
                relay,
                slot: port.map(|port| port.slot),
            })
            .collect())
    }

    fn fdb_walk(&self, filter: &FdbFilter) -> Result<FdbWalk, Refusal> {
        let now = self.pool.now_s();
        let walks: Vec<_> = self
            .chosen(filter)?
            .into_iter()
            .map(|chosen| RelayWalk {
                name: chosen.relay.name.clone(),
                fdb: Arc::clone(&chosen.relay.fdb),
                tables: Arc::clone(&chosen.relay.tables),
                ports: self
                    .ports_of(chosen.place)
                    .map(|port| (port.slot, port.name.clone()))
                    .collect(),
                slot: chosen.slot,
            })
            .collect();
        let filter = filter.clone();
        Ok(Box::new(move |show| {
            for walk in walks {
                if walk.run(&filter, now, show).is_break() {
                    return;
                }
            }
        }))
    }

    fn flush(&mut self, filter: &FdbFilter) -> Result<Flushed, Refusal> {
        let now = self.pool.now_s();
        let mut count = 0;
        for Chosen { relay, slot, .. } in self.chosen(filter)? {
            let fid = filter.vid.map(|vid| relay.tables.fid(Some(vid)));
            count += relay.fdb.flush(now, |entry| fits(entry, filter, slot, fid));
        }
        Ok(Flushed {
            count: count as u64,
        })
    }
}

/// A relay that a filter means.
struct Chosen<'a> {
    place: usize,
    relay: &'a RelayEntry,
    slot: Option<Slot>,
}

/// What a walk through one FDB needs, away from the daemon.
struct RelayWalk {
    name: String,
    fdb: Arc<Fdb>,
    tables: Arc<Relay>,
    ports: Vec<(Slot, String)>,
    slot: Option<Slot>,
}

impl RelayWalk {
    fn run(
        &self,
        filter: &FdbFilter,
        now: u32,
        show: &mut dyn FnMut(FdbEntry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let name_of = |slot: Slot| {
            let port = self.ports.iter().find(|(s, _)| *s == slot);
            port.map(|(_, name)| name.clone()).unwrap_or_default()
        };
        for (slot, name) in &self.ports {
            let macs = self
                .tables
                .port(*slot)
                .map(|port| port.config().macs.clone());
            for mac in macs.unwrap_or_default() {
                let wanted = self.slot.is_none_or(|wanted| wanted == *slot)
                    && filter.mac.is_none_or(|wanted| wanted == mac)
                    && filter
                        .vid
                        .is_none_or(|vid| self.tables.is_member(*slot, vid));
                if wanted {
                    show(FdbEntry {
                        relay: self.name.clone(),
                        vid: None,
                        mac,
                        port: name.clone(),
                        kind: FdbKind::Registered,
                        age_s: None,
                    })?;
                }
            }
        }
        let fid = filter.vid.map(|vid| self.tables.fid(Some(vid)));
        for entry in self.fdb.entries(now) {
            if fits(&entry, filter, self.slot, fid) {
                show(FdbEntry {
                    relay: self.name.clone(),
                    vid: entry.fid.filter(|fid| *fid != 0),
                    mac: entry.mac,
                    port: name_of(entry.slot),
                    kind: match entry.kind {
                        EntryKind::Learned => FdbKind::Learned,
                        EntryKind::Static => FdbKind::Static,
                        EntryKind::Pinned => FdbKind::Pinned,
                    },
                    age_s: (entry.kind == EntryKind::Learned).then_some(entry.age.into()),
                })?;
            }
        }
        ControlFlow::Continue(())
    }
}

fn fits(entry: &Entry, filter: &FdbFilter, slot: Option<Slot>, fid: Option<u16>) -> bool {
    slot.is_none_or(|slot| slot == entry.slot)
        && filter.mac.is_none_or(|mac| mac == entry.mac)
        && fid.is_none_or(|fid| entry.fid.is_none_or(|own| own == fid))
}
