//! Where the network and transport headers of a frame lie, through at most two tags.
//!
//! Invariant: an offset is found by walking the frame, never taken from what a guest claims about it.
//! Pure; any thread. Does not know what the headers are needed for, and does not look behind the
//! transport header's place: whether that header is inside the given bytes is the caller's question.

use super::ethernet::{HEADER_LEN, TAG_LEN, is_tpid};

#[cfg(test)]
mod tests;

/// Tags that are skipped; a frame with more is opaque behind the second.
const MAX_TAGS: usize = 2;
/// The type field of an untagged frame.
const ETHERTYPE_AT: usize = HEADER_LEN - 2;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(super) const IPV6_LEN: usize = 40;

/// IP protocol numbers that matter here.
pub(super) mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
}

/// The version of the internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    V4,
    V6,
}

/// The place of an IP packet's headers in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layers {
    pub network: Network,
    /// Offset of the IP header; its fixed part is inside the bytes that were walked.
    pub l3: usize,
    /// Offset behind the IP header, its options and extension headers.
    pub l4: usize,
    /// The protocol at `l4`.
    pub protocol: u8,
    /// Whether this is a fragment, the first one included: then `l4` means nothing.
    pub fragment: bool,
    /// Whether a routing header has segments left: the final destination is not in the IP header.
    pub en_route: bool,
}

impl Layers {
    /// Walks the first bytes of a frame; `None` if it is not IP, or cut short before the transport.
    #[inline]
    pub fn locate(head: &[u8]) -> Option<Self> {
        let (l3, ethertype) = network_start(head)?;
        match ethertype {
            ETHERTYPE_IPV4 => Self::locate_v4(head, l3),
            ETHERTYPE_IPV6 => Self::locate_v6(head, l3),
            _ => None,
        }
    }

    #[inline]
    fn locate_v4(head: &[u8], l3: usize) -> Option<Self> {
        let header: &[u8; 20] = head.get(l3..)?.first_chunk()?;
        let ihl = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || ihl < 20 {
            return None;
        }
        // More Fragments, or an offset: RFC 791, 3.1.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        Some(Self {
            network: Network::V4,
            l3,
            l4: l3 + ihl,
            protocol: header[9],
            fragment,
            en_route: false,
        })
    }

    #[inline]
    fn locate_v6(head: &[u8], l3: usize) -> Option<Self> {
        let header: &[u8; IPV6_LEN] = head.get(l3..)?.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let mut layers = Self {
            network: Network::V6,
            l3,
            l4: l3 + IPV6_LEN,
            protocol: header[6],
            fragment: false,
            en_route: false,
        };
        loop {
            match layers.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    // RFC 8200, 4.3 to 4.6: next header, length in units of 8 behind the first 8.
                    let extension: &[u8; 4] = head.get(layers.l4..)?.first_chunk()?;
                    layers.en_route |= layers.protocol == protocol::ROUTING && extension[3] != 0;
                    layers.protocol = extension[0];
                    layers.l4 += (usize::from(extension[1]) + 1) * 8;
                }
                protocol::FRAGMENT => {
                    layers.fragment = true;
                    return Some(layers);
                }
                _ => return Some(layers),
            }
        }
    }

    /// The source and destination addresses, one behind the other; `head` is what was walked.
    #[inline]
    pub fn addresses<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        match self.network {
            Network::V4 => head.get(self.l3 + 12..self.l3 + 20),
            Network::V6 => head.get(self.l3 + 8..self.l3 + IPV6_LEN),
        }
    }
}

/// The offset and `EtherType` of what follows the MAC addresses and at most two tags.
#[inline]
pub(super) fn network_start(head: &[u8]) -> Option<(usize, u16)> {
    let mut at = ETHERTYPE_AT;
    let mut ethertype = u16_at(head, at)?;
    for _ in 0..MAX_TAGS {
        if !is_tpid(ethertype) {
            break;
        }
        at += TAG_LEN;
        ethertype = u16_at(head, at)?;
    }
    Some((at + 2, ethertype))
}

/// The 16-bit field at `at`.
#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|field| u16::from_be_bytes(*field))
}
