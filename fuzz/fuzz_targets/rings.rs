//! Any bytes as the memory of a guest, with a transmit and a receive ring in it.
#![no_main]

use std::sync::Arc;

use evb::virtqueue::driver::{DriverMemory, RegionSpec};
use evb::virtqueue::{
    GuestMemory, Region, ResumeAt, RingConfig, RingFeatures, RxBatch, TxBatch, read,
};
use libfuzzer_sys::fuzz_target;

const BASE: u64 = 0x10_0000;
/// Small, so that what a ring says often points into it.
const SIZE: u64 = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[kind, size, first], memory)) = bytes.split_first_chunk() else {
        return;
    };
    let spec = RegionSpec {
        guest_addr: BASE,
        size: SIZE,
    };
    let guest = DriverMemory::new(&[spec]).unwrap();
    guest
        .write(BASE, &memory[..memory.len().min(SIZE as usize)])
        .unwrap();
    let region = &guest.regions()[0];
    let mapped = GuestMemory::new(vec![Region {
        guest_addr: region.guest_addr(),
        size: region.size(),
        user_addr: region.user_addr(),
        offset: 0,
        file: region.file().try_clone().unwrap(),
    }]);
    let mapped = Arc::new(mapped.unwrap());
    let bit = |n: u8| kind >> n & 1 != 0;
    let packed = bit(0);
    let features = RingFeatures {
        packed,
        indirect: bit(1),
        event_idx: bit(2),
        in_order: bit(3),
        mergeable: bit(4),
        header_len: if bit(5) { 12 } else { 10 },
    };
    let user = region.user_addr();
    let config = RingConfig {
        // At most 64 descriptors of 16 bytes; split rings have a power of two.
        size: 1 << (size % 7),
        desc: user,
        avail: user + 1024,
        used: user + 2048,
        log_used: None,
        features,
        call: None,
        position: None,
    };
    let at = if packed && bit(6) {
        let position = u32::from(first & 0x3f) | u32::from(first >> 7) << 15;
        ResumeAt::Said(position << 16 | position)
    } else if packed {
        ResumeAt::fresh(true)
    } else {
        ResumeAt::Base(first.into())
    };
    if let Ok(ring) = config.activate_tx(Arc::clone(&mapped), None, at) {
        for _ in 0..4 {
            let mut batch = TxBatch::new();
            let mut guard = ring.lock();
            let Ok(taken) = guard.peek(&mut batch, 32) else {
                break;
            };
            for chain in 0..taken {
                let mut head = [0; 140];
                read(batch.segments(&batch.chains()[chain]), 0, &mut head);
                guard.finish(chain);
            }
            guard.publish();
        }
        let _ = ring.notify();
    }
    if let Ok(ring) = config.activate_rx(mapped, None, at) {
        let mut batch = RxBatch::new();
        if ring.reserve(&[60, 1526, 65_562], &mut batch).is_ok() {
            ring.complete(&mut batch);
        }
        let _ = ring.notify();
    }
});
