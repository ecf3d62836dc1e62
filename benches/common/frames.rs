//! Frames, and the virtio-net headers before them.
// Each program uses a part of it.
#![allow(dead_code)]

use evb::frame::vnet::VnetHeader;

/// A frame as a guest sends it.
#[derive(Clone)]
pub struct Frame {
    /// Its virtio-net header.
    pub header: [u8; VnetHeader::LEN],
    /// From the destination address on.
    pub bytes: Vec<u8>,
}

/// The address of station `number`.
pub fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

impl Frame {
    /// A frame of an unknown protocol, `len` bytes long.
    pub fn plain(dst: [u8; 6], src: [u8; 6], len: usize) -> Self {
        let mut bytes = vec![0; len];
        bytes[..14].copy_from_slice(&[&dst[..], &src, &[0x88, 0xb5]].concat());
        let header = [0; VnetHeader::LEN];
        Self { header, bytes }
    }

    /// A TCP segment that is to be cut into frames of 1,514 bytes.
    pub fn tso(dst: [u8; 6], src: [u8; 6], len: usize) -> Self {
        let mut frame = Self::plain(dst, src, len);
        // Unfinished checksum, TSO4, 54 bytes of headers, 1,448 of payload, checksum from 34 at 16.
        frame.header[..10].copy_from_slice(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
        let ip_len = ((len - 14) as u16).to_be_bytes();
        let ip = [0x45, 0, ip_len[0], ip_len[1], 0, 0, 0, 0, 64, 6];
        frame.bytes[12..14].copy_from_slice(&[8, 0]);
        frame.bytes[14..24].copy_from_slice(&ip);
        // Length of the TCP header, and ACK.
        frame.bytes[46..48].copy_from_slice(&[0x50, 0x10]);
        frame
    }

    /// The same with a tag of this VLAN.
    pub fn tagged(mut self, vid: u16) -> Self {
        let tag = [[0x81, 0], vid.to_be_bytes()].concat();
        self.bytes.splice(12..12, tag);
        self
    }
}
