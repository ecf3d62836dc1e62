//! The frames of one sender, one after the other.

use thiserror::Error;
use virtio_bindings::virtio_net as bindings;

use super::stamp::{self, Stamp};
use crate::frame::checksum::Sum;
use crate::frame::ethernet::{HEADER_LEN, TAG_LEN, TPID_C, Vid};
use crate::frame::mac::Mac;
use crate::frame::vnet::VnetHeader;

/// Bytes at the beginning of a frame that differ from frame to frame, at most.
pub const HEAD: usize = 80;
/// The shortest frame: a tag, headers and stamp fit, and Ethernet wants it.
pub const MIN_LEN: usize = 60;
/// Bytes of a time of sending.
const TIME_LEN: usize = 8;
const IP_LEN: usize = 20;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;
/// Where the address of the source begins in an IPv4 header.
const IP_ADDRESSES: usize = 12;
/// Frames that are ready before they are sent.
const AHEAD: usize = 8;
/// The port to which all flows are addressed: discard.
const DISCARD: u16 = 9;
/// The port of the first flow.
const FIRST_PORT: u16 = 1024;

/// What the frames of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP packets, complete.
    Udp,
    /// Segments of TCP to be cut by whoever needs smaller ones, of this size.
    Tso {
        /// Payload of one segment.
        segment: u16,
    },
}

/// One flow: a pair of addresses, and a VLAN where frames are tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// To whom.
    pub dst: Mac,
    /// From whom.
    pub src: Mac,
    /// In which VLAN.
    pub vid: Option<Vid>,
}

/// Why there is no such stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// It has no flow or no size.
    #[error("a stream has at least one flow and one size")]
    Empty,
    /// More than can be numbered.
    #[error("a stream has at most 65536 flows")]
    Flows,
    /// Some flows are tagged and some are not.
    #[error("either all flows of a stream are tagged or none is")]
    Tags,
    /// Headers and stamp do not fit, or IPv4 cannot say the length.
    #[error(
        "frames of {0} bytes are not possible: at least 60, 64 with a tag, and at most 65535 behind \
         the Ethernet header"
    )]
    Len(usize),
}

#[derive(Debug)]
struct State {
    /// Destination and source, as they stand in the frame.
    addresses: [u8; 12],
    vid: u16,
    sequence: u32,
}

/// What is the same in all frames of one size.
#[derive(Debug)]
struct Template {
    head: [u8; HEAD],
    len: usize,
}

/// The frames of one sender: sizes and flows in turn, each flow numbered by itself.
#[derive(Debug)]
pub struct Stream {
    number: u16,
    /// The flow of this stream that comes first is number `first` of its sender.
    first: u16,
    flows: Vec<State>,
    templates: Vec<Template>,
    tag: usize,
    stamp_at: usize,
    timed: bool,
    header: VnetHeader,
    /// What the first frame is that is not ready yet.
    flow: usize,
    size: usize,
    ready: [Ready; AHEAD],
    next: usize,
}

/// The beginning of a frame that is soon to be sent. It is written in pieces, and the processor reads it as a whole
/// much faster when that was a while ago.
#[derive(Clone, Copy, Debug)]
struct Ready {
    head: [u8; HEAD],
    len: usize,
    stamp: Stamp,
}

/// A frame that is ready to be sent.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// What of it differs from other frames.
    pub head: &'a [u8],
    /// Bytes of the whole frame.
    pub len: usize,
    /// Which one it is.
    pub stamp: Stamp,
}

impl Stream {
    /// The frames of stream `number` in `sizes` in turn, its flows numbered from `first_flow` on.
    ///
    /// # Errors
    ///
    /// What about it is not possible.
    pub fn new(
        (number, first_flow): (u16, u16),
        kind: Kind,
        sizes: &[usize],
        flows: &[Flow],
    ) -> Result<Self, StreamError> {
        let Some(first) = flows.first() else {
            return Err(StreamError::Empty);
        };
        if sizes.is_empty() {
            return Err(StreamError::Empty);
        }
        if flows.len() > usize::from(u16::MAX) + 1 {
            return Err(StreamError::Flows);
        }
        let tagged = first.vid.is_some();
        if flows.iter().any(|flow| flow.vid.is_some() != tagged) {
            return Err(StreamError::Tags);
        }
        let tag = if tagged { TAG_LEN } else { 0 };
        let l4 = match kind {
            Kind::Udp => UDP_LEN,
            Kind::Tso { .. } => TCP_LEN,
        };
        let stamp_at = HEADER_LEN + tag + IP_LEN + l4;
        let templates = sizes.iter().map(|&len| template(kind, tag, len));
        let nothing = Ready {
            head: [0; HEAD],
            len: 0,
            stamp: Stamp {
                sequence: 0,
                flow: 0,
                stream: number,
            },
        };
        let mut stream = Self {
            number,
            first: first_flow,
            flows: flows.iter().map(State::new).collect(),
            templates: templates.collect::<Result<_, _>>()?,
            tag,
            stamp_at,
            timed: false,
            header: header(kind, stamp_at),
            flow: 0,
            size: 0,
            ready: [nothing; AHEAD],
            next: 0,
        };
        for place in 0..AHEAD {
            stream.prepare(place);
        }
        Ok(stream)
    }

    /// Has each frame say when it was sent.
    #[must_use]
    pub fn timed(mut self) -> Self {
        self.timed = true;
        self
    }

    /// The virtio-net header of all its frames.
    pub fn header(&self) -> VnetHeader {
        self.header
    }

    /// Bytes of [`Frame::head`].
    pub fn head_len(&self) -> usize {
        let time = if self.timed { TIME_LEN } else { 0 };
        self.stamp_at + stamp::LEN + time
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        self.templates
            .iter()
            .map(|t| t.len)
            .max()
            .unwrap_or_default()
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Bytes of the frame that comes next.
    #[inline]
    pub fn next_len(&self) -> usize {
        self.ready[self.next].len
    }

    /// The frame that comes next, at `now_ns`; it does so until [`Stream::advance`] says that it was sent.
    #[inline]
    pub fn compose(&mut self, now_ns: u64) -> Frame<'_> {
        let head_len = self.head_len();
        let Ready { head, len, stamp } = &mut self.ready[self.next];
        if self.timed {
            head[head_len - TIME_LEN..head_len].copy_from_slice(&now_ns.to_be_bytes());
        }
        Frame {
            head: &head[..head_len],
            len: *len,
            stamp: *stamp,
        }
    }

    /// The composed frame was sent.
    #[inline]
    pub fn advance(&mut self) {
        self.prepare(self.next);
        self.next = (self.next + 1) % AHEAD;
    }

    /// Writes the first frame that is not ready yet to place `place`.
    #[inline]
    fn prepare(&mut self, place: usize) {
        let flow = &mut self.flows[self.flow];
        let stamp = Stamp {
            sequence: flow.sequence,
            flow: self.first.wrapping_add(self.flow as u16),
            stream: self.number,
        };
        flow.sequence = flow.sequence.wrapping_add(1);
        let template = &self.templates[self.size];
        let Ready {
            head,
            len,
            stamp: ready,
        } = &mut self.ready[place];
        (*head, *len, *ready) = (template.head, template.len, stamp);
        head[..12].copy_from_slice(&flow.addresses);
        if self.tag > 0 {
            head[14..16].copy_from_slice(&flow.vid.to_be_bytes());
        }
        let port_at = HEADER_LEN + self.tag + IP_LEN;
        let port = FIRST_PORT.wrapping_add(stamp.flow);
        head[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        if let Some(place) = head[self.stamp_at..].first_chunk_mut() {
            stamp.write(place);
        }
        self.flow += 1;
        self.size += 1;
        if self.flow == self.flows.len() {
            self.flow = 0;
            // Or a flow would meet the same few sizes for ever.
            self.size += usize::from(self.flows.len() > 1);
        }
        if self.size >= self.templates.len() {
            self.size %= self.templates.len();
        }
    }
}

impl State {
    fn new(flow: &Flow) -> Self {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&flow.dst.octets());
        addresses[6..].copy_from_slice(&flow.src.octets());
        Self {
            addresses,
            vid: flow.vid.map_or(0, Vid::get),
            sequence: 0,
        }
    }
}

impl Frame<'_> {
    /// The whole frame with its pattern, in `out`; for one that is sampled.
    pub fn write_whole(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(self.head);
        out.resize(self.len, 0);
        super::fill_body(self.stamp, &mut out[self.head.len().min(self.len)..]);
    }
}

/// When a timed frame was sent, `body` being what is behind its stamp.
pub fn sent_at(body: &[u8]) -> Option<u64> {
    body.first_chunk().copied().map(u64::from_be_bytes)
}

/// The virtio-net header, where headers of the frame end at `end`.
fn header(kind: Kind, end: usize) -> VnetHeader {
    match kind {
        Kind::Udp => VnetHeader::default(),
        Kind::Tso { segment } => VnetHeader {
            flags: bindings::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8,
            gso_type: bindings::VIRTIO_NET_HDR_GSO_TCPV4 as u8,
            hdr_len: end as u16,
            gso_size: segment,
            csum_start: (end - TCP_LEN) as u16,
            csum_offset: 16,
            num_buffers: 0,
        },
    }
}

/// A frame of `len` bytes without addresses, port and stamp.
fn template(kind: Kind, tag: usize, len: usize) -> Result<Template, StreamError> {
    let wrong = StreamError::Len(len);
    let ip_len = len.checked_sub(HEADER_LEN + tag).ok_or(wrong)?;
    let ip_len = u16::try_from(ip_len).map_err(|_| wrong)?;
    if len < MIN_LEN + tag {
        return Err(wrong);
    }
    let mut head = [0; HEAD];
    if tag > 0 {
        head[12..14].copy_from_slice(&TPID_C.to_be_bytes());
    }
    head[12 + tag..HEADER_LEN + tag].copy_from_slice(&[8, 0]);
    let (_, packet) = head.split_at_mut(HEADER_LEN + tag);
    let (ip, l4) = packet.split_at_mut(IP_LEN);
    let protocol = match kind {
        Kind::Udp => 17,
        Kind::Tso { .. } => 6,
    };
    // Addresses from 198.18.0.0/15, the network for benchmarks (RFC 2544, C.2.2).
    ip.copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 1, 198, 19, 0, 1,
    ]);
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    let checksum = Sum::of(ip).finish();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let l4_len = ip_len - IP_LEN as u16;
    l4[2..4].copy_from_slice(&DISCARD.to_be_bytes());
    match kind {
        // A checksum of zero is none.
        Kind::Udp => l4[4..6].copy_from_slice(&l4_len.to_be_bytes()),
        Kind::Tso { .. } => {
            // Five words of header; ACK; a window.
            l4[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
            let mut pseudo = Sum::of(&ip[IP_ADDRESSES..]);
            pseudo.add_u16(protocol.into());
            pseudo.add_u16(l4_len);
            l4[16..18].copy_from_slice(&pseudo.partial().to_be_bytes());
        }
    }
    Ok(Template { head, len })
}
