//! Frames, built as a test reads them: `eth(dst, src).vlan(10).udp([10, 0, 0, 1], [10, 0, 0, 2], b"hi")`.

use etherparse::PacketBuilder;

/// `ff:ff:ff:ff:ff:ff`
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The address of guest number `n`.
pub const fn mac(n: u16) -> [u8; 6] {
    let [high, low] = n.to_be_bytes();
    [0x52, 0x54, 0, 0, high, low]
}

/// A frame under construction; by itself it carries a little data of a type that nobody interprets.
#[derive(Debug, Clone)]
pub struct Eth {
    dst: [u8; 6],
    src: [u8; 6],
    tags: Vec<[u8; 4]>,
    ethertype: u16,
    payload: Vec<u8>,
}

/// A frame from `src` to `dst`.
pub fn eth(dst: [u8; 6], src: [u8; 6]) -> Eth {
    Eth {
        dst,
        src,
        tags: Vec::new(),
        ethertype: 0x88b6,
        payload: b"evb test".to_vec(),
    }
}

impl Eth {
    /// Adds an inner C-tag with this VID, priority 0.
    pub fn vlan(self, vid: u16) -> Self {
        self.tag(0x8100, vid)
    }

    /// Adds an inner tag as it stands.
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
        self.tags.push([a, b, c, d]);
        self
    }

    /// Replaces what it carries.
    pub fn payload(mut self, ethertype: u16, payload: &[u8]) -> Self {
        self.ethertype = ethertype;
        self.payload = payload.to_vec();
        self
    }

    /// A payload that differs from that of any other `n`.
    pub fn number(self, n: u32) -> Self {
        let bytes = [b"number ".as_slice(), &n.to_be_bytes()].concat();
        self.payload(0x88b6, &bytes)
    }

    /// An IPv4 packet with a UDP datagram, checksums right.
    pub fn udp(self, src: [u8; 4], dst: [u8; 4], data: &[u8]) -> Self {
        let builder = PacketBuilder::ipv4(src, dst, 64).udp(4000, 5000);
        let mut packet = Vec::with_capacity(builder.size(data.len()));
        builder.write(&mut packet, data).unwrap();
        self.payload(0x0800, &packet)
    }

    /// An IPv4 packet with a TCP segment, checksums right.
    pub fn tcp(self, src: [u8; 4], dst: [u8; 4], data: &[u8]) -> Self {
        let builder = PacketBuilder::ipv4(src, dst, 64)
            .tcp(4000, 5000, 1, 1024)
            .ack(1);
        let mut packet = Vec::with_capacity(builder.size(data.len()));
        builder.write(&mut packet, data).unwrap();
        self.payload(0x0800, &packet)
    }

    /// The frame's bytes, padded to the 60 that Ethernet wants.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.unpadded();
        if bytes.len() < 60 {
            bytes.resize(60, 0);
        }
        bytes
    }

    /// The same without padding.
    pub fn unpadded(&self) -> Vec<u8> {
        let tags = self.tags.concat();
        let ethertype = self.ethertype.to_be_bytes();
        [&self.dst[..], &self.src, &tags, &ethertype, &self.payload].concat()
    }
}

const MARKER: &[u8] = b"evb test marker ";

/// A broadcast that only says "I am number `nonce`".
pub fn marker(src: [u8; 6], vid: Option<u16>, nonce: u64) -> Vec<u8> {
    let frame = eth(BROADCAST, src).payload(0x88b5, &[MARKER, &nonce.to_be_bytes()].concat());
    match vid {
        Some(vid) => frame.vlan(vid).bytes(),
        None => frame.bytes(),
    }
}

/// The number of a marker; `None` for any other frame.
pub fn marker_nonce(frame: &[u8]) -> Option<u64> {
    let untagged = if frame.get(12..14) == Some(&[0x81, 0x00]) {
        16
    } else {
        12
    };
    let rest = frame
        .get(untagged..)?
        .strip_prefix(&[0x88, 0xb5])?
        .strip_prefix(MARKER)?;
    Some(u64::from_be_bytes(rest.get(..8)?.try_into().ok()?))
}

/// Frames of 16 kinds of address and tags and of four lengths each, none of them a pause frame.
pub fn patterns() -> Vec<Vec<u8>> {
    let (vm, other) = (mac(1), mac(600));
    let reserved = |last| [0x01, 0x80, 0xc2, 0, 0, last];
    let kinds = [
        eth(other, vm),
        eth(BROADCAST, mac(601)),
        eth([0x01, 0, 0x5e, 1, 2, 3], mac(602)),
        eth([0x33, 0x33, 0, 0, 0, 1], mac(603)),
        eth([0; 6], [0; 6]),
        eth(other, BROADCAST),
        eth(other, other),
        eth(reserved(0), mac(604)).payload(0x88cc, &[]),
        eth(reserved(2), mac(605)).payload(0x8809, &[]),
        eth(reserved(15), mac(606)),
        eth(other, vm).tag(0x8100, 4095),
        eth(other, vm).tag(0x8100, 0xe000),
        eth(other, vm).tag(0x8100, 10).tag(0x8100, 4095),
        eth(other, vm)
            .tag(0x88a8, 0xffff)
            .tag(0x8100, 0)
            .tag(0x9100, 7),
        eth(other, vm).tag(0x893f, 1).tag(0x1234, 5),
        eth(other, vm).payload(0x0800, &[0x45]),
    ];
    let sized = |kind: &Eth, len: usize| {
        let mut frame = kind.unpadded();
        let from = frame.len();
        frame.extend((from..len).map(|i| (i * 7 + len) as u8));
        frame
    };
    kinds
        .iter()
        .flat_map(|kind| [60, 61, 200, 1514].map(|len| sized(kind, len)))
        .collect()
}
