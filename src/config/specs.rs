//! The network devices that a configuration needs, in the terms of those who open them.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{
    Backend, Config, Handed, HandedKind, Link, LinkKind, MacvtapMode, Sriov, Tap, Uplink, Via,
};
use crate::frame::mac::Mac;
use crate::relay::{MacPolicy, Mode, PortConfig, VlanConfig};
use crate::uplink::sriov::{self, Serves, SriovSpec};
use crate::uplink::{
    self, FoundSpec, HandedSpec, MacvtapSpec, PacketSpec, Spec, TapSpec, XdpSpec, macvtap_name,
};

impl Config {
    /// The devices that ports, uplinks and links of bonds need, by their names; those that are
    /// reached by sockets need none.
    pub fn specs(&self) -> BTreeMap<&str, Spec> {
        let ports = self.ports.iter().filter_map(|(name, port)| {
            let spec = match &port.backend {
                Backend::Tap(tap) => tap.spec(port.queues, port.settings.mtu),
                Backend::Handed(handed) => handed.spec(None),
                Backend::Listen(_)
                | Backend::Connect(_)
                | Backend::Generator(_)
                | Backend::Sink => return None,
            };
            Some((name.as_str(), spec))
        });
        let links = self.uplinks.iter().flat_map(|(name, uplink)| {
            let mtu = uplink.settings.mtu;
            let station = self.station(&uplink.relay);
            let serves = self.serves(uplink);
            uplink
                .attachment
                .named_links(name)
                .filter_map(move |(name, link)| {
                    Some((name, link.spec(name, station, &serves, mtu)?))
                })
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

    /// What goes over an uplink, as far as a NIC has to know.
    fn serves(&self, uplink: &Uplink) -> Serves {
        let ports = self
            .ports
            .values()
            .map(|port| (&port.relay, &port.settings));
        let ends = self.patches.values().flat_map(|patch| [&patch.a, &patch.b]);
        let ends = ends.map(|end| (&end.relay, &end.settings));
        let locals: Vec<&PortConfig> = ports
            .chain(ends)
            .filter(|(relay, _)| **relay == uplink.relay)
            .map(|(_, settings)| settings)
            .collect();
        let only_known =
            |port: &&PortConfig| port.mac_policy == MacPolicy::Pinned && !port.pins_first();
        Serves {
            macs: locals
                .iter()
                .flat_map(|port| &port.macs)
                .map(|mac| mac.octets())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            open: !locals.iter().all(only_known),
            tagged: sends_tags(&uplink.settings, &locals),
        }
    }
}

/// Whether frames leave the uplink with tags. In a flat relay tags are the stations' own affair.
fn sends_tags(uplink: &PortConfig, locals: &[&PortConfig]) -> bool {
    match &uplink.vlan {
        VlanConfig::Access(_) => false,
        VlanConfig::Trunk { vids, native } => vids.iter().any(|vid| Some(vid) != *native),
        VlanConfig::Translate(_) | VlanConfig::Qinq(_) => true,
        VlanConfig::Flat => locals
            .iter()
            .any(|port| port.mode != Mode::Passthrough && port.vlan != VlanConfig::Flat),
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
    fn spec(
        &self,
        name: &str,
        station: Option<Mac>,
        serves: &Serves,
        mtu: Option<u16>,
    ) -> Option<Spec> {
        // A device that shares its NIC carries one address.
        let only = |mode: &MacvtapMode| {
            let station = station.filter(|_| *mode != MacvtapMode::Passthru);
            station.map(Mac::octets)
        };
        match &self.kind {
            LinkKind::Tap(tap) => Some(tap.spec(self.queues, mtu)),
            LinkKind::Handed(handed) => Some(handed.spec(station)),
            LinkKind::Macvtap { parent, mode } => Some(Spec::Macvtap(MacvtapSpec {
                name: macvtap_name(name),
                parent: parent.clone(),
                mode: (*mode).into(),
                queues: self.queues,
                mac: only(mode),
                mtu,
                take_parent: self.take_parent,
            })),
            LinkKind::Found { name, parent, mode } => Some(Spec::Found(FoundSpec {
                name: name.clone(),
                parent: parent.clone(),
                mode: (*mode).into(),
                queues: self.queues,
                mac: only(mode),
                mtu,
            })),
            LinkKind::AfPacket { dev } => Some(Spec::Packet(PacketSpec {
                device: dev.clone(),
                queues: self.queues,
            })),
            LinkKind::AfXdp { dev } => Some(Spec::Xdp(XdpSpec {
                device: dev.clone(),
                queues: self.queues,
                take_parent: self.take_parent,
                sheltered: false,
            })),
            LinkKind::Sriov(sriov) => Some(sriov.spec(name, self, serves, mtu)),
            LinkKind::Listen(_) | LinkKind::Connect(_) => None,
        }
    }
}

impl Sriov {
    fn spec(&self, name: &str, link: &Link, serves: &Serves, mtu: Option<u16>) -> Spec {
        let via = match self.via {
            Via::Macvtap => sriov::Via::Macvtap {
                name: macvtap_name(name),
            },
            Via::AfPacket => sriov::Via::Packet,
            Via::AfXdp => sriov::Via::Xdp,
        };
        Spec::Sriov(SriovSpec {
            pf: self.pf.clone(),
            vf: self.vf,
            create: self.create,
            settings: self.settings,
            serves: serves.clone(),
            via,
            queues: link.queues,
            mtu,
            take_parent: link.take_parent,
        })
    }
}
