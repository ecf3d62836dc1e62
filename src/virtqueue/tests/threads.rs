//! Several writers on one RX ring, and a guest that checks every byte.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::packed_guest::PackedGuest;
use super::*;
use crate::virtqueue::{Gather, Grant, RxBatch, Start};

const WRITERS: u8 = 4;
const FRAMES: u32 = 3000;
const BUFFERS: u16 = 64;
const BUFFER: u32 = 512;
/// A header of a frame in one buffer.
const ONE_BUFFER: [u8; 12] = [
    0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 1, 0,
];

/// A small generator, so that every run is the same as far as threads allow.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % limit
    }
}

/// The body of a frame: writer, sequence number, length, then a pattern of these.
fn body(writer: u8, sequence: u32, len: usize) -> Vec<u8> {
    let mut out = vec![writer];
    out.extend(sequence.to_le_bytes());
    out.extend((len as u16).to_le_bytes());
    out.extend((out.len()..len).map(|i| (i as u8) ^ writer ^ (sequence as u8).wrapping_mul(37)));
    out
}

fn write_frames(ring: &RxRing, writer: u8, stop: &AtomicBool) {
    let mut random = Random(0x1234_5678 + u64::from(writer));
    let mut sequence = 0;
    let mut batch = RxBatch::new();
    while sequence < FRAMES && !stop.load(Ordering::Relaxed) {
        if random.below(3) == 0 {
            // One in one step, if nobody else is at it.
            let body = body(writer, sequence, 20 + random.below(100) as usize);
            if ring.put(&Start::new(&ONE_BUFFER, &body), || ()) {
                ring.notify().unwrap();
                sequence += 1;
            }
            continue;
        }
        let count = random.below(6).min(FRAMES - sequence - 1) as usize + 1;
        let bodies: Vec<_> = (0..count as u32)
            .map(|i| body(writer, sequence + i, 20 + random.below(1800) as usize))
            .collect();
        let wants: Vec<u32> = bodies.iter().map(|b| b.len() as u32 + 12).collect();
        let granted = ring.reserve(&wants, &mut batch).unwrap().granted;
        if granted == 0 {
            thread::yield_now();
            continue;
        }
        if random.below(10) == 0 {
            // Nothing of this burst was sent: it comes again.
            ring.cancel(&mut batch);
            continue;
        }
        for (grant, body) in batch.grants().zip(&bodies) {
            let Grant::Buffers { buffers, segments } = grant else {
                panic!("{grant:?}");
            };
            let mut header = [0xee; 12];
            header[10..].copy_from_slice(&buffers.to_le_bytes());
            let frame = Gather {
                header: &header,
                head: body,
                rest: &[],
                rest_skip: 0,
                rest_len: 0,
            };
            assert_eq!(ring.copy(segments, &frame), body.len() + 12);
        }
        if random.below(4) == 0 {
            // Others overtake.
            thread::yield_now();
        }
        ring.complete(&mut batch);
        ring.notify().unwrap();
        sequence += granted as u32;
    }
}

/// The guest's side of a ring of either format.
trait Posting {
    /// Id and length of the next used buffer.
    fn pop(&mut self) -> Option<(u16, u32)>;
    fn post_again(&mut self, id: u16);
    fn guest(&self) -> &Guest;
}

struct SplitSide {
    guest: Guest,
    last_used: u16,
}

impl Posting for SplitSide {
    fn pop(&mut self) -> Option<(u16, u32)> {
        if self.guest.used_idx() == self.last_used {
            return None;
        }
        let (id, len) = self.guest.used(self.last_used);
        self.last_used = self.last_used.wrapping_add(1);
        Some((u16::try_from(id).unwrap(), len))
    }

    fn post_again(&mut self, id: u16) {
        self.guest.post(id);
    }

    fn guest(&self) -> &Guest {
        &self.guest
    }
}

fn buffer_at(id: u16) -> u64 {
    DATA + u64::from(id) * u64::from(BUFFER)
}

impl Posting for PackedGuest {
    fn pop(&mut self) -> Option<(u16, u32)> {
        self.pop_used().map(|used| (used.id, used.len))
    }

    fn post_again(&mut self, id: u16) {
        self.post(id, &[(buffer_at(id), BUFFER, WRITE)]);
    }

    fn guest(&self) -> &Guest {
        &self.guest
    }
}

/// Takes what arrives and posts the buffers again.
struct Receiver<'p, P> {
    side: &'p mut P,
}

impl<P: Posting> Receiver<'_, P> {
    fn next(&mut self) -> Vec<u8> {
        let (id, len) = loop {
            match self.side.pop() {
                Some(used) => break used,
                None => thread::yield_now(),
            }
        };
        assert!(id < BUFFERS && len <= BUFFER);
        let bytes = self.side.guest().bytes(buffer_at(id), len as usize);
        self.side
            .guest()
            .fill(buffer_at(id), &[0xaa; BUFFER as usize]);
        self.side.post_again(id);
        bytes
    }

    /// A whole frame without its header; empty for one of zeros.
    fn frame(&mut self) -> Vec<u8> {
        let mut bytes = self.next();
        let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
        let zeros = bytes[0] == 0;
        assert_eq!(&bytes[..10], if zeros { &[0; 10] } else { &[0xee; 10] });
        for _ in 1..buffers {
            assert_eq!(bytes.len() % BUFFER as usize, 0, "full until the last");
            bytes.extend(self.next());
        }
        if zeros {
            assert_eq!(buffers, 1);
            assert!(bytes[12..].iter().all(|&b| b == 0));
            return Vec::new();
        }
        bytes.split_off(12)
    }
}

/// Lets the writers loose on `ring` until `side` has received everything.
fn run<P: Posting>(ring: &RxRing, side: &mut P) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let stop = &stop;
            scope.spawn(move || write_frames(ring, writer, stop));
        }
        // If a check fails here, the writers must not wait for buffers for ever.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut expected = [0; WRITERS as usize];
            let mut receiver = Receiver { side };
            while expected != [FRAMES; WRITERS as usize] {
                let frame = receiver.frame();
                if frame.is_empty() {
                    continue;
                }
                let writer = frame[0];
                let sequence = &mut expected[usize::from(writer)];
                assert!(frame == body(writer, *sequence, frame.len()));
                assert_eq!(&frame[5..7], (frame.len() as u16).to_le_bytes());
                *sequence += 1;
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn several_writers_lose_and_mix_nothing() {
    for in_order in [false, true] {
        let mut guest = Guest::with(BUFFERS, |f| {
            f.event_idx = true;
            f.in_order = in_order;
        })
        .start_at(65000);
        guest.fill(DATA, &vec![0xaa; usize::from(BUFFERS) * BUFFER as usize]);
        guest.post_receive_buffers(BUFFERS, BUFFER);
        let ring = guest.rx();
        let mut side = SplitSide {
            guest,
            last_used: 65000,
        };
        run(&ring, &mut side);
        // Nothing is reserved any more, and all buffers are posted or were given back.
        assert_eq!(ring.base(), u32::from(side.guest.used_idx()));
    }
}

#[test]
fn several_writers_on_a_packed_ring() {
    // Not a power of two, so that bursts meet the end of the ring at every place.
    let mut side = PackedGuest::new(BUFFERS - 3, |f| f.event_idx = true);
    side.guest
        .fill(DATA, &vec![0xaa; usize::from(BUFFERS) * BUFFER as usize]);
    for id in 0..BUFFERS - 3 {
        side.post_again(id);
    }
    let ring = side.rx();
    run(&ring, &mut side);
    let base = ring.base();
    assert_eq!(base as u16, (base >> 16) as u16);
    assert_eq!(base as u16, side.used_position());
}
