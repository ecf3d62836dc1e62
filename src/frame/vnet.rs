//! The virtio-net header (virtio 1.3, 5.1.6) in front of every frame, and the check of it.
//!
//! Invariant: what [`VnetHeader::check`] returns is ours. It is complete (`hdr_len` is exact for GSO
//! and zero otherwise, unused fields are zero), it is true of the frame, and only it is ever written
//! to a receiver. Pure; any thread. Knows nothing of rings, nor of who will receive the frame.

use super::checksum::Sum;
use super::gso::{Gso, Parts};
use super::layers::network_start;
use super::offloads::{Offloads, Repair};
use crate::stats::DropReason;
use virtio_bindings::virtio_net as bindings;

#[cfg(test)]
mod tests;

const NEEDS_CSUM: u8 = bindings::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const DATA_VALID: u8 = bindings::VIRTIO_NET_HDR_F_DATA_VALID as u8;
const GSO_NONE: u8 = bindings::VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_UFO: u8 = bindings::VIRTIO_NET_HDR_GSO_UDP as u8;
const GSO_ECN: u8 = bindings::VIRTIO_NET_HDR_GSO_ECN as u8;

/// Room for two tags more than the frame has on arrival.
const MAX_CSUM_START: u16 = u16::MAX - 8;

/// A virtio-net header in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// The length of all headers in front of a GSO payload.
    pub hdr_len: u16,
    /// The payload of each segment.
    pub gso_size: u16,
    /// Where the checksum starts to count.
    pub csum_start: u16,
    /// Where it goes, from `csum_start`.
    pub csum_offset: u16,
    /// How many receive buffers the frame fills; 1 until the ring says otherwise.
    pub num_buffers: u16,
}

/// Whose word a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A guest: it may lie, and must not claim that a checksum has been verified.
    Guest,
    /// The kernel, by way of a device, or whoever is behind an uplink: the adjacent switch.
    Uplink,
}

impl VnetHeader {
    /// The length with `num_buffers`: under `VERSION_1` or `MRG_RXBUF`.
    pub const LEN: usize = 12;
    /// The length without, for legacy drivers.
    pub const LEGACY_LEN: usize = 10;
    /// The header of a frame in which nothing is left undone.
    pub const PLAIN: Self = Self {
        flags: 0,
        gso_type: 0,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        num_buffers: 1,
    };

    /// Decodes a header; the last two bytes of `num_buffers` are zero for a legacy one.
    #[inline]
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
            num_buffers: field(10),
        }
    }

    /// Decodes a legacy header, taken as little endian.
    #[inline]
    pub fn decode_legacy(bytes: &[u8; Self::LEGACY_LEN]) -> Self {
        let mut full = [0; Self::LEN];
        full[..Self::LEGACY_LEN].copy_from_slice(bytes);
        Self::decode(&full)
    }

    /// Encodes the header; the first [`Self::LEGACY_LEN`] bytes are the legacy form.
    #[inline]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let low = u64::from(self.flags)
            | u64::from(self.gso_type) << 8
            | u64::from(self.hdr_len) << 16
            | u64::from(self.gso_size) << 32
            | u64::from(self.csum_start) << 48;
        let high = u32::from(self.csum_offset) | u32::from(self.num_buffers) << 16;
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        bytes
    }

    /// Whether the transport checksum is still to be completed.
    #[inline]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// How the frame is to be segmented; `None` if it is not.
    #[inline]
    pub fn gso(&self) -> Option<Gso> {
        Gso::from_raw(self.gso_type)
    }

    /// Checks a received header against its frame and returns the one to forward.
    ///
    /// `head` is the private copy of the first bytes of the frame (128, or all of a shorter one), and
    /// is what will be written out. It is changed in one case only: a GSO frame of an uplink whose
    /// checksum is complete (hardware GRO) gets the sum of its pseudo-header instead, as
    /// `NEEDS_CSUM` goes with it from here on.
    ///
    /// Flags that are unknown are ignored, as virtio 1.3, 5.1.6.2.2 asks of a device, and so is
    /// `DATA_VALID` of a guest. A GSO frame that fits into one segment is not a GSO frame.
    #[inline]
    pub fn check(
        &self,
        frame_len: usize,
        head: &mut [u8],
        origin: Origin,
    ) -> Result<Self, DropReason> {
        if usize::from(self.hdr_len) > frame_len {
            return Err(DropReason::BadGso);
        }
        let mut checked = Self {
            num_buffers: 1,
            ..Self::default()
        };
        if self.needs_csum() {
            self.check_csum(frame_len, head)?;
            checked.flags = NEEDS_CSUM;
            checked.csum_start = self.csum_start;
            checked.csum_offset = self.csum_offset;
        } else if origin == Origin::Uplink {
            checked.flags = self.flags & DATA_VALID;
        }
        if self.gso_type != GSO_NONE {
            self.check_gso(frame_len, head, origin, &mut checked)?;
        }
        Ok(checked)
    }

    /// The checksum has to lie behind the tags (popping one moves it) and inside the frame.
    #[inline]
    fn check_csum(&self, frame_len: usize, head: &[u8]) -> Result<(), DropReason> {
        let end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        let (l3, _) = network_start(head).ok_or(DropReason::BadChecksum)?;
        if end > frame_len || usize::from(self.csum_start) < l3 || self.csum_start > MAX_CSUM_START
        {
            return Err(DropReason::BadChecksum);
        }
        Ok(())
    }

    fn check_gso(
        &self,
        frame_len: usize,
        head: &mut [u8],
        origin: Origin,
        checked: &mut Self,
    ) -> Result<(), DropReason> {
        let gso = self.gso().ok_or(match self.gso_type & !GSO_ECN {
            GSO_UFO => DropReason::UfoRefused,
            _ => DropReason::BadGso,
        })?;
        if !self.needs_csum() && origin == Origin::Guest {
            return Err(DropReason::GsoWithoutChecksum);
        }
        let parts = gso.inspect(self, frame_len, head)?;
        if parts.payload_len <= usize::from(self.gso_size) {
            return Ok(());
        }
        if !self.needs_csum() {
            write_pseudo_sum(head, gso, &parts)?;
            checked.flags = NEEDS_CSUM;
            checked.csum_start = parts.layers.l4 as u16;
            checked.csum_offset = gso.csum_offset();
        }
        checked.gso_type = self.gso_type;
        checked.gso_size = self.gso_size;
        checked.hdr_len = parts.header_len as u16;
        Ok(())
    }

    /// Follows a tag that is pushed (`+4`) or popped (`-4`) at byte 12 of the frame.
    #[inline]
    pub fn retag(&mut self, delta: i16) {
        if self.needs_csum() {
            self.csum_start = self.csum_start.saturating_add_signed(delta);
        }
        if self.hdr_len != 0 {
            self.hdr_len = self.hdr_len.saturating_add_signed(delta);
        }
    }

    /// The longest frame that a checked GSO frame becomes on a wire; `None` without GSO.
    #[inline]
    pub fn max_segment_len(&self) -> Option<u32> {
        self.gso()
            .map(|_| u32::from(self.hdr_len) + u32::from(self.gso_size))
    }

    /// The header that goes to a receiver with the frame, or with each segment, after its repair.
    #[inline]
    #[must_use]
    pub fn for_receiver(&self, repair: Repair, to: Offloads) -> Self {
        let mut header = match repair {
            Repair::None => *self,
            // We have just computed the checksum ourselves.
            Repair::Checksum | Repair::Segment => Self {
                flags: DATA_VALID,
                num_buffers: 1,
                ..Self::default()
            },
        };
        if !to.contains(Offloads::CSUM) {
            header.flags &= !DATA_VALID;
        }
        header
    }
}

/// Replaces a complete transport checksum by the sum of the pseudo-header.
///
/// RFC 8200, 8.1: the destination that counts is the final one, and while a routing header has
/// segments left it is not in the IP header. Such a frame is refused.
fn write_pseudo_sum(head: &mut [u8], gso: Gso, parts: &Parts) -> Result<(), DropReason> {
    let Parts {
        layers,
        header_len,
        payload_len,
    } = *parts;
    let at = layers.l4 + usize::from(gso.csum_offset());
    let addresses = layers.addresses(head).filter(|_| !layers.en_route);
    let mut sum = Sum::of(addresses.ok_or(DropReason::Unrepairable)?);
    sum.add_u16(layers.protocol.into());
    sum.add_u16((header_len - layers.l4 + payload_len) as u16);
    let field = head.get_mut(at..at + 2).ok_or(DropReason::GsoMismatch)?;
    field.copy_from_slice(&sum.partial().to_be_bytes());
    Ok(())
}
