//! Addresses in the model: §4.

use super::{Learned, Model, Place};
use crate::frame::mac::Mac;
use crate::relay::fdb::{EntryKind, Learning};
use crate::relay::{MacPolicy, Mode, Role};
use crate::stats::DropReason;

/// Moves within ten seconds of each other, after which an address stays where it is.
const MOVES: usize = 5;

impl Model {
    /// Whether a port is the one that a registered address belongs to.
    pub(super) fn registers(&self, port: usize, mac: Mac) -> bool {
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

    pub(super) fn place(&self, vid: u16, mac: Mac, now: u32) -> Place {
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

    pub(super) fn is_alive(&self, entry: &Learned, now: u32) -> bool {
        self.config.ageing != 0 && now - entry.seen <= self.config.ageing
    }

    /// Forgets what has aged out.
    pub fn sweep(&mut self, now: u32) {
        let ageing = self.config.ageing;
        self.learned
            .retain(|_, entry| ageing != 0 && now - entry.seen <= ageing);
    }

    /// Forgets what ports have learned in VLANs that they have left, and what has aged out.
    pub fn forget_strays(&mut self, now: u32) {
        self.sweep(now);
        let vids = || [0, 10, 20, 30, 4094].into_iter();
        let strays: Vec<_> = self
            .learned
            .iter()
            .filter(|((fid, _), entry)| {
                !vids().any(|vid| self.fid(vid) == *fid && self.is_member(entry.port, vid))
            })
            .map(|(key, _)| *key)
            .collect();
        for key in strays {
            self.learned.remove(&key);
            self.note("stray forgotten");
        }
    }

    /// How many addresses count against the relay's limit.
    pub fn len(&self) -> usize {
        self.learned.len() + self.statics.len()
    }

    /// What is in the database, in order: FID (none where it is pinned), address, port and kind.
    pub fn entries(&self, now: u32) -> Vec<(Option<u16>, Mac, usize, EntryKind)> {
        let learned = self.learned.iter();
        let learned = learned
            .filter(|(_, entry)| self.is_alive(entry, now))
            .map(|((fid, mac), entry)| (Some(*fid), *mac, entry.port, EntryKind::Learned));
        let statics = self.statics.iter();
        let statics =
            statics.map(|((fid, mac), port)| (Some(*fid), *mac, *port, EntryKind::Static));
        let pins = self.pins.iter();
        let pins = pins.map(|(port, mac)| (None, *mac, *port, EntryKind::Pinned));
        let mut all: Vec<_> = learned.chain(statics).chain(pins).collect();
        all.sort_by_key(|(fid, mac, port, _)| (*fid, mac.to_u64(), *port));
        all
    }

    pub fn port_down(&mut self, port: usize) {
        self.learned.retain(|_, entry| entry.port != port);
        self.pins.remove(&port);
        self.used.retain(|(user, _)| *user != port);
        self.carrying[port] = false;
    }

    pub fn add_static(&mut self, vid: u16, mac: Mac, port: usize) -> bool {
        if !self.is_member(port, vid) || self.has_mode(Mode::Passthrough) {
            return false;
        }
        let key = (self.fid(vid), mac);
        let known = self.learned.contains_key(&key) || self.statics.contains_key(&key);
        if !known && self.len() >= self.config.max_entries as usize {
            return false;
        }
        self.learned.remove(&key);
        self.statics.insert(key, port);
        true
    }

    pub fn remove_static(&mut self, vid: u16, mac: Mac) -> bool {
        self.statics.remove(&(self.fid(vid), mac)).is_some()
    }

    pub(super) fn learn(&mut self, vid: u16, mac: Mac, port: usize, now: u32) -> Learning {
        let outcome = self.try_learn(vid, mac, port, now);
        self.learnings[outcome as usize] += 1;
        outcome
    }

    fn try_learn(&mut self, vid: u16, mac: Mac, port: usize, now: u32) -> Learning {
        let key = (self.fid(vid), mac);
        match self.statics.get(&key) {
            Some(owner) if *owner == port => return Learning::Known,
            Some(_) => return Learning::Taken,
            None if self.config.ageing == 0 => return Learning::Off,
            None => {}
        }
        // What has aged out counts until it is swept or heard of again.
        let alive = self
            .learned
            .get(&key)
            .map(|entry| self.is_alive(entry, now));
        if alive == Some(false) {
            self.learned.remove(&key);
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
                Learning::Known
            }
            Some(entry) => {
                if entry.moves.first().is_some_and(|last| now - last >= 10) {
                    entry.moves.clear();
                }
                if entry.moves.len() == MOVES {
                    return Learning::Damped;
                }
                if full {
                    return Learning::PortLimit;
                }
                entry.moves.insert(0, now);
                entry.port = port;
                entry.seen = now;
                Learning::Moved
            }
            None if full => Learning::PortLimit,
            None if relay_full => Learning::RelayLimit,
            None => {
                let moves = Vec::new();
                let seen = now;
                self.learned.insert(key, Learned { port, seen, moves });
                Learning::New
            }
        }
    }

    /// Whether a local port may send with this source.
    pub(super) fn admits(
        &mut self,
        port: usize,
        vid: u16,
        src: Mac,
        now: u32,
        learn: bool,
    ) -> Result<(), DropReason> {
        if self.registers(port, src) {
            self.uses(port, vid);
            return Ok(());
        }
        let taken = self.registered_in(vid, src, Some(port)).is_some();
        match self.ports[port].mac_policy {
            MacPolicy::Pinned => {
                let key = (self.fid(vid), src);
                let taken = taken || self.statics.get(&key).is_some_and(|owner| *owner != port);
                let first = self.ports[port].macs.is_empty() && !self.pins.contains_key(&port);
                if !first || src.is_zero() || src.is_group() {
                    return self.refuse(port, src, DropReason::Spoofed);
                }
                if taken {
                    return self.refuse(port, src, DropReason::AddressTaken);
                }
                self.pins.insert(port, src);
                self.report(port).pinned = Some(src);
                self.note("pinned at first sight");
                self.uses(port, vid);
                Ok(())
            }
            MacPolicy::Learn(_) | MacPolicy::Trusted { .. } => {
                if taken {
                    return self.refuse(port, src, DropReason::AddressTaken);
                }
                if !learn {
                    return Ok(());
                }
                let learning = self.learn(vid, src, port, now);
                self.tell(port, src, learning);
                let reason = match learning {
                    Learning::Known | Learning::New | Learning::Moved => return Ok(()),
                    Learning::Taken => return self.refuse(port, src, DropReason::AddressTaken),
                    Learning::Damped => DropReason::MoveDamped,
                    Learning::PortLimit => DropReason::PortLimit,
                    Learning::RelayLimit => DropReason::RelayLimit,
                    Learning::Off => DropReason::NotLearned,
                };
                if self.uplink_reflects() {
                    Err(reason)
                } else {
                    self.note("forwarded without learning");
                    Ok(())
                }
            }
        }
    }

    /// A port used an address that is registered there.
    fn uses(&mut self, port: usize, vid: u16) {
        if self.ports[port].standby {
            self.carrying[port] = true;
        }
        self.used.insert((port, vid));
    }

    fn refuse(&mut self, port: usize, src: Mac, reason: DropReason) -> Result<(), DropReason> {
        if !src.is_zero() {
            self.report(port).refused = Some(src);
        }
        Err(reason)
    }

    /// What the operator hears and counts of an attempt to learn.
    fn tell(&mut self, port: usize, src: Mac, learning: Learning) {
        match learning {
            Learning::Moved => self.report(port).moved = Some(src),
            Learning::Damped => self.report(port).damped = Some(src),
            Learning::PortLimit | Learning::RelayLimit => self.report(port).limited = Some(src),
            Learning::Known | Learning::New | Learning::Taken | Learning::Off => return,
        }
        if learning != Learning::Moved {
            self.unlearned[port] += 1;
        }
    }

    /// The local port whose reflection a frame from the uplink is.
    pub(super) fn reflection_of(
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
                self.note("yielded to the primary");
            }
        }
        let learn = learn && self.has_mode(Mode::Bridge);
        let mut leaves = false;
        match self.place(vid, src, now) {
            Place::At { port, learned } if self.ports[port].role == Role::Local => {
                let may_move = !reflects && !self.has_mode(Mode::Vepa);
                if !learned || !may_move || self.config.reflect_local {
                    return Some(port);
                }
                leaves = true;
            }
            Place::OutsideVlan => return None,
            Place::At { .. } | Place::Nowhere => {}
        }
        if learn {
            match self.learn(vid, src, uplink, now) {
                Learning::Moved if leaves => {
                    self.note("moved away by the uplink");
                    self.report(uplink).moved = Some(src);
                }
                Learning::Damped => {
                    self.unlearned[uplink] += 1;
                    if leaves {
                        self.report(uplink).damped = Some(src);
                    }
                }
                Learning::PortLimit | Learning::RelayLimit => self.unlearned[uplink] += 1,
                _ => {}
            }
        }
        None
    }
}
