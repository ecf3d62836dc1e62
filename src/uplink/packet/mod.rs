//! Packet sockets: a link by way of any Ethernet device, without changing it.
//!
//! The host goes on using the device, and gets its own copy of every frame.

use std::io;
use std::os::fd::OwnedFd;

use super::Opened;
use super::error::LinkError;
use super::netlink::with_client;
use super::spec::{Facts, Kind, PacketSpec};
use crate::frame::vnet::VnetHeader;
use crate::sys::packet;

mod queue;

pub use queue::{Arrival, Lent, PacketQueue, TAG_ROOM};

/// The header that packet sockets use is the legacy one.
const HEADER: usize = VnetHeader::LEGACY_LEN;
/// The same for the kernel.
const HEADER_SIZE: i32 = HEADER as u8 as i32;
/// Bytes that may wait in each direction, in and besides the ring.
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
        begin(&socket, device.ifindex, spec.queues > 1, &mut group).map_err(refused)?;
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
fn begin(socket: &OwnedFd, ifindex: u32, grouped: bool, group: &mut Option<u16>) -> io::Result<()> {
    packet::close_gate(socket)?;
    packet::bind(socket, ifindex)?;
    packet::join_promiscuous(socket, ifindex)?;
    if grouped {
        *group = Some(packet::join_fanout(socket, *group)?);
    }
    packet::open_gate(socket)
}

/// Gives sockets of a device their rings.
///
/// # Errors
///
/// What the kernel says: it has not so much memory.
pub fn start(facts: &Facts, sockets: Vec<OwnedFd>) -> Result<Vec<PacketQueue>, LinkError> {
    let queues = sockets
        .into_iter()
        .map(|socket| PacketQueue::new(socket, facts.mtu));
    queues.collect::<io::Result<_>>().map_err(|error| {
        let call = format!("making the ring of a packet socket on {}", facts.name);
        LinkError::system(call, "CAP_NET_RAW", &error)
    })
}
