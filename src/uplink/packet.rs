//! Packet sockets: a link by way of any Ethernet device, without changing it.
//!
//! The host goes on using the device, and gets its own copy of every frame.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::Opened;
use super::error::LinkError;
use super::link::Received;
use super::netlink::with_client;
use super::spec::{Facts, Kind, PacketSpec};
use crate::frame::ethernet::TAG_LEN;
use crate::frame::vnet::VnetHeader;
use crate::sys::packet;
use crate::virtqueue::{self, Gather};

/// Bytes in front of a received frame that are left for the tag that the kernel has taken out.
pub const TAG_ROOM: usize = TAG_LEN;

/// Both addresses, behind which a tag belongs.
const ADDRESSES: usize = 12;
/// The header that packet sockets use is the legacy one.
const HEADER: usize = VnetHeader::LEGACY_LEN;
/// The same for the kernel.
const HEADER_SIZE: i32 = HEADER as u8 as i32;
/// What a tag that comes back adds.
const TAG_GROWTH: i16 = TAG_LEN as u8 as i16;
/// Bytes that may wait in each direction.
const BUFFER: i32 = 4 << 20;

/// Opens packet sockets on a device, all in one group.
pub fn open(spec: &PacketSpec) -> Result<Opened, LinkError> {
    let name = || spec.device.clone();
    let device = with_client(async |client| client.get(&spec.device).await)?;
    if !device.ethernet {
        return Err(LinkError::NotEthernet { device: name() });
    }
    if !device.up {
        return Err(LinkError::Down { device: name() });
    }
    let refused = |error| {
        let call = format!("opening a packet socket on {}", spec.device);
        LinkError::system(call, "CAP_NET_RAW", &error)
    };
    let mut queues = vec![];
    let mut group = None;
    let mut uso = true;
    for _ in 0..spec.queues {
        let (socket, segments_udp) = socket().map_err(refused)?;
        uso &= segments_udp;
        start(&socket, device.ifindex, spec.queues > 1, &mut group).map_err(refused)?;
        queues.push(socket);
    }
    Ok(Opened {
        facts: Facts {
            kind: Kind::Packet,
            name: name(),
            ifindex: device.ifindex,
            mac: device.mac,
            mtu: device.mtu(),
            uso,
            generic: false,
        },
        created: None,
        queues,
    })
}

/// A socket that is prepared and bound to nothing; whether the kernel segments UDP for it.
fn socket() -> io::Result<(OwnedFd, bool)> {
    let socket = packet::open()?;
    // The length of the header came with Linux 6.4, so where it can be said UDP is segmented.
    let sized = packet::set_option(&socket, libc::PACKET_VNET_HDR_SZ, HEADER_SIZE).is_ok();
    if !sized {
        packet::set_option(&socket, libc::PACKET_VNET_HDR, 1)?;
    }
    packet::set_option(&socket, libc::PACKET_AUXDATA, 1)?;
    // What the host and others send by the device would look like reflections.
    packet::set_option(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
    packet::set_buffers(&socket, BUFFER)?;
    Ok((socket, sized))
}

/// Begins to receive. Before it is in its group a socket would get the frames of its siblings too.
fn start(socket: &OwnedFd, ifindex: u32, grouped: bool, group: &mut Option<u16>) -> io::Result<()> {
    packet::close_gate(socket)?;
    packet::bind(socket, ifindex)?;
    packet::join_promiscuous(socket, ifindex)?;
    if grouped {
        *group = Some(packet::join_fanout(socket, *group)?);
    }
    packet::open_gate(socket)
}

/// Receives one frame, and puts the tag back that the kernel has taken out.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    const HEADER_AT: usize = TAG_ROOM;
    const FRAME_AT: usize = HEADER_AT + VnetHeader::LEN;
    let lost = || io::Error::from(io::ErrorKind::InvalidData);
    let (front, frame) = buffer.split_at_mut_checked(FRAME_AT).ok_or_else(lost)?;
    front.fill(0);
    let header = &mut front[HEADER_AT..HEADER_AT + HEADER];
    let arrival = match packet::receive(socket, [header, frame]) {
        // A frame that the virtio-net header has no words for, such as a tunnel's segments.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(lost()),
        result => result?,
    };
    let len = arrival.len.checked_sub(HEADER).ok_or_else(lost)?;
    if arrival.truncated {
        return Err(lost());
    }
    let Some((tpid, tci)) = arrival.tag else {
        return Ok(Received { at: HEADER_AT, len });
    };
    if len < ADDRESSES {
        return Err(lost());
    }
    // The header and the addresses move forward, and the tag comes where the addresses ended.
    let mut bytes = [0; VnetHeader::LEN];
    bytes.copy_from_slice(&buffer[HEADER_AT..FRAME_AT]);
    let mut vnet = VnetHeader::decode(&bytes);
    vnet.retag(TAG_GROWTH);
    buffer[..VnetHeader::LEN].copy_from_slice(&vnet.encode());
    buffer.copy_within(FRAME_AT..FRAME_AT + ADDRESSES, VnetHeader::LEN);
    let tag_at = VnetHeader::LEN + ADDRESSES;
    buffer[tag_at..tag_at + 2].copy_from_slice(&tpid.to_be_bytes());
    buffer[tag_at + 2..tag_at + 4].copy_from_slice(&tci.to_be_bytes());
    Ok(Received {
        at: 0,
        len: len + TAG_LEN,
    })
}

/// Sends one frame; returns as many bytes as the frame has if it went whole.
pub fn send(socket: BorrowedFd<'_>, frame: &Gather<'_>) -> io::Result<usize> {
    let header = frame.header.get(..HEADER).unwrap_or(frame.header);
    let sent = virtqueue::writev(socket, &Gather { header, ..*frame })?;
    Ok(sent + frame.header.len() - header.len())
}
