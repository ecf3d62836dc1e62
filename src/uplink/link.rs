//! An open link as workers use it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::sync::oneshot;

use super::error::LinkError;
use super::packet::{self, PacketQueue};
use super::peer::PeerQueue;
use super::spec::{Facts, Kind};
use super::xdp::{self, XdpMode, XdpQueue};
use crate::frame::mac::Mac;
use crate::frame::offloads::Offloads;
use crate::frame::vnet::VnetHeader;
use crate::virtqueue::driver::DeviceError;
use crate::virtqueue::{self, Gather};

/// Bytes that a buffer for [`LinkQueue::receive`] should have: an IP packet of 64 KiB with its
/// Ethernet header, tags and virtio-net header, and one more, by which a cut-off frame is known.
pub const RECEIVE_BUFFER: usize = packet::TAG_ROOM + VnetHeader::LEN + 14 + 8 + 65_535 + 1;

/// More frames than these wait in no device.
const WAITING_MAX: usize = 65_536;

/// A link to the outside.
#[derive(Debug)]
pub struct Link {
    facts: Facts,
    accepts: Offloads,
    mtu: AtomicU16,
    queues: Vec<LinkQueue>,
    /// What ends with the link.
    _kept: Vec<OwnedFd>,
    /// Dropped after the queues, which tells of their end.
    end: Option<oneshot::Sender<()>>,
}

impl Link {
    /// A link over the descriptors of a device that was opened.
    ///
    /// # Errors
    ///
    /// Why `AF_XDP` sockets cannot be bound, or packet sockets get no ring; other links have no errors here.
    pub fn new(facts: Facts, descriptors: Vec<OwnedFd>) -> Result<Self, LinkError> {
        let (queues, kept) = match facts.kind {
            Kind::Xdp => {
                let (queues, kept) = xdp::start(&facts, descriptors)?;
                let boxed = queues.into_iter().map(Box::new);
                (boxed.map(LinkQueue::Xdp).collect(), kept)
            }
            Kind::Packet => {
                let queues = packet::start(&facts, descriptors)?
                    .into_iter()
                    .map(Box::new);
                (queues.map(LinkQueue::Packet).collect(), vec![])
            }
            Kind::Tap | Kind::Macvtap | Kind::Peer => {
                let files = descriptors.into_iter().map(File::from);
                (files.map(LinkQueue::Device).collect(), vec![])
            }
        };
        Ok(Self {
            mtu: AtomicU16::new(facts.mtu),
            queues,
            accepts: facts.accepts(),
            facts,
            _kept: kept,
            end: None,
        })
    }

    /// A link to the vhost-user back end behind `queue`, which takes `accepts` without repair.
    pub fn peer(name: &str, mtu: u16, accepts: Offloads, queue: PeerQueue) -> Self {
        let facts = Facts {
            kind: Kind::Peer,
            name: name.to_owned(),
            ifindex: 0,
            mac: [0; 6],
            mtu,
            uso: accepts.contains(Offloads::USO4 | Offloads::USO6),
            generic: false,
        };
        Self {
            mtu: AtomicU16::new(mtu),
            queues: vec![LinkQueue::Peer(Box::new(queue))],
            accepts,
            facts,
            _kept: vec![],
            end: None,
        }
    }

    /// What a back end did that its queue is of no use any more.
    pub fn fault(&self) -> Option<DeviceError> {
        self.queues.iter().find_map(|queue| match queue {
            LinkQueue::Peer(queue) => queue.fault(),
            LinkQueue::Device(_) | LinkQueue::Packet(_) | LinkQueue::Xdp(_) => None,
        })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.facts.kind
    }

    /// How frames get from the driver to the memory that they are forwarded from; `None` where there is no
    /// such memory. The queue that is worst off counts.
    pub fn xdp_mode(&self) -> Option<XdpMode> {
        let sockets = self.queues.iter().filter_map(|queue| match queue {
            LinkQueue::Xdp(queue) => Some(queue.mode()),
            LinkQueue::Device(_) | LinkQueue::Packet(_) | LinkQueue::Peer(_) => None,
        });
        sockets.max()
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// Number of the device, by which [`netlink::Watch`](super::netlink::Watch) reports on it; 0 where there is
    /// no device.
    pub fn ifindex(&self) -> u32 {
        self.facts.ifindex
    }

    /// The device's own address. For a TAP device it is that of the host.
    pub fn mac(&self) -> Mac {
        Mac::new(self.facts.mac)
    }

    /// What it takes without repair.
    pub fn accepts(&self) -> Offloads {
        self.accepts
    }

    /// Bytes of the longest packet, without the Ethernet header.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Notes that the device's MTU is another.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// What is told, by an error, when the link has been dropped everywhere and its descriptors are closed.
    pub fn end(&mut self) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        self.end = Some(end);
        ended
    }

    /// Throws away the frames that wait. Nobody else may use the link meanwhile.
    pub fn drain(&self) {
        let mut buffer = vec![0; RECEIVE_BUFFER];
        for queue in &self.queues {
            for _ in 0..WAITING_MAX {
                match queue.receive(&mut buffer) {
                    Ok(_) => {}
                    Err(error) if is_lost_frame(&error) => {}
                    Err(_) => break,
                }
            }
        }
    }

    /// Its queues.
    pub fn queues(&self) -> &[LinkQueue] {
        &self.queues
    }
}

/// One queue of a link.
#[derive(Debug)]
pub enum LinkQueue {
    /// A queue of a TAP or MACVTAP device: the kernel's end of it.
    Device(File),
    /// A packet socket.
    Packet(Box<PacketQueue>),
    /// The queue pair of a vhost-user back end.
    Peer(Box<PeerQueue>),
    /// An `AF_XDP` socket.
    Xdp(Box<XdpQueue>),
}

/// Where a received frame lies in its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Where its virtio-net header begins.
    pub at: usize,
    /// Bytes of the frame, without the header.
    pub len: usize,
}

impl Received {
    /// The header, to be checked by its user as one of the kernel's, and the frame.
    ///
    /// # Panics
    ///
    /// If `buffer` is shorter than the one that was received into.
    #[inline]
    pub fn split(self, buffer: &mut [u8]) -> (VnetHeader, &mut [u8]) {
        let buffer = &mut buffer[self.at..];
        let (header, frame) = buffer.split_at_mut(VnetHeader::LEN);
        let mut bytes = [0; VnetHeader::LEN];
        bytes.copy_from_slice(header);
        (VnetHeader::decode(&bytes), &mut frame[..self.len])
    }
}

impl LinkQueue {
    /// Receives one frame into `buffer`, which has [`RECEIVE_BUFFER`] bytes. Those of packet and `AF_XDP` sockets
    /// need none for the most part, see [`Inbox`](super::Inbox).
    ///
    /// # Errors
    ///
    /// `WouldBlock` where there is none; a frame that came and cannot be used, for which see
    /// [`is_lost_frame`]; any other says that the device is down or gone.
    #[inline]
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let read = match self {
            Self::Device(file) => (&*file).read(buffer)?,
            Self::Packet(queue) => {
                let mut lent = queue.lend();
                match lent.take()? {
                    packet::Arrival::Here(header) => copy(header, lent.last(), buffer),
                    packet::Arrival::Socket => return lent.read(buffer),
                }
            }
            Self::Peer(queue) => queue.receive(buffer)?,
            Self::Xdp(queue) => copy(VnetHeader::PLAIN, queue.lend().take()?, buffer),
        };
        match read.checked_sub(VnetHeader::LEN) {
            // The kernel cuts off what is too long, without a word.
            Some(len) if read < buffer.len() => Ok(Received { at: 0, len }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Where frames can be read straight into their place, each by one call: a header of 12 bytes and the
    /// frame as it is. `None` where that takes more than a read.
    #[inline]
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Device(file) => Some(file.as_fd()),
            Self::Packet(_) | Self::Peer(_) | Self::Xdp(_) => None,
        }
    }

    /// Sends one frame, whose header has 12 bytes. Never waits. The frame may stay in line until
    /// [`LinkQueue::flush`].
    ///
    /// # Errors
    ///
    /// The device takes no more for now, for which see [`is_full`]; any other is about the frame
    /// (`EMSGSIZE`, `EINVAL`, `EFAULT`) or says that the device is down or gone.
    #[inline]
    pub fn send(&self, frame: &Gather<'_>) -> io::Result<()> {
        let sent = match self {
            Self::Device(file) => virtqueue::writev(file.as_fd(), frame)?,
            Self::Packet(queue) => queue.send(frame)?,
            Self::Peer(queue) => return queue.send(frame),
            Self::Xdp(queue) => return queue.send(frame),
        };
        // Less went out than the frame said: its last segments are not there.
        if sent < frame.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Ends a burst: frames in line go. Returns how many of those that were taken since the last time are lost,
    /// because the device had no room or no carrier after all, or has gone.
    #[inline]
    pub fn flush(&self) -> u32 {
        match self {
            Self::Device(_) | Self::Packet(_) | Self::Peer(_) => 0,
            Self::Xdp(queue) => queue.flush(),
        }
    }

    /// Sees to it that the descriptor announces the next frame; whether there is one already, or one that is
    /// still to be sent. The kernel announces every frame that comes after the last was read.
    #[inline]
    pub fn enable_calls(&self) -> bool {
        match self {
            Self::Device(_) | Self::Packet(_) => false,
            Self::Xdp(queue) => queue.is_late(),
            Self::Peer(queue) => queue.enable_calls(),
        }
    }

    /// Spares the other end the announcements, where it can be told.
    #[inline]
    pub fn disable_calls(&self) {
        if let Self::Peer(queue) = self {
            queue.disable_calls();
        }
    }
}

impl AsRawFd for LinkQueue {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Device(file) => file.as_raw_fd(),
            Self::Packet(queue) => queue.as_raw_fd(),
            Self::Peer(queue) => queue.as_raw_fd(),
            Self::Xdp(queue) => queue.as_raw_fd(),
        }
    }
}

/// Copies a frame behind its header; the bytes of both, or of `buffer` if that was too short.
fn copy(header: VnetHeader, frame: &[u8], buffer: &mut [u8]) -> usize {
    let len = buffer.len().min(VnetHeader::LEN + frame.len());
    let bytes = header.encode();
    let bytes = bytes.iter().chain(frame);
    for (to, from) in buffer.iter_mut().zip(bytes) {
        *to = *from;
    }
    len
}

/// Whether an error of [`LinkQueue::send`] says that the device takes no more for now.
#[inline]
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Whether an error of [`LinkQueue::receive`] stands for one frame that is lost: it was too long, or
/// of a kind that has no virtio-net header. The next one may be there already.
#[inline]
pub fn is_lost_frame(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}
