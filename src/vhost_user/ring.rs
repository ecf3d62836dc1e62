//! One vring as the front end describes it, from the first message to the running ring.
//!
//! Front ends send the pieces in different orders and repeat them on running rings, so each piece is
//! only stored; [`Vring::update`] makes of them what the pieces allow.

use std::sync::Arc;

use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::features::has;
use crate::virtqueue::{
    DirtyLog, GuestMemory, Positions, ResumeAt, RingConfig, RingError, RingFeatures, RxRing,
    TxRing, fresh_base,
};
use crate::worker::QueueProgress;

/// Where a ring lies, as SET_VRING_ADDR says it: addresses of the front end's own mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    /// Guest address under which writes to the used ring are logged, if they are.
    pub log_used: Option<u64>,
}

/// How the guest announces new descriptors.
#[derive(Clone, Debug, Default)]
pub enum Kick {
    /// Not said yet: the ring is stopped.
    #[default]
    Stopped,
    /// Not at all: the ring has to be looked at.
    Polled,
    /// By this descriptor.
    Event(Arc<EventFd>),
}

/// The ring object in use.
#[derive(Clone, Debug)]
pub enum Running {
    /// A ring that the guest receives from.
    Rx(Arc<RxRing>),
    /// A ring that the guest sends to.
    Tx(Arc<TxRing>, Arc<QueueProgress>),
}

/// What all rings of a device share.
pub struct Device {
    pub features: u64,
    pub memory: Option<Arc<GuestMemory>>,
    pub log: Option<Arc<DirtyLog>>,
    /// Of packed rings; there once the driver has accepted them.
    pub positions: Option<Arc<Positions>>,
}

impl Device {
    /// Whether the driver's rings are packed.
    pub fn packed(&self) -> bool {
        has(self.features, VIRTIO_F_RING_PACKED)
    }
}

/// The state of one vring.
#[derive(Debug, Default)]
pub struct Vring {
    pub size: Option<u16>,
    pub addresses: Option<Addresses>,
    /// Where a stopped ring stands: at the end of its last run, or what the front end set.
    pub base: Option<u32>,
    pub kick: Kick,
    pub call: Option<Arc<EventFd>>,
    pub error: Option<Arc<EventFd>>,
    pub enabled: bool,
    pub running: Option<Running>,
    /// It would run, but nobody knows where it stands.
    pub lost: bool,
}

impl Vring {
    /// Starts the ring if all it needs is there, or gives a running one the newest settings.
    ///
    /// `index` tells the direction: even rings are what the guest receives from (VIRTIO 1.2, 5.1.2).
    pub fn update(&mut self, index: usize, device: &Device) -> Result<(), RingError> {
        let (Some(size), Some(at), Some(memory)) = (self.size, self.addresses, &device.memory)
        else {
            return Ok(());
        };
        if matches!(self.kick, Kick::Stopped) || self.lost {
            return Ok(());
        }
        let config = RingConfig {
            size,
            desc: at.desc,
            avail: at.avail,
            used: at.used,
            log_used: at.log_used,
            features: ring_features(device.features),
            call: self.call.clone(),
            position: device.positions.as_ref().map(|all| all.ring(index)),
        };
        let memory = Arc::clone(memory);
        let log = device.log.clone();
        let running = match &self.running {
            Some(Running::Rx(ring)) => {
                Running::Rx(Arc::new(ring.reconfigure(&config, memory, log)?))
            }
            Some(Running::Tx(ring, flood)) => Running::Tx(
                Arc::new(ring.reconfigure(&config, memory, log)?),
                Arc::clone(flood),
            ),
            None => {
                let started = self.start(index, &config, memory, log);
                self.lost = matches!(started, Err(RingError::PositionLost));
                started?
            }
        };
        self.running = Some(running);
        Ok(())
    }

    fn start(
        &self,
        index: usize,
        config: &RingConfig,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
    ) -> Result<Running, RingError> {
        // The base that the front end sends may be wrong after a reconnect or a migration
        // (cloud-hypervisor sends the avail index): what the ring itself says is right. A packed ring says nothing.
        let at = if config.features.packed {
            ResumeAt::Said(self.base.unwrap_or(fresh_base(true)))
        } else {
            ResumeAt::UsedIndex
        };
        Ok(if index.is_multiple_of(2) {
            Running::Rx(Arc::new(config.activate_rx(memory, log, at)?))
        } else {
            Running::Tx(
                Arc::new(config.activate_tx(memory, log, at)?),
                Arc::default(),
            )
        })
    }

    /// Whether it has been started and not stopped.
    pub fn is_live(&self) -> bool {
        self.running.is_some() || self.lost
    }

    /// Takes the ring out of use; it keeps its index and its place.
    pub fn stop(&mut self) {
        match self.running.take() {
            Some(Running::Rx(ring)) => self.base = Some(ring.base()),
            Some(Running::Tx(ring, _)) => self.base = Some(ring.base()),
            None => {}
        }
        self.kick = Kick::Stopped;
        self.lost = false;
    }
}

fn ring_features(features: u64) -> RingFeatures {
    RingFeatures {
        packed: has(features, VIRTIO_F_RING_PACKED),
        indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
        event_idx: has(features, VIRTIO_RING_F_EVENT_IDX),
        in_order: has(features, VIRTIO_F_IN_ORDER),
        mergeable: has(features, VIRTIO_NET_F_MRG_RXBUF),
        header_len: header_len(features),
    }
}

/// Bytes of the virtio-net header: 12 with `num_buffers`, 10 without (VIRTIO 1.2, 5.1.6.1).
pub fn header_len(features: u64) -> usize {
    if has(features, VIRTIO_F_VERSION_1) || has(features, VIRTIO_NET_F_MRG_RXBUF) {
        12
    } else {
        10
    }
}
