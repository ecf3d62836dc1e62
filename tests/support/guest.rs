//! A guest: a front end and the driver of its queues.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evb::vhost_user::front_end::{
    FrontEnd, FrontEndError, FrontEndListener, Options, Order, PROTOCOL_FEATURES, RingSetup,
};
use evb::virtqueue::driver::{
    DriverFeatures, DriverMemory, HeaderBytes, QueueOptions, RegionSpec, RxQueue, SendError,
    TxQueue,
};

use super::frames::{mac, marker, marker_nonce};
use super::{LIMIT, eth, eventually};

/// `VIRTIO_NET_F_MRG_RXBUF`
pub const MRG_RXBUF: u64 = 1 << 15;
/// `VIRTIO_NET_F_MQ`
pub const MQ: u64 = 1 << 22;
/// `VIRTIO_F_INDIRECT_DESC`
pub const INDIRECT: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`
pub const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_RING_PACKED`
pub const RING_PACKED: u64 = 1 << 34;
/// `VIRTIO_F_IN_ORDER`
pub const IN_ORDER: u64 = 1 << 35;

/// A modern guest on a split ring that wants no offloads.
pub const MODERN: u64 =
    PROTOCOL_FEATURES | MRG_RXBUF | MQ | INDIRECT | EVENT_IDX | VERSION_1 | IN_ORDER;
/// What iPXE or `SeaBIOS` acknowledge: nothing that concerns a driver.
pub const FIRMWARE: u64 = PROTOCOL_FEATURES;

/// How a guest is made.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// The front end's side: order, features, queue pairs.
    pub front_end: Options,
    /// The queues.
    pub queue: QueueOptions,
    /// Memory regions.
    pub regions: Vec<RegionSpec>,
    /// Rings have a call descriptor; without, the guest polls.
    pub call: bool,
}

impl Default for GuestOptions {
    fn default() -> Self {
        let region = |guest_addr, size| RegionSpec { guest_addr, size };
        Self {
            front_end: Options {
                features: MODERN,
                timeout: LIMIT,
                ..Options::default()
            },
            queue: QueueOptions {
                size: 128,
                buffers: 128,
                ..QueueOptions::default()
            },
            // As a q35 machine has it: some memory low, some above 4 GiB.
            regions: vec![region(0, 4 << 20), region(1 << 32, 8 << 20)],
            call: true,
        }
    }
}

impl GuestOptions {
    /// The default, speaking in this order.
    pub fn order(order: Order) -> Self {
        let mut options = Self::default();
        options.front_end.order = order;
        options
    }

    /// With these features wanted.
    pub fn features(mut self, features: u64) -> Self {
        self.front_end.features = features;
        self
    }

    /// With this many queue pairs.
    pub fn pairs(mut self, pairs: u16) -> Self {
        self.front_end.queue_pairs = pairs;
        self
    }
}

/// A frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Number of the receive queue.
    pub queue: usize,
    /// virtio-net header.
    pub header: HeaderBytes,
    /// The frame proper.
    pub bytes: Vec<u8>,
}

/// A guest, its memory, its queues and its front end.
pub struct Guest {
    /// Its address.
    pub mac: [u8; 6],
    /// VID with which its markers are tagged.
    pub marker_vid: Option<u16>,
    /// The connection.
    pub front_end: FrontEnd,
    /// Its memory.
    pub memory: Arc<DriverMemory>,
    /// Receive queues, one per pair.
    pub rx: Vec<RxQueue>,
    /// Transmit queues, one per pair.
    pub tx: Vec<TxQueue>,
    options: GuestOptions,
    /// Where the monitor takes the rings to stand: where they were stopped, or started.
    bases: Option<Vec<u32>>,
}

/// Connects, waiting for the socket to be listened on.
pub fn connect(path: &Path, options: &Options) -> FrontEnd {
    eventually(
        &format!("connect to {}", path.display()),
        || match FrontEnd::connect(path, options.clone()) {
            Ok(front_end) => Some(front_end),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                None
            }
            Err(e) => panic!("{}: {e}", path.display()),
        },
    )
}

impl Guest {
    /// Connects to a listening daemon and starts.
    pub fn connect(path: &Path, number: u16, options: GuestOptions) -> Self {
        let front_end = connect(path, &options.front_end);
        Self::with(front_end, number, options)
    }

    /// Waits for the daemon to connect and starts.
    pub fn accept(listener: &FrontEndListener, number: u16, options: GuestOptions) -> Self {
        let front_end = listener.accept(options.front_end.clone()).unwrap();
        Self::with(front_end, number, options)
    }

    fn with(front_end: FrontEnd, number: u16, options: GuestOptions) -> Self {
        let mut guest = Self::cold(front_end, number, options);
        guest.start().unwrap();
        guest
    }

    /// Negotiates and makes queues, and starts nothing.
    pub fn cold(mut front_end: FrontEnd, number: u16, options: GuestOptions) -> Self {
        front_end.negotiate().unwrap();
        let memory = DriverMemory::new(&options.regions).unwrap();
        let (rx, tx) = queues(&memory, &front_end, &options);
        Self {
            mac: mac(number),
            marker_vid: None,
            front_end,
            memory,
            rx,
            tx,
            options,
            bases: None,
        }
    }

    /// Starts the rings as they are, and returns when the daemon serves them.
    pub fn start(&mut self) -> Result<(), FrontEndError> {
        self.start_with_buffers(&vec![true; self.rx.len()])
    }

    /// The same, with buffers in some of the receive queues only.
    pub fn start_with_buffers(&mut self, which: &[bool]) -> Result<(), FrontEndError> {
        self.launch()?;
        for (rx, _) in self.rx.iter_mut().zip(which).filter(|(_, fill)| **fill) {
            rx.refill();
            rx.kick().unwrap();
        }
        self.hello();
        Ok(())
    }

    /// Starts the rings and does nothing with them; they may not be served.
    pub fn launch(&mut self) -> Result<(), FrontEndError> {
        let mut setups = Vec::new();
        let order = self.front_end.options().order;
        for (rx, tx) in self.rx.iter().zip(&self.tx) {
            setups.extend([RingSetup::of_rx(rx, order), RingSetup::of_tx(tx, order)]);
        }
        // A monitor starts a ring where it was stopped. One that was not, cloud-hypervisor takes from the avail
        // index and QEMU from the used index, which a packed ring has not: it says what it said before.
        let packed = self.front_end.features() & RING_PACKED != 0;
        if let Some(bases) = self.bases.take().filter(|_| packed || order == Order::Qemu) {
            for (setup, base) in setups.iter_mut().zip(bases) {
                setup.base = base;
            }
        }
        let said = setups.iter().map(|setup| setup.base).collect();
        self.bases = Some(said).filter(|_| packed);
        if !self.options.call {
            for setup in &mut setups {
                setup.call = None;
            }
        }
        self.front_end.start(&self.memory, &setups)?;
        // A question that has an answer: all before it has been dealt with.
        self.front_end.get_features()?;
        Ok(())
    }

    /// The same, with all rings said to stand at `base`.
    pub fn launch_at(&mut self, base: u32) -> Result<(), FrontEndError> {
        self.bases = Some(vec![base; 2 * self.rx.len()]);
        self.launch()
    }

    /// Sends a frame that the daemon must drop, with a zero source, and waits for it to be used: then
    /// the rings are served, and nobody has seen or learnt anything.
    fn hello(&mut self) {
        for queue in 0..self.tx.len() {
            self.send_on(queue, &eth([0x02; 6], [0; 6]).bytes());
        }
    }

    /// Sends a frame and waits until the daemon is done with it.
    pub fn send(&mut self, frame: &[u8]) {
        self.send_on(0, frame);
    }

    /// The same on a queue of one's choice.
    pub fn send_on(&mut self, queue: usize, frame: &[u8]) {
        self.send_with_header(queue, &[0; 12], frame);
    }

    /// The same with a virtio-net header of one's choice.
    pub fn send_with_header(&mut self, queue: usize, header: &HeaderBytes, frame: &[u8]) {
        self.post(queue, header, frame);
        self.tx[queue].kick().unwrap();
        self.drain(queue);
    }

    /// Sends many frames at once, without waiting for the last.
    pub fn send_burst<'a>(&mut self, queue: usize, frames: impl IntoIterator<Item = &'a [u8]>) {
        for frame in frames {
            self.post(queue, &[0; 12], frame);
        }
        self.tx[queue].kick().unwrap();
    }

    /// Puts a frame into a queue, and tells the daemon only if the queue is full.
    pub fn post(&mut self, queue: usize, header: &HeaderBytes, frame: &[u8]) {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.tx[queue].send(header, frame) {
                Ok(()) => return,
                Err(SendError::Full) => {
                    self.tx[queue].kick().unwrap();
                    self.tx[queue].wait(Duration::from_secs(1)).unwrap();
                }
                Err(e) => panic!("{e}"),
            }
            assert!(Instant::now() < deadline, "the transmit queue stays full");
        }
    }

    /// Waits until the daemon has used all that was sent.
    pub fn drain(&mut self, queue: usize) {
        assert!(
            self.try_drain(queue, LIMIT),
            "the daemon does not use what was sent"
        );
    }

    /// The same with a limit; false when it is over.
    pub fn try_drain(&mut self, queue: usize, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let tx = &mut self.tx[queue];
        loop {
            tx.reclaim().unwrap();
            if tx.outstanding() == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Without a call descriptor there is nothing to wait for, so look again soon.
            let step = if self.options.call {
                left
            } else {
                Duration::from_micros(100)
            };
            tx.wait(step).unwrap();
        }
    }

    /// Receives the next frame from any queue, markers included; buffers are posted again at once.
    pub fn recv_any(&mut self, timeout: Duration) -> Option<Frame> {
        let deadline = Instant::now() + timeout;
        let mut bytes = Vec::new();
        loop {
            for (queue, rx) in self.rx.iter_mut().enumerate() {
                if let Some(header) = rx.recv(&mut bytes).unwrap() {
                    rx.refill();
                    rx.kick().unwrap();
                    return Some(Frame {
                        queue,
                        header,
                        bytes,
                    });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            // With several queues, or without a call descriptor, look at each in turn.
            let one = self.rx.len() == 1 && self.options.call;
            let step = if one {
                left
            } else {
                left.min(Duration::from_micros(200))
            };
            self.rx[0].wait(step).unwrap();
        }
    }

    /// Receives the next frame that is not a marker.
    pub fn recv(&mut self, timeout: Duration) -> Option<Frame> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.recv_any(left)?;
            if marker_nonce(&frame.bytes).is_none() {
                return Some(frame);
            }
        }
    }

    /// The next frame must be this one.
    pub fn expect_frame(&mut self, bytes: &[u8]) -> Frame {
        let frame = self
            .recv(LIMIT)
            .unwrap_or_else(|| panic!("nothing came, expected {}", hex(bytes)));
        assert_eq!(hex(&frame.bytes), hex(bytes));
        frame
    }

    /// Nothing but markers may have arrived: see [`silence`].
    pub fn expect_silence(&mut self, probe: &mut Guest) {
        silence(probe, &mut [self]);
    }

    /// Broadcasts a marker and returns its number.
    pub fn mark(&mut self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
        let frame = marker(self.mac, self.marker_vid, nonce);
        self.send(&frame);
        nonce
    }

    /// Everything that arrived before marker `nonce`, other markers left out.
    pub fn until(&mut self, nonce: u64) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.recv_any(LIMIT).expect("the marker never came");
            match marker_nonce(&frame.bytes) {
                Some(n) if n == nonce => return frames,
                Some(_) => {}
                None => frames.push(frame),
            }
        }
    }

    /// The frames that have arrived by now, in the sense of [`silence`].
    pub fn recv_now(&mut self, probe: &mut Guest) -> Vec<Vec<u8>> {
        let nonce = probe.mark();
        self.until(nonce).into_iter().map(|f| f.bytes).collect()
    }

    /// Stops all rings, as a monitor does when the guest resets; returns the bases.
    pub fn stop(&mut self) -> Vec<u32> {
        let rings = 2 * self.rx.len() as u32;
        let bases: Vec<_> = (0..rings)
            .map(|ring| self.front_end.stop_ring(ring).unwrap())
            .collect();
        self.bases = Some(bases.clone());
        bases
    }

    /// Another driver takes over on the same connection: rings stop, and start anew with other features.
    pub fn reboot(&mut self, features: u64) {
        self.stop();
        self.front_end.want(features);
        let (rx, tx) = queues(&self.memory, &self.front_end, &self.options);
        (self.rx, self.tx, self.bases) = (rx, tx, None);
        self.start().unwrap();
    }

    /// Another driver takes over while there is no connection, and lays out its rings where they were.
    pub fn reset(&mut self) {
        (self.rx, self.tx, self.bases) = (Vec::new(), Vec::new(), None);
        (self.rx, self.tx) = queues(&self.memory, &self.front_end, &self.options);
    }

    /// Queues in another memory, instead of those that it has; nothing may have been started.
    pub fn rebuild(&mut self, memory: &Arc<DriverMemory>) {
        let (rx, tx) = queues(memory, &self.front_end, &self.options);
        (self.rx, self.tx, self.memory) = (rx, tx, Arc::clone(memory));
    }

    /// Carries on over another connection, with memory and rings as they are.
    pub fn resume(&mut self, front_end: FrontEnd) {
        self.adopt(front_end);
        self.start().unwrap();
    }

    /// Carries on like that over another connection to a back end that listens.
    pub fn reconnect(&mut self, path: &Path) {
        let resumed = self.resumed();
        self.resume(connect(path, &resumed));
    }

    /// Ends the connection without a word.
    pub fn hang_up(&self) {
        let both = std::net::Shutdown::Both;
        self.front_end.stream().shutdown(both).unwrap();
    }

    /// Says what there is to say over another connection, and starts nothing.
    pub fn adopt(&mut self, front_end: FrontEnd) {
        if self.front_end.features() & RING_PACKED == 0 {
            self.bases = None;
        }
        self.front_end = front_end;
        self.front_end.negotiate().unwrap();
    }

    /// Options for a connection that follows the present one.
    pub fn resumed(&self) -> Options {
        Options {
            resumed: true,
            protocol_features: self.front_end.protocol_features(),
            ..self.options.front_end.clone()
        }
    }
}

fn queues(
    memory: &Arc<DriverMemory>,
    front_end: &FrontEnd,
    options: &GuestOptions,
) -> (Vec<RxQueue>, Vec<TxQueue>) {
    let features = DriverFeatures::from_bits(front_end.features());
    let pairs = options.front_end.queue_pairs;
    let rx = (0..pairs)
        .map(|_| RxQueue::new(memory, &options.queue, features).unwrap())
        .collect();
    let tx = (0..pairs)
        .map(|_| TxQueue::new(memory, &options.queue, features).unwrap())
        .collect();
    (rx, tx)
}

/// Frames cross both ways.
pub fn talk(a: &mut Guest, b: &mut Guest, number: u32) {
    let there = eth(b.mac, a.mac).number(number).bytes();
    a.send(&there);
    b.expect_frame(&there);
    let back = eth(a.mac, b.mac).number(!number).bytes();
    b.send(&back);
    a.expect_frame(&back);
}

/// Asserts that none of `quiet` got a frame from whatever was sent before.
///
/// A sender returns only when the daemon has used its frame, so every copy has its place in the receive
/// rings by then, and rings are published in the order of those places. A marker that `probe` broadcasts
/// now therefore arrives behind all of them: what comes first is the answer, and no time has to pass.
/// The probe must reach every one of `quiet` by broadcast, and have one queue pair, as they have.
pub fn silence(probe: &mut Guest, quiet: &mut [&mut Guest]) {
    let nonce = probe.mark();
    for guest in quiet {
        let frames = guest.until(nonce);
        let shown: Vec<_> = frames.iter().map(|f| hex(&f.bytes)).collect();
        assert!(frames.is_empty(), "expected silence, got {shown:#?}");
    }
}

/// Bytes as hexadecimal digits, which a failed comparison shows better than a list of numbers.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}
