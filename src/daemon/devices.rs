//! What the daemon does when devices of the host come, go and change.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::Daemon;
use super::event::Event;
use super::links::{self, Known, Links, Opener, SearchId, Turn};
use super::world::PortEntry;
use crate::agent::announce;
use crate::config::Config;
use crate::frame::ethernet::Vid;
use crate::privileged::Error;
use crate::relay::{Announcement, EntryKind, PortConfig, Role, Slot};
use crate::uplink::Link;
use crate::uplink::netlink::{Change, Watch};
use crate::worker::PortId;

/// Learned addresses that are announced after a bond has changed to another link.
const ANNOUNCED_MAX: usize = 1024;

/// What the daemon knows of the host's devices.
#[derive(Default)]
pub struct Devices {
    /// Their states, if they are watched.
    pub known: Known,
    watched: bool,
}

impl Daemon {
    /// What it takes to open devices.
    pub(super) fn opener(&self) -> Opener {
        Opener {
            privileged: Arc::clone(&self.privileged),
            events: self.events.clone(),
        }
    }

    /// Refuses devices that were not named at start, before anything is changed.
    pub(super) fn check_devices(&self, config: &Config) -> Result<(), Error> {
        let specs = config.specs();
        specs
            .values()
            .try_for_each(|spec| self.privileged.admits(spec))
    }

    /// Begins to watch devices, if any port has one, and takes note of those that are there.
    pub(super) async fn watch_devices(&mut self) -> io::Result<()> {
        if let Some(mut watch) = self.new_watch()? {
            let changes = watch.stock().await?;
            self.devices_changed(&changes);
            tokio::spawn(links::follow(watch, self.events.clone()));
        }
        Ok(())
    }

    /// The same while the daemon runs: what is there arrives as news.
    pub(super) fn keep_watching_devices(&mut self) {
        match self.new_watch() {
            Ok(None) => {}
            Ok(Some(watch)) => drop(tokio::spawn(links::follow(watch, self.events.clone()))),
            Err(error) => log::error!("cannot watch network devices: {error}"),
        }
    }

    /// A watch, unless there is one or nothing to watch.
    fn new_watch(&mut self) -> io::Result<Option<Watch>> {
        if self.devices.watched || self.world.ports().all(|(_, port)| port.links().is_none()) {
            return Ok(None);
        }
        let watch = Watch::new()?;
        self.devices.watched = true;
        Ok(Some(watch))
    }

    /// Devices have changed, be they ours or not.
    pub(super) fn devices_changed(&mut self, changes: &[Change]) {
        for change in changes {
            match change.now {
                Some(state) => self.devices.known.insert(change.ifindex, state),
                None => self.devices.known.remove(&change.ifindex),
            };
        }
        // They may be what others wait for, such as their parents.
        let ports = self.world.ports();
        let links = ports.filter_map(|(_, port)| port.links());
        links.for_each(Links::hint);
        let opener = self.opener();
        for (id, name) in self.ports_with(|links| links.concern(changes)) {
            if let Some(links) = self.world.links_mut(id) {
                let turn = links.note(&name, changes, &opener);
                self.turned(id, &name, turn);
            }
        }
    }

    /// A search has found its device.
    pub(super) fn device_found(&mut self, search: SearchId, link: Link) {
        let found = self.ports_with(|links| links.has_search(search)).pop();
        let opener = self.opener();
        if let Some((id, name)) = found
            && let Some(links) = self.world.links_mut(id)
        {
            let turn = links.found(&name, search, link, &self.devices.known, &opener);
            let queues = links.queues();
            self.widen(id, queues);
            self.turned(id, &name, turn);
        } else {
            // Its port was removed meanwhile; whoever did that waits for the event that follows.
            opener.discard(link);
        }
    }

    /// Gives workers to the queues of a device that has more than it had.
    fn widen(&mut self, id: PortId, queues: u16) {
        let had = self
            .world
            .port(id)
            .map(|port| port.queues.workers().count());
        let more = usize::from(queues).saturating_sub(had.unwrap_or_default());
        let workers = self.world.assign(more as u16);
        if let Some(queues) = self.world.queues_mut(id) {
            queues.extend(workers);
        }
    }

    fn ports_with(&self, wanted: impl Fn(&Links) -> bool) -> Vec<(PortId, String)> {
        let ports = self.world.ports();
        let wanted = ports.filter(|(_, port)| port.links().is_some_and(&wanted));
        wanted.map(|(id, port)| (id, port.name.clone())).collect()
    }

    /// What a change of its devices means for a port and everybody else.
    fn turned(&mut self, id: PortId, name: &str, turn: Turn) {
        self.dirty = true;
        if self.follow_mtu(id)
            && let Some(port) = self.world.port(id)
            && let Err(error) = self.world.rebuild(port.relay)
        {
            log::error!("port {name}: {error}");
        }
        let Some(links) = self.world.port(id).and_then(PortEntry::links) else {
            return;
        };
        match (turn.was_active, links.is_active()) {
            (false, true) => {
                log::info!("port {name}: up");
                self.announce_later(id);
            }
            (true, false) => {
                log::info!("port {name}: down");
                self.falling.push(id);
            }
            _ => {}
        }
        if turn.over {
            self.publish();
            let events = self.events.clone();
            self.when_in_force(move || drop(events.send(Event::Over { port: id })));
        }
    }

    /// Gives a port the MTU that the devices behind it have; whether its relay has to be told.
    pub(super) fn follow_mtu(&mut self, id: PortId) -> bool {
        let Some(port) = self.world.port(id) else {
            return false;
        };
        let config = port.bridge.config();
        match port.links().map(Links::mtu) {
            Some(mtu) if mtu != config.mtu => {
                let config = PortConfig {
                    mtu,
                    ..config.clone()
                };
                self.world.set_port(id, config);
                true
            }
            _ => false,
        }
    }

    /// All workers use another link of a bond: tells the network behind it that the relay's stations
    /// are reached by this one now.
    pub(super) fn announce_behind(&mut self, uplink: PortId) {
        let Some(uplink) = self.world.port(uplink) else {
            return;
        };
        let Some(relay) = self.world.relay(uplink.relay) else {
            return;
        };
        if let Some(link) = uplink.links().and_then(Links::active_name) {
            log::warn!("port {}: {link} carries its frames now", uplink.name);
        }
        let mut learned: BTreeMap<Slot, Vec<Announcement>> = BTreeMap::new();
        let entries = relay.fdb.entries(self.pool.now_s());
        let entries = entries.filter(|entry| entry.kind == EntryKind::Learned);
        for entry in entries.take(ANNOUNCED_MAX) {
            let vid = entry.fid.and_then(Vid::new);
            if vid.is_none_or(|vid| relay.tables.is_member(entry.slot, vid)) {
                let (mac, places) = (entry.mac, learned.entry(entry.slot).or_default());
                places.push(Announcement { mac, vid });
            }
        }
        for (id, port) in self.world.ports() {
            let config = port.bridge.config();
            if port.relay != uplink.relay || config.role != Role::Local || !port.is_active() {
                continue;
            }
            self.announcing.push_back((id, None));
            let learned = learned.remove(&port.slot).unwrap_or_default();
            let frames = learned.iter();
            let frames = frames.map(|at| announce::frame(at.mac, at.vid, &config.vlan));
            self.pool.inject(id, frames);
        }
        self.announce_some();
    }
}
