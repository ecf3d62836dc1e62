//! A wire between two guests, made of the stock `vhost-user-backend` and `virtio-queue`: a peer of the side-by-side
//! run. `stock SOCKET SOCKET` listens at both, again and again.
//!
//! It does what these crates let one do for speed: a burst is taken under one lock, bytes go from guest to guest in
//! one copy, and a burst has one notification for each ring. When the thread of a port sleeps is up to the crates.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{AvailIter, DescriptorChain, QueueOwnedT};
use vm_memory::{
    Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Failure = Box<dyn Error>;

/// The rings of a port: what the guest receives, and what it sends.
const RX: usize = 0;
const TX: usize = 1;
/// Frames of a burst.
const BURST: usize = 32;
/// Where `num_buffers` is in the virtio-net header.
const NUM_BUFFERS: usize = 10;

/// Where each guest receives, for as long as it is there.
type Receivers = Arc<[Mutex<Option<(VringMutex, Memory)>>; 2]>;

/// One end of the wire.
struct Port {
    number: usize,
    memory: Memory,
    receivers: Receivers,
}

fn main() -> Result<(), Failure> {
    let sockets: Vec<_> = std::env::args().skip(1).collect();
    if sockets.len() != 2 {
        return Err("usage: stock SOCKET SOCKET".into());
    }
    let receivers = Receivers::default();
    std::thread::scope(|scope| {
        for (number, socket) in sockets.iter().enumerate() {
            let receivers = &receivers;
            scope.spawn(move || {
                loop {
                    if let Err(error) = serve(number, socket, receivers) {
                        eprintln!("{socket}: {error}");
                    }
                }
            });
        }
    });
    Ok(())
}

/// Serves one guest until it leaves.
fn serve(
    number: usize,
    socket: &str,
    receivers: &Receivers,
) -> Result<(), vhost_user_backend::Error> {
    let memory = Memory::new(GuestMemoryMmap::new());
    let port = Arc::new(Port {
        number,
        memory: memory.clone(),
        receivers: Arc::clone(receivers),
    });
    let result = VhostUserDaemon::new("wire".to_owned(), port, memory)?.serve(socket);
    *lock(&receivers[number]) = None;
    result
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    /// Moves what the guest has sent to the other one.
    fn forward(&self, tx: &VringMutex) -> Result<(), Failure> {
        let other = lock(&self.receivers[1 - self.number]).clone();
        let memory = self.memory.memory();
        let mut burst = Vec::with_capacity(BURST);
        loop {
            let mut state = tx.get_mut();
            let chains = state.get_queue_mut().iter(&*memory)?;
            burst.extend(chains.take(BURST));
            if burst.is_empty() {
                return Ok(());
            }
            // The other guest may be about to leave; what is sent to it then is lost.
            if let Some((rx, memory)) = &other
                && let Err(error) = deliver(&burst, rx, &memory.memory())
            {
                eprintln!("to port {}: {error}", 1 - self.number);
            }
            for chain in burst.drain(..) {
                state.add_used(chain.head_index(), 0)?;
            }
            if state.needs_notification()? {
                state.signal_used_queue()?;
            }
        }
    }
}

/// Puts a burst into the ring of a guest. Frames for which it has no room are lost.
fn deliver(
    burst: &[DescriptorChain<&GuestMemoryMmap>],
    rx: &VringMutex,
    memory: &GuestMemoryMmap,
) -> Result<(), Failure> {
    let mut state = rx.get_mut();
    let mut room = Room {
        memory,
        buffers: state.get_queue_mut().iter(memory)?,
        open: None,
        used: Vec::with_capacity(burst.len()),
    };
    for frame in burst {
        room.put(frame)?;
    }
    for (head, len) in room.used {
        state.add_used(head, len)?;
    }
    if state.needs_notification()? {
        state.signal_used_queue()?;
    }
    Ok(())
}

/// The buffers of a guest.
struct Room<'q, 'm> {
    memory: &'m GuestMemoryMmap,
    buffers: AvailIter<'q, &'m GuestMemoryMmap>,
    /// The one that is being filled.
    open: Option<DescriptorChain<&'m GuestMemoryMmap>>,
    /// Those that hold something, each with its bytes.
    used: Vec<(u16, u32)>,
}

impl<'m> Room<'_, 'm> {
    /// Copies a frame, or nothing if it does not fit.
    fn put(&mut self, frame: &DescriptorChain<&GuestMemoryMmap>) -> Result<(), Failure> {
        let before = self.used.len();
        let memory = frame.memory();
        let (mut first, mut place) = (None, None::<VolatileSlice<'m>>);
        self.open = None;
        // Cloned, as the chain is taken apart.
        for piece in frame.clone() {
            let mut left = memory.get_slice(piece.addr(), piece.len() as usize)?;
            while !left.is_empty() {
                let Some(to) = place.filter(|place| !place.is_empty()) else {
                    place = self.next()?;
                    if place.is_none() {
                        for _ in self.used.drain(before..) {
                            self.buffers.go_to_previous_position();
                        }
                        return Ok(());
                    }
                    first = first.or(place);
                    continue;
                };
                left.copy_to_volatile_slice(to);
                let count = left.len().min(to.len());
                left = left.offset(count)?;
                place = Some(to.offset(count)?);
                if let Some((_, len)) = self.used.last_mut() {
                    *len += count as u32;
                }
            }
        }
        if let Some(header) = first {
            let buffers = (self.used.len() - before) as u16;
            header.write_obj(buffers.to_le(), NUM_BUFFERS)?;
        }
        Ok(())
    }

    /// The next piece of the guest's memory.
    fn next(&mut self) -> Result<Option<VolatileSlice<'m>>, Failure> {
        loop {
            if let Some(piece) = self.open.as_mut().and_then(Iterator::next) {
                let slice = self.memory.get_slice(piece.addr(), piece.len() as usize)?;
                return Ok(Some(slice));
            }
            let Some(chain) = self.buffers.next() else {
                return Ok(None);
            };
            self.used.push((chain.head_index(), 0));
            self.open = Some(chain);
        }
    }
}

impl VhostUserBackend for Port {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        let bits = [
            VIRTIO_F_VERSION_1,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
        ];
        let offered = bits.iter().fold(0, |all, bit| all | 1 << bit);
        offered | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &self,
        ring: u16,
        _events: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        lock(&self.receivers[self.number])
            .get_or_insert_with(|| (vrings[RX].clone(), self.memory.clone()));
        if usize::from(ring) != TX {
            return Ok(());
        }
        loop {
            let tx = &vrings[TX];
            tx.disable_notification().map_err(io::Error::other)?;
            let result = self.forward(tx);
            let more = tx.enable_notification().map_err(io::Error::other)?;
            if let Err(error) = &result {
                eprintln!("port {}: {error}", self.number);
            }
            if result.is_err() || !more {
                return Ok(());
            }
        }
    }
}
