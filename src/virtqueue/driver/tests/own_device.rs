//! The device side of this room, so that both halves are seen to mean the same thing.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Device, DriverFeatures, DriverMemory, RingLayout, Role};
use crate::virtqueue::{
    Gather, Grant, GuestMemory, ResumeAt, RingConfig, RxBatch, RxRing, TxBatch, TxRing, read,
};

pub enum OwnDevice {
    Tx(TxRing),
    Rx(RxRing),
}

impl OwnDevice {
    pub fn new(
        memory: &Arc<DriverMemory>,
        layout: RingLayout,
        features: DriverFeatures,
        role: Role,
    ) -> Self {
        let config = RingConfig {
            call: Some(Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())),
            ..RingConfig::of_driver(memory, layout, features).unwrap()
        };
        let guest = GuestMemory::of_driver(memory).unwrap();
        let at = ResumeAt::fresh(features.packed);
        match role {
            Role::Tx => Self::Tx(config.activate_tx(guest, None, at).unwrap()),
            Role::Rx => Self::Rx(config.activate_rx(guest, None, at).unwrap()),
        }
    }

    fn tx(&self) -> &TxRing {
        let Self::Tx(ring) = self else {
            panic!("a receive ring")
        };
        ring
    }

    fn rx(&self) -> &RxRing {
        let Self::Rx(ring) = self else {
            panic!("a transmit ring")
        };
        ring
    }
}

impl Device for OwnDevice {
    fn take(&mut self, batched: bool) -> Vec<Vec<u8>> {
        let mut guard = self.tx().lock();
        let mut frames = Vec::new();
        loop {
            let mut batch = TxBatch::new();
            let most = if batched { 64 } else { 1 };
            if guard.peek(&mut batch, most).unwrap() == 0 {
                return frames;
            }
            for (i, chain) in batch.chains().iter().enumerate() {
                let mut bytes = vec![0; chain.len as usize];
                assert_eq!(read(batch.segments(chain), 0, &mut bytes), bytes.len());
                frames.push(bytes);
                guard.finish(i);
            }
            guard.publish();
        }
    }

    fn fill(&mut self, bytes: &[u8]) -> bool {
        let ring = self.rx();
        let mut batch = RxBatch::new();
        ring.reserve(&[bytes.len() as u32], &mut batch).unwrap();
        let Some(Grant::Buffers { buffers, segments }) = batch.grants().next() else {
            return false;
        };
        let mut header = [0; 12];
        header.copy_from_slice(&bytes[..12]);
        header[10..].copy_from_slice(&buffers.to_le_bytes());
        let (head, none) = (&bytes[12..], [].as_slice());
        let frame = Gather {
            header: &header,
            head,
            rest: none,
            rest_skip: 0,
            rest_len: 0,
        };
        assert_eq!(ring.copy(segments, &frame), bytes.len());
        ring.complete(&mut batch);
        true
    }

    fn wants_call(&mut self) -> bool {
        match self {
            Self::Tx(ring) => ring.notify().unwrap(),
            Self::Rx(ring) => ring.notify().unwrap(),
        }
    }

    fn want_kicks(&mut self, on: bool) {
        let mut guard = self.tx().lock();
        if on {
            guard.enable_kicks().unwrap();
        } else {
            guard.disable_kicks();
        }
    }
}
