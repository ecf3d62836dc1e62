//! The immutable tables of a relay: its ports, who is in which VLAN, a bitmap per mode.
//!
//! Member bitmaps that are equal are kept once, so that 4,094 VLANs of 1,024 ports take as little
//! memory as there are different sets of members.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::{MacPolicy, Mode, Multicast, PortConfig, RelayConfig, Role, VlanConfig};
use super::fdb::{Fdb, Fid};
use super::port::{PortSet, PortState, Slot};
use super::vid_set::VidSet;
use super::vlan::{PortVlan, RelayVids};
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;

/// A port: its settings, prepared for forwarding, and its state. Relays built one after the other
/// share those that did not change.
#[derive(Debug)]
pub struct Port {
    pub(super) config: PortConfig,
    pub(super) vlan: PortVlan,
    /// How the shortest way checks its sources.
    pub(super) sources: Sources,
    pub(super) state: Arc<PortState>,
}

/// Which sources of a port the shortest way may take, see [`super::shortcut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// None.
    Other,
    /// Those that were learned here.
    Learned,
    /// This one.
    Only(Mac),
}

impl Sources {
    fn of(config: &PortConfig) -> Sources {
        if config.role != Role::Local || config.mode != Mode::Bridge || config.standby {
            return Sources::Other;
        }
        match (config.mac_policy, &config.macs[..]) {
            (MacPolicy::Learn(_) | MacPolicy::Trusted { .. }, _) => Sources::Learned,
            (MacPolicy::Pinned, [mac]) if !mac.is_group() && !mac.is_zero() => Sources::Only(*mac),
            (MacPolicy::Pinned, _) => Sources::Other,
        }
    }
}

impl Port {
    /// Prepares a port. Where it replaces one of other settings, `state` is that one's.
    pub fn new(config: PortConfig, state: Arc<PortState>) -> Arc<Port> {
        Arc::new(Port {
            vlan: PortVlan::new(&config.vlan),
            sources: Sources::of(&config),
            config,
            state,
        })
    }

    /// Its settings.
    pub fn config(&self) -> &PortConfig {
        &self.config
    }

    /// Its state.
    pub fn state(&self) -> &Arc<PortState> {
        &self.state
    }

    /// The address it pinned at first sight, as long as it is told to do so.
    pub(super) fn pin(&self) -> Option<Mac> {
        self.state.pin.get().filter(|_| self.config.pins_first())
    }

    pub(super) fn is_uplink(&self) -> bool {
        self.config.role == Role::Uplink
    }
}

/// The tables of one relay.
#[derive(Debug)]
pub struct Relay {
    pub(super) config: RelayConfig,
    pub(super) ports: Vec<Option<Arc<Port>>>,
    pub(super) fdb: Arc<Fdb>,
    pub(super) uplink: Option<Slot>,
    /// The local port of a passthrough relay.
    pub(super) passthrough: Option<Slot>,
    /// Whether the adjacent switch reflects.
    pub(super) uplink_reflects: bool,
    pub(super) has_vepa: bool,
    /// Whether it matters which addresses are outside: only bridge ports are told.
    pub(super) learns_outside: bool,
    /// `None` where the relay is flat.
    pub(super) vids: Option<RelayVids>,
    pub(super) masks: Masks,
    vlans: Vlans,
    registered: HashMap<u64, Box<[Slot]>, foldhash::fast::RandomState>,
    groups: HashMap<u64, PortSet, foldhash::fast::RandomState>,
    routers: PortSet,
}

/// Local ports by mode.
#[derive(Debug, Default)]
pub(super) struct Masks {
    pub(super) local: PortSet,
    pub(super) bridge: PortSet,
    pub(super) vepa: PortSet,
    /// Bridge ports with `flood_unknown`.
    pub(super) bridge_flood: PortSet,
    /// Promiscuous VEPA ports.
    pub(super) vepa_promiscuous: PortSet,
}

/// Member bitmaps and FIDs of a relay's VLANs.
#[derive(Debug, PartialEq, Eq)]
struct Vlans {
    /// By VID; only VID 0 where the relay is flat.
    entries: Box<[VlanEntry]>,
    /// The different bitmaps, one after the other.
    bitmaps: Box<[u64]>,
    /// Words of a bitmap.
    stride: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct VlanEntry {
    bitmap: u16,
    fid: Fid,
    shared: bool,
}

/// One VLAN of a relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vlan<'a> {
    vlans: &'a Vlans,
    bitmap: u16,
    pub(super) vid: u16,
    pub(super) fid: Fid,
    /// Whether others have the same FID.
    pub(super) shared: bool,
}

impl<'a> Vlan<'a> {
    /// The bitmap of its members; bits beyond it are zero.
    pub(super) fn members(&self) -> &'a [u64] {
        let start = usize::from(self.bitmap) * self.vlans.stride;
        let bitmap = self.vlans.bitmaps.get(start..start + self.vlans.stride);
        bitmap.unwrap_or(&[])
    }

    /// Whether a port is in the VLAN.
    #[inline]
    pub(super) fn has(&self, slot: Slot) -> bool {
        let word = slot.index() / 64;
        let index = usize::from(self.bitmap) * self.vlans.stride + word;
        let bitmap = self.vlans.bitmaps.get(index).copied().unwrap_or(0);
        word < self.vlans.stride && bitmap >> (slot.index() % 64) & 1 != 0
    }
}

/// The key of a static group that is joined in one VLAN, or in all VLANs of its ports.
fn group_key(vid: Option<u16>, mac: Mac) -> u64 {
    u64::from(vid.unwrap_or(0xffff)) << 48 | mac.to_u64()
}

impl Relay {
    /// Builds the tables over a database that outlives them. The index of a port is its slot;
    /// `None` is a vacant slot, so that ports keep theirs when others leave.
    pub fn new(
        config: RelayConfig,
        ports: Vec<Option<Arc<Port>>>,
        fdb: Arc<Fdb>,
    ) -> Result<Relay, super::RelayError> {
        super::check::check(&config, &ports)?;
        fdb.configure(config.ageing, config.max_entries);
        let seated = || {
            let slots = (0..).map_while(Slot::new);
            slots
                .zip(&ports)
                .filter_map(|(slot, port)| Some((slot, port.as_deref()?)))
        };
        let uplink = seated().find(|(_, port)| port.is_uplink());
        let locals = || seated().filter(|(_, port)| !port.is_uplink());
        let modes = |mode| locals().find(move |(_, port)| port.config.mode == mode);

        let mut masks = Masks::default();
        for (slot, Port { config: port, .. }) in locals() {
            masks.local.insert(slot);
            match port.mode {
                Mode::Bridge => {
                    masks.bridge.insert(slot);
                    if port.flood_unknown {
                        masks.bridge_flood.insert(slot);
                    }
                }
                Mode::Vepa => {
                    masks.vepa.insert(slot);
                    if port.promiscuous {
                        masks.vepa_promiscuous.insert(slot);
                    }
                }
                Mode::Private | Mode::Passthrough => {}
            }
        }
        let routers = seated().filter(|(_, port)| port.config.multicast_router);

        let mut registered: HashMap<u64, Vec<Slot>> = HashMap::new();
        let mut groups: HashMap<u64, PortSet, _> = HashMap::default();
        for (slot, port) in locals() {
            for mac in &port.config.macs {
                let slots = registered.entry(mac.to_u64()).or_default();
                if !slots.contains(&slot) {
                    slots.push(slot);
                }
            }
            for group in &port.config.groups {
                let key = group_key(group.vid.map(Vid::get), group.mac);
                groups.entry(key).or_default().insert(slot);
            }
        }
        let vids = relay_vids(seated().map(|(_, port)| port));
        Ok(Relay {
            uplink: uplink.map(|(slot, _)| slot),
            passthrough: modes(Mode::Passthrough).map(|(slot, _)| slot),
            uplink_reflects: uplink.is_some_and(|(_, port)| port.config.reflective),
            has_vepa: !masks.vepa.is_empty(),
            learns_outside: !masks.bridge.is_empty(),
            routers: routers.map(|(slot, _)| slot).collect(),
            vlans: match &vids {
                None => Vlans::flat(&seated().map(|(slot, _)| slot).collect(), ports.len()),
                Some(vids) => Vlans::new(seated(), vids, &config.fids, ports.len()),
            },
            vids,
            masks,
            registered: registered
                .into_iter()
                .map(|(mac, slots)| (mac, slots.into_boxed_slice()))
                .collect(),
            groups,
            config,
            fdb,
            ports,
        })
    }

    /// Its settings.
    pub fn config(&self) -> &RelayConfig {
        &self.config
    }

    /// Its database.
    pub fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Its uplink.
    pub fn uplink(&self) -> Option<Slot> {
        self.uplink
    }

    /// The local port of a passthrough relay.
    pub fn passthrough(&self) -> Option<Slot> {
        self.passthrough
    }

    /// The port in a slot.
    #[inline]
    pub fn port(&self, slot: Slot) -> Option<&Port> {
        self.ports.get(slot.index())?.as_deref()
    }

    /// A VLAN by the VID of a frame's class.
    #[inline]
    pub(super) fn vlan(&self, vid: u16) -> Vlan<'_> {
        let entries = &self.vlans.entries;
        let entry = entries.get(usize::from(vid)).copied().unwrap_or_default();
        Vlan {
            vlans: &self.vlans,
            bitmap: entry.bitmap,
            vid,
            fid: entry.fid,
            shared: entry.shared,
        }
    }

    /// Whether ports are in other VLANs than in `before`, or VLANs share otherwise what they learn.
    pub fn divides_otherwise(&self, before: &Relay) -> bool {
        self.vlans != before.vlans
    }

    /// Whether a port is in a VLAN of this FID.
    pub(super) fn is_home(&self, fid: Fid, slot: Slot) -> bool {
        let all = (0..).zip(&self.vlans.entries);
        let mut sharing = all
            .filter(|(_, entry)| entry.fid == fid)
            .map(|(vid, _)| vid);
        sharing.any(|vid| self.vlan(vid).has(slot))
    }

    /// Whether any address is registered by configuration.
    #[inline]
    pub(super) fn has_registered(&self) -> bool {
        !self.registered.is_empty()
    }

    /// The ports that `mac` is registered at by configuration, in any VLAN.
    #[inline]
    pub(super) fn registered(&self, mac: Mac) -> &[Slot] {
        if !self.has_registered() {
            return &[];
        }
        self.registered
            .get(&mac.to_u64())
            .map_or(&[], |slots| slots)
    }

    /// Whether a group's frames in a VLAN go to some ports only; these are then in `joined`. Never
    /// used for broadcast.
    pub(super) fn prunes(&self, vlan: &Vlan<'_>, group: Mac, joined: &mut PortSet) -> bool {
        let Multicast::Groups { flood_unregistered } = self.config.multicast else {
            return false;
        };
        if never_pruned(group) {
            return false;
        }
        joined.clear();
        for vid in [Some(vlan.vid), None] {
            if let Some(ports) = self.groups.get(&group_key(vid, group)) {
                joined.or(ports);
            }
        }
        let pairs = vlan.members().iter().zip(joined.words());
        let registered = pairs.fold(0, |any, (member, joined)| any | member & joined) != 0;
        joined.or(&self.routers);
        registered || !flood_unregistered
    }
}

/// 224.0.0.x, `ff02::1` and the addresses reserved for links.
fn never_pruned(group: Mac) -> bool {
    matches!(
        group.octets(),
        [0x01, 0x00, 0x5e, 0, 0, _] | [0x33, 0x33, 0, 0, 0, 1] | [0x01, 0x80, 0xc2, 0, 0, 0..=0x0f]
    )
}

/// The VIDs of a relay, unless it is flat.
fn relay_vids<'a>(ports: impl Iterator<Item = &'a Port>) -> Option<RelayVids> {
    let mut flat = true;
    let mut in_use = VidSet::new();
    let mut service = VidSet::new();
    let none = VidSet::new();
    for port in ports {
        flat &= port.config.vlan == VlanConfig::Flat;
        in_use.extend(port.vlan.members(&none).iter());
        if let PortVlan::Qinq(vid) = port.vlan {
            service.insert(vid);
        }
    }
    (!flat).then_some(RelayVids { in_use, service })
}

impl Vlans {
    /// The one broadcast domain of a flat relay.
    fn flat(members: &PortSet, ports: usize) -> Vlans {
        let stride = ports.div_ceil(64).max(1);
        Vlans {
            entries: Box::new([VlanEntry::default()]),
            bitmaps: members.words()[..stride].into(),
            stride,
        }
    }

    fn new<'a>(
        ports: impl Iterator<Item = (Slot, &'a Port)>,
        vids: &RelayVids,
        fids: &[VidSet],
        slots: usize,
    ) -> Vlans {
        let stride = slots.div_ceil(64).max(1);
        let mut all = vec![0u64; 4096 * stride];
        for (slot, port) in ports {
            for vid in port.vlan.members(&vids.in_use).iter() {
                let word = usize::from(vid.get()) * stride + slot.index() / 64;
                all[word] |= 1 << (slot.index() % 64);
            }
        }
        let mut entries = vec![VlanEntry::default(); 4096];
        let mut bitmaps = Vec::new();
        let mut known: HashMap<&[u64], u16, foldhash::fast::RandomState> = HashMap::default();
        let mut last: Option<(&[u64], u16)> = None;
        for (number, (entry, bitmap)) in entries.iter_mut().zip(all.chunks(stride)).enumerate() {
            let next = known.len() as u16;
            // Most VLANs have the members of the one before.
            let index = match last {
                Some((before, index)) if before == bitmap => index,
                _ => *known.entry(bitmap).or_insert_with(|| {
                    bitmaps.extend_from_slice(bitmap);
                    next
                }),
            };
            last = Some((bitmap, index));
            entry.bitmap = index;
            entry.fid = number as Fid;
        }
        for set in fids.iter().filter(|set| set.len() > 1) {
            let fid = set.iter().next().map_or(0, Vid::get);
            for vid in set.iter() {
                let entry = &mut entries[usize::from(vid.get())];
                entry.fid = fid;
                entry.shared = true;
            }
        }
        Vlans {
            entries: entries.into_boxed_slice(),
            bitmaps: bitmaps.into_boxed_slice(),
            stride,
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.entries) + size_of_val(&*self.bitmaps)
    }
}

#[cfg(test)]
impl Relay {
    /// Bytes of the VLAN tables.
    pub(super) fn vlan_bytes(&self) -> usize {
        self.vlans.bytes()
    }
}
