//! What the daemon makes of events.

use std::sync::Arc;
use std::time::Instant;

use log::Level;

use super::event::{Event, SessionId};
use super::{Daemon, HOUSEKEEPING, device, world};
use crate::agent::announce;
use crate::frame::mac::Mac;
use crate::vhost_user::{SHARE_HINT, Update};
use crate::virtqueue::RingError;
use crate::worker::{Fault, PortId};

/// Addresses that a front end may ask to announce at once; more are not announced.
const ANNOUNCEMENTS: usize = 8;
/// While so many announcements wait to be sent, no more are made.
const BACKLOG: usize = 4096;
/// What becomes of a port whose ring is of no use.
const UNTIL_RESET: &str = "stopped until the guest resets its device";

impl Daemon {
    /// Deals with one event.
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Connected { port, session } => {
                if let Some(device) = self.world.device_mut(port) {
                    device.session = Some(session);
                    device.failure = None;
                }
            }
            Event::Rings {
                port,
                session,
                rings,
                reply,
            } => {
                self.replies.push(reply);
                self.dirty = true;
                self.plug(port, session, |device| device.rings = Arc::new(rings));
            }
            Event::Link {
                port,
                session,
                link,
                reply,
            } => {
                self.replies.push(reply);
                self.dirty = true;
                self.plug(port, session, |device| device.link = link);
            }
            Event::Update {
                port,
                session,
                update,
                done,
            } => {
                self.update(port, session, &update);
                drop(done);
            }
            Event::Disconnected { port, session } => {
                if let Some(device) = self.device(port, session) {
                    device.session = None;
                    device.link = None;
                    device.features = 0;
                    device.failure = None;
                }
            }
            Event::Quiet { port } => {
                // It may have come back up meanwhile; what it learns from now on is new.
                if let Some(port) = self.world.port(port)
                    && !port.is_active()
                    && let Some(relay) = self.world.relay(port.relay)
                {
                    relay.tables.port_down(port.slot);
                }
            }
            Event::Failed { port, error } => self.fail(port, &error),
            Event::Hollow { port } => {
                if let Some(port) = self.world.port(port) {
                    port.note(
                        Level::Warn,
                        format_args!(
                            "the guest kicks, but its ring is empty: it writes to memory that is not \
                             shared. {SHARE_HINT}"
                        ),
                    );
                }
            }
            Event::Awake => {
                let soon = Instant::now() + HOUSEKEEPING;
                self.next_housekeeping = self.next_housekeeping.min(soon);
            }
            Event::Devices(changes) => self.devices_changed(&changes),
            Event::Found { search, link } => self.device_found(search, link),
            Event::Over { port } => self.announce_behind(port),
            Event::Opened(opened) => self.finish_reload(opened),
            Event::EndpointGone => {
                self.closing = self.closing.saturating_sub(1);
                self.open_for_reload();
            }
        }
    }

    /// The device of a port, if `session` is its present one.
    fn device(&mut self, port: PortId, session: SessionId) -> Option<&mut device::Device> {
        let device = self.world.device_mut(port)?;
        (device.session == Some(session)).then_some(device)
    }

    /// Changes what a session has to offer, which may take its port up or down.
    fn plug(&mut self, id: PortId, session: SessionId, change: impl FnOnce(&mut device::Device)) {
        let was_active = self.world.port(id).is_some_and(world::PortEntry::is_active);
        let Some(device) = self.device(id, session) else {
            return;
        };
        change(device);
        let Some(port) = self.world.port(id) else {
            return;
        };
        match (was_active, port.is_active()) {
            (false, true) => {
                port.note(Level::Info, "up");
                self.announce_later(id);
            }
            (true, false) => {
                port.note(Level::Info, "down");
                self.falling.push(id);
            }
            _ => {}
        }
    }

    fn update(&mut self, id: PortId, session: SessionId, update: &Update) {
        let Some(device) = self.device(id, session) else {
            return;
        };
        match update {
            Update::Negotiated(features) => device.features = *features,
            Update::Announce(mac) => {
                let asked = self.announcing.iter().filter(|(port, _)| *port == id);
                if asked.count() < ANNOUNCEMENTS && !self.announcing.contains(&(id, Some(*mac))) {
                    self.announcing.push_back((id, Some(*mac)));
                    self.dirty = true;
                }
            }
            Update::Mtu(mtu) => {
                let Some(port) = self.world.port(id) else {
                    return;
                };
                if port.bridge.config().mtu.is_some_and(|limit| *mtu > limit) {
                    let what = format_args!("the guest was told an MTU of {mtu}, above the port's");
                    port.note(Level::Warn, what);
                }
            }
            Update::Stuck(why) => {
                device.failure = Some((device.rings.life, why.clone()));
                if let Some(port) = self.world.port(id) {
                    port.note(Level::Error, format_args!("{UNTIL_RESET}: {why}"));
                }
            }
        }
    }

    /// A ring of a port is broken: the port is out of use until its guest resets the device.
    fn fail(&mut self, id: PortId, error: &Fault) {
        let Some(port) = self.world.port(id) else {
            return;
        };
        // It may have stopped its rings while a worker waited.
        if let Fault::Ring(RingError::CallBlocks) = error
            && let Some(endpoint) = port.device().and_then(|device| device.endpoint.as_ref())
        {
            endpoint.expel();
        }
        if !port.is_active() {
            return;
        }
        let why = error.to_string();
        let what = format_args!("{UNTIL_RESET}: {why}");
        port.note(Level::Error, what);
        if let Some(device) = self.world.device_mut(id) {
            device.failure = Some((device.rings.life, why));
        }
        self.falling.push(id);
        self.dirty = true;
    }

    /// Has all addresses of a port announced, once however often it has come up meanwhile.
    pub(super) fn announce_later(&mut self, port: PortId) {
        let whole = (port, None);
        if !self.announcing.contains(&whole) {
            self.announcing.push_back(whole);
        }
    }

    /// Announces the ports that wait for it, as long as the frames are not more than workers can send soon.
    pub(super) fn announce_some(&mut self) {
        while self.pool.backlog() < BACKLOG
            && let Some((port, extra)) = self.announcing.pop_front()
        {
            self.announce(port, extra);
        }
    }

    /// Tells the network where the addresses of a port are now (after a start or a migration).
    fn announce(&mut self, id: PortId, extra: Option<Mac>) {
        let Some(port) = self.world.port(id) else {
            return;
        };
        let Some(relay) = self.world.relay(port.relay) else {
            return;
        };
        let places = relay.tables.announcements(port.slot, extra);
        let frames = places
            .iter()
            .map(|at| announce::frame(at.mac, at.vid, &port.bridge.config().vlan));
        self.pool.inject(id, frames);
    }
}
