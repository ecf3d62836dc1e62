//! A hub made of the stock `vhost-user-backend`: what comes in at one port goes out at all others. It
//! shares nothing with the daemon, so a guest that works here and not there is not at fault.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::support::guest::{EVENT_IDX, INDIRECT, MRG_RXBUF, VERSION_1};

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The hub, serving until its guests have left.
pub struct Hub {
    dir: tempfile::TempDir,
    threads: Vec<JoinHandle<()>>,
}

impl Hub {
    /// A hub with this many ports.
    pub fn new(ports: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let all: Arc<Mutex<Vec<Weak<Port>>>> = Arc::default();
        let threads = (0..ports)
            .map(|i| {
                let memory = Memory::new(GuestMemoryMmap::new());
                let port = Arc::new(Port {
                    number: i,
                    memory: memory.clone(),
                    vrings: Mutex::new(Vec::new()),
                    all: Arc::clone(&all),
                });
                all.lock().unwrap().push(Arc::downgrade(&port));
                let mut listener = Listener::new(socket(dir.path(), i), true).unwrap();
                std::thread::spawn(move || {
                    let mut daemon = VhostUserDaemon::new(format!("hub{i}"), port, memory).unwrap();
                    daemon.start(&mut listener).unwrap();
                    // An error here is only that the guest has left.
                    let _ = daemon.wait();
                })
            })
            .collect();
        Self { dir, threads }
    }

    /// Socket of port `i`.
    pub fn path(&self, i: usize) -> PathBuf {
        socket(self.dir.path(), i)
    }

    /// Waits for the ports to end; every guest must have left.
    pub fn join(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn socket(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("hub{i}.sock"))
}

struct Port {
    number: usize,
    memory: Memory,
    vrings: Mutex<Vec<VringRwLock>>,
    all: Arc<Mutex<Vec<Weak<Port>>>>,
}

impl Port {
    fn take(&self, vring: &VringRwLock) {
        let memory = self.memory.memory();
        let mut frames = Vec::new();
        let mut vring = vring.get_mut();
        while let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) {
            let head = chain.head_index();
            let mut bytes = Vec::new();
            for d in chain {
                let at = bytes.len();
                bytes.resize(at + d.len() as usize, 0);
                memory.read_slice(&mut bytes[at..], d.addr()).unwrap();
            }
            frames.push((head, bytes));
        }
        drop(vring);
        for (head, bytes) in frames {
            // The copies are made before the sender may know, as in the daemon.
            self.send_to_others(&bytes);
            self.used(1, head, 0);
        }
    }

    fn used(&self, ring: usize, head: u16, len: u32) {
        let vring = self.vrings.lock().unwrap()[ring].clone();
        vring.add_used(head, len).unwrap();
        if vring.needs_notification().unwrap() {
            vring.signal_used_queue().unwrap();
        }
    }

    fn send_to_others(&self, bytes: &[u8]) {
        // A zero source is how a guest says hello; it goes nowhere.
        if bytes[12 + 6..12 + 12] == [0; 6] {
            return;
        }
        let others = self.all.lock().unwrap().clone();
        for port in others
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|p| p.number != self.number)
        {
            port.give(bytes);
        }
    }

    fn give(&self, bytes: &[u8]) {
        let Some(vring) = self.vrings.lock().unwrap().first().cloned() else {
            return;
        };
        let memory = self.memory.memory();
        let mut done = Vec::new();
        let mut left = bytes.to_vec();
        let mut first = None;
        while !left.is_empty() {
            let chain = vring
                .get_mut()
                .get_queue_mut()
                .pop_descriptor_chain(memory.clone());
            let Some(chain) = chain else {
                panic!("the hub's guest ran out of buffers")
            };
            let head = chain.head_index();
            let mut len = 0;
            for d in chain {
                first.get_or_insert(d.addr());
                let n = left.len().min(d.len() as usize);
                memory.write_slice(&left[..n], d.addr()).unwrap();
                left.drain(..n);
                len += n as u32;
            }
            done.push((head, len));
        }
        // Headers are not cut in these tests.
        let count = (done.len() as u16).to_le_bytes();
        memory
            .write_slice(&count, GuestAddress(first.unwrap().0 + 10))
            .unwrap();
        for (head, len) in done {
            self.used(0, head, len);
        }
    }
}

impl VhostUserBackend for Port {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        256
    }

    fn features(&self) -> u64 {
        evb::vhost_user::front_end::PROTOCOL_FEATURES | MRG_RXBUF | INDIRECT | EVENT_IDX | VERSION_1
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
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
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        *self.vrings.lock().unwrap() = vrings.to_vec();
        if ring != 1 {
            return Ok(());
        }
        loop {
            vrings[1].disable_notification().unwrap();
            self.take(&vrings[1]);
            if !vrings[1].enable_notification().unwrap() {
                return Ok(());
            }
        }
    }
}
