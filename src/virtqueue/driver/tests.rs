//! The driver against devices that share no code with it (`virtio-queue` for split rings, a plain model
//! of VIRTIO 1.2, 2.8 for packed ones) and against the other half of this room.

use std::sync::Arc;

use super::*;

mod memory;
mod own_device;
mod packed_device;
mod rings;
mod split_device;

const PACKED: u8 = 1;
const EVENT_IDX: u8 = 2;
const IN_ORDER: u8 = 4;
const MERGEABLE: u8 = 8;

/// One of the 16 combinations of the above.
fn features(bits: u8) -> DriverFeatures {
    DriverFeatures {
        indirect: true,
        event_idx: bits & EVENT_IDX != 0,
        in_order: bits & IN_ORDER != 0,
        packed: bits & PACKED != 0,
        mergeable: bits & MERGEABLE != 0,
        header_len: 12,
    }
}

fn memory() -> Arc<DriverMemory> {
    let mib = 1 << 20;
    DriverMemory::new(&[
        RegionSpec {
            guest_addr: 0,
            size: mib,
        },
        RegionSpec {
            guest_addr: mib,
            size: 3 * mib,
        },
        RegionSpec {
            guest_addr: 1 << 32,
            size: 4 * mib,
        },
    ])
    .unwrap()
}

fn header(seed: u8) -> HeaderBytes {
    std::array::from_fn(|i| seed.wrapping_add(i as u8))
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed))
        .collect()
}

/// What a test wants of a device, whatever the ring's format.
trait Device: Send {
    /// Takes every readable chain, in order, and completes them as `batched` says.
    fn take(&mut self, batched: bool) -> Vec<Vec<u8>>;
    /// Fills writable chains with `bytes`, as many as it takes; the header's `num_buffers` is set. False,
    /// and nothing taken, where the ring has too few.
    fn fill(&mut self, bytes: &[u8]) -> bool;
    /// Whether the driver wants to be called for what was completed since this was last asked.
    fn wants_call(&mut self) -> bool;
    /// Asks to be kicked at the next buffer, or not to be.
    fn want_kicks(&mut self, on: bool);
}

/// Which queue a device serves.
#[derive(Clone, Copy)]
enum Role {
    Tx,
    Rx,
}

/// One combination, and the device to try it with.
#[derive(Debug, Clone, Copy)]
struct Case {
    features: DriverFeatures,
    options: QueueOptions,
    own: bool,
}

impl Case {
    /// A transmit queue, and who serves it.
    fn tx(&self) -> (TxQueue, Box<dyn Device>) {
        let memory = memory();
        let queue = TxQueue::new(&memory, &self.options, self.features).unwrap();
        let device = self.device(&memory, queue.layout(), Role::Tx);
        (queue, device)
    }

    /// A receive queue, and who serves it.
    fn rx(&self) -> (RxQueue, Box<dyn Device>) {
        let memory = memory();
        let queue = RxQueue::new(&memory, &self.options, self.features).unwrap();
        let device = self.device(&memory, queue.layout(), Role::Rx);
        (queue, device)
    }

    fn device(
        &self,
        memory: &Arc<DriverMemory>,
        layout: RingLayout,
        role: Role,
    ) -> Box<dyn Device> {
        let features = self.features;
        if self.own {
            Box::new(own_device::OwnDevice::new(memory, layout, features, role))
        } else if features.packed {
            Box::new(packed_device::PackedDevice::new(memory, layout, features))
        } else {
            Box::new(split_device::SplitDevice::new(memory, layout, features))
        }
    }
}
