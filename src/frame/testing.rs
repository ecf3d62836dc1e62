//! Frames for the tests of this room, built and judged without its code.

use super::vnet::{Origin, VnetHeader};
use crate::stats::DropReason;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

pub const NEEDS_CSUM: u8 = 1;
pub const DATA_VALID: u8 = 2;
pub const TCPV4: u8 = 1;
pub const UFO: u8 = 3;
pub const TCPV6: u8 = 4;
pub const UDP_L4: u8 = 5;
pub const ECN: u8 = 0x80;

pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

pub const FIRST_SEQ: u32 = 0xffff_f000;
pub const FIRST_ID: u16 = 0xfffe;

/// How much of a frame is copied and classified.
pub const HEAD: usize = 128;
pub const ORIGINS: [Origin; 2] = [Origin::Guest, Origin::Uplink];
/// IPv6 or not, UDP or TCP.
pub const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// A TCP or UDP packet to be.
#[derive(Clone, Debug)]
pub struct Packet {
    pub tags: Vec<u16>,
    pub v6: bool,
    pub udp: bool,
    /// IPv4: options in bytes, a multiple of 4.
    pub ip_options: usize,
    /// IPv6: protocol numbers of extension headers, 8 bytes each, hop-by-hop first.
    pub extensions: Vec<u8>,
    pub tcp_options: usize,
    pub flags: u8,
    pub payload: Vec<u8>,
}

impl Packet {
    pub fn new(v6: bool, udp: bool, payload_len: usize) -> Self {
        Self {
            tags: Vec::new(),
            v6,
            udp,
            ip_options: 0,
            extensions: Vec::new(),
            tcp_options: 0,
            flags: ACK,
            payload: payload(payload_len),
        }
    }

    pub fn tagged(mut self, count: usize) -> Self {
        self.tags = [0x88a8, 0x8100][2 - count..].to_vec();
        self
    }

    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub fn l4(&self) -> usize {
        self.l3()
            + if self.v6 {
                40 + 8 * self.extensions.len()
            } else {
                20 + self.ip_options
            }
    }

    pub fn header_len(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 + self.tcp_options }
    }

    pub fn csum_offset(&self) -> usize {
        if self.udp { 6 } else { 16 }
    }

    fn transport_len(&self) -> usize {
        self.header_len() - self.l4() + self.payload.len()
    }

    fn addresses(&self) -> Vec<u8> {
        if self.v6 {
            (0..32).map(|i| 0x20 + i).collect()
        } else {
            vec![10, 0, 0, 1, 192, 168, 7, 9]
        }
    }

    /// The frame, with the sum of the pseudo-header in its checksum field.
    pub fn partial(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for (i, tpid) in self.tags.iter().enumerate() {
            frame.extend(tpid.to_be_bytes());
            frame.extend((0x6064 + i as u16).to_be_bytes());
        }
        let protocol = if self.udp { 17 } else { 6 };
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0x0a, 0xbc, 0xde]);
            let len = self.transport_len() + 8 * self.extensions.len();
            frame.extend((len as u16).to_be_bytes());
            let mut chain = self.extensions.clone();
            chain.push(protocol);
            frame.extend([chain[0], 64]);
            frame.extend(self.addresses());
            for hop in chain.windows(2) {
                // A routing header that has arrived, or six bytes of padding.
                let start = if hop[0] == 43 { [253, 0] } else { [1, 4] };
                frame.extend([hop[1], 0, start[0], start[1], 0, 0, 0, 0]);
            }
        } else {
            let start = frame.len() + 2;
            frame.extend([0x08, 0x00]);
            frame.extend([0x45 + (self.ip_options / 4) as u8, 0x02]);
            frame.extend(((20 + self.ip_options + self.transport_len()) as u16).to_be_bytes());
            frame.extend(FIRST_ID.to_be_bytes());
            frame.extend([0x40, 0, 64, protocol, 0, 0]);
            frame.extend(self.addresses());
            frame.resize(frame.len() + self.ip_options, 1);
            let sum = !naive_sum(&frame[start..]);
            frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let mut pseudo = self.addresses();
        pseudo.extend([0, protocol]);
        pseudo.extend((self.transport_len() as u16).to_be_bytes());
        let pseudo = naive_sum(&pseudo).to_be_bytes();
        frame.extend([0x30, 0x39, 0x00, 0x50]);
        if self.udp {
            frame.extend((self.transport_len() as u16).to_be_bytes());
            frame.extend(pseudo);
        } else {
            frame.extend(FIRST_SEQ.to_be_bytes());
            frame.extend([0, 0, 0, 1, 0x50 + (self.tcp_options << 2) as u8, self.flags]);
            frame.extend([0x10, 0]);
            frame.extend(pseudo);
            frame.extend([0, 0]);
            frame.resize(frame.len() + self.tcp_options, 1);
        }
        frame.extend(&self.payload);
        frame
    }

    /// The header of a GSO frame as a well-behaved guest sends it.
    pub fn gso(&self, gso_size: u16) -> VnetHeader {
        VnetHeader {
            gso_type: match (self.udp, self.v6) {
                (true, _) => UDP_L4,
                (false, true) => TCPV6,
                (false, false) => TCPV4,
            },
            gso_size,
            hdr_len: self.header_len() as u16,
            ..self.needs_csum()
        }
    }

    /// The header of a frame whose checksum is to be completed.
    pub fn needs_csum(&self) -> VnetHeader {
        VnetHeader {
            flags: NEEDS_CSUM,
            csum_start: self.l4() as u16,
            csum_offset: self.csum_offset() as u16,
            num_buffers: 1,
            ..VnetHeader::default()
        }
    }
}

/// The header check as a worker does it: on a copy of the first 128 bytes, which comes back.
pub fn check(
    header: &VnetHeader,
    frame: &[u8],
    origin: Origin,
) -> (Result<VnetHeader, DropReason>, Vec<u8>) {
    let mut head = frame[..frame.len().min(HEAD)].to_vec();
    let result = header.check(frame.len(), &mut head, origin);
    (result, head)
}

/// The reason for which a header is refused, its frame left as it is.
pub fn refused(header: &VnetHeader, frame: &[u8], origin: Origin) -> DropReason {
    let (result, head) = check(header, frame, origin);
    assert_eq!(head, frame[..head.len()], "a refused frame is left alone");
    result.expect_err("refused")
}

/// Bytes that do not repeat with any power of two.
pub fn payload(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i % 251) as u8 ^ (i / 251) as u8)
        .collect()
}

/// RFC 1071 as the text has it: word by word, carries around at the end.
pub fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// What a receiver reads in a complete frame.
#[derive(Debug)]
pub struct Received {
    pub tags: usize,
    pub ipv4_id: Option<u16>,
    pub seq: u32,
    pub flags: u8,
    pub payload: Vec<u8>,
}

/// Parses a frame strictly and verifies its lengths and each of its checksums twice over.
pub fn receive(frame: &[u8]) -> Received {
    let packet = SlicedPacket::from_ethernet(frame).expect("a valid frame");
    let (mut pseudo, ipv4_id, source) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(naive_sum(header.slice()), 0xffff);
            assert_eq!(
                header.header_checksum(),
                header.to_header().calc_header_checksum()
            );
            let addresses = [header.source(), header.destination()].concat();
            (addresses, Some(header.identification()), ip.payload())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                [header.source(), header.destination()].concat(),
                None,
                ip.payload(),
            )
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    assert_eq!(
        frame.as_ptr_range().end,
        source.payload.as_ptr_range().end,
        "no trailer"
    );
    pseudo.extend([0, source.ip_number.0]);
    pseudo.extend((source.payload.len() as u16).to_be_bytes());
    let mut all = pseudo;
    all.extend(source.payload);
    assert_eq!(naive_sum(&all), 0xffff, "transport checksum");

    let tags = packet.link_exts.len();
    match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let calculated = match packet.net.as_ref().expect("IP") {
                NetSlice::Ipv4(ip) => {
                    tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                }
                NetSlice::Ipv6(ip) => {
                    tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                }
                NetSlice::Arp(_) => panic!("not IP"),
            };
            assert_eq!(calculated, Ok(tcp.checksum()));
            Received {
                tags,
                ipv4_id,
                seq: tcp.sequence_number(),
                flags: tcp.slice()[13],
                payload: tcp.payload().to_vec(),
            }
        }
        TransportSlice::Udp(udp) => {
            assert_ne!(udp.checksum(), 0, "zero means none");
            assert_eq!(usize::from(udp.length()), source.payload.len());
            Received {
                tags,
                ipv4_id,
                seq: 0,
                flags: 0,
                payload: udp.payload().to_vec(),
            }
        }
        other => panic!("{other:?}"),
    }
}
