//! Whose an address is, and whether a port may use it (§4).

use super::Seconds;
use super::config::MacPolicy;
use super::fdb::{EntryKind, Learning};
use super::forward::View;
use super::port::Slot;
use super::tables::{Port, Vlan};
use crate::frame::mac::Mac;
use crate::stats::DropReason;

/// Where an address is, seen from one VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// At this port.
    At(Slot),
    /// At this port, learned.
    Learned(Slot),
    /// At a port outside the VLAN, which shared learning knows about.
    OutsideVlan,
    /// Not known.
    Unknown,
}

impl View<'_> {
    /// Where `mac` is in a VLAN. Registered addresses come before static and learned ones.
    #[inline]
    pub(super) fn locate(&self, vlan: &Vlan<'_>, mac: Mac, now: Seconds) -> Location {
        if let Some(slot) = self.registered_at(vlan, mac, None) {
            return Location::At(slot);
        }
        match self.relay.fdb.lookup(vlan.fid, mac, now) {
            Some((slot, kind)) if self.active.contains(slot) => match kind {
                _ if !vlan.has(slot) && vlan.shared => Location::OutsideVlan,
                _ if !vlan.has(slot) => Location::Unknown,
                EntryKind::Learned => Location::Learned(slot),
                EntryKind::Static | EntryKind::Pinned => Location::At(slot),
            },
            _ => Location::Unknown,
        }
    }

    /// The port in a VLAN that `mac` is registered at, by configuration or because it was pinned,
    /// `except` excepted. Inactive ports own nothing. Of two that claim it, the lower slot has it.
    #[inline]
    fn registered_at(&self, vlan: &Vlan<'_>, mac: Mac, except: Option<Slot>) -> Option<Slot> {
        if self.relay.has_registered() || self.relay.fdb.has_pins() {
            self.find_registered(vlan, mac, except)
        } else {
            None
        }
    }

    #[inline(never)]
    fn find_registered(&self, vlan: &Vlan<'_>, mac: Mac, except: Option<Slot>) -> Option<Slot> {
        self.registrants(mac)
            .filter(|slot| Some(*slot) != except && vlan.has(*slot) && self.owns(*slot))
            .min()
    }

    /// The ports that `mac` is registered at, in any VLAN and whether active or not.
    fn registrants(&self, mac: Mac) -> impl Iterator<Item = Slot> {
        let configured = self.relay.registered(mac).iter().copied();
        let pinned = self.relay.fdb.pinned(mac).filter(|slot| {
            let port = self.relay.port(*slot);
            port.is_some_and(|port| port.config.pins_first())
        });
        configured.chain(pinned)
    }

    /// Notes that a port used one of its registered addresses.
    fn note_use(port: &Port, vlan: &Vlan<'_>) {
        if port.config.standby {
            port.state.set_carrying(true);
        }
        port.state.note_vid(vlan.vid);
    }

    /// Whether the registered addresses of a port are in force.
    pub(super) fn owns(&self, slot: Slot) -> bool {
        // §5: while the primary of a failover pair carries the traffic, the standby owns nothing.
        let standby_idle = |port: &Port| port.config.standby && !port.state.carrying();
        self.active.contains(slot) && !self.relay.port(slot).is_none_or(standby_idle)
    }

    /// Checks the source of a frame from local port `from` and learns it.
    #[inline]
    pub(super) fn admit_source(
        &self,
        from: Slot,
        port: &Port,
        vlan: &Vlan<'_>,
        src: Mac,
        now: Seconds,
        learn: bool,
    ) -> Result<(), DropReason> {
        if self.relay.registered(src).contains(&from) {
            View::note_use(port, vlan);
            return Ok(());
        }
        match port.config.mac_policy {
            MacPolicy::Pinned if port.config.pins_first() => {
                self.admit_first(from, port, vlan, src, now)
            }
            MacPolicy::Pinned => {
                port.state.reports.refused.set(src);
                Err(DropReason::Spoofed)
            }
            MacPolicy::Learn(limit) | MacPolicy::Trusted { limit } => {
                if self.registered_at(vlan, src, Some(from)).is_some() {
                    port.state.reports.refused.set(src);
                    return Err(DropReason::AddressTaken);
                }
                if !learn {
                    return Ok(());
                }
                match self.relay.fdb.learn(vlan.fid, src, from, limit, now) {
                    Learning::Known => Ok(()),
                    learning => self.judge_learning(port, src, learning),
                }
            }
        }
    }

    /// Pins a port to the first valid source it shows.
    #[inline(never)]
    fn admit_first(
        &self,
        from: Slot,
        port: &Port,
        vlan: &Vlan<'_>,
        src: Mac,
        now: Seconds,
    ) -> Result<(), DropReason> {
        let state = &port.state;
        let refuse = |reason| {
            state.reports.refused.set(src);
            Err(reason)
        };
        match state.pin.get() {
            Some(pinned) if pinned == src => {
                View::note_use(port, vlan);
                return Ok(());
            }
            Some(_) => return refuse(DropReason::Spoofed),
            None => {}
        }
        if src.is_zero() || src.is_group() {
            return refuse(DropReason::Spoofed);
        }
        let fdb = &self.relay.fdb;
        let static_elsewhere = matches!(
            fdb.lookup(vlan.fid, src, now),
            Some((slot, EntryKind::Static)) if slot != from
        );
        if static_elsewhere || self.registered_at(vlan, src, Some(from)).is_some() {
            return refuse(DropReason::AddressTaken);
        }
        let guard = fdb.lock_pins();
        match state.pin.get() {
            None if fdb.pin(src, from, &guard) => {
                state.pin.set(src);
                state.reports.pinned.set(src);
                View::note_use(port, vlan);
                Ok(())
            }
            None => Err(DropReason::RelayLimit),
            // Another queue of the port was first.
            Some(pinned) if pinned == src => Ok(()),
            Some(_) => refuse(DropReason::Spoofed),
        }
    }

    /// What follows from an attempt to learn the source of a frame from a local port.
    #[inline(never)]
    fn judge_learning(&self, port: &Port, src: Mac, learning: Learning) -> Result<(), DropReason> {
        let reports = &port.state.reports;
        if learning.is_refused() {
            port.state.count_unlearned();
        }
        // §4: an unlearned source would come back from a reflecting switch looking like an outside
        // host, be learned there and blackhole the guest.
        let unlearned = |reason| {
            if self.relay.uplink_reflects {
                Err(reason)
            } else {
                Ok(())
            }
        };
        match learning {
            Learning::Known | Learning::New => Ok(()),
            Learning::Moved => {
                reports.moved.set(src);
                Ok(())
            }
            Learning::Taken => {
                reports.refused.set(src);
                Err(DropReason::AddressTaken)
            }
            Learning::Damped => {
                reports.damped.set(src);
                unlearned(DropReason::MoveDamped)
            }
            Learning::PortLimit => {
                reports.limited.set(src);
                unlearned(DropReason::PortLimit)
            }
            Learning::RelayLimit => {
                reports.limited.set(src);
                unlearned(DropReason::RelayLimit)
            }
            // Learning turned off is a limit of zero.
            Learning::Off => unlearned(DropReason::NotLearned),
        }
    }

    /// Finds out whether a frame from the uplink is a reflection, and of which local port; learns
    /// its source if it is not.
    pub(super) fn reflected_from(
        &self,
        uplink: Slot,
        port: &Port,
        vlan: &Vlan<'_>,
        src: Mac,
        now: Seconds,
        learn: bool,
    ) -> Option<Slot> {
        let relay = self.relay;
        if !relay.uplink_reflects {
            self.yield_to_primary(src);
        }
        let learn = || {
            if !learn || !relay.learns_outside {
                return Learning::Off;
            }
            let limit = port.config.learn_limit();
            let learning = relay.fdb.learn(vlan.fid, src, uplink, limit, now);
            if learning.is_refused() {
                port.state.count_unlearned();
            }
            learning
        };
        match self.locate(vlan, src, now) {
            Location::At(slot) | Location::Learned(slot) if slot == uplink => {
                learn();
                None
            }
            // §4: the VM has migrated away, unless a reflecting switch may have sent this.
            Location::Learned(_)
                if !relay.uplink_reflects && !relay.has_vepa && !relay.config.reflect_local =>
            {
                match learn() {
                    Learning::Moved => port.state.reports.moved.set(src),
                    Learning::Damped => port.state.reports.damped.set(src),
                    _ => {}
                }
                None
            }
            Location::At(slot) | Location::Learned(slot) => Some(slot),
            Location::OutsideVlan => None,
            Location::Unknown => {
                learn();
                None
            }
        }
    }

    /// §5: a standby's address on a frame from an uplink that does not reflect is the primary's.
    fn yield_to_primary(&self, src: Mac) {
        for slot in self.registrants(src) {
            if let Some(port) = self.relay.port(slot)
                && port.config.standby
            {
                port.state.set_carrying(false);
            }
        }
    }
}
