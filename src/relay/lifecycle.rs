//! What happens to a relay besides frames: ports that go down or leave, static entries, and the
//! addresses to announce when a port comes up (§4, §5).

use super::Seconds;
use super::fdb::Fdb;
use super::port::Slot;
use super::tables::Relay;
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;

/// Why a static entry cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaticError {
    /// The address names no single station.
    #[error("{0} is not the address of a station")]
    NotUnicast(Mac),
    /// No such port.
    #[error("the relay has no such port")]
    NoPort,
    /// The VID is missing, superfluous, or not one of the port's.
    #[error("the port is not in that VLAN")]
    NotMember,
    /// The relay is a passthrough relay, which has no filtering database.
    #[error("a passthrough relay has no filtering database")]
    Passthrough,
    /// The relay holds as many addresses as it may.
    #[error("the relay is at its limit of addresses")]
    Full,
}

/// An address that a port announces to its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The address.
    pub mac: Mac,
    /// In this VLAN; `None` in a flat relay.
    pub vid: Option<Vid>,
}

impl Relay {
    /// The front end of a port has left, or its rings stopped: forgets what it learned and pinned.
    /// Call it after the last worker has stopped forwarding for the port.
    pub fn port_down(&self, slot: Slot) {
        self.fdb.forget_learned(slot);
        let Some(port) = self.port(slot) else {
            return;
        };
        let guard = self.fdb.lock_pins();
        if let Some(mac) = port.state.pin.take() {
            self.fdb.unpin(mac, slot, &guard);
        }
        port.state.set_carrying(false);
        port.state.forget_vids();
    }

    /// Forgets what ports have learned in VLANs that they are not in any more: it would count against their limits
    /// until it is too old. Call it after the last worker has stopped using the tables before these.
    pub fn forget_strays(&self, now: Seconds) {
        self.fdb.flush(now, |entry| {
            !entry.fid.is_some_and(|fid| self.is_home(fid, entry.slot))
        });
    }

    /// Pins in `fdb`, which is to take the place of this relay's, what ports have pinned in that one.
    pub fn copy_pins(&self, fdb: &Fdb) {
        let guard = fdb.lock_pins();
        let ports = (0..).map_while(Slot::new).zip(&self.ports);
        for (slot, port) in ports {
            let Some(port) = port else { continue };
            if let Some(mac) = port.state.pin.get()
                && !fdb.pin(mac, slot, &guard)
            {
                // No room: the port's next frame asks again, and is refused and reported.
                port.state.pin.take();
            }
        }
    }

    /// The port leaves the relay for good: its static entries go too. Call it on the last relay
    /// that has the port, before the slot is given to another.
    pub fn port_removed(&self, slot: Slot) {
        self.port_down(slot);
        self.fdb.forget_static(slot);
    }

    /// Adds a static entry, or moves it here.
    pub fn add_static(&self, vid: Option<Vid>, mac: Mac, slot: Slot) -> Result<(), StaticError> {
        if mac.is_group() || mac.is_zero() {
            return Err(StaticError::NotUnicast(mac));
        }
        if self.port(slot).is_none() {
            return Err(StaticError::NoPort);
        }
        if self.passthrough.is_some() {
            return Err(StaticError::Passthrough);
        }
        let vlan = self.vlan(vid.map_or(0, Vid::get));
        if vid.is_none() != self.vids.is_none() || !vlan.has(slot) {
            return Err(StaticError::NotMember);
        }
        if self.fdb.add_static(vlan.fid, mac, slot) {
            Ok(())
        } else {
            Err(StaticError::Full)
        }
    }

    /// Removes a static entry; whether there was one.
    pub fn remove_static(&self, vid: Option<Vid>, mac: Mac) -> bool {
        let vlan = self.vlan(vid.map_or(0, Vid::get));
        self.fdb.remove_static(vlan.fid, mac)
    }

    /// The filtering identifier of a VLAN, by which entries name it.
    pub fn fid(&self, vid: Option<Vid>) -> u16 {
        self.vlan(vid.map_or(0, Vid::get)).fid
    }

    /// Whether a port is in a VLAN.
    pub fn is_member(&self, slot: Slot, vid: Vid) -> bool {
        self.vlan(vid.get()).has(slot)
    }

    /// What to announce for a port that comes up or asks for it: each registered address, in the
    /// port's access or native VLAN and in those that the port was seen to use. `extra` is an address
    /// that the front end names itself.
    pub fn announcements(&self, slot: Slot, extra: Option<Mac>) -> Vec<Announcement> {
        let Some(port) = self.port(slot) else {
            return Vec::new();
        };
        let mut macs = port.config.macs.clone();
        for mac in port.pin().into_iter().chain(extra) {
            if !macs.contains(&mac) {
                macs.push(mac);
            }
        }
        let vids: Vec<Option<Vid>> = if self.vids.is_none() {
            vec![None]
        } else {
            let mut seen = port.state.seen_vids();
            seen.extend(port.vlan.pvid());
            let members = seen.iter().filter(|vid| self.vlan(vid.get()).has(slot));
            members.map(Some).collect()
        };
        let with_vids = |mac| vids.iter().map(move |vid| Announcement { mac, vid: *vid });
        macs.into_iter().flat_map(with_vids).collect()
    }
}
