//! Counting frames: at a port, and in the VLAN in which they cross its relay.

use super::snapshot::{PortId, Snapshot};
use crate::frame::mac::Mac;
use crate::stats::{DropReason, PortCounters, VlanCounters};

/// Where a frame is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// The port.
    pub port: PortId,
    /// The VLAN in the port's relay; 0 in a flat relay, and where the frame was not classified.
    pub vid: u16,
}

/// The counters of a port and of its relay's VLANs in one worker.
#[derive(Clone, Copy)]
pub struct Counts<'a> {
    /// Those of the port.
    pub port: &'a PortCounters,
    vlans: Option<&'a VlanCounters>,
}

impl<'a> Counts<'a> {
    /// Those of worker `worker` for the port `id`, if that exists.
    #[inline]
    pub fn of(snapshot: &'a Snapshot, id: PortId, worker: usize) -> Option<Self> {
        let port = snapshot.port(id)?;
        let relay = snapshot.relay(port.relay);
        Some(Self {
            port: &port.counters[worker],
            vlans: relay.and_then(|relay| relay.vlans.get(worker)),
        })
    }

    /// A frame of `len` bytes to `dst` was delivered to the port.
    #[inline]
    pub fn rx(&self, vid: u16, dst: Mac, len: usize) {
        self.port.rx_frames(1);
        self.port.rx_bytes(len as u64);
        if dst.is_broadcast() {
            self.port.rx_broadcast(1);
        } else if dst.is_group() {
            self.port.rx_multicast(1);
        }
        if let Some(vlans) = self.vlans {
            vlans.count_out(vid, len as u64);
        }
    }

    /// The port sent a frame of `len` bytes to `dst`.
    #[inline]
    pub fn tx(&self, vid: u16, dst: Mac, len: usize) {
        self.port.tx_frames(1);
        self.port.tx_bytes(len as u64);
        if dst.is_broadcast() {
            self.port.tx_broadcast(1);
        } else if dst.is_group() {
            self.port.tx_multicast(1);
        }
        if let Some(vlans) = self.vlans {
            vlans.count_in(vid, len as u64);
        }
    }

    /// Frames were dropped on account of the port.
    pub fn drop_frames(&self, vid: u16, reason: DropReason, frames: u64) {
        self.port.drop_frames(reason, frames);
        if let Some(vlans) = self.vlans {
            vlans.count_drops(vid, frames);
        }
    }
}

/// A frame was dropped.
pub fn drop_at(snapshot: &Snapshot, worker: usize, at: Account, reason: DropReason) {
    if let Some(counts) = Counts::of(snapshot, at.port, worker) {
        counts.drop_frames(at.vid, reason, 1);
    }
}
