//! TCP and UDP packets as a sender with offloads hands them over, and a strict reader of what arrives.

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::frames::{BROADCAST, eth, mac};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4`
pub const TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`
pub const TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`
pub const UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`
pub const ECN: u8 = 0x80;

const V4: ([u8; 4], [u8; 4]) = ([10, 0, 0, 1], [10, 0, 0, 2]);
const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0xfc; 16]);
/// TCP's FIN and PSH.
pub const FIN_PSH: u8 = 0x09;
/// TCP's CWR.
pub const CWR: u8 = 0x80;

/// A packet, broadcast by guest 1 so that every port gets its copy.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Tags, the outermost first.
    pub tags: Vec<(u16, u16)>,
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// UDP rather than TCP.
    pub udp: bool,
    /// The data.
    pub data: Vec<u8>,
    /// TCP flags beside ACK, of those named here.
    pub flags: u8,
}

impl Packet {
    /// A packet with this much data.
    pub fn new(v6: bool, udp: bool, len: usize) -> Self {
        let data = (0..len)
            .map(|i| (i % 251) as u8 ^ (i / 251) as u8)
            .collect();
        let flags = 0;
        Self {
            tags: vec![],
            v6,
            udp,
            data,
            flags,
        }
    }

    /// Behind these tags.
    pub fn tagged(mut self, tags: &[(u16, u16)]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// With these TCP flags.
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 } else { 20 }
    }

    fn csum_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    /// Bytes of all headers.
    pub fn header_len(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 }
    }

    /// The frame with all checksums complete.
    pub fn complete(&self) -> Vec<u8> {
        let ip = if self.v6 {
            PacketBuilder::ipv6(V6.0, V6.1, 64)
        } else {
            PacketBuilder::ipv4(V4.0, V4.1, 64)
        };
        let mut packet = Vec::new();
        if self.udp {
            ip.udp(4000, 5000).write(&mut packet, &self.data).unwrap();
        } else {
            let mut tcp = ip.tcp(4000, 5000, 0x0102_0304, 1024).ack(7);
            if self.flags & FIN_PSH != 0 {
                tcp = tcp.fin().psh();
            }
            if self.flags & CWR != 0 {
                tcp = tcp.cwr();
            }
            tcp.write(&mut packet, &self.data).unwrap();
        }
        let frame = eth(BROADCAST, mac(1));
        let frame = self
            .tags
            .iter()
            .fold(frame, |f, (tpid, tci)| f.tag(*tpid, *tci));
        frame
            .payload(if self.v6 { 0x86dd } else { 0x0800 }, &packet)
            .unpadded()
    }

    /// The frame as a driver with checksum offload sends it: the pseudo-header's sum in place of the checksum.
    pub fn partial(&self) -> Vec<u8> {
        let mut frame = self.complete();
        let len = (frame.len() - self.l4()) as u16;
        let addresses = if self.v6 {
            [V6.0, V6.1].concat()
        } else {
            [V4.0, V4.1].concat()
        };
        let protocol = if self.udp { 17 } else { 6 };
        let sum = sum(&[&addresses[..], &[0, protocol], &len.to_be_bytes()].concat());
        let at = self.l4() + self.csum_offset();
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    /// The virtio-net header for it.
    pub fn header(&self, gso_type: u8, gso_size: u16) -> [u8; 12] {
        let hdr_len = if gso_type == 0 {
            0
        } else {
            self.header_len() as u16
        };
        raw(
            NEEDS_CSUM,
            gso_type,
            [
                hdr_len,
                gso_size,
                self.l4() as u16,
                self.csum_offset() as u16,
            ],
        )
    }
}

/// A virtio-net header: `hdr_len`, `gso_size`, `csum_start` and `csum_offset` follow flags and type.
pub fn raw(flags: u8, gso_type: u8, fields: [u16; 4]) -> [u8; 12] {
    let mut header = [0; 12];
    header[..2].copy_from_slice(&[flags, gso_type]);
    for (to, field) in header[2..10].chunks_mut(2).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    header
}

/// Completes the checksum that `header` says is left to the receiver.
pub fn finish(header: &[u8; 12], frame: &mut [u8]) {
    let field = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (start, offset) = (field(6), field(8));
    let sum = match !sum(&frame[start..]) {
        0 => 0xffff,
        sum => sum,
    };
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The ones' complement sum of RFC 1071, not inverted.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// What a receiver reads in a complete frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Number of tags.
    pub tags: usize,
    /// IPv4's identification.
    pub id: Option<u16>,
    /// TCP's sequence number.
    pub seq: u32,
    /// TCP's flags.
    pub flags: u8,
    /// The data.
    pub data: Vec<u8>,
}

/// Reads a frame strictly: all lengths fit and every checksum is right.
pub fn read(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    let tags = packet.link_exts.len();
    let (id, addresses, payload) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let right = header.to_header().calc_header_checksum();
            assert_eq!(header.header_checksum(), right, "IPv4 header checksum");
            let addresses = [header.source(), header.destination()].concat();
            (Some(header.identification()), addresses, ip.payload())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let addresses = [header.source(), header.destination()].concat();
            (None, addresses, ip.payload())
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    let l4 = payload.payload;
    assert_eq!(
        frame.as_ptr_range().end,
        l4.as_ptr_range().end,
        "no trailer"
    );
    let pseudo = [
        &addresses[..],
        &[0, payload.ip_number.0],
        &(l4.len() as u16).to_be_bytes(),
        l4,
    ];
    assert_eq!(sum(&pseudo.concat()), 0xffff, "transport checksum");
    let (seq, flags, data) = match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let right = match packet.net.as_ref() {
                Some(NetSlice::Ipv4(ip)) => {
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                }
                Some(NetSlice::Ipv6(ip)) => {
                    tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                }
                _ => unreachable!(),
            };
            assert_eq!(right, Ok(tcp.checksum()));
            (
                tcp.sequence_number(),
                tcp.slice()[13],
                tcp.payload().to_vec(),
            )
        }
        TransportSlice::Udp(udp) => {
            assert_ne!(udp.checksum(), 0, "zero means none");
            assert_eq!(usize::from(udp.length()), l4.len());
            (0, 0, udp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    };
    Read {
        tags,
        id,
        seq,
        flags,
        data,
    }
}
