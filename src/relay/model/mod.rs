//! A second relay, slow and obvious, written from the rules alone: loops and hash maps, frames as
//! bytes, and every receiver asked one by one whether it gets a copy. Random histories must come
//! out of both alike.

mod address;
mod vlan;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::config::{MacPolicy, Mode, Multicast, PortConfig, RelayConfig, Role, VlanConfig};
use super::port::Report;
use crate::frame::mac::Mac;
use crate::stats::DropReason;
use vlan::{Classified, type_at};

/// What leaves by each port, and why other copies do not.
pub(super) type Sent = (BTreeMap<usize, Vec<u8>>, BTreeMap<usize, DropReason>);

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
    /// In which VLANs a port has used its registered addresses.
    pub used: HashSet<(usize, u16)>,
    /// What each port has to report.
    pub reports: Vec<Report>,
    /// Frames of each port whose source was not learned.
    pub unlearned: Vec<u64>,
    /// How often learning came out as each [`Learning`](super::fdb::Learning).
    pub learnings: [u64; 8],
    /// How often something worth meeting was met.
    pub notes: RefCell<HashMap<&'static str, u64>>,
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
            used: HashSet::new(),
            reports: vec![Report::default(); count],
            unlearned: vec![0; count],
            learnings: [0; 8],
            notes: RefCell::default(),
        }
    }

    pub fn note(&self, what: &'static str) {
        *self.notes.borrow_mut().entry(what).or_default() += 1;
    }

    fn report(&mut self, port: usize) -> &mut Report {
        &mut self.reports[port]
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

    /// What leaves by which port when a frame comes in by port `from`. `segment`: length of the longest
    /// frame that its segmentation makes.
    pub fn send(
        &mut self,
        from: usize,
        bytes: &[u8],
        segment: Option<u32>,
        now: u32,
    ) -> Result<Sent, DropReason> {
        if bytes.len() < 14 {
            return Err(DropReason::Runt);
        }
        if !self.active[from] {
            return Err(DropReason::PortDown);
        }
        let (dst, src) = (mac_at(bytes, 0), mac_at(bytes, 6));
        if self.has_mode(Mode::Passthrough) {
            return self.pass_through(from, bytes, segment, now);
        }
        if src.is_zero() {
            return Err(DropReason::ZeroSource);
        }
        if src.is_group() {
            return Err(DropReason::GroupSource);
        }
        let opened = self.reserved(bytes)?;
        let frame = self.classify(from, bytes)?;
        let vid = frame.vid;
        let local = self.is_local(from);
        let sender = if local {
            self.admits(from, vid, src, now, !opened)?;
            Some(from)
        } else {
            self.reflection_of(from, vid, src, now, !opened)
        };
        if !local && sender.is_some() && self.config.reflect_local {
            return Err(DropReason::Reflected);
        }
        let place = if dst.is_group() {
            Place::Nowhere
        } else {
            self.place(vid, dst, now)
        };
        let mut receivers = Vec::new();
        for to in 0..self.ports.len() {
            if !self.active[to] || !self.is_member(to, vid) {
                continue;
            }
            let delivered = match (sender, local, self.is_local(to)) {
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
            if delivered {
                receivers.push(to);
            }
        }
        if receivers.is_empty() {
            return Err(self.nobody(from, sender, dst, place));
        }
        if opened {
            self.note("let through by the group mask");
        }
        if !local && sender.is_some() {
            self.note("reflected and delivered");
        }
        if receivers.contains(&from) {
            self.note("back on the port of reception");
        }
        if sender.is_some_and(|sender| sender != from && receivers.contains(&sender)) {
            self.note("its own source accepted");
        }
        Ok(self.leave(&receivers, &frame, bytes.len(), segment))
    }

    /// The copies for `receivers`, who may refuse them.
    fn leave(
        &mut self,
        receivers: &[usize],
        frame: &Classified,
        arrived: usize,
        segment: Option<u32>,
    ) -> Sent {
        let mut sent = Sent::default();
        for to in receivers {
            match self.egress(*to, frame, arrived, segment) {
                Ok(copy) => {
                    sent.0.insert(*to, copy);
                }
                Err((reason, length)) => {
                    if reason == DropReason::Oversize {
                        self.report(*to).oversize = Some(length as u32);
                    }
                    sent.1.insert(*to, reason);
                }
            }
        }
        sent
    }

    /// §1, reserved addresses: whether the mask opens one, or why the frame ends here.
    fn reserved(&self, bytes: &[u8]) -> Result<bool, DropReason> {
        let octets = &bytes[..6];
        let reserved = octets[..5] == [1, 0x80, 0xc2, 0, 0] && octets[5] < 16;
        let ethertype = type_at(bytes, 12);
        if reserved && octets[5] == 1 || ethertype == 0x8808 {
            return Err(DropReason::Pause);
        }
        if !reserved {
            return Ok(false);
        }
        if self.config.group_fwd_mask >> octets[5] & 1 == 1 {
            return Ok(true);
        }
        Err(match (octets[5], ethertype) {
            (0 | 0xe, 0x88cc) => DropReason::Lldp,
            (0, 0x8940) => DropReason::Ecp,
            (3, 0x88cc) => DropReason::Cdcp,
            (2, 0x8809) => DropReason::Lacp,
            _ => DropReason::Reserved,
        })
    }

    /// Why nobody receives a frame: the first rule that is in the way.
    fn nobody(&self, from: usize, sender: Option<usize>, dst: Mac, place: Place) -> DropReason {
        let bridge = self.ports[from].mode == Mode::Bridge;
        let local = self.is_local(from);
        let Place::At { port: to, .. } = place else {
            return match (place, local, sender) {
                (Place::OutsideVlan, ..) => DropReason::NotMember,
                (_, true, _) if !bridge && !self.config.reflect_local => DropReason::NoUplink,
                (_, true, _) => DropReason::NoReceiver,
                (_, false, Some(_)) => DropReason::Reflected,
                (_, false, None) if dst.is_group() => DropReason::NoReceiver,
                (_, false, None) => DropReason::Unknown,
            };
        };
        if !self.is_local(to) {
            DropReason::UplinkTurn
        } else if local && bridge && to == from {
            DropReason::OwnAddress
        } else if local && !self.config.reflect_local {
            DropReason::NoUplink
        } else if sender == Some(to) {
            DropReason::OwnSource
        } else {
            DropReason::PairRule
        }
    }

    /// §3, a passthrough relay.
    fn pass_through(
        &mut self,
        from: usize,
        bytes: &[u8],
        segment: Option<u32>,
        now: u32,
    ) -> Result<Sent, DropReason> {
        let (dst, src) = (mac_at(bytes, 0), mac_at(bytes, 6));
        if self.reserved(bytes) == Err(DropReason::Pause) {
            return Err(DropReason::Pause);
        }
        let to = 1 - from;
        let local = if self.is_local(from) { from } else { to };
        if from == local {
            if self.ports[local].mac_policy == MacPolicy::Pinned {
                self.admits(local, 0, src, now, false)?;
            } else if !src.is_zero() && !src.is_group() {
                self.learn(0, src, local, now);
            }
            if !self.active[to] {
                return Err(DropReason::NoUplink);
            }
        } else {
            if !self.active[to] {
                return Err(DropReason::PortDown);
            }
            let seen = self.learned.get(&(0, src));
            let own =
                self.registers(local, src) || seen.is_some_and(|entry| self.is_alive(entry, now));
            if dst.is_group() && own && !self.ports[local].accept_own_src {
                return Err(DropReason::OwnSource);
            }
        }
        let frame = Classified {
            vid: 0,
            priority: 0,
            bytes: bytes.to_vec(),
        };
        Ok(self.leave(&[to], &frame, bytes.len(), segment))
    }
}
