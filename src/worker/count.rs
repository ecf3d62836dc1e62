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

/// Frames that are counted together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    frames: u64,
    bytes: u64,
    broadcast: u64,
    multicast: u64,
}

impl Sum {
    /// One frame.
    pub fn one(dst: Mac, len: usize) -> Self {
        let mut sum = Self::default();
        sum.add(dst, len);
        sum
    }

    /// Adds a frame of `len` bytes to `dst`.
    #[inline]
    pub fn add(&mut self, dst: Mac, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
        if dst.is_group() {
            let broadcast = dst.is_broadcast();
            self.broadcast += u64::from(broadcast);
            self.multicast += u64::from(!broadcast);
        }
    }

    /// Whether there is nothing to count.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }
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

    /// Frames were delivered to the port in VLAN `vid`.
    #[inline]
    pub fn rx(&self, vid: u16, sum: Sum) {
        self.port.rx_frames(sum.frames);
        self.port.rx_bytes(sum.bytes);
        self.port.rx_broadcast(sum.broadcast);
        self.port.rx_multicast(sum.multicast);
        if let Some(vlans) = self.vlans {
            vlans.count_out(vid, sum.frames, sum.bytes);
        }
    }

    /// The port sent frames in VLAN `vid`.
    #[inline]
    pub fn tx(&self, vid: u16, sum: Sum) {
        self.port.tx_frames(sum.frames);
        self.port.tx_bytes(sum.bytes);
        self.port.tx_broadcast(sum.broadcast);
        self.port.tx_multicast(sum.multicast);
        if let Some(vlans) = self.vlans {
            vlans.count_in(vid, sum.frames, sum.bytes);
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
