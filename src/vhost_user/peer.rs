//! The front end towards a back end that waits for one, which is what two daemons are to each other.
//!
//! Whoever connects learns who is there by listening: a front end speaks at once, a back end never does. So after a
//! while of silence the part of the guest falls to us. Memory and queues are then ours, and become a link.
//!
//! *Threads.* One, which blocks in [`Peer::join`] and [`Peer::wait`]; frames are others' affair. To end it from
//! outside, shut the socket down.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::features::{VHOST_USER_F_PROTOCOL_FEATURES, has};
use super::front_end::{FrontEnd, FrontEndError, Options, Order, RingSetup};
use crate::frame::offloads::Offloads;
use crate::sys::socket;
use crate::uplink::{Link, PeerQueue, RECEIVE_BUFFER};
use crate::virtqueue::driver::{
    DeviceError, DriverFeatures, DriverMemory, Layout, MemoryError, QueueError, QueueOptions,
    RxQueue, TxQueue,
};

/// How long a front end may take for its first word.
const SILENCE_MS: i32 = 1000;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Memory of one link: the buffers below, both rings, and some room.
const MEMORY_MIB: u64 = 32;
/// Buffers for what comes: each takes a frame of usual size, and several make up a long one.
const RECEIVE: QueueOptions = QueueOptions {
    size: 1024,
    buffers: 1024,
    buffer_len: 4096,
    layout: Layout::Contiguous,
    indirect: false,
};
/// Buffers for what goes: each takes the longest frame that there is.
const TRANSMIT: QueueOptions = QueueOptions {
    size: 256,
    buffers: 256,
    buffer_len: RECEIVE_BUFFER as u32,
    layout: Layout::Contiguous,
    indirect: false,
};
/// What the link makes use of, where the back end offers it.
const WANTED: [u32; 16] = [
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    net::VIRTIO_NET_F_MRG_RXBUF,
    net::VIRTIO_NET_F_CSUM,
    net::VIRTIO_NET_F_GUEST_CSUM,
    net::VIRTIO_NET_F_HOST_TSO4,
    net::VIRTIO_NET_F_HOST_TSO6,
    net::VIRTIO_NET_F_HOST_ECN,
    net::VIRTIO_NET_F_HOST_USO,
    net::VIRTIO_NET_F_GUEST_TSO4,
    net::VIRTIO_NET_F_GUEST_TSO6,
    net::VIRTIO_NET_F_GUEST_ECN,
    net::VIRTIO_NET_F_GUEST_USO4,
    net::VIRTIO_NET_F_GUEST_USO6,
];

/// Why there is no link, or no longer one.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] FrontEndError),
    /// There is no memory for the queues.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The queues could not be made.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The operating system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The back end does not offer what a link needs.
    #[error("the back end does not offer {0}, which a link needs")]
    Lacks(&'static str),
    /// The back end broke a ring.
    #[error(transparent)]
    Ring(#[from] DeviceError),
    /// The back end says what no back end says.
    #[error("the back end spoke without being asked")]
    Unasked,
}

/// Whether the other end speaks first (or has gone), as a front end does.
pub fn speaks_first(stream: &UnixStream) -> bool {
    socket::wait_readable(stream.as_fd(), SILENCE_MS)
}

/// A back end that serves us.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    /// Ends the connection when dropped, and owns descriptors that the back end uses.
    front_end: FrontEnd,
    link: Arc<Link>,
}

impl Peer {
    /// Shakes hands with the back end on `stream` and starts its rings. The link gets the name of its port, and
    /// the back end is told the MTU of that.
    ///
    /// # Errors
    ///
    /// Why there is no link; the connection is of no use any more.
    pub fn join(stream: UnixStream, name: &str, mtu: Option<u16>) -> Result<Self, PeerError> {
        let watched = stream.try_clone()?;
        let options = Options {
            order: Order::Qemu,
            features: WANTED.iter().fold(0, |bits, bit| bits | 1 << bit),
            protocol_features: (Protocol::MQ | Protocol::REPLY_ACK | Protocol::MTU).bits(),
            queue_pairs: 1,
            mtu,
            resumed: false,
            timeout: PATIENCE,
        };
        let mut front_end = FrontEnd::from_stream(stream, options)?;
        front_end.negotiate()?;
        let features = front_end.features();
        if !has(features, VIRTIO_F_VERSION_1) {
            return Err(PeerError::Lacks("VIRTIO_F_VERSION_1"));
        }
        if !has(features, net::VIRTIO_NET_F_MRG_RXBUF) {
            return Err(PeerError::Lacks("VIRTIO_NET_F_MRG_RXBUF"));
        }
        let memory = DriverMemory::with_mib(MEMORY_MIB)?;
        let driver = DriverFeatures::from_bits(features);
        let rx = RxQueue::new(&memory, &RECEIVE, driver)?;
        let tx = TxQueue::new(&memory, &TRANSMIT, driver)?;
        let rings = [
            RingSetup::of_rx(&rx, Order::Qemu),
            RingSetup::of_tx(&tx, Order::Qemu),
        ];
        front_end.start(&memory, &rings)?;
        // A question that has an answer: all before it has been dealt with.
        front_end.get_features()?;
        let queue = PeerQueue::new(rx, tx, watched.try_clone()?)?;
        let accepts = Offloads::sendable(features);
        let link = Link::peer(name, mtu.unwrap_or(u16::MAX), accepts, queue);
        Ok(Self {
            stream: watched,
            front_end,
            link: Arc::new(link),
        })
    }

    /// The virtio features in use.
    pub fn features(&self) -> u64 {
        self.front_end.features()
    }

    /// The link, for as long as the connection lasts.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Returns when the connection has ended.
    ///
    /// # Errors
    ///
    /// What the back end did that ended it; nothing where it, or we, just closed it.
    pub fn wait(&self) -> Result<(), PeerError> {
        socket::wait_readable(self.stream.as_fd(), -1);
        if let Some(fault) = self.link.fault() {
            return Err(fault.into());
        }
        match socket::peek(self.stream.as_fd(), &mut [0]) {
            Ok(1..) => Err(PeerError::Unasked),
            Ok(0) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
