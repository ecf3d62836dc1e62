//! A port's guest: its front end, its memory and its queues, and what it sends and receives.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::{virtio_config, virtio_net, virtio_ring};

use super::clock::Clock;
use super::error::{BenchError, system};
use super::queues::{HEADER, Inbox, Receiver, Sender};
use crate::load::{Pacer, Rate, Stream};
use crate::sys::socket;
use crate::vhost_user::front_end::{FrontEnd, Options, Order, PROTOCOL_FEATURES, RingSetup};
use crate::virtqueue::driver::{
    DriverFeatures, DriverMemory, QueueOptions, RegionSpec, RingLayout, RxQueue, TxQueue, Wire,
};

/// Bytes of the buffers that a guest posts for frames of ordinary length, and for longer ones.
const BUFFER: u32 = 2048;
const LARGE_BUFFER: u32 = 4096;
/// Bytes that a sender has under way, at most.
const IN_FLIGHT: usize = 4 << 20;
/// How long a back end may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

const MRG_RXBUF: u64 = 1 << virtio_net::VIRTIO_NET_F_MRG_RXBUF;
const OFFLOADS: u64 = 1 << virtio_net::VIRTIO_NET_F_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO4;
const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;
const PACKED: u64 = 1 << virtio_config::VIRTIO_F_RING_PACKED;
const IN_ORDER: u64 = 1 << virtio_config::VIRTIO_F_IN_ORDER;
const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
const MQ: u64 = 1 << virtio_net::VIRTIO_NET_F_MQ;

/// What all stations of a measurement have in common.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a choice of its own
pub struct Make {
    /// Descriptors of a ring.
    pub ring_size: u16,
    /// Queue pairs.
    pub queues: u16,
    /// The rings are packed.
    pub packed: bool,
    /// Completion in order is acknowledged.
    pub in_order: bool,
    /// Segments of 64 KiB are sent and received.
    pub tso: bool,
    /// The longest frame.
    pub longest: usize,
    /// Frames carry the time at which they were sent.
    pub timed: bool,
    /// By which they tell it.
    pub clock: Clock,
    /// Some frames are checked to the last byte, which takes longer.
    pub sampled: bool,
}

impl Make {
    /// A silent guest.
    pub fn idle(clock: Clock) -> Self {
        Self {
            ring_size: 8,
            queues: 1,
            packed: false,
            in_order: false,
            tso: false,
            longest: 1514,
            timed: false,
            clock,
            sampled: false,
        }
    }

    /// Bytes of a buffer that is posted for frames to come.
    pub fn rx_buffer(&self) -> u32 {
        if self.longest + HEADER <= BUFFER as usize {
            BUFFER
        } else {
            LARGE_BUFFER
        }
    }

    fn rx(&self) -> QueueOptions {
        QueueOptions {
            size: self.ring_size,
            buffers: self.ring_size,
            buffer_len: self.rx_buffer(),
            ..QueueOptions::default()
        }
    }

    fn tx(&self) -> QueueOptions {
        let buffer_len = (self.longest + HEADER) as u32;
        let most = IN_FLIGHT / buffer_len as usize;
        QueueOptions {
            size: self.ring_size,
            buffers: self.ring_size.min(most.max(8) as u16),
            buffer_len,
            ..QueueOptions::default()
        }
    }

    /// Guest memory for all queues.
    fn memory(&self) -> Result<Arc<DriverMemory>, BenchError> {
        let buffers = |queue: QueueOptions| {
            u64::from(queue.buffers) * (u64::from(queue.buffer_len) + 128)
                + u64::from(queue.size) * 32
                + 4096
        };
        let size = u64::from(self.queues) * (buffers(self.rx()) + buffers(self.tx()));
        Ok(DriverMemory::new(&[RegionSpec {
            guest_addr: 0,
            size: size.next_multiple_of(1 << 12),
        }])?)
    }

    fn features(&self) -> u64 {
        let mut wanted = PROTOCOL_FEATURES | MRG_RXBUF | VERSION_1 | EVENT_IDX | MQ;
        for (on, feature) in [
            (self.tso, OFFLOADS),
            (self.packed, PACKED),
            (self.in_order, IN_ORDER),
        ] {
            wanted |= if on { feature } else { 0 };
        }
        wanted
    }
}

/// A guest.
pub struct Station {
    /// Transmit queues that have flows, and what they send.
    pub senders: Vec<Sender>,
    /// Receive queues.
    pub receivers: Vec<Receiver>,
    /// What became of the frames sent to it.
    pub inbox: Inbox,
    memory: Arc<DriverMemory>,
    /// Transmit queues without flows.
    spare: Vec<TxQueue>,
    link: Option<(PathBuf, FrontEnd)>,
}

impl Station {
    /// A guest at the back end that listens at `path`, which expects frames of stream `expects`.
    pub fn connect(
        path: &Path,
        make: &Make,
        streams: Vec<Stream>,
        expects: u16,
    ) -> Result<Self, BenchError> {
        let options = Options {
            order: Order::Qemu,
            features: make.features(),
            queue_pairs: make.queues,
            ..Options::default()
        };
        let mut front_end = connect(path, &options)?;
        let failed = |source| BenchError::FrontEnd {
            path: path.to_owned(),
            source,
        };
        front_end.negotiate().map_err(failed)?;
        offered(path, make, front_end.features(), front_end.queue_num())?;
        let features = DriverFeatures::from_bits(front_end.features());
        let mut station = Self::make(make, features, streams, expects)?;
        let mut setups = vec![];
        for (rx, tx) in station.receivers.iter().map(|r| &r.queue).zip(station.tx()) {
            setups.push(RingSetup::of_rx(rx, options.order));
            setups.push(RingSetup::of_tx(tx, options.order));
        }
        front_end.start(&station.memory, &setups).map_err(failed)?;
        // A question that has an answer: all before it has been dealt with.
        front_end.get_features().map_err(failed)?;
        station.link = Some((path.to_owned(), front_end));
        station.post()?;
        Ok(station)
    }

    /// A guest without a back end, for [`Station::wire`].
    pub fn alone(make: &Make, streams: Vec<Stream>, expects: u16) -> Result<Self, BenchError> {
        let make = Make {
            packed: false,
            ..*make
        };
        // A wire polls.
        let features = DriverFeatures::from_bits((MRG_RXBUF | VERSION_1) & !EVENT_IDX);
        let mut station = Self::make(&make, features, streams, expects)?;
        station.post()?;
        Ok(station)
    }

    /// A plain copy of what this one sends to the receive queues of another.
    pub fn wire(&self, to: &Self) -> Result<Vec<Wire>, BenchError> {
        let receivers = to.receivers.iter().map(|receiver| &receiver.queue);
        let pairs = self
            .tx()
            .map(TxQueue::layout)
            .zip(receivers.map(RxQueue::layout));
        let wire = |(tx, rx): (RingLayout, RingLayout)| {
            Ok(Wire::new((&self.memory, tx), (&to.memory, rx))?)
        };
        pairs.map(wire).collect()
    }

    fn make(
        make: &Make,
        features: DriverFeatures,
        streams: Vec<Stream>,
        expects: u16,
    ) -> Result<Self, BenchError> {
        let memory = make.memory()?;
        let (mut senders, mut spare, mut receivers) = (vec![], vec![], vec![]);
        let inbox = Inbox::new(make, &streams, expects);
        let mut streams = streams.into_iter();
        for _ in 0..make.queues {
            let tx = TxQueue::new(&memory, &make.tx(), features)?;
            match streams.next() {
                Some(stream) => senders.push(Sender::new(tx, stream, make.sampled)),
                None => spare.push(tx),
            }
            let rx = RxQueue::new(&memory, &make.rx(), features)?;
            receivers.push(Receiver::new(rx, make.ring_size));
        }
        Ok(Self {
            senders,
            receivers,
            inbox,
            memory,
            spare,
            link: None,
        })
    }

    /// Transmit queues in their order.
    fn tx(&self) -> impl Iterator<Item = &TxQueue> {
        let senders = self.senders.iter().map(|sender| &sender.queue);
        senders.chain(&self.spare)
    }

    /// A transmit queue that has no flows.
    pub fn spare_mut(&mut self) -> Option<&mut TxQueue> {
        self.spare.first_mut()
    }

    fn post(&mut self) -> Result<(), BenchError> {
        for receiver in &mut self.receivers {
            receiver.queue.refill();
            receiver.queue.kick().map_err(system("wake the back end"))?;
        }
        Ok(())
    }

    /// Takes frames from all receive queues, up to `most` each.
    #[inline]
    pub fn receive(&mut self, most: usize) -> Result<usize, BenchError> {
        let mut count = 0;
        for receiver in &mut self.receivers {
            count += receiver.poll(most, &mut self.inbox)?;
        }
        Ok(count)
    }

    /// Frames, and their bytes, that were sent.
    pub fn sent(&self) -> (u64, u64) {
        let sums = self
            .senders
            .iter()
            .map(|sender| (sender.frames, sender.bytes));
        sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Frames that the back end has not given back.
    pub fn outstanding(&mut self) -> Result<u64, BenchError> {
        let mut sum = 0;
        for sender in &mut self.senders {
            sender.queue.reclaim()?;
            sum += u64::from(sender.queue.outstanding());
        }
        Ok(sum)
    }

    /// Where it is connected, for messages.
    pub fn name(&self) -> String {
        match &self.link {
            Some((path, _)) => path.display().to_string(),
            None => "a copying thread".to_owned(),
        }
    }

    /// Notices that the back end has gone.
    pub fn check(&self) -> Result<(), BenchError> {
        let Some((path, front_end)) = &self.link else {
            return Ok(());
        };
        if socket::hung_up(front_end.stream().as_fd()) {
            return Err(BenchError::Closed(path.clone()));
        }
        Ok(())
    }

    /// The process of the back end, if it can be seen.
    pub fn back_end(&self) -> Option<u32> {
        let (_, front_end) = self.link.as_ref()?;
        socket::listener(front_end.stream().as_fd()).ok()
    }

    /// Sends at another rate from now on.
    pub fn set_rate(&mut self, rate: Rate) {
        let senders = self.senders.len() as u64;
        for sender in &mut self.senders {
            let share = rate.per_second().map(|all| (all / senders).max(1));
            sender.pacer = Pacer::new(share.map_or(rate, |share| rate.with(share)));
        }
    }

    /// Counts from zero.
    pub fn restart(&mut self) {
        self.inbox.restart();
        for sender in &mut self.senders {
            (sender.frames, sender.bytes) = (0, 0);
            (sender.turns, sender.full) = (0, 0);
        }
    }
}

/// Waits for somebody to listen.
fn connect(path: &Path, options: &Options) -> Result<FrontEnd, BenchError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match FrontEnd::connect(path, options.clone()) {
            Ok(front_end) => return Ok(front_end),
            Err(source)
                if Instant::now() < deadline
                    && !super::stop::wanted()
                    && matches!(
                        source.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(_) if super::stop::wanted() => return Err(BenchError::Interrupted),
            Err(source) => {
                let path = path.to_owned();
                return Err(BenchError::Connect { path, source });
            }
        }
    }
}

/// Whether the back end can do what is to be measured.
fn offered(path: &Path, make: &Make, features: u64, queues: Option<u64>) -> Result<(), BenchError> {
    let large = make.longest + HEADER > make.rx_buffer() as usize;
    let needed = [
        (
            true,
            VERSION_1,
            "VIRTIO_F_VERSION_1",
            "there is no way without",
        ),
        (
            make.packed,
            PACKED,
            "packed virtqueues (VIRTIO_F_RING_PACKED)",
            "leave `packed` out of --rings",
        ),
        (
            make.in_order,
            IN_ORDER,
            "VIRTIO_F_IN_ORDER",
            "leave --in-order out",
        ),
        (
            large,
            MRG_RXBUF,
            "mergeable buffers (VIRTIO_NET_F_MRG_RXBUF)",
            "leave sizes above 4084 and `tso` out",
        ),
        (
            make.tso,
            OFFLOADS,
            "TCP segmentation offload for IPv4",
            "leave `tso` out of --sizes",
        ),
    ];
    let missing = needed
        .into_iter()
        .find(|(wanted, bits, ..)| *wanted && features & bits != *bits);
    let (what, remedy) = match missing {
        Some((_, _, what, remedy)) => (what, remedy),
        None if make.queues > 1 && queues.unwrap_or(1) < make.queues.into() => {
            ("so many queue pairs", "say less for --queues")
        }
        None => return Ok(()),
    };
    Err(BenchError::NotOffered {
        path: path.to_owned(),
        what,
        remedy,
    })
}
