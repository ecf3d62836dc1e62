//! A worker between guests, all on one thread: guests put a burst into their rings, the worker has its pass, guests
//! take what came out.
// Each program uses a part of it.
#![allow(dead_code)]

use std::sync::Arc;

use evb::frame::offloads::Offloads;
use evb::relay::{Fdb, Port as RelayPort, PortConfig, Relay, RelayConfig, Slot};
use evb::stats::{PortCounters, VlanCounters};
use evb::virtqueue::driver::{
    DriverFeatures, DriverMemory, Layout, QueueOptions, RxQueue, TxQueue as GuestTx,
};
use evb::virtqueue::{GuestMemory, ResumeAt, RingConfig};
use evb::worker::{
    Assignment, Attachment, Manual, Port, PortId, PortRings, RelayView, Snapshot, TxQueue,
};
use vmm_sys_util::eventfd::EventFd;

use crate::frames::{BROADCAST, Frame, mac};

/// VERSION_1, MRG_RXBUF, INDIRECT_DESC and EVENT_IDX, as a Linux guest has them.
const SPLIT: u64 = 1 << 32 | 1 << 15 | 1 << 28 | 1 << 29;
/// The same with RING_PACKED.
const PACKED: u64 = SPLIT | 1 << 34;

/// The formats of a ring: name and features.
pub const FORMATS: [(&str, u64); 2] = [("split", SPLIT), ("packed", PACKED)];

/// Ports and what happens between them.
pub struct Scene {
    /// The settings of the relay.
    pub relay: RelayConfig,
    /// Its ports, each with a guest.
    pub ports: Vec<PortConfig>,
    /// What the guests take without repair.
    pub accepts: Offloads,
    /// Who has tags, and of which VLAN.
    pub tagged: Option<(usize, u16)>,
    /// Who sends.
    pub sender: usize,
    /// What, in one burst.
    pub burst: Vec<Frame>,
    /// How frames lie in the sender's memory: in parts, with an indirect table, if not in one.
    pub layout: Layout,
    /// Who receives, and how many frames of a burst.
    pub received: Vec<(usize, usize)>,
}

/// A scene that goes on.
pub struct Stage {
    worker: Manual,
    guests: Vec<Guest>,
    relay: Arc<Relay>,
    sender: usize,
    /// What the sender sends each time.
    pub burst: Vec<Frame>,
    expected: Vec<usize>,
    scratch: Vec<u8>,
}

impl Stage {
    /// Starts the scene with rings of these features. Every address is known.
    pub fn new(scene: Scene, features: u64) -> Self {
        let features = DriverFeatures::from_bits(features);
        let longest = scene.burst.iter().map(|frame| frame.bytes.len()).max();
        let largest = longest.unwrap_or_default().max(1514) as u32 + 12;
        let count = scene.ports.len();
        let guest = |_| Guest::new(features, largest, scene.layout, scene.accepts);
        let guests: Vec<_> = (0..count).map(guest).collect();
        let worker = Manual::new(100_000, |event| panic!("{event:?}")).expect("descriptors");
        let snapshot = snapshot(scene.relay, scene.ports, &guests, &vec![0; count]);
        let view = snapshot.relays[0].as_ref().expect("one relay");
        let relay = Arc::clone(&view.relay);
        worker.publish(snapshot);
        let mut expected = vec![0; count];
        let tagged = scene.tagged;
        for (guest, frames) in scene.received {
            expected[guest] = frames;
        }
        let mut stage = Self {
            worker,
            guests,
            relay,
            sender: scene.sender,
            burst: scene.burst,
            expected,
            scratch: vec![0; 12 + 65_550],
        };
        for number in 0..count {
            let hello = Frame::plain(BROADCAST, mac(number as u8), 60);
            let tag = tagged.filter(|(guest, _)| *guest == number);
            let hello = match tag {
                Some((_, vid)) => hello.tagged(vid),
                None => hello,
            };
            stage.guests[number].send(&[hello]);
            stage.worker.pass();
            stage.collect();
        }
        stage
    }

    /// The sender puts its burst into the ring.
    pub fn send(&mut self) -> usize {
        self.guests[self.sender].send(&self.burst);
        self.burst.len()
    }

    /// What the relay has learned.
    pub fn fdb(&self) -> &Fdb {
        self.relay.fdb()
    }

    /// The worker, for one pass.
    pub fn worker(&mut self) -> &mut Manual {
        &mut self.worker
    }

    /// The guests take what came.
    ///
    /// # Panics
    ///
    /// If it is not what the scene expects.
    pub fn receive(&mut self) {
        let received = self.collect();
        assert_eq!(received, self.expected, "frames of each guest");
    }

    fn collect(&mut self) -> Vec<usize> {
        let scratch = &mut self.scratch;
        let guests = self.guests.iter_mut();
        guests.map(|guest| guest.collect(scratch)).collect()
    }
}

/// A guest with one pair of queues.
pub struct Guest {
    tx: GuestTx,
    rx: RxQueue,
    /// The device's side of its rings.
    pub rings: Arc<PortRings>,
}

impl Guest {
    /// A guest that sends frames of at most `largest` bytes, header included, and receives into 256 buffers of 2 KiB.
    pub fn new(features: DriverFeatures, largest: u32, layout: Layout, accepts: Offloads) -> Self {
        let memory = DriverMemory::with_mib(32).expect("memory");
        let options = QueueOptions::default();
        let sent = QueueOptions {
            buffers: 64,
            buffer_len: largest,
            layout,
            indirect: layout != Layout::Contiguous,
            ..options
        };
        let tx = GuestTx::new(&memory, &sent, features).expect("a queue");
        let mut rx = RxQueue::new(&memory, &options, features).expect("a queue");
        rx.disable_calls();
        rx.refill();
        rx.kick().expect("a kick");
        let mapped = GuestMemory::of_driver(&memory).expect("memory");
        let config = |layout, call: &EventFd| RingConfig {
            call: Some(Arc::new(call.try_clone().expect("a descriptor"))),
            ..RingConfig::of_driver(&memory, layout, features).expect("a ring")
        };
        let at = ResumeAt::fresh(features.packed);
        let tx_ring = config(tx.layout(), tx.call_fd());
        let tx_ring = tx_ring.activate_tx(Arc::clone(&mapped), None, at);
        let rx_ring = config(rx.layout(), rx.call_fd()).activate_rx(mapped, None, at);
        let queue = TxQueue::new(
            0,
            Arc::new(tx_ring.expect("a ring that works")),
            Some(Arc::new(tx.kick_fd().try_clone().expect("a descriptor"))),
            None,
            Arc::default(),
        );
        let rings = PortRings {
            rx: vec![Arc::new(rx_ring.expect("a ring that works"))],
            tx: vec![queue],
            header_len: features.header_len.into(),
            accepts,
            ..PortRings::none(1)
        };
        let rings = Arc::new(rings);
        Self { tx, rx, rings }
    }

    /// Puts frames into its ring.
    pub fn send(&mut self, frames: &[Frame]) {
        for Frame { header, bytes } in frames {
            self.tx.send(header, bytes).expect("room for a burst");
        }
        self.tx.kick().expect("a kick");
    }

    /// How many frames it could send now.
    pub fn room(&mut self) -> usize {
        self.tx.reclaim().expect("a ring that works");
        self.tx.vacant()
    }

    /// Takes everything back and gives it to the device again; returns how many frames there were.
    pub fn collect(&mut self, scratch: &mut [u8]) -> usize {
        self.tx.reclaim().expect("a ring that works");
        let mut frames = 0;
        while let Some(len) = self.rx.recv_into(scratch).expect("a ring that works") {
            assert!(len <= scratch.len());
            frames += 1;
        }
        self.rx.refill();
        self.rx.kick().expect("a kick");
        frames
    }
}

/// One relay with a port for each guest, and the number of the worker that serves the port.
pub fn snapshot(
    relay: RelayConfig,
    ports: Vec<PortConfig>,
    guests: &[Guest],
    serves: &[usize],
) -> Snapshot {
    let slots: Vec<_> = (0..ports.len()).filter_map(Slot::new).collect();
    let workers = 1 + serves.iter().max().copied().unwrap_or_default();
    let fdb = Arc::new(Fdb::new(relay.max_entries));
    let ports = ports.into_iter();
    let in_relay = ports.map(|config| Some(RelayPort::new(config, Arc::default())));
    let relay = Relay::new(relay, in_relay.collect(), fdb);
    let view = RelayView {
        relay: Arc::new(relay.expect("the settings do not contradict each other")),
        active: slots.iter().copied().collect(),
        ports: (0..slots.len() as u16).map(|n| Some(PortId(n))).collect(),
        vlans: (0..workers).map(|_| VlanCounters::default()).collect(),
    };
    let port = |((&slot, guest), &worker): ((&Slot, &Guest), &usize)| {
        Some(Arc::new(Port {
            name: format!("guest {}", slot.index()),
            relay: 0,
            slot,
            counters: (0..workers).map(|_| PortCounters::default()).collect(),
            queues: vec![Assignment::new(worker)],
            attachment: Attachment::Rings(Arc::clone(&guest.rings)),
        }))
    };
    Snapshot {
        epoch: 1,
        ports: slots.iter().zip(guests).zip(serves).map(port).collect(),
        relays: vec![Some(Arc::new(view))],
    }
}
