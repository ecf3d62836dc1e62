//! From one configuration to another: start is the way from nothing.
//!
//! What did not change is not touched. What changed beyond what a running port can take is removed
//! and added again, which its front end sees as a reconnect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Daemon;
use super::device::Device;
use super::endpoint::{Address, Endpoint};
use super::links::{Named, Opener};
use super::load;
use super::opening::{Opened, Openings};
use super::positions::Keeper;
use super::world::{Kind, World};
use crate::config::{Attachment, Backend, Config, Generator, LinkKind, Patch};
use crate::relay::PortConfig;
use crate::vhost_user::DevicePolicy;

/// Why a configuration could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A port or its socket.
    #[error("port {port}: {why}")]
    Port {
        /// Its name.
        port: String,
        /// What stands against it.
        why: String,
    },
    /// A relay.
    #[error("relay {relay}: {why}")]
    Relay {
        /// Its name.
        relay: String,
        /// What stands against it.
        why: String,
    },
}

/// A port of a relay as the configuration wants it: a port, an uplink or the end of a patch.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    relay: String,
    /// The worker that it is pinned to.
    worker: Option<usize>,
    settings: PortConfig,
    plug: Plug,
}

/// What is to be behind a port.
#[derive(Clone, Debug, PartialEq)]
enum Plug {
    VhostUser {
        address: Address,
        queue_pairs: u16,
    },
    Patch {
        peer: String,
    },
    /// Devices of the host: one, or those of a bond.
    Links(Vec<Named>),
    /// Frames are made and counted, or only counted.
    Load(Option<Generator>),
}

impl Plug {
    /// Whether what is behind a port serves as this one, too.
    fn serves(&self, next: &Plug) -> bool {
        match (self, next) {
            (Plug::Links(now), Plug::Links(next)) => {
                let serves = |((a, now), (b, next)): (&Named, &Named)| a == b && now.serves(next);
                now.len() == next.len() && now.iter().zip(next).all(serves)
            }
            _ => self == next,
        }
    }
}

impl Wanted {
    /// Whether a running port can become this one without its front end noticing.
    fn keeps(&self, now: &Wanted) -> bool {
        self.plug.serves(&now.plug)
            && self.settings.role == now.settings.role
            // The guest was told its MTU, and that it is a standby.
            && self.settings.mtu == now.settings.mtu
            && self.settings.standby == now.settings.standby
    }
}

/// All ports that a configuration wants, by name.
fn wanted(config: &Config) -> BTreeMap<String, Wanted> {
    let specs = config.specs();
    // All that is not a socket has one.
    let link = |name: &str| specs.get(name).map(|spec| (name.to_owned(), spec.clone()));
    let links = |name: &str| Plug::Links(link(name).into_iter().collect());
    let mut all = BTreeMap::new();
    let mut put = |name: &str, relay: &str, worker, settings: &PortConfig, plug| {
        let wanted = Wanted {
            relay: relay.to_owned(),
            worker,
            settings: settings.clone(),
            plug,
        };
        all.insert(name.to_owned(), wanted);
    };
    for (name, port) in &config.ports {
        let plug = match &port.backend {
            Backend::Listen(path) => listen(path, port.queues),
            Backend::Connect(path) => connect(path, port.queues),
            Backend::Tap(_) | Backend::Handed(_) => links(name),
            Backend::Generator(generator) => Plug::Load(Some(generator.clone())),
            Backend::Sink => Plug::Load(None),
        };
        put(name, &port.relay, port.worker, &port.settings, plug);
    }
    for (name, uplink) in &config.uplinks {
        let plug = match &uplink.attachment {
            Attachment::Single(single) => match &single.kind {
                LinkKind::Listen(path) => listen(path, single.queues),
                LinkKind::Connect(path) => connect(path, single.queues),
                _ => links(name),
            },
            Attachment::Bond(members) => Plug::Links(
                members
                    .iter()
                    .filter_map(|member| link(&member.name))
                    .collect(),
            ),
        };
        put(name, &uplink.relay, uplink.worker, &uplink.settings, plug);
    }
    for (name, patch) in &config.patches {
        let [a, b] = Patch::end_names(name);
        for (end, name, peer) in [(&patch.a, &a, &b), (&patch.b, &b, &a)] {
            let plug = Plug::Patch { peer: peer.clone() };
            put(name, &end.relay, None, &end.settings, plug);
        }
    }
    all
}

fn listen(path: &Path, queue_pairs: u16) -> Plug {
    Plug::VhostUser {
        address: Address::Listen(path.to_owned()),
        queue_pairs,
    }
}

fn connect(path: &Path, queue_pairs: u16) -> Plug {
    Plug::VhostUser {
        address: Address::Connect(path.to_owned()),
        queue_pairs,
    }
}

/// What has to be opened before the world becomes `config`.
pub(super) fn openings(world: &World, config: &Config, opener: Opener) -> Openings {
    let (mut links, mut sockets) = (vec![], vec![]);
    for (name, port) in wanted(config) {
        if world.port_named(&name).is_some() {
            continue;
        }
        match port.plug {
            Plug::Links(names) => links.push((name, names, port.settings.mtu)),
            Plug::VhostUser {
                address: Address::Listen(path),
                ..
            } => sockets.push((name, path)),
            Plug::VhostUser { .. } | Plug::Patch { .. } | Plug::Load(_) => {}
        }
    }
    Openings {
        opener,
        links,
        sockets,
    }
}

impl Daemon {
    /// The first half of becoming `config`: removes what is not in it.
    ///
    /// Sockets close in their own time; [`Daemon::establish`] follows when they have, because one
    /// of them may be wanted again.
    pub(super) fn retire(&mut self, config: &Config) {
        let wanted = wanted(config);
        let gone: Vec<_> = self
            .world
            .ports()
            .filter(|(_, port)| !self.stays(&port.name, &wanted, config))
            .map(|(id, _)| id)
            .collect();
        let gone: Vec<_> = gone
            .into_iter()
            .filter_map(|id| self.world.take_port(id))
            .collect();
        // No worker forwards for these ports any more before what they have learned is forgotten and
        // their places are given to others.
        self.publish();
        self.pool.barrier().wait(self.published);
        for port in gone {
            log::info!("port {}: removed", port.name);
            self.world.release(&port);
            self.closing += match port.kind {
                Kind::VhostUser(device) => usize::from(device.is_open()),
                Kind::Patch(_) | Kind::Load(_) => 0,
                Kind::Links(links) => self.opener().close_all(links),
            };
        }
        self.wanted
            .0
            .retain(|name, _| self.world.port_named(name).is_some());
        self.dirty = true;
    }

    /// The second half of becoming `config`: adds what is new, for which [`openings`] were opened, and changes what
    /// is different.
    ///
    /// # Errors
    ///
    /// Each part that failed; the others are carried out.
    pub(super) fn establish(&mut self, config: &Config, mut opened: Opened) -> Vec<ApplyError> {
        let wanted = wanted(config);
        let mut errors = vec![];
        self.establish_relays(config, &mut errors);
        // Relays that miss a port: what else is wrong with them follows from that.
        let mut lacking = BTreeSet::new();
        for (name, port) in &wanted {
            if let Err(error) = self.establish_port(name, port, &mut opened) {
                errors.push(error);
                lacking.insert(port.relay.as_str());
            }
        }
        for (name, port) in &wanted {
            if let (Plug::Patch { peer }, Some(a)) = (&port.plug, self.world.port_named(name))
                && let Some(b) = self.world.port_named(peer)
            {
                self.world.join(a, b);
            }
        }
        let mut divided = vec![];
        for (name, relay) in &config.relays {
            let Some(place) = self.world.relay_named(name) else {
                continue;
            };
            match self.world.rebuild(place) {
                Ok(true) => divided.push(name),
                Ok(false) => {}
                Err(_) if lacking.contains(name.as_str()) => {}
                Err(error) => errors.push(ApplyError::Relay {
                    relay: name.clone(),
                    why: error.to_string(),
                }),
            }
            let refused = self.world.set_statics(place, &relay.statics);
            let told = |_: &_| !lacking.contains(name.as_str());
            for (entry, error) in refused.into_iter().filter(told) {
                let why = format!("static address {} on {}: {error}", entry.mac, entry.port);
                errors.push(ApplyError::Relay {
                    relay: name.clone(),
                    why,
                });
            }
        }
        self.wanted = WantedPorts(wanted);
        self.dirty = true;
        if !divided.is_empty() {
            // What was learned by the tables before has to be there before it is forgotten.
            self.publish();
            self.pool.barrier().wait(self.published);
        }
        let now = self.pool.now_s();
        for (_, relay) in self.world.relays() {
            if divided.contains(&&relay.name) {
                relay.tables.forget_strays(now);
            }
        }
        errors
    }

    fn stays(&self, name: &str, wanted: &BTreeMap<String, Wanted>, config: &Config) -> bool {
        match (self.wanted.0.get(name), wanted.get(name)) {
            (Some(now), Some(next)) => now.keeps(next) && config.relays.contains_key(&next.relay),
            _ => false,
        }
    }

    fn establish_relays(&mut self, config: &Config, errors: &mut Vec<ApplyError>) {
        let gone: Vec<_> = self
            .world
            .relays()
            .filter(|(_, relay)| !config.relays.contains_key(&relay.name))
            .map(|(place, relay)| (place, relay.name.clone()))
            .collect();
        for (place, name) in gone {
            self.world.remove_relay(place);
            log::info!("relay {name}: removed");
        }
        for (name, relay) in &config.relays {
            if let Some(place) = self.world.relay_named(name) {
                self.world.set_relay(place, relay.settings.clone());
            } else if let Err(error) = self.world.add_relay(name, relay.settings.clone()) {
                errors.push(ApplyError::Relay {
                    relay: name.clone(),
                    why: error.to_string(),
                });
            }
        }
    }

    /// Adds a port, or gives a running one its new settings.
    fn establish_port(
        &mut self,
        name: &str,
        wanted: &Wanted,
        opened: &mut Opened,
    ) -> Result<(), ApplyError> {
        let fail = |why: String| ApplyError::Port {
            port: name.to_owned(),
            why,
        };
        let relay = self.world.relay_named(&wanted.relay);
        let relay = relay.ok_or_else(|| fail(format!("there is no relay {}", wanted.relay)))?;
        if let Some(id) = self.world.port_named(name) {
            if self.world.port(id).is_some_and(|port| port.relay != relay) {
                let moved = self.world.move_port(id, relay);
                moved.map_err(|e| fail(e.to_string()))?;
            }
            self.world.set_port(id, wanted.settings.clone());
            self.world.pin(id, wanted.worker);
            self.follow_mtu(id);
            return Ok(());
        }
        let (kind, start) = match &wanted.plug {
            Plug::Patch { .. } => (Kind::Patch(None), None),
            Plug::Load(generator) => {
                let load = load::open(name, generator.as_ref()).map_err(fail)?;
                (Kind::Load(Arc::new(load)), None)
            }
            Plug::Links(names) => {
                let mtu = wanted.settings.mtu;
                let (opener, attempts) = (self.opener(), opened.take_links(name));
                let links = opener.take(name, names, mtu, attempts, &self.devices.known);
                (Kind::Links(links.map_err(fail)?), None)
            }
            Plug::VhostUser {
                address,
                queue_pairs,
            } => {
                let listener = match address {
                    Address::Listen(_) => Some(opened.take_listener(name).map_err(fail)?),
                    Address::Connect(_) => None,
                };
                let device = Device::new(address.clone(), *queue_pairs);
                (
                    Kind::VhostUser(device),
                    Some((address, listener, *queue_pairs)),
                )
            }
        };
        let settings = wanted.settings.clone();
        let id = self
            .world
            .add_port(name, relay, settings, kind)
            .map_err(|e| fail(e.to_string()))?;
        self.world.pin(id, wanted.worker);
        let Some((address, listener, queue_pairs)) = start else {
            self.follow_mtu(id);
            return Ok(());
        };
        let Some(news) = self.world.port(id).map(|port| Arc::clone(&port.news)) else {
            return Ok(());
        };
        let keeper = Arc::new(Keeper::new(
            name,
            self.positions_path(name, address),
            2 * usize::from(queue_pairs),
            Arc::clone(&self.privileged),
        ));
        let endpoint = Endpoint {
            port: id,
            name: name.to_owned(),
            policy: DevicePolicy {
                queue_pairs,
                mtu: wanted.settings.mtu,
                standby: wanted.settings.standby,
            },
            events: self.events.clone(),
            barrier: self.pool.barrier(),
            privileged: self.privileged.clone(),
            keeper,
            news,
        };
        match endpoint.start(address, listener) {
            Ok(handle) => {
                if let Some(device) = self.world.device_mut(id) {
                    device.endpoint = Some(handle);
                }
                Ok(())
            }
            Err(why) => {
                if let Some(port) = self.world.take_port(id) {
                    self.world.release(&port);
                }
                Err(fail(why))
            }
        }
    }
}

impl Daemon {
    /// The file in which a port's packed rings have their positions: named after the port in a directory of one's
    /// choice, or beside its socket.
    fn positions_path(&self, port: &str, address: &Address) -> PathBuf {
        let mut path = match (&self.state, address) {
            (Some(directory), _) => directory.join(port),
            (None, Address::Listen(socket) | Address::Connect(socket)) => socket.clone(),
        }
        .into_os_string();
        path.push(".positions");
        path.into()
    }
}

/// What the running state was made from.
#[derive(Default)]
pub(super) struct WantedPorts(BTreeMap<String, Wanted>);
