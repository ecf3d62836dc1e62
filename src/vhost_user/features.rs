//! What is offered to a front end.
//!
//! The offer depends on the port's configuration alone: QEMU refuses to reconnect or to migrate to a
//! back end that offers less than the one before (`docs/architecture.md`, "Features").

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Log all writes to guest memory (vhost-user's own bit).
pub const VHOST_F_LOG_ALL: u32 = 26;
/// Protocol features can be negotiated (vhost-user's own bit).
pub const VHOST_USER_F_PROTOCOL_FEATURES: u32 = 30;

/// What a port's configuration decides about its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePolicy {
    /// Queue pairs that the front end may use.
    pub queue_pairs: u16,
    /// The MTU told to the guest, in bytes without the Ethernet header.
    pub mtu: Option<u16>,
    /// Whether it is the standby of a failover pair (VIRTIO 1.2, 5.1.3.1): the guest then uses it only
    /// while it lacks the primary, a device with the same address.
    pub standby: bool,
}

impl DevicePolicy {
    /// The virtio features offered, one bit each.
    pub fn virtio_features(&self) -> u64 {
        let mut features = OFFERED.iter().fold(0, |bits, &(bit, _)| bits | 1 << bit);
        if self.mtu.is_none() {
            features &= !(1 << net::VIRTIO_NET_F_MTU);
        }
        if !self.standby {
            features &= !(1 << net::VIRTIO_NET_F_STANDBY);
        }
        features
    }

    /// The vhost-user protocol features offered.
    pub fn protocol_features() -> Protocol {
        Protocol::MQ
            | Protocol::LOG_SHMFD
            | Protocol::RARP
            | Protocol::REPLY_ACK
            | Protocol::MTU
            | Protocol::CONFIG
            | Protocol::RESET_DEVICE
            | Protocol::CONFIGURE_MEM_SLOTS
    }

    /// `struct virtio_net_config` (VIRTIO 1.2, 5.1.4) as a guest sees it. The front end puts its own
    /// MAC address over the first six bytes.
    pub fn config_space(&self) -> [u8; CONFIG_SPACE_SIZE] {
        let mut space = [0; CONFIG_SPACE_SIZE];
        space[6..8].copy_from_slice(&(net::VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        space[8..10].copy_from_slice(&self.queue_pairs.to_le_bytes());
        space[10..12].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        // Speed and duplex unknown: 5.1.4.
        space[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        space[16] = u8::MAX;
        space
    }
}

/// Bytes of `struct virtio_net_config`.
pub const CONFIG_SPACE_SIZE: usize = 24;

/// Every virtio feature that a port may offer, with the name shown to an operator.
const OFFERED: [(u32, &str); 25] = [
    (net::VIRTIO_NET_F_CSUM, "csum"),
    (net::VIRTIO_NET_F_GUEST_CSUM, "guest_csum"),
    (net::VIRTIO_NET_F_MTU, "mtu"),
    (net::VIRTIO_NET_F_GUEST_TSO4, "guest_tso4"),
    (net::VIRTIO_NET_F_GUEST_TSO6, "guest_tso6"),
    (net::VIRTIO_NET_F_GUEST_ECN, "guest_ecn"),
    (net::VIRTIO_NET_F_HOST_TSO4, "host_tso4"),
    (net::VIRTIO_NET_F_HOST_TSO6, "host_tso6"),
    (net::VIRTIO_NET_F_HOST_ECN, "host_ecn"),
    (net::VIRTIO_NET_F_MRG_RXBUF, "mrg_rxbuf"),
    (net::VIRTIO_NET_F_STATUS, "status"),
    (net::VIRTIO_NET_F_CTRL_VQ, "ctrl_vq"),
    (net::VIRTIO_NET_F_GUEST_ANNOUNCE, "guest_announce"),
    (net::VIRTIO_NET_F_MQ, "mq"),
    (VHOST_F_LOG_ALL, "log_all"),
    (VIRTIO_RING_F_INDIRECT_DESC, "indirect_desc"),
    (VIRTIO_RING_F_EVENT_IDX, "event_idx"),
    (VHOST_USER_F_PROTOCOL_FEATURES, "protocol_features"),
    (VIRTIO_F_VERSION_1, "version_1"),
    (VIRTIO_F_RING_PACKED, "ring_packed"),
    (VIRTIO_F_IN_ORDER, "in_order"),
    (net::VIRTIO_NET_F_GUEST_USO4, "guest_uso4"),
    (net::VIRTIO_NET_F_GUEST_USO6, "guest_uso6"),
    (net::VIRTIO_NET_F_HOST_USO, "host_uso"),
    (net::VIRTIO_NET_F_STANDBY, "standby"),
];

/// The names of the features in `features`, in the order of their bits.
pub fn names(features: u64) -> Vec<&'static str> {
    let mut known: Vec<_> = OFFERED
        .iter()
        .filter(|(bit, _)| features & 1 << bit != 0)
        .collect();
    known.sort_by_key(|(bit, _)| bit);
    known.into_iter().map(|&(_, name)| name).collect()
}

/// Whether `bit` is set in `features`.
pub fn has(features: u64, bit: u32) -> bool {
    features & 1 << bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_follows_the_configuration() {
        let plain = DevicePolicy {
            queue_pairs: 1,
            mtu: None,
            standby: false,
        };
        let sized = DevicePolicy {
            queue_pairs: 4,
            mtu: Some(9000),
            standby: true,
        };
        assert!(!has(plain.virtio_features(), net::VIRTIO_NET_F_MTU));
        assert!(has(sized.virtio_features(), net::VIRTIO_NET_F_MTU));
        assert!(!has(plain.virtio_features(), net::VIRTIO_NET_F_STANDBY));
        assert!(has(sized.virtio_features(), net::VIRTIO_NET_F_STANDBY));
        assert_eq!(sized.config_space()[8..12], [4, 0, 0x28, 0x23]);
    }

    #[test]
    fn what_is_not_handled_is_not_offered() {
        use virtio_bindings::virtio_config as common;
        let offer = DevicePolicy {
            queue_pairs: 8,
            mtu: Some(1500),
            standby: true,
        }
        .virtio_features();
        for bit in [
            net::VIRTIO_NET_F_GUEST_UFO,
            net::VIRTIO_NET_F_HOST_UFO,
            net::VIRTIO_NET_F_HASH_REPORT,
            net::VIRTIO_NET_F_RSS,
            common::VIRTIO_F_ACCESS_PLATFORM,
            common::VIRTIO_F_NOTIFICATION_DATA,
        ] {
            assert!(!has(offer, bit), "bit {bit}");
        }
        let protocol = DevicePolicy::protocol_features();
        for feature in [
            Protocol::STATUS,
            Protocol::HOST_NOTIFIER,
            Protocol::PAGEFAULT,
            Protocol::INFLIGHT_SHMFD,
        ] {
            assert!(!protocol.contains(feature));
        }
    }

    #[test]
    fn names_come_in_the_order_of_the_bits() {
        assert_eq!(
            names(1 | 1 << 15 | 1 << 32),
            ["csum", "mrg_rxbuf", "version_1"]
        );
    }
}
