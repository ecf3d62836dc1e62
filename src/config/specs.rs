//! The network devices that a configuration needs, in the terms of those who open them.

use std::collections::BTreeMap;

use super::model::{Backend, Config, Link, LinkKind, MacvtapMode, Tap};
use crate::frame::mac::Mac;
use crate::uplink::{self, MacvtapSpec, PacketSpec, Spec, TapSpec, XdpSpec, macvtap_name};

impl Config {
    /// The devices that ports, uplinks and links of bonds need, by their names; those that are
    /// reached by sockets need none.
    pub fn specs(&self) -> BTreeMap<&str, Spec> {
        let ports = self.ports.iter().filter_map(|(name, port)| {
            let Backend::Tap(tap) = &port.backend else {
                return None;
            };
            let spec = tap.spec(port.queues, port.settings.mtu);
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
            owner: None,
            group: None,
        })
    }
}

impl Link {
    fn spec(&self, name: &str, station: Option<Mac>, mtu: Option<u16>) -> Option<Spec> {
        match &self.kind {
            LinkKind::Tap(tap) => Some(tap.spec(self.queues, mtu)),
            LinkKind::Macvtap { parent, mode } => Some(Spec::Macvtap(MacvtapSpec {
                name: macvtap_name(name),
                adopt: false,
                parent: parent.clone(),
                mode: match mode {
                    MacvtapMode::Passthru => uplink::MacvtapMode::Passthru,
                    MacvtapMode::Bridge => uplink::MacvtapMode::Bridge,
                    MacvtapMode::Vepa => uplink::MacvtapMode::Vepa,
                    MacvtapMode::Private => uplink::MacvtapMode::Private,
                },
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
