//! Offloads: what a receiver can do itself, and the repair of a frame for one that cannot.
//!
//! Invariant: a set holds nothing without the checksum it rests on. Pure; any thread.
//! Does not know whether a port is a guest or an uplink, nor performs a repair.

use super::gso::Gso;
use super::layers::{Layers, Network};
use super::vnet::VnetHeader;
use std::ops::BitOr;
use virtio_bindings::virtio_net as bindings;

#[cfg(test)]
mod tests;

/// A set of offloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u8);

/// What a frame needs before a receiver can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// The checksum completed.
    Checksum,
    /// Cut into segments, their checksums complete.
    Segment,
}

impl Offloads {
    /// Nothing: every frame complete and no longer than the MTU.
    pub const NONE: Self = Self(0);
    /// Partial checksums, and frames whose checksum is said to be valid.
    pub const CSUM: Self = Self(1);
    /// TCP segmentation over IPv4.
    pub const TSO4: Self = Self(1 << 1);
    /// TCP segmentation over IPv6.
    pub const TSO6: Self = Self(1 << 2);
    /// TCP segmentation with the CWR flag set.
    pub const ECN: Self = Self(1 << 3);
    /// UDP segmentation over IPv4.
    pub const USO4: Self = Self(1 << 4);
    /// UDP segmentation over IPv6.
    pub const USO6: Self = Self(1 << 5);

    /// What a guest accepts: the `GUEST_*` bits of the features it acknowledged.
    pub fn accepted(features: u64) -> Self {
        Self::from_features(
            features,
            &[
                (bindings::VIRTIO_NET_F_GUEST_CSUM, Self::CSUM),
                (bindings::VIRTIO_NET_F_GUEST_TSO4, Self::TSO4),
                (bindings::VIRTIO_NET_F_GUEST_TSO6, Self::TSO6),
                (bindings::VIRTIO_NET_F_GUEST_ECN, Self::ECN),
                (bindings::VIRTIO_NET_F_GUEST_USO4, Self::USO4),
                (bindings::VIRTIO_NET_F_GUEST_USO6, Self::USO6),
            ],
        )
    }

    /// What a guest may send: the `HOST_*` bits of the features it acknowledged.
    pub fn sendable(features: u64) -> Self {
        Self::from_features(
            features,
            &[
                (bindings::VIRTIO_NET_F_CSUM, Self::CSUM),
                (bindings::VIRTIO_NET_F_HOST_TSO4, Self::TSO4),
                (bindings::VIRTIO_NET_F_HOST_TSO6, Self::TSO6),
                (bindings::VIRTIO_NET_F_HOST_ECN, Self::ECN),
                (bindings::VIRTIO_NET_F_HOST_USO, Self::USO4 | Self::USO6),
            ],
        )
    }

    /// Virtio 1.3, 5.1.3.1: all segmentation requires the checksum offload.
    fn from_features(features: u64, bits: &[(u32, Self)]) -> Self {
        let set = bits
            .iter()
            .filter(|(bit, _)| features >> bit & 1 != 0)
            .fold(Self::NONE, |set, (_, offload)| set | *offload);
        if set.contains(Self::CSUM) {
            set
        } else {
            Self::NONE
        }
    }

    /// Whether all of `other` is in this set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What a frame with this checked header asks for; `head` tells UDP over IPv4 from IPv6.
    #[inline]
    pub fn required(header: &VnetHeader, head: &[u8]) -> Self {
        let ecn = |tso: Self, ecn| if ecn { tso | Self::ECN } else { tso };
        let segmentation = match header.gso() {
            None if header.needs_csum() => return Self::CSUM,
            None => return Self::NONE,
            Some(Gso::Tcp4 { ecn: set }) => ecn(Self::TSO4, set),
            Some(Gso::Tcp6 { ecn: set }) => ecn(Self::TSO6, set),
            Some(Gso::Udp) => match Layers::locate(head).map(|layers| layers.network) {
                Some(Network::V4) => Self::USO4,
                Some(Network::V6) => Self::USO6,
                None => Self::USO4 | Self::USO6,
            },
        };
        segmentation | Self::CSUM
    }
}

impl BitOr for Offloads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a frame with this checked header needs before a receiver with these offloads can take it.
#[inline]
pub fn repair_needed(header: &VnetHeader, head: &[u8], receiver: Offloads) -> Repair {
    if receiver.contains(Offloads::required(header, head)) {
        Repair::None
    } else if header.gso().is_some() {
        Repair::Segment
    } else {
        Repair::Checksum
    }
}
