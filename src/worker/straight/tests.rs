//! A datagram socket stands for the device: it is read in the same way.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use super::*;
use crate::relay::{Fdb, Mode, PortConfig, Relay, RelayConfig, Slot, VlanConfig};
use crate::stats::PortCounters;
use crate::virtqueue::ResumeAt;
use crate::virtqueue::driver::{DriverMemory, QueueOptions, RegionSpec, RxQueue};
use crate::worker::testing::{features, guest_memory, link, moment, ring_config};
use crate::worker::{Assignment, Attachment, RelayView};

const BUFFERS: u16 = 64;
const BUFFER: usize = 2048;

/// A passthrough relay between a socket and a guest.
struct Bench {
    wire: UnixDatagram,
    snapshot: Snapshot,
    ring: Arc<RxRing>,
    guest: RxQueue,
    memory: Arc<DriverMemory>,
    path: Path,
    sizes: Sizes,
    now_ns: u64,
}

impl Bench {
    fn new(accepts: Offloads) -> Self {
        let (wire, link) = link();
        let memory = DriverMemory::unsealed(&[RegionSpec {
            guest_addr: 0,
            size: 1 << 20,
        }])
        .unwrap();
        let options = QueueOptions {
            size: BUFFERS,
            buffers: BUFFERS,
            buffer_len: BUFFER as u32,
            ..QueueOptions::default()
        };
        let guest = RxQueue::new(&memory, &options, features()).unwrap();
        let config = ring_config(&memory, guest.layout());
        let start = ResumeAt::fresh(false);
        let ring = config.activate_rx(guest_memory(&memory), None, start);
        let ring = Arc::new(ring.unwrap());
        let local = PortConfig::local(Mode::Passthrough, VlanConfig::Flat, vec![]);
        let uplink = PortConfig::uplink(VlanConfig::Flat, false);
        let ports = [local, uplink]
            .map(|config| Some(crate::relay::Port::new(config, Arc::default())))
            .into();
        let fdb = Arc::new(Fdb::new(1024));
        let relay = Arc::new(Relay::new(RelayConfig::default(), ports, fdb).unwrap());
        let slots = || [0, 1].into_iter().filter_map(Slot::new);
        let port = |slot, attachment| {
            Some(Arc::new(Port {
                name: String::new(),
                relay: 0,
                slot,
                counters: Arc::new([PortCounters::default()]),
                queues: vec![Assignment::new(0)],
                attachment,
            }))
        };
        let rings = PortRings {
            rx: vec![Arc::clone(&ring)],
            accepts,
            ..PortRings::none(1)
        };
        let behind = [
            Attachment::Rings(Arc::new(rings)),
            Attachment::Link(Some(Arc::new(link))),
        ];
        let view = RelayView {
            relay,
            active: slots().collect(),
            ports: vec![Some(PortId(0)), Some(PortId(1))],
            vlans: Arc::new([]),
        };
        let ports = slots().zip(behind).map(|(slot, behind)| port(slot, behind));
        Self {
            wire,
            snapshot: Snapshot {
                epoch: 1,
                ports: ports.collect(),
                relays: vec![Some(Arc::new(view))],
            },
            ring,
            guest,
            memory,
            path: Path::default(),
            sizes: Sizes::default(),
            now_ns: 1,
        }
    }

    /// Buffers for the guest.
    fn refill(&mut self) {
        self.guest.refill();
        self.guest.kick().unwrap();
    }

    fn send(&self, header: &[u8; 12], frame: &[u8]) {
        self.wire.send(&[header, frame].concat()).unwrap();
    }

    /// A turn, straight where that is the way.
    fn turn(&mut self) -> Turn {
        let at = moment(self.now_ns, 1000);
        let (snapshot, sizes) = (&self.snapshot, &mut self.sizes);
        self.path.link_turn(snapshot, (PortId(1), 0), at, sizes)
    }

    /// The next frame of the guest, with its header.
    fn received(&mut self) -> Option<([u8; 12], Vec<u8>)> {
        let mut bytes = vec![];
        let header = self.guest.recv(&mut bytes).unwrap()?;
        Some((header, bytes))
    }

    fn drops(&self, port: usize, reason: DropReason) -> u64 {
        let port = self.snapshot.ports[port].as_ref().unwrap();
        port.counters[0].snapshot().dropped(reason)
    }

    /// Whether anything of a frame has come by the worker's buffer since the last time.
    fn copied(&mut self) -> bool {
        let used = self.path.spill.iter().any(|byte| *byte != 0);
        self.path.spill.fill(0);
        used
    }
}

/// A frame of bytes that are not zero.
fn frame(len: usize) -> Vec<u8> {
    let addresses = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xb5];
    let rest = (14..len).map(|i| 1 + (i % 251) as u8);
    addresses.into_iter().chain(rest).collect()
}

const PLAIN: [u8; 12] = [0; 12];

#[test]
fn frames_of_the_expected_size_come_straight_and_others_by_the_worker() {
    let mut bench = Bench::new(Offloads::NONE);
    bench.refill();
    // Nothing is expected at first; then a longer one comes; then those that fit.
    for (len, copied) in [
        (20_000, false),
        (20_000, false),
        (60_000, true),
        (61_000, false),
        (60, false),
        (128, false),
        (129, false),
        (62_000, false),
    ] {
        bench.send(&PLAIN, &frame(len));
        assert_eq!(bench.turn(), Turn::Busy);
        let (header, bytes) = bench.received().unwrap();
        assert!(bytes == frame(len), "{len}");
        let buffers = u16::from_le_bytes([header[10], header[11]]);
        assert_eq!(usize::from(buffers), (len + 12).div_ceil(BUFFER));
        assert_eq!(bench.copied(), copied, "{len}");
        bench.refill();
    }
    assert!(bench.sizes.are_large());
}

#[test]
fn a_read_that_finds_nothing_leaves_nothing() {
    let mut bench = Bench::new(Offloads::NONE);
    bench.refill();
    bench.send(&PLAIN, &frame(50_000));
    bench.turn();
    assert!(bench.received().is_some());
    bench.refill();
    let base = bench.ring.base();
    for _ in 0..100 {
        assert_eq!(bench.turn(), Turn::Idle);
    }
    assert_eq!(bench.ring.base(), base);
    // Neither do frames that are dropped.
    let mut pause = frame(5000);
    pause[12..14].copy_from_slice(&[0x88, 0x08]);
    bench.send(&PLAIN, &pause);
    bench.send(&[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], &frame(5000));
    bench.send(&PLAIN, &frame(14)[..13]);
    bench.wire.send(&[0; 5]).unwrap();
    assert_eq!(bench.turn(), Turn::Busy);
    assert_eq!(bench.ring.base(), base);
    assert_eq!(bench.received(), None);
    for reason in [
        DropReason::Pause,
        DropReason::BadChecksum,
        DropReason::Runt,
        DropReason::TooLong,
    ] {
        assert_eq!(bench.drops(1, reason), 1, "{reason:?}");
    }
}

#[test]
fn what_the_guest_cannot_take_is_repaired() {
    let mut bench = Bench::new(Offloads::NONE);
    bench.refill();
    bench.send(&PLAIN, &frame(50_000));
    bench.turn();
    assert!(bench.received().is_some());
    // UDP whose checksum is left out, in a frame that is not small.
    let mut bytes = frame(3000);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..34].copy_from_slice(&[
        0x45, 0, 0x0b, 0xaa, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    bytes[34..42].copy_from_slice(&[0, 1, 0, 2, 0x0b, 0x96, 0, 0]);
    bench.send(&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], &bytes);
    bench.turn();
    let (header, received) = bench.received().unwrap();
    assert_eq!(header[..10], [0; 10]);
    assert_ne!(received[40..42], [0, 0]);
    assert!(received[42..] == bytes[42..]);
}

#[test]
fn frames_wait_in_the_device_for_a_while() {
    let mut bench = Bench::new(Offloads::NONE);
    bench.refill();
    bench.send(&PLAIN, &frame(50_000));
    bench.turn();
    assert!(bench.received().is_some());
    // The guest gives no more than the 39 buffers that are left of 64.
    for _ in 0..4 {
        bench.send(&PLAIN, &frame(50_000));
    }
    assert_eq!(bench.turn(), Turn::Busy);
    assert!(bench.received().is_some());
    assert_eq!(bench.turn(), Turn::Busy);
    assert_eq!(bench.received(), None);
    bench.refill();
    assert_eq!(bench.turn(), Turn::Busy);
    assert!(bench.received().is_some() && bench.received().is_some());
    assert_eq!(bench.drops(0, DropReason::RingFull), 0);
    // It is patient only so long.
    assert_eq!(bench.turn(), Turn::Busy);
    assert_eq!(bench.drops(0, DropReason::RingFull), 0);
    bench.now_ns += 2000;
    assert_eq!(bench.turn(), Turn::Busy);
    assert_eq!(bench.received(), None);
    assert_eq!(bench.drops(0, DropReason::RingFull), 1);
    assert_eq!(bench.turn(), Turn::Idle);
}

#[test]
fn memory_that_is_gone_costs_the_guest_its_port() {
    let mut bench = Bench::new(Offloads::NONE);
    bench.refill();
    bench.send(&PLAIN, &frame(50_000));
    bench.turn();
    assert!(bench.received().is_some());
    let file: &File = bench.memory.regions()[0].file();
    file.set_len(0).unwrap();
    bench.send(&PLAIN, &frame(50_000));
    bench.turn();
    assert!(bench.path.failed.contains(&(PortId(0), Fault::Memory)));
}
