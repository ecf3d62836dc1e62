//! The network devices that a configuration needs, in the terms of those who open them.

use std::collections::BTreeMap;

use super::model::{Backend, Config, Handed, HandedKind, Link, LinkKind, MacvtapMode, Tap};
use crate::frame::mac::Mac;
use crate::uplink::{
    self, HandedSpec, MacvtapSpec, PacketSpec, Spec, TapSpec, XdpSpec, macvtap_name,
};

impl Config {
    /// The devices that ports, uplinks and links of bonds need, by their names; those that are
    /// reached by sockets need none.
    pub fn specs(&self) -> BTreeMap<&str, Spec> {
        let ports = self.ports.iter().filter_map(|(name, port)| {
            let spec = match &port.backend {
                Backend::Tap(tap) => tap.spec(port.queues, port.settings.mtu),
                Backend::Handed(handed) => handed.spec(None),
                Backend::Listen(_) | Backend::Connect(_) => return None,
            };
            Some((name.as_str(), spec))
        });
        let links = self.uplinks.iter().flat_map(|(name, uplink)| {
            let mtu = uplink.settings.mtu;
            let station = self.station(&uplink.relay);
            uplink
                .attachment
                .named_links(name)
                .filter_map(move |(name, link)| Some((name, link.spec(name, station, mtu)?)))
        });
        ports.chain(links).collect()
    }

    /// The address of a relay's only station: that which a NIC is told that others use as well.
    fn station(&self, relay: &str) -> Option<Mac> {
        let mut locals = self.ports.values().filter(|port| port.relay == relay);
        match (locals.next(), locals.next()) {
            (Some(only), None) => only.settings.macs.first().copied(),
            _ => None,
        }
    }
}

impl Tap {
    fn spec(&self, queues: u16, mtu: Option<u16>) -> Spec {
        Spec::Tap(TapSpec {
            name: self.name.clone(),
            queues,
            mac: self.mac.map(Mac::octets),
            mtu,
            owner: self.owner,
            group: self.group,
        })
    }
}

impl Handed {
    /// `station` is who has to have the device's address where it is shared.
    fn spec(&self, station: Option<Mac>) -> Spec {
        let shared = |mode| mode != MacvtapMode::Passthru;
        let (mode, mac) = match self.kind {
            HandedKind::Tap => (None, self.mac),
            HandedKind::Macvtap(mode) => (Some(mode), station.filter(|_| shared(mode))),
        };
        Spec::Handed(HandedSpec {
            descriptors: self.descriptors.clone(),
            name: self.name.clone(),
            macvtap: mode.map(uplink::MacvtapMode::from),
            mac: mac.map(Mac::octets),
        })
    }
}

impl From<MacvtapMode> for uplink::MacvtapMode {
    fn from(mode: MacvtapMode) -> Self {
        match mode {
            MacvtapMode::Passthru => Self::Passthru,
            MacvtapMode::Bridge => Self::Bridge,
            MacvtapMode::Vepa => Self::Vepa,
            MacvtapMode::Private => Self::Private,
        }
    }
}

impl Link {
    fn spec(&self, name: &str, station: Option<Mac>, mtu: Option<u16>) -> Option<Spec> {
        match &self.kind {
            LinkKind::Tap(tap) => Some(tap.spec(self.queues, mtu)),
            LinkKind::Handed(handed) => Some(handed.spec(station)),
            LinkKind::Macvtap { parent, mode } => Some(Spec::Macvtap(MacvtapSpec {
                name: macvtap_name(name),
                adopt: false,
                parent: parent.clone(),
                mode: (*mode).into(),
                queues: self.queues,
                mac: station
                    .filter(|_| *mode != MacvtapMode::Passthru)
                    .map(Mac::octets),
                mtu,
                take_parent: self.take_parent,
            })),
            LinkKind::AfPacket { dev } => Some(Spec::Packet(PacketSpec {
                device: dev.clone(),
                queues: self.queues,
            })),
            LinkKind::AfXdp { dev } => Some(Spec::Xdp(XdpSpec {
                device: dev.clone(),
                queues: self.queues,
                take_parent: self.take_parent,
            })),
            LinkKind::Listen(_) | LinkKind::Connect(_) | LinkKind::Sriov { .. } => None,
        }
    }
}
