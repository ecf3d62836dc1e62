//! Every interleaving of two writers of one RX ring and its guest, within bounds: the code of
//! `src/virtqueue/{lock,ledger,order}.rs` itself, with the model checker's types in the place of the standard
//! library's. Memory is the model's: a buffer or an element that two threads touch without an order between them is
//! found, and so is one that the guest sees before it is written.
//!
//! What the model is worth was tried out by mistakes made on purpose. It fails when the lock is taken or released with
//! `Relaxed`, or taken without a swap; when the ledger gives away a range that is not finished or not the oldest, or not
//! all that are; when a claim is withdrawn or shortened that is not the newest; when a position is not taken back; and when
//! a frame is put while there is a reservation.

#[path = "../src/virtqueue/ledger.rs"]
#[allow(dead_code)]
mod ledger;
#[path = "../src/virtqueue/lock.rs"]
#[allow(dead_code, unsafe_code)]
mod lock;
#[path = "../src/virtqueue/order.rs"]
#[allow(dead_code)]
mod order;
#[path = "../src/virtqueue/spot.rs"]
#[allow(dead_code)]
mod spot;

mod sync {
    pub use loom::cell::UnsafeCell;
    use loom::sync::atomic::AtomicBool as Checked;
    pub use loom::sync::atomic::Ordering;

    /// A swap that changes nothing is no store here. The checker would take it for one that may come after the
    /// holder's release, which a swap that has read an older value cannot, and let a waiter read it for ever.
    #[derive(Debug)]
    pub struct AtomicBool(Checked);

    impl AtomicBool {
        pub fn new(value: bool) -> AtomicBool {
            AtomicBool(Checked::new(value))
        }

        pub fn load(&self, order: Ordering) -> bool {
            self.0.load(order)
        }

        pub fn store(&self, value: bool, order: Ordering) {
            self.0.store(value, order);
        }

        pub fn swap(&self, value: bool, order: Ordering) -> bool {
            let changed = self
                .0
                .compare_exchange(!value, value, order, Ordering::Relaxed);
            changed.unwrap_or(value)
        }
    }

    /// The checker gets on with whoever holds the lock only when told to.
    pub struct Backoff;

    impl Backoff {
        pub fn new() -> Backoff {
            Backoff
        }

        #[allow(clippy::unused_self)]
        pub fn snooze(&self) {
            loom::thread::yield_now();
        }
    }
}

use lock::Lock;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU16, Ordering};
use loom::thread;
use order::{Claim, Order};
use spot::{Cursor, Spot};

/// Slots of the ring, and buffers, all of which the guest has posted in this order.
const SIZE: u16 = 4;

/// Where the ring begins: free-running indices wrap between the first and the last slot.
const START: u16 = u16::MAX;

/// What stands in a buffer that nobody wrote, and in one that was given up too late to be taken back.
const NOTHING: u32 = 0;
const ZEROS: u32 = 99;

/// A split ring as far as the order of its frames goes.
struct Ring {
    order: Lock<Order>,
    /// What the guest looks at.
    used_index: AtomicU16,
    /// The used elements: which buffer.
    elements: Vec<UnsafeCell<Option<usize>>>,
    buffers: Vec<UnsafeCell<u32>>,
    /// As `Progress::add` counts: without an atomic addition, by the holder of the lock.
    published: UnsafeCell<u16>,
}

/// A writer's hold on some buffers.
struct Reservation {
    claim: Claim,
    buffers: Vec<usize>,
}

fn advance(spot: Spot, slots: u16) -> Spot {
    Spot {
        index: spot.index.wrapping_add(slots),
        ..spot
    }
}

fn slot(index: u16) -> usize {
    usize::from(index % SIZE)
}

#[allow(unsafe_code)]
impl Ring {
    fn new() -> Ring {
        let start = Spot {
            index: START,
            wrap: true,
        };
        Ring {
            order: Lock::new(Order::new(start, start, SIZE)),
            used_index: AtomicU16::new(START),
            elements: (0..SIZE).map(|_| UnsafeCell::new(None)).collect(),
            buffers: (0..SIZE).map(|_| UnsafeCell::new(NOTHING)).collect(),
            published: UnsafeCell::new(0),
        }
    }

    /// As `RxRing::reserve` does.
    fn reserve(&self, slots: u16) -> Reservation {
        let mut order = self.order.lock();
        assert!(!order.is_full());
        let start = order.next.spot;
        order.next.spot = advance(start, slots);
        order.frontier = order.next.spot;
        Reservation {
            claim: order.claim(start, slots, advance),
            buffers: (0..slots)
                .map(|n| slot(start.index.wrapping_add(n)))
                .collect(),
        }
    }

    /// As `RxRing::copy` does, without a lock.
    fn write(&self, buffers: &[usize], frame: u32) {
        for &buffer in buffers {
            // SAFETY: this is the claim under test: no other writer and no guest is at this buffer.
            self.buffers[buffer].with_mut(|bytes| unsafe { *bytes = frame });
        }
    }

    /// As `RxRing::complete` does.
    fn complete(&self, held: &Reservation) {
        for (n, &buffer) in (0..).zip(&held.buffers) {
            let element = &self.elements[slot(held.claim.used.index.wrapping_add(n))];
            // SAFETY: this is the claim under test: no other writer and no guest is at this element.
            element.with_mut(|element| unsafe { *element = Some(buffer) });
        }
        let mut order = self.order.lock();
        let mut slots = 0;
        order.complete(&held.claim, |range| {
            // Only the holder of the lock writes it.
            let index = self.used_index.load(Ordering::Relaxed);
            assert_eq!(index, range.from.index, "not in the order of reservation");
            let next = advance(range.from, range.slots);
            self.used_index.store(next.index, Ordering::Release);
            slots += range.slots;
        });
        // SAFETY: this is the claim under test: the lock is held.
        self.published.with_mut(|sum| unsafe { *sum += slots });
    }

    /// As `RxRing::put` does; false, and nothing done, while somebody has a reservation.
    fn put(&self, frame: u32) -> bool {
        let mut order = self.order.lock();
        if !order.is_idle() {
            return false;
        }
        let (start, used) = (order.next, order.used);
        let buffer = slot(start.spot.index);
        self.write(&[buffer], frame);
        // SAFETY: this is the claim under test: no other writer and no guest is at this element.
        self.elements[slot(used.index)].with_mut(|element| unsafe { *element = Some(buffer) });
        let index = self.used_index.load(Ordering::Relaxed);
        assert_eq!(index, used.index, "not in the order of reservation");
        let next = advance(used, 1);
        self.used_index.store(next.index, Ordering::Release);
        let behind = Cursor {
            spot: advance(start.spot, 1),
            ..start
        };
        order.step_over(behind, next);
        // SAFETY: this is the claim under test: the lock is held.
        self.published.with_mut(|sum| unsafe { *sum += 1 });
        true
    }

    /// As `RxRing::cancel` does; whether the buffers were taken back.
    fn cancel(&self, held: &Reservation) -> bool {
        let withdrawn = self.order.lock().withdraw(&held.claim);
        if !withdrawn {
            self.write(&held.buffers, ZEROS);
            self.complete(held);
        }
        withdrawn
    }

    /// As `RxRing::shrink_last` does: only the first buffer was needed.
    fn shrink(&self, held: &mut Reservation) -> bool {
        let shortened = self.order.lock().shorten(&held.claim, 1, advance);
        if shortened {
            held.buffers.truncate(1);
        } else {
            self.write(&held.buffers[1..], ZEROS);
        }
        shortened
    }

    fn published(&self) -> u16 {
        // SAFETY: nobody writes any more.
        self.published.with(|sum| unsafe { *sum })
    }
}

/// The guest: takes what it has not seen yet.
struct Guest {
    seen: u16,
    frames: Vec<u32>,
}

impl Guest {
    #[allow(unsafe_code)]
    fn look(&mut self, ring: &Ring) {
        let index = ring.used_index.load(Ordering::Acquire);
        while self.seen != index {
            // SAFETY: this is the claim under test: whoever wrote the element is done.
            let buffer = ring.elements[slot(self.seen)].with(|element| unsafe { *element });
            // Buffers are used in the order in which they were posted.
            assert_eq!(buffer, Some(slot(self.seen)));
            // SAFETY: the same of the buffer.
            let frame = ring.buffers[slot(self.seen)].with(|bytes| unsafe { *bytes });
            assert_ne!(frame, NOTHING, "published before it was written");
            self.frames.push(frame);
            self.seen = self.seen.wrapping_add(1);
        }
    }
}

/// Two writers, numbered 0 and 1, and a guest that looks while they write and once more at the end. `expected` says
/// how many buffers have come with which frame, in any order. A writer returns how many buffers of zeros it has left.
fn check(
    writer: impl Fn(&Ring, u32) -> usize + Sync + Send + Copy + 'static,
    expected: &'static [u32],
    interruptions: usize,
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(interruptions);
    model.check(move || {
        let ring = Arc::new(Ring::new());
        let guest = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                let mut guest = Guest {
                    seen: START,
                    frames: Vec::new(),
                };
                guest.look(&ring);
                guest
            }
        });
        let other = thread::spawn({
            let ring = Arc::clone(&ring);
            move || writer(&ring, 1)
        });
        let zeros = writer(&ring, 0) + other.join().unwrap();
        let mut guest = guest.join().unwrap();
        guest.look(&ring);
        assert_eq!(usize::from(ring.published()), guest.frames.len());
        let mut wanted = vec![ZEROS; zeros];
        wanted.extend(expected);
        guest.frames.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(guest.frames, wanted);
    });
}

#[test]
fn frames_of_two_writers_come_whole_and_in_the_order_of_reservation() {
    let writer = |ring: &Ring, number: u32| {
        let held = ring.reserve(1);
        ring.write(&held.buffers, 10 + number);
        ring.complete(&held);
        0
    };
    check(writer, &[10, 11], 3);
}

#[test]
fn so_do_frames_of_several_buffers() {
    let writer = |ring: &Ring, number: u32| {
        let held = ring.reserve(1 + number as u16);
        ring.write(&held.buffers, 10 + number);
        ring.complete(&held);
        0
    };
    check(writer, &[10, 11, 11], 2);
}

#[test]
fn so_do_those_of_writers_that_come_again() {
    let writer = |ring: &Ring, number: u32| {
        for frame in [10, 20] {
            let held = ring.reserve(1);
            ring.write(&held.buffers, frame + number);
            ring.complete(&held);
        }
        0
    };
    check(writer, &[10, 11, 20, 21], 2);
}

#[test]
fn so_do_those_that_are_put_in_one_step() {
    let writer = |ring: &Ring, number: u32| {
        for frame in [10, 20] {
            // One of them begins with a reservation.
            if (number, frame) == (0, 10) || !ring.put(frame + number) {
                let held = ring.reserve(1);
                ring.write(&held.buffers, frame + number);
                ring.complete(&held);
            }
        }
        0
    };
    check(writer, &[10, 11, 20, 21], 2);
}

#[test]
fn and_those_that_are_put_where_a_reservation_was_taken_back() {
    let writer = |ring: &Ring, number: u32| {
        let mut zeros = 0;
        if number == 0 {
            let held = ring.reserve(1);
            ring.write(&held.buffers, 30);
            zeros = usize::from(!ring.cancel(&held));
        }
        if !ring.put(10 + number) {
            let held = ring.reserve(1);
            ring.write(&held.buffers, 10 + number);
            ring.complete(&held);
        }
        zeros
    };
    check(writer, &[10, 11], 3);
}

#[test]
fn a_reservation_is_taken_back_or_comes_as_zeros() {
    let writer = |ring: &Ring, number: u32| {
        let held = ring.reserve(1 + number as u16);
        ring.write(&held.buffers, 10 + number);
        if number == 0 {
            ring.complete(&held);
            return 0;
        }
        // What was written has to be over before somebody else gets the buffers.
        let zeros = if ring.cancel(&held) { 0 } else { 2 };
        let held = ring.reserve(1);
        ring.write(&held.buffers, 20 + number);
        ring.complete(&held);
        zeros
    };
    check(writer, &[10, 21], 2);
}

#[test]
fn so_is_the_rest_of_one_that_was_too_long() {
    let writer = |ring: &Ring, number: u32| {
        let mut held = ring.reserve(2);
        ring.write(&held.buffers, 10 + number);
        let zeros = usize::from(!ring.shrink(&mut held));
        ring.complete(&held);
        zeros
    };
    check(writer, &[10, 11], 2);
}
