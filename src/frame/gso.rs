//! GSO: what a GSO type promises about a frame, and whether the frame keeps it.
//!
//! Invariant: `Gso::inspect` is the only judge of a GSO frame; the header check and the segmenter
//! both rely on it, so the one never accepts what the other cannot cut. Pure; any thread.
//! Does not know who sent the frame or who receives it.

use super::checksum::UDP_CSUM_OFFSET;
use super::layers::{IPV6_LEN, Layers, Network, protocol};
use super::vnet::VnetHeader;
use crate::stats::DropReason;
use virtio_bindings::virtio_net as bindings;

#[cfg(test)]
mod tests;

const TCPV4: u8 = bindings::VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const TCPV6: u8 = bindings::VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const UDP_L4: u8 = bindings::VIRTIO_NET_HDR_GSO_UDP_L4 as u8;
const ECN: u8 = bindings::VIRTIO_NET_HDR_GSO_ECN as u8;

const TCP_LEN: usize = 20;
const TCP_CSUM_OFFSET: u16 = 16;
const UDP_LEN: usize = 8;

/// The most segments of one frame. 64 KiB at the smallest MSS in use (48 bytes) are 1,366; a guest
/// that asks for more wants to multiply work.
const MAX_SEGMENTS: usize = 2048;

/// The kinds of segmentation that are forwarded. UFO is not among them: it is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// TCP over IPv4; `ecn` if the CWR flag belongs on the first segment alone.
    Tcp4 {
        /// `VIRTIO_NET_HDR_GSO_ECN`.
        ecn: bool,
    },
    /// TCP over IPv6.
    Tcp6 {
        /// `VIRTIO_NET_HDR_GSO_ECN`.
        ecn: bool,
    },
    /// UDP over either: each segment becomes a datagram of its own.
    Udp,
}

/// The parts of a GSO frame, all inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub layers: Layers,
    /// All headers together: the payload begins here.
    pub header_len: usize,
    pub payload_len: usize,
}

impl Gso {
    /// Decodes the `gso_type` of a header; `None` for no GSO, UFO and unknown types. The ECN bit
    /// goes with TCP only.
    #[inline]
    pub(super) fn from_raw(gso_type: u8) -> Option<Self> {
        let ecn = gso_type & ECN != 0;
        match gso_type & !ECN {
            TCPV4 => Some(Self::Tcp4 { ecn }),
            TCPV6 => Some(Self::Tcp6 { ecn }),
            UDP_L4 if !ecn => Some(Self::Udp),
            _ => None,
        }
    }

    /// Where the checksum is in the transport header.
    pub(super) fn csum_offset(self) -> u16 {
        if self == Self::Udp {
            UDP_CSUM_OFFSET
        } else {
            TCP_CSUM_OFFSET
        }
    }

    /// Checks that the frame of `frame_len` bytes that starts with `head` is what this type says,
    /// and that it can be cut into pieces of `header.gso_size`.
    ///
    /// `head` has to hold the headers up to the fixed part of TCP (20 bytes) or UDP; TCP options
    /// may lie behind it. 128 bytes have room for two tags and either all IPv4 options there can be or 46
    /// bytes of IPv6 extension headers (54 without tags); a frame with more is refused.
    pub(super) fn inspect(
        self,
        header: &VnetHeader,
        frame_len: usize,
        head: &[u8],
    ) -> Result<Parts, DropReason> {
        if header.gso_size == 0 {
            return Err(DropReason::BadGso);
        }
        let layers = Layers::locate(head).ok_or(DropReason::GsoMismatch)?;
        let wanted = match self {
            Self::Tcp4 { .. } => (Network::V4, protocol::TCP),
            Self::Tcp6 { .. } => (Network::V6, protocol::TCP),
            Self::Udp => (layers.network, protocol::UDP),
        };
        if (layers.network, layers.protocol) != wanted || layers.fragment {
            return Err(DropReason::GsoMismatch);
        }
        let transport = head.get(layers.l4..).ok_or(DropReason::GsoMismatch)?;
        let transport_len = self.header_len(transport).ok_or(DropReason::GsoMismatch)?;
        if header.needs_csum()
            && (usize::from(header.csum_start), header.csum_offset)
                != (layers.l4, self.csum_offset())
        {
            return Err(DropReason::GsoMismatch);
        }
        let header_len = layers.l4 + transport_len;
        let payload_len = frame_len
            .checked_sub(header_len)
            .ok_or(DropReason::GsoMismatch)?;
        // The length field of IPv4 counts its header, that of IPv6 does not.
        let ip_header = if layers.network == Network::V6 {
            IPV6_LEN
        } else {
            0
        };
        if payload_len.div_ceil(header.gso_size.into()) > MAX_SEGMENTS
            || frame_len - layers.l3 - ip_header > usize::from(u16::MAX)
        {
            return Err(DropReason::BadGso);
        }
        Ok(Parts {
            layers,
            header_len,
            payload_len,
        })
    }

    /// The length of the transport header, of which the fixed part has to be there.
    fn header_len(self, transport: &[u8]) -> Option<usize> {
        if self == Self::Udp {
            return transport.get(..UDP_LEN).map(<[u8]>::len);
        }
        let fixed: &[u8; TCP_LEN] = transport.first_chunk()?;
        let len = usize::from(fixed[12] >> 4) * 4;
        (len >= TCP_LEN).then_some(len)
    }
}
