//! Guests, devices and a relay between them, without a daemon.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use super::egress::Patience;
use super::ingress::Moment;
use super::{Assignment, Attachment, Port, PortId, PortRings, QueueProgress, RelayView, Snapshot};
use crate::frame::mac::Mac;
use crate::relay::{Fdb, Mode, PortConfig, Relay, RelayConfig, Slot, VlanConfig};
use crate::stats::{DropReason, PortCounters, Totals};
use crate::uplink::{Facts, Kind, Link};
use crate::virtqueue::driver::{
    DriverFeatures, DriverMemory, QueueOptions, RegionSpec, RingLayout, RxQueue, TxQueue,
};
use crate::virtqueue::{GuestMemory, ResumeAt, RingConfig, install_sigbus_handler};

/// Longer than anything takes that works.
pub const LIMIT: Duration = Duration::from_secs(20);
const VERSION_1: u64 = 1 << 32;
const MRG_RXBUF: u64 = 1 << 15;
const EVENT_IDX: u64 = 1 << 29;

/// What the device side needs to know of a ring whose features are [`features`].
pub fn ring_config(memory: &DriverMemory, layout: RingLayout) -> RingConfig {
    RingConfig::of_driver(memory, layout, features()).unwrap()
}

/// What guests negotiate here.
pub fn features() -> DriverFeatures {
    DriverFeatures::from_bits(VERSION_1 | MRG_RXBUF | EVENT_IDX)
}

/// The memory of a guest as the device sees it.
pub fn guest_memory(memory: &DriverMemory) -> Arc<GuestMemory> {
    install_sigbus_handler().unwrap();
    GuestMemory::of_driver(memory).unwrap()
}

/// A link to the other end of the socket.
pub fn link() -> (UnixDatagram, Link) {
    let (wire, device) = UnixDatagram::pair().unwrap();
    device.set_nonblocking(true).unwrap();
    let facts = Facts {
        kind: Kind::Tap,
        name: "tap0".into(),
        ifindex: 0,
        mac: [0; 6],
        mtu: 1500,
        uso: false,
        generic: false,
    };
    let link = Link::new(facts, vec![OwnedFd::from(device)]).unwrap();
    (wire, link)
}

/// A guest with one queue pair.
pub struct Guest {
    pub rx: RxQueue,
    pub tx: TxQueue,
    rings: Arc<PortRings>,
}

impl Guest {
    /// With rings of `size`, and no buffers posted yet.
    pub fn new(size: u16) -> Self {
        Self::with_buffers(size, [2048; 2])
    }

    /// The same with buffers of so many bytes to receive into, and to send from.
    pub fn with_buffers(size: u16, sizes: [u32; 2]) -> Self {
        Self::with_options(sizes.map(|buffer_len| QueueOptions {
            size,
            buffers: size,
            buffer_len,
            ..QueueOptions::default()
        }))
    }

    /// With these queues, to receive and to send.
    pub fn with_options([received, sent]: [QueueOptions; 2]) -> Self {
        let memory = DriverMemory::unsealed(&[RegionSpec {
            guest_addr: 0,
            size: 4 << 20,
        }])
        .unwrap();
        let rx = RxQueue::new(&memory, &received, features()).unwrap();
        let tx = TxQueue::new(&memory, &sent, features()).unwrap();
        let shared = guest_memory(&memory);
        let activate = |layout, call: &vmm_sys_util::eventfd::EventFd| RingConfig {
            call: Some(Arc::new(call.try_clone().unwrap())),
            ..ring_config(&memory, layout)
        };
        let start = ResumeAt::fresh(false);
        let to_guest = activate(rx.layout(), rx.call_fd());
        let from_guest = activate(tx.layout(), tx.call_fd());
        let to_guest = to_guest.activate_rx(Arc::clone(&shared), None, start);
        let from_guest = from_guest.activate_tx(shared, None, start).unwrap();
        let kick = Some(Arc::new(tx.kick_fd().try_clone().unwrap()));
        let progress = Arc::new(QueueProgress::default());
        let queue = super::TxQueue::new(0, Arc::new(from_guest), kick, None, progress);
        let rings = PortRings {
            rx: vec![Arc::new(to_guest.unwrap())],
            tx: vec![queue],
            ..PortRings::none(1)
        };
        Self {
            rx,
            tx,
            rings: Arc::new(rings),
        }
    }

    /// Sends frames to `to`, each with a number in it.
    pub fn send(&mut self, from: usize, to: &[usize], numbers: impl Iterator<Item = u32>) {
        for (number, to) in numbers.zip(to.iter().cycle()) {
            self.tx.send(&[0; 12], &frame(from, *to, number)).unwrap();
        }
        self.tx.kick().unwrap();
    }

    /// Gives all its buffers to the device.
    pub fn refill(&mut self) {
        self.rx.refill();
        self.rx.kick().unwrap();
    }

    /// Posts at most `most` buffers.
    pub fn post(&mut self, most: usize) {
        self.rx.post(most);
        self.rx.kick().unwrap();
    }

    /// The sender and the number of the next frame.
    pub fn receive(&mut self) -> Option<(u8, u32)> {
        let mut bytes = vec![];
        self.rx.recv(&mut bytes).unwrap()?;
        Some((
            bytes[11],
            u32::from_be_bytes(bytes[14..18].try_into().unwrap()),
        ))
    }

    /// All that have come, by their numbers.
    pub fn received(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.receive())
            .map(|(_, number)| number)
            .collect()
    }
}

/// When a turn of worker 0 happens, with the first snapshot; a frame waits for `limit_ns`.
pub fn moment(now_ns: u64, limit_ns: u64) -> Moment {
    Moment {
        worker: 0,
        snapshot: 1,
        now_s: 1,
        patience: Patience { now_ns, limit_ns },
    }
}

/// The address of a port.
pub fn mac(port: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, port as u8]
}

/// The smallest frame, from port to port; [`ALL`] is everybody.
pub fn frame(from: usize, to: usize, number: u32) -> [u8; 60] {
    let mut bytes = [0; 60];
    bytes[..6].copy_from_slice(&if to == ALL { [0xff; 6] } else { mac(to) });
    bytes[6..12].copy_from_slice(&mac(from));
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The receiver that stands for all.
pub const ALL: usize = usize::MAX;

/// A relay in bridge mode.
pub struct Net {
    relay: Arc<Relay>,
    behind: Vec<Behind>,
    counters: Vec<Arc<[PortCounters]>>,
    queues: Vec<Assignment>,
}

enum Behind {
    Guest(Arc<PortRings>),
    Link(Arc<Link>),
}

impl Net {
    /// Guests are its first ports, in their order; then come links.
    pub fn new(guests: &[Guest], links: impl IntoIterator<Item = Link>) -> Self {
        let rings = guests
            .iter()
            .map(|guest| Behind::Guest(Arc::clone(&guest.rings)));
        let links = links.into_iter().map(|link| Behind::Link(Arc::new(link)));
        let behind: Vec<_> = rings.chain(links).collect();
        let ports = (0..behind.len()).map(|port| {
            let macs = vec![Mac::new(mac(port))];
            let config = PortConfig::local(Mode::Bridge, VlanConfig::Flat, macs);
            Some(crate::relay::Port::new(config, Arc::default()))
        });
        let fdb = Arc::new(Fdb::new(1024));
        let relay = Relay::new(RelayConfig::default(), ports.collect(), fdb).unwrap();
        let counters = || (0..2).map(|_| PortCounters::default()).collect();
        Self {
            relay: Arc::new(relay),
            counters: behind.iter().map(|_| counters()).collect(),
            queues: behind.iter().map(|_| Assignment::new(0)).collect(),
            behind,
        }
    }

    /// The world in which `worker` tells who serves which port.
    pub fn snapshot(&self, epoch: u64, worker: impl Fn(usize) -> usize) -> Snapshot {
        let slots = || (0..self.behind.len()).filter_map(Slot::new);
        let ports = self.behind.iter().zip(slots()).enumerate();
        let ports = ports.map(|(port, (behind, slot))| {
            Some(Arc::new(Port {
                name: port.to_string(),
                relay: 0,
                slot,
                counters: Arc::clone(&self.counters[port]),
                queues: vec![Assignment {
                    worker: worker(port),
                    ..self.queues[port].clone()
                }],
                attachment: match behind {
                    Behind::Guest(rings) => Attachment::Rings(Arc::clone(rings)),
                    Behind::Link(link) => Attachment::Link(Some(Arc::clone(link))),
                },
            }))
        });
        let view = RelayView {
            relay: Arc::clone(&self.relay),
            active: slots().collect(),
            ports: (0..self.behind.len())
                .map(|port| Some(PortId(port as u16)))
                .collect(),
            vlans: Arc::new([]),
        };
        Snapshot {
            epoch,
            ports: ports.collect(),
            relays: vec![Some(Arc::new(view))],
        }
    }

    /// Who serves the queue of a port now.
    pub fn worker(&self, port: usize) -> Option<usize> {
        self.queues[port].duty.worker()
    }

    /// What one worker has counted at a port.
    pub fn counted(&self, port: usize, worker: usize) -> Totals {
        self.counters[port][worker].snapshot()
    }

    /// Frames that were dropped on account of a port.
    pub fn drops(&self, port: usize, reason: DropReason) -> u64 {
        let counters = self.counters[port].iter();
        counters.map(|one| one.snapshot().dropped(reason)).sum()
    }
}
