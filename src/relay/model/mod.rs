//! A second relay, slow and obvious, written from the rules alone: loops and hash maps, frames as
//! bytes, and every receiver asked one by one whether it gets a copy. Random histories must come
//! out of both alike.

mod vlan;

use std::collections::HashMap;

use super::config::{MacPolicy, Mode, Multicast, PortConfig, RelayConfig, Role, VlanConfig};
use crate::frame::mac::Mac;
use vlan::{Classified, type_at};

/// A learned address.
#[derive(Debug)]
struct Learned {
    port: usize,
    seen: u32,
    /// When it moved, the last time first, as long as the moves are close together.
    moves: Vec<u32>,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Nowhere,
    OutsideVlan,
    At { port: usize, learned: bool },
}

#[derive(Debug)]
pub(super) struct Model {
    pub config: RelayConfig,
    pub ports: Vec<PortConfig>,
    pub active: Vec<bool>,
    pub carrying: Vec<bool>,
    pub pins: HashMap<usize, Mac>,
    learned: HashMap<(u16, Mac), Learned>,
    statics: HashMap<(u16, Mac), usize>,
}

fn mac_at(bytes: &[u8], offset: usize) -> Mac {
    Mac::new(bytes[offset..offset + 6].try_into().unwrap())
}

impl Model {
    pub fn new(config: RelayConfig, ports: Vec<PortConfig>) -> Model {
        let count = ports.len();
        Model {
            config,
            ports,
            active: vec![true; count],
            carrying: vec![false; count],
            pins: HashMap::new(),
            learned: HashMap::new(),
            statics: HashMap::new(),
        }
    }

    fn uplink(&self) -> Option<usize> {
        self.ports.iter().position(|port| port.role == Role::Uplink)
    }

    fn is_local(&self, port: usize) -> bool {
        self.ports[port].role == Role::Local
    }

    fn has_mode(&self, mode: Mode) -> bool {
        (0..self.ports.len()).any(|port| self.is_local(port) && self.ports[port].mode == mode)
    }

    fn uplink_reflects(&self) -> bool {
        self.uplink()
            .is_some_and(|uplink| self.ports[uplink].reflective)
    }

    fn is_flat(&self) -> bool {
        self.ports.iter().all(|port| port.vlan == VlanConfig::Flat)
    }

    fn is_service(&self, vid: u16) -> bool {
        let qinq = |port: &PortConfig| matches!(port.vlan, VlanConfig::Qinq(s) if s.get() == vid);
        self.ports.iter().any(qinq)
    }

    fn fid(&self, vid: u16) -> u16 {
        let sets = self.config.fids.iter();
        let mut with = sets.filter(|set| set.iter().any(|member| member.get() == vid));
        with.next()
            .and_then(|set| set.iter().next())
            .map_or(vid, super::super::frame::ethernet::Vid::get)
    }

    fn shares_fid(&self, vid: u16) -> bool {
        self.config
            .fids
            .iter()
            .any(|set| set.len() > 1 && set.iter().any(|member| member.get() == vid))
    }

    fn is_member(&self, port: usize, vid: u16) -> bool {
        match &self.ports[port].vlan {
            VlanConfig::Flat if self.is_flat() => true,
            VlanConfig::Flat => {
                let others = (0..self.ports.len()).filter(|other| *other != port);
                others.into_iter().any(|other| {
                    self.ports[other].vlan != VlanConfig::Flat && self.is_member(other, vid)
                })
            }
            VlanConfig::Access(own) | VlanConfig::Qinq(own) => own.get() == vid,
            VlanConfig::Trunk { vids, native } => {
                vids.iter().chain(*native).any(|member| member.get() == vid)
            }
            VlanConfig::Translate(pairs) => pairs.values().any(|member| member.get() == vid),
        }
    }

    /// Whether a port is the one that a registered address belongs to.
    fn registers(&self, port: usize, mac: Mac) -> bool {
        let config = &self.ports[port];
        let pinned = config.mac_policy == MacPolicy::Pinned
            && config.macs.is_empty()
            && self.pins.get(&port) == Some(&mac);
        self.is_local(port) && (config.macs.contains(&mac) || pinned)
    }

    fn registered_in(&self, vid: u16, mac: Mac, except: Option<usize>) -> Option<usize> {
        (0..self.ports.len()).find(|port| {
            Some(*port) != except
                && self.active[*port]
                && self.is_member(*port, vid)
                && self.registers(*port, mac)
                && (!self.ports[*port].standby || self.carrying[*port])
        })
    }

    fn place(&self, vid: u16, mac: Mac, now: u32) -> Place {
        if let Some(port) = self.registered_in(vid, mac, None) {
            return Place::At {
                port,
                learned: false,
            };
        }
        let key = (self.fid(vid), mac);
        let (port, learned) = match (self.statics.get(&key), self.learned.get(&key)) {
            (Some(port), _) => (*port, false),
            (None, Some(entry)) if self.is_alive(entry, now) => (entry.port, true),
            _ => return Place::Nowhere,
        };
        if !self.active[port] {
            Place::Nowhere
        } else if self.is_member(port, vid) {
            Place::At { port, learned }
        } else if self.shares_fid(vid) {
            Place::OutsideVlan
        } else {
            Place::Nowhere
        }
    }

    fn is_alive(&self, entry: &Learned, now: u32) -> bool {
        self.config.ageing != 0 && now - entry.seen <= self.config.ageing
    }

    /// Forgets what has aged out.
    pub fn sweep(&mut self, now: u32) {
        let ageing = self.config.ageing;
        self.learned
            .retain(|_, entry| ageing != 0 && now - entry.seen <= ageing);
    }

    pub fn len(&self) -> usize {
        self.learned.len() + self.statics.len()
    }

    pub fn port_down(&mut self, port: usize) {
        self.learned.retain(|_, entry| entry.port != port);
        self.pins.remove(&port);
        self.carrying[port] = false;
    }

    pub fn add_static(&mut self, vid: u16, mac: Mac, port: usize) -> bool {
        if !self.is_member(port, vid) || self.has_mode(Mode::Passthrough) {
            return false;
        }
        let key = (self.fid(vid), mac);
        let known = self.learned.remove(&key).is_some() || self.statics.contains_key(&key);
        if !known && self.len() >= self.config.max_entries as usize {
            return false;
        }
        self.statics.insert(key, port);
        true
    }

    pub fn remove_static(&mut self, vid: u16, mac: Mac) -> bool {
        self.statics.remove(&(self.fid(vid), mac)).is_some()
    }

    /// Learns; `Err(true)` where the address is another port's, `Err(false)` where it could not.
    fn learn(&mut self, vid: u16, mac: Mac, port: usize, now: u32) -> Result<(), bool> {
        let key = (self.fid(vid), mac);
        if let Some(owner) = self.statics.get(&key) {
            return if *owner == port { Ok(()) } else { Err(true) };
        }
        if self.config.ageing == 0 {
            return Err(false);
        }
        let limit = match self.ports[port].mac_policy {
            MacPolicy::Pinned => 0,
            MacPolicy::Learn(limit) | MacPolicy::Trusted { limit } => limit as usize,
        };
        let of_port = self.learned.values().filter(|entry| entry.port == port);
        let full = of_port.count() >= limit;
        let relay_full = self.len() >= self.config.max_entries as usize;
        match self.learned.get_mut(&key) {
            Some(entry) if entry.port == port => {
                entry.seen = now;
                Ok(())
            }
            Some(entry) => {
                if entry.moves.first().is_some_and(|last| now - last >= 10) {
                    entry.moves.clear();
                }
                if entry.moves.len() == 5 || full {
                    return Err(false);
                }
                entry.moves.insert(0, now);
                entry.port = port;
                entry.seen = now;
                Ok(())
            }
            None if full || relay_full => Err(false),
            None => {
                let moves = Vec::new();
                let seen = now;
                self.learned.insert(key, Learned { port, seen, moves });
                Ok(())
            }
        }
    }

    /// Whether a local port may send with this source.
    fn admits(&mut self, port: usize, vid: u16, src: Mac, now: u32, learn: bool) -> bool {
        if self.registers(port, src) {
            self.carrying[port] |= self.ports[port].standby;
            return true;
        }
        let taken = self.registered_in(vid, src, Some(port)).is_some();
        match self.ports[port].mac_policy {
            MacPolicy::Pinned => {
                let key = (self.fid(vid), src);
                let taken = taken || self.statics.get(&key).is_some_and(|owner| *owner != port);
                let first = self.ports[port].macs.is_empty() && !self.pins.contains_key(&port);
                if !first || taken || src.is_zero() || src.is_group() {
                    return false;
                }
                self.pins.insert(port, src);
                self.carrying[port] |= self.ports[port].standby;
                true
            }
            MacPolicy::Learn(_) | MacPolicy::Trusted { .. } => {
                if taken {
                    return false;
                }
                match learn.then(|| self.learn(vid, src, port, now)) {
                    None | Some(Ok(())) => true,
                    Some(Err(owned)) => !owned && !self.uplink_reflects(),
                }
            }
        }
    }

    fn joined(&self, port: usize, vid: u16, group: Mac) -> bool {
        let Multicast::Groups { flood_unregistered } = self.config.multicast else {
            return true;
        };
        let octets = group.octets();
        if group.is_broadcast()
            || octets[..5] == [1, 0, 0x5e, 0, 0]
            || octets == [0x33, 0x33, 0, 0, 0, 1]
            || octets[..5] == [1, 0x80, 0xc2, 0, 0] && octets[5] < 16
        {
            return true;
        }
        let lists = |port: usize| {
            self.is_local(port)
                && self.is_member(port, vid)
                && self.ports[port].groups.iter().any(|joined| {
                    joined.mac == group && joined.vid.is_none_or(|only| only.get() == vid)
                })
        };
        let registered = (0..self.ports.len()).any(lists);
        lists(port) || self.ports[port].multicast_router || !registered && flood_unregistered
    }

    /// Table 1, the way up.
    fn goes_up(&self, from: usize, place: Place) -> bool {
        let Place::At { port: to, .. } = place else {
            return place == Place::Nowhere;
        };
        let bridge = |port: usize| self.ports[port].mode == Mode::Bridge;
        if !self.is_local(to) {
            return true;
        }
        let direct = bridge(from) && bridge(to);
        !direct && !self.config.reflect_local
    }

    /// Table 1, directly from local port to local port.
    fn goes_directly(&self, from: usize, to: usize, vid: u16, dst: Mac, place: Place) -> bool {
        let bridge = |port: usize| self.ports[port].mode == Mode::Bridge;
        if !bridge(from) || !bridge(to) || from == to && !self.ports[from].reflective {
            return false;
        }
        match place {
            _ if dst.is_group() => self.joined(to, vid, dst),
            Place::At { port, .. } => port == to,
            Place::Nowhere => self.ports[to].flood_unknown,
            Place::OutsideVlan => false,
        }
    }

    /// Table 2, reflected: from local port to local port by way of a switch.
    fn goes_reflected(&self, from: usize, to: usize, vid: u16, dst: Mac, place: Place) -> bool {
        if from == to {
            let meant = if dst.is_group() {
                self.joined(to, vid, dst)
            } else {
                matches!(place, Place::At { port, .. } if port == to)
            };
            return self.ports[to].accept_own_src && meant;
        }
        let (sender, receiver) = (&self.ports[from], &self.ports[to]);
        let modes = [sender.mode, receiver.mode];
        if modes.contains(&Mode::Private) || modes == [Mode::Bridge; 2] {
            return false;
        }
        match place {
            _ if dst.is_group() => self.joined(to, vid, dst),
            Place::At { port, .. } => port == to,
            Place::Nowhere if receiver.mode == Mode::Bridge => receiver.flood_unknown,
            Place::Nowhere => receiver.promiscuous,
            Place::OutsideVlan => false,
        }
    }

    /// Table 2, source outside.
    fn comes_in(&self, to: usize, vid: u16, dst: Mac, place: Place) -> bool {
        let receiver = &self.ports[to];
        match place {
            _ if dst.is_group() => self.joined(to, vid, dst),
            Place::At { port, .. } => port == to,
            Place::Nowhere => match receiver.mode {
                Mode::Bridge => receiver.flood_unknown,
                Mode::Vepa => receiver.promiscuous,
                Mode::Private | Mode::Passthrough => false,
            },
            Place::OutsideVlan => false,
        }
    }

    /// What leaves by which port when a frame comes in by port `from`.
    pub fn send(&mut self, from: usize, bytes: &[u8], now: u32) -> HashMap<usize, Vec<u8>> {
        let nobody = HashMap::new();
        if !self.active[from] || bytes.len() < 14 {
            return nobody;
        }
        let (dst, src) = (mac_at(bytes, 0), mac_at(bytes, 6));
        let octets = dst.octets();
        let reserved = octets[..5] == [1, 0x80, 0xc2, 0, 0] && octets[5] < 16;
        if reserved && octets[5] == 1 || type_at(bytes, 12) == 0x8808 {
            return nobody;
        }
        if self.has_mode(Mode::Passthrough) {
            return self.pass_through(from, bytes, dst, src, now);
        }
        let opened = reserved && self.config.group_fwd_mask >> octets[5] & 1 == 1;
        if src.is_zero() || src.is_group() || reserved && !opened {
            return nobody;
        }
        let Some(frame) = self.classify(from, bytes) else {
            return nobody;
        };
        let vid = frame.vid;
        let sender = if self.is_local(from) {
            if !self.admits(from, vid, src, now, !opened) {
                return nobody;
            }
            Some(from)
        } else {
            self.reflection_of(from, vid, src, now, !opened)
        };
        if !self.is_local(from) && sender.is_some() && self.config.reflect_local {
            return nobody;
        }
        let place = if dst.is_group() {
            Place::Nowhere
        } else {
            self.place(vid, dst, now)
        };
        let mut copies = HashMap::new();
        for to in 0..self.ports.len() {
            if !self.active[to] || !self.is_member(to, vid) {
                continue;
            }
            let delivered = match (sender, self.is_local(from), self.is_local(to)) {
                (Some(sender), true, false) => self.goes_up(sender, place),
                (Some(sender), true, true) => {
                    let own = sender == to && !dst.is_group();
                    let bridge = self.ports[sender].mode == Mode::Bridge;
                    self.goes_directly(sender, to, vid, dst, place)
                        || self.config.reflect_local
                            && !(own && bridge)
                            && self.goes_reflected(sender, to, vid, dst, place)
                }
                (Some(sender), false, true) => self.goes_reflected(sender, to, vid, dst, place),
                (None, _, true) => self.comes_in(to, vid, dst, place),
                (_, _, false) => false,
            };
            if delivered && let Some(copy) = self.egress(to, &frame) {
                copies.insert(to, copy);
            }
        }
        copies
    }

    /// The local port whose reflection a frame from the uplink is.
    fn reflection_of(
        &mut self,
        uplink: usize,
        vid: u16,
        src: Mac,
        now: u32,
        learn: bool,
    ) -> Option<usize> {
        let reflects = self.uplink_reflects();
        for port in 0..self.ports.len() {
            if !reflects && self.ports[port].standby && self.registers(port, src) {
                self.carrying[port] = false;
            }
        }
        let learn = learn && self.has_mode(Mode::Bridge);
        match self.place(vid, src, now) {
            Place::At { port, learned } if self.is_local(port) => {
                let may_move = !reflects && !self.has_mode(Mode::Vepa);
                if !learned || !may_move || self.config.reflect_local {
                    return Some(port);
                }
            }
            Place::OutsideVlan => return None,
            Place::At { .. } | Place::Nowhere => {}
        }
        if learn {
            let _ = self.learn(vid, src, uplink, now);
        }
        None
    }

    /// §3, a passthrough relay.
    fn pass_through(
        &mut self,
        from: usize,
        bytes: &[u8],
        dst: Mac,
        src: Mac,
        now: u32,
    ) -> HashMap<usize, Vec<u8>> {
        let to = 1 - from;
        let local = if self.is_local(from) { from } else { to };
        let mut passes = self.active[to];
        if from == local {
            if self.ports[local].mac_policy == MacPolicy::Pinned {
                passes &= self.admits(local, 0, src, now, false);
            } else if !src.is_zero() && !src.is_group() {
                let _ = self.learn(0, src, local, now);
            }
        } else if dst.is_group() && !self.ports[local].accept_own_src {
            let seen = self.learned.get(&(0, src));
            let own =
                self.registers(local, src) || seen.is_some_and(|entry| self.is_alive(entry, now));
            passes &= !own;
        }
        let frame = Classified {
            vid: 0,
            priority: 0,
            bytes: bytes.to_vec(),
        };
        let copy = passes.then(|| self.egress(to, &frame)).flatten();
        copy.into_iter().map(|copy| (to, copy)).collect()
    }
}
