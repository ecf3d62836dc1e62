//! Segmentation in software, for a receiver that cannot take a GSO frame.
//!
//! Invariants: every segment has the headers and tags of the whole frame and complete checksums, and
//! the payloads of all segments in order are the payload of the frame. No allocation; pure; each value
//! belongs to one thread. Does not know where the segments go: a tag action that egress owes to the
//! frame it owes to each segment.

use super::checksum::{Sum, never_zero};
use super::gso::{Gso, Parts};
use super::layers::{IPV6_LEN, Network, u16_at};
use super::vnet::VnetHeader;
use crate::stats::DropReason;
use std::ops::Range;

#[cfg(test)]
mod tests;

// Offsets in the TCP header (RFC 9293, 3.1).
const TCP_SEQ: usize = 4;
const TCP_FLAGS: usize = 13;
/// In the UDP header (RFC 768).
const UDP_LENGTH: usize = 4;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// How one GSO frame is cut, and what differs from segment to segment.
///
/// For a payload that is copied elsewhere: [`Self::payload`] says which bytes go behind the headers,
/// and [`Self::write_headers`] needs their sum only.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPlan {
    gso: Gso,
    parts: Parts,
    gso_size: usize,
    /// The pseudo-header sum in the checksum field, without its length.
    pseudo: Sum,
    transport: Transport,
    /// The ID of the first segment.
    ipv4_id: u16,
}

/// What the transport headers of segments are derived from.
#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp { seq: u32, flags: u8 },
    Udp,
}

impl SegmentPlan {
    /// Plans the segments of a frame of `frame_len` bytes, `header` being its checked header.
    ///
    /// `headers` are the first bytes of the frame, at least as far as `header.hdr_len`.
    pub fn new(headers: &[u8], frame_len: usize, header: &VnetHeader) -> Result<Self, DropReason> {
        let gso = header.gso().ok_or(DropReason::Unrepairable)?;
        if !header.needs_csum() {
            return Err(DropReason::GsoWithoutChecksum);
        }
        let parts = gso.inspect(header, frame_len, headers)?;
        let Parts {
            layers,
            header_len,
            payload_len,
        } = parts;
        let headers = headers.get(..header_len).ok_or(DropReason::GsoMismatch)?;
        let transport = &headers[layers.l4..];
        let partial = u16_at(transport, gso.csum_offset().into()).unwrap_or_default();
        let mut pseudo = Sum::new();
        pseudo.add_u16(partial);
        // Subtraction is the addition of the complement (RFC 1624, 3).
        pseudo.add_u16(!((header_len - layers.l4 + payload_len) as u16));
        Ok(Self {
            gso,
            parts,
            gso_size: header.gso_size.into(),
            pseudo,
            transport: Transport::of(gso, transport),
            ipv4_id: u16_at(headers, layers.l3 + 4).unwrap_or_default(),
        })
    }

    /// How many segments the frame becomes.
    pub fn segments(&self) -> usize {
        self.parts.payload_len.div_ceil(self.gso_size).max(1)
    }

    /// The length of the headers, the same for every segment.
    pub fn header_len(&self) -> usize {
        self.parts.header_len
    }

    /// The length of the longest segment with its headers.
    pub fn max_len(&self) -> usize {
        self.parts.header_len + self.gso_size.min(self.parts.payload_len)
    }

    /// Which bytes of the frame are the payload of segment `index`; empty behind the last.
    pub fn payload(&self, index: usize) -> Range<usize> {
        let Parts {
            header_len,
            payload_len,
            ..
        } = self.parts;
        let start = index.saturating_mul(self.gso_size).min(payload_len);
        let end = start.saturating_add(self.gso_size).min(payload_len);
        header_len + start..header_len + end
    }

    /// Turns `headers`, those of the frame or of another of its segments, into those of segment `index`.
    ///
    /// `payload` is the sum of the payload of that segment.
    pub fn write_headers(
        &self,
        index: usize,
        headers: &mut [u8],
        payload: Sum,
    ) -> Result<(), DropReason> {
        let Parts {
            layers, header_len, ..
        } = self.parts;
        let headers = headers
            .get_mut(..header_len)
            .ok_or(DropReason::GsoMismatch)?;
        let (network, transport) = headers
            .get_mut(layers.l3..)
            .and_then(|packet| packet.split_at_mut_checked(layers.l4 - layers.l3))
            .ok_or(DropReason::GsoMismatch)?;
        let segment_len = transport.len() + self.payload(index).len();
        match layers.network {
            Network::V4 => self.write_ipv4(index, network, segment_len),
            Network::V6 => put_u16(network, 4, network.len() - IPV6_LEN + segment_len),
        }
        self.write_transport(index, transport, segment_len, payload);
        Ok(())
    }

    fn write_ipv4(&self, index: usize, network: &mut [u8], segment_len: usize) {
        put_u16(network, 2, network.len() + segment_len);
        put_u16(network, 4, usize::from(self.ipv4_id).wrapping_add(index));
        put_u16(network, 10, 0);
        let sum = Sum::of(network).finish();
        put_u16(network, 10, sum.into());
    }

    fn write_transport(
        &self,
        index: usize,
        transport: &mut [u8],
        segment_len: usize,
        payload: Sum,
    ) {
        match self.transport {
            Transport::Udp => put_u16(transport, UDP_LENGTH, segment_len),
            Transport::Tcp { seq, flags } => {
                let seq = seq.wrapping_add(index.wrapping_mul(self.gso_size) as u32);
                transport[TCP_SEQ..TCP_SEQ + 4].copy_from_slice(&seq.to_be_bytes());
                transport[TCP_FLAGS] = self.flags_of(index, flags);
            }
        }
        let field = usize::from(self.gso.csum_offset());
        put_u16(transport, field, 0);
        let mut sum = self.pseudo;
        sum.add_u16(segment_len as u16);
        sum.add(transport);
        sum.append(payload);
        let sum = sum.finish();
        let sum = if self.gso == Gso::Udp {
            never_zero(sum)
        } else {
            sum
        };
        put_u16(transport, field, sum.into());
    }

    fn flags_of(&self, index: usize, mut flags: u8) -> u8 {
        if index > 0 {
            flags &= !CWR;
        }
        if index + 1 < self.segments() {
            flags &= !(FIN | PSH);
        }
        flags
    }
}

impl Transport {
    /// `header` is a whole transport header, as [`Gso::inspect`] found it.
    fn of(gso: Gso, header: &[u8]) -> Self {
        match (
            gso,
            header.get(TCP_SEQ..).and_then(|seq| seq.first_chunk()),
            header.get(TCP_FLAGS),
        ) {
            (Gso::Tcp4 { .. } | Gso::Tcp6 { .. }, Some(seq), Some(flags)) => Self::Tcp {
                seq: u32::from_be_bytes(*seq),
                flags: *flags,
            },
            _ => Self::Udp,
        }
    }
}

/// Writes the segments of a linear frame one after the other into one buffer.
#[derive(Debug)]
pub struct Segmenter<'frame, 'out> {
    plan: SegmentPlan,
    frame: &'frame [u8],
    /// Holds the headers from the start on; they are rewritten in place.
    out: &'out mut [u8],
    next: usize,
}

impl<'frame, 'out> Segmenter<'frame, 'out> {
    /// Prepares to cut `frame`, a whole frame in a private buffer. Refused if `out` is shorter than
    /// the longest segment, see [`SegmentPlan::max_len`].
    pub fn new(
        frame: &'frame [u8],
        header: &VnetHeader,
        out: &'out mut [u8],
    ) -> Result<Self, DropReason> {
        let plan = SegmentPlan::new(frame, frame.len(), header)?;
        let out = out
            .get_mut(..plan.max_len())
            .ok_or(DropReason::Unrepairable)?;
        let header_len = plan.header_len();
        out[..header_len].copy_from_slice(&frame[..header_len]);
        Ok(Self {
            plan,
            frame,
            out,
            next: 0,
        })
    }

    /// The plan that is followed.
    pub fn plan(&self) -> &SegmentPlan {
        &self.plan
    }

    /// Writes the next segment: a whole frame, from its MAC addresses on.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows the one buffer"
    )]
    pub fn next(&mut self) -> Option<&[u8]> {
        if self.next == self.plan.segments() {
            return None;
        }
        let payload = &self.frame[self.plan.payload(self.next)];
        let (headers, body) = self.out.split_at_mut(self.plan.header_len());
        body[..payload.len()].copy_from_slice(payload);
        self.plan
            .write_headers(self.next, headers, Sum::of(payload))
            .ok()?;
        self.next += 1;
        Some(&self.out[..self.plan.header_len() + payload.len()])
    }
}

/// Writes the low 16 bits of `value`: lengths fit, as the check has seen to, and an ID wraps.
fn put_u16(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}
