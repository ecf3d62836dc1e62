//! The way of a frame through a relay (§1): one path, read downward.
//!
//! reserved addresses → VLAN classification → anti-spoof and learning → the table of the side that
//! the frame came from. Egress is decided later, per copy.

use super::Seconds;
use super::address::Location;
use super::config::Mode;
use super::port::{PortSet, Slot};
use super::reserved;
use super::shortcut::Sender;
use super::tables::{Port, Relay, Vlan};
use super::vlan::Class;
use crate::frame::ethernet::{HEADER_LEN, Header, TAG_LEN, TagAction};
use crate::frame::mac::Mac;
use crate::stats::DropReason;

/// A frame as the relay sees it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its parsed header.
    pub header: &'a Header,
    /// Its length in bytes.
    pub len: u32,
    /// Length of the longest frame that segmentation will make of it; `None` without segmentation.
    pub segment_len: Option<u32>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody receives it. It counts at the port it came from.
    Drop(DropReason),
    /// One port receives it.
    One(Slot),
    /// The ports in the set of targets receive it, one or more.
    Many,
}

/// A relay together with the ports that take part at the moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The tables.
    pub relay: &'a Relay,
    /// Ports whose rings run or whose carrier is up. The others neither send nor receive nor own
    /// addresses.
    pub active: &'a PortSet,
}

/// The set without members, where a table's cell names nobody.
static NOBODY: PortSet = PortSet::new();

impl<'a> View<'a> {
    /// Decides where a frame that came from port `from` goes, and learns its source. `targets` is
    /// scratch space, meaningful only after [`Verdict::Many`].
    pub fn forward(
        &self,
        from: Slot,
        frame: &Frame<'_>,
        now: Seconds,
        targets: &mut PortSet,
    ) -> (Verdict, Class) {
        self.sender(from, now).forward(frame, targets)
    }

    /// The port `from`, for several frames that arrive within the second `now`.
    #[inline]
    pub fn sender(&self, from: Slot, now: Seconds) -> Sender<'a> {
        Sender::new(*self, from, now)
    }

    /// The long way, which decides about every frame.
    #[inline(never)]
    pub(super) fn decide(
        &self,
        from: Slot,
        header: &Header,
        now: Seconds,
        targets: &mut PortSet,
    ) -> (Verdict, Class) {
        let (verdict, class) = match self.relay.port(from) {
            Some(port) if self.active.contains(from) => match self.relay.passthrough {
                Some(local) => {
                    let verdict = self.pass_through(local, from, port, header, now);
                    (verdict, Class::default())
                }
                None => self.bridge(from, port, header, now, targets),
            },
            _ => (Err(DropReason::PortDown), Class::default()),
        };
        (verdict.unwrap_or_else(Verdict::Drop), class)
    }

    /// Everything but passthrough.
    fn bridge(
        &self,
        from: Slot,
        port: &Port,
        header: &Header,
        now: Seconds,
        targets: &mut PortSet,
    ) -> (Result<Verdict, DropReason>, Class) {
        let relay = self.relay;
        let checked = check_source(header.src)
            .and_then(|()| reserved::admit(header, relay.config.group_fwd_mask));
        let opened = match checked {
            Ok(opened) => opened,
            Err(reason) => return (Err(reason), Class::default()),
        };
        let class = match &relay.vids {
            None => Class::default(),
            Some(vids) => match port.vlan.classify(header, port.config.default_pcp, vids) {
                Ok(class) => class,
                Err(reason) => return (Err(reason), Class::default()),
            },
        };
        let vlan = relay.vlan(class.vid);
        // §4: nothing is learned from frames to reserved addresses.
        let learn = !opened;
        let verdict = if port.is_uplink() {
            match self.reflected_from(from, port, &vlan, header.src, now, learn) {
                None => self.receive(from, &vlan, header.dst, now, targets),
                Some(_) if relay.config.reflect_local => Err(DropReason::Reflected),
                Some(sender) => self.reflected(sender, &vlan, header.dst, now, targets),
            }
        } else {
            self.admit_source(from, port, &vlan, header.src, now, learn)
                .and_then(|()| self.send(from, port, &vlan, header.dst, now, targets))
        };
        (verdict, class)
    }

    /// Table 1: from local port `from`.
    fn send(
        &self,
        from: Slot,
        port: &Port,
        vlan: &Vlan<'_>,
        dst: Mac,
        now: Seconds,
        targets: &mut PortSet,
    ) -> Result<Verdict, DropReason> {
        let relay = self.relay;
        let config = &port.config;
        let bridge = config.mode == Mode::Bridge;
        let local = relay.config.reflect_local;
        let group = dst.is_group();
        if !group {
            match self.locate(vlan, dst, now) {
                Location::OutsideVlan => return Err(DropReason::NotMember),
                Location::At(to) | Location::Learned(to) => {
                    if Some(to) == relay.uplink {
                        return Ok(Verdict::One(to));
                    }
                    if bridge && to == from {
                        // In the role of the adjacent switch, back where it came from.
                        return if config.reflective {
                            Ok(Verdict::One(to))
                        } else {
                            Err(DropReason::OwnAddress)
                        };
                    }
                    if bridge && relay.masks.bridge.contains(to) {
                        return Ok(Verdict::One(to));
                    }
                    return if local {
                        self.reflected_to(from, to)
                    } else {
                        self.up(vlan)
                    };
                }
                Location::Unknown => {}
            }
        }
        // Broadcast, multicast and unknown unicast: directly to bridge ports, and up.
        let direct = match (bridge, group) {
            (true, true) => &relay.masks.bridge,
            (true, false) => &relay.masks.bridge_flood,
            (false, _) => &NOBODY,
        };
        let [more, others] = if local {
            self.reflection(config.mode, group)
        } else {
            [&NOBODY; 2]
        };
        if !bridge && !local {
            return self.up(vlan);
        }
        self.spread(vlan, group.then_some(dst), [direct, more, others], targets);
        let own = if group && local && config.accept_own_src {
            self.joined(vlan, dst, from)
        } else {
            bridge && config.reflective && targets.contains(from)
        };
        if own {
            targets.insert(from);
        } else {
            targets.remove(from);
        }
        if let Ok(Verdict::One(uplink)) = self.up(vlan) {
            targets.insert(uplink);
        }
        many(targets, DropReason::NoReceiver)
    }

    /// Table 2, source outside.
    fn receive(
        &self,
        uplink: Slot,
        vlan: &Vlan<'_>,
        dst: Mac,
        now: Seconds,
        targets: &mut PortSet,
    ) -> Result<Verdict, DropReason> {
        let masks = &self.relay.masks;
        if dst.is_group() {
            self.spread(vlan, Some(dst), [&masks.local, &NOBODY, &NOBODY], targets);
            return many(targets, DropReason::NoReceiver);
        }
        match self.locate(vlan, dst, now) {
            Location::At(to) | Location::Learned(to) if to == uplink => Err(DropReason::UplinkTurn),
            Location::At(to) | Location::Learned(to) => Ok(Verdict::One(to)),
            Location::OutsideVlan => Err(DropReason::NotMember),
            Location::Unknown => {
                let ports = [&masks.bridge_flood, &masks.vepa_promiscuous, &NOBODY];
                self.spread(vlan, None, ports, targets);
                many(targets, DropReason::Unknown)
            }
        }
    }

    /// Table 2, reflected: the frame is local port `sender`'s own.
    fn reflected(
        &self,
        sender: Slot,
        vlan: &Vlan<'_>,
        dst: Mac,
        now: Seconds,
        targets: &mut PortSet,
    ) -> Result<Verdict, DropReason> {
        let Some(port) = self.relay.port(sender) else {
            return Err(DropReason::PortDown);
        };
        let group = dst.is_group();
        if !group {
            match self.locate(vlan, dst, now) {
                Location::At(to) | Location::Learned(to) if Some(to) == self.relay.uplink => {
                    return Err(DropReason::UplinkTurn);
                }
                Location::At(to) | Location::Learned(to) => return self.reflected_to(sender, to),
                Location::OutsideVlan => return Err(DropReason::NotMember),
                Location::Unknown => {}
            }
        }
        let [some, others] = self.reflection(port.config.mode, group);
        self.spread(vlan, group.then_some(dst), [some, others, &NOBODY], targets);
        targets.remove(sender);
        if group && port.config.accept_own_src && self.joined(vlan, dst, sender) {
            targets.insert(sender);
        }
        many(targets, DropReason::Reflected)
    }

    /// The pair rule for a reflected unicast frame.
    fn reflected_to(&self, sender: Slot, to: Slot) -> Result<Verdict, DropReason> {
        let (Some(from), Some(port)) = (self.relay.port(sender), self.relay.port(to)) else {
            return Err(DropReason::PortDown);
        };
        if to == sender {
            return if port.config.accept_own_src {
                Ok(Verdict::One(to))
            } else {
                Err(DropReason::OwnSource)
            };
        }
        match (from.config.mode, port.config.mode) {
            (Mode::Vepa, Mode::Bridge | Mode::Vepa) | (Mode::Bridge, Mode::Vepa) => {
                Ok(Verdict::One(to))
            }
            _ => Err(DropReason::PairRule),
        }
    }

    /// Who receives a reflected frame that goes to more than one port, by the mode of its sender:
    /// the last two rows of table 2.
    fn reflection(&self, mode: Mode, group: bool) -> [&PortSet; 2] {
        let masks = &self.relay.masks;
        match (mode, group) {
            (Mode::Bridge, true) => [&masks.vepa, &NOBODY],
            (Mode::Bridge, false) => [&masks.vepa_promiscuous, &NOBODY],
            (Mode::Vepa, true) => [&masks.vepa, &masks.bridge],
            (Mode::Vepa, false) => [&masks.vepa_promiscuous, &masks.bridge_flood],
            (Mode::Private | Mode::Passthrough, _) => [&NOBODY; 2],
        }
    }

    /// To the uplink alone.
    fn up(&self, vlan: &Vlan<'_>) -> Result<Verdict, DropReason> {
        match self.relay.uplink {
            Some(uplink) if self.active.contains(uplink) && vlan.has(uplink) => {
                Ok(Verdict::One(uplink))
            }
            _ => Err(DropReason::NoUplink),
        }
    }

    /// Makes `targets` the active members of a VLAN that are in one of `ports`, and have joined
    /// where the frame is to a group.
    fn spread(
        &self,
        vlan: &Vlan<'_>,
        group: Option<Mac>,
        ports: [&PortSet; 3],
        targets: &mut PortSet,
    ) {
        let pruned = match group {
            Some(group) if !group.is_broadcast() => self.relay.prunes(vlan, group, targets),
            _ => false,
        };
        let members = vlan.members();
        let [a, b, c] = ports.map(PortSet::words);
        let active = self.active.words();
        for (index, target) in targets.words_mut().iter_mut().enumerate() {
            let members = members.get(index).copied().unwrap_or(0);
            let joined = if pruned { *target } else { u64::MAX };
            *target = members & joined & active[index] & (a[index] | b[index] | c[index]);
        }
    }

    /// Whether one port has joined a group.
    fn joined(&self, vlan: &Vlan<'_>, group: Mac, slot: Slot) -> bool {
        let mut joined = PortSet::new();
        group.is_broadcast()
            || !self.relay.prunes(vlan, group, &mut joined)
            || joined.contains(slot)
    }

    /// How long a frame may be that is tagged as `action` says, so that [`View::egress`] lets it pass to
    /// port `to` without a look.
    pub fn passes(&self, to: Slot, action: TagAction) -> usize {
        match self.relay.port(to).and_then(|port| port.config.mtu) {
            Some(mtu) => {
                let untagged = usize::from(mtu) + HEADER_LEN;
                untagged.saturating_add_signed(-isize::from(action.growth()))
            }
            None => usize::MAX,
        }
    }

    /// Decides how the copy for port `to` is tagged, or that the port must not get it. A refusal
    /// counts at `to`.
    pub fn egress(
        &self,
        to: Slot,
        class: &Class,
        frame: &Frame<'_>,
    ) -> Result<TagAction, DropReason> {
        let port = self.relay.port(to).ok_or(DropReason::PortDown)?;
        let action = match &self.relay.vids {
            None => TagAction::default(),
            Some(vids) => port.vlan.egress(*class, frame.header, vids)?,
        };
        if let Some(mtu) = port.config.mtu {
            let length = frame.segment_len.unwrap_or(frame.len);
            let length = length.saturating_add_signed(i32::from(action.growth()));
            let untagged = u32::from(mtu) + HEADER_LEN as u32;
            if length > untagged && length > untagged + tag_bytes(frame.header, action) {
                port.state.reports.oversize(length);
                return Err(DropReason::Oversize);
            }
        }
        Ok(action)
    }
}

/// Bytes of the tags that a copy leaves with; a third one counts as payload.
fn tag_bytes(header: &Header, action: TagAction) -> u32 {
    let tags = (header.tags + u8::from(action.push.is_some()))
        .saturating_sub(u8::from(action.pop))
        .min(2);
    u32::from(tags) * TAG_LEN as u32
}

/// Refuses sources that no station can have.
fn check_source(src: Mac) -> Result<(), DropReason> {
    if src.is_zero() {
        Err(DropReason::ZeroSource)
    } else if src.is_group() {
        Err(DropReason::GroupSource)
    } else {
        Ok(())
    }
}

/// The verdict for a set of targets.
fn many(targets: &PortSet, nobody: DropReason) -> Result<Verdict, DropReason> {
    if targets.is_empty() {
        Err(nobody)
    } else {
        Ok(Verdict::Many)
    }
}
