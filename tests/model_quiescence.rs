//! Every interleaving of a publisher and workers, within bounds: the code of
//! `src/worker/quiescence.rs` itself, with the model checker's types in the place of the standard
//! library's.

#[path = "../src/worker/quiescence.rs"]
#[allow(dead_code, missing_docs)]
mod quiescence;

mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
    pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
}

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use quiescence::Quiescence;

/// A thing that the publisher takes away and then destroys: any read that comes later, or at the same
/// time, is found by the checker.
struct Memory(UnsafeCell<u32>);

type World = Option<Arc<Memory>>;

#[allow(unsafe_code)]
fn read(world: &World) {
    if let Some(memory) = world {
        // SAFETY: this is the claim under test: no destruction may run at the same time.
        memory.0.with(|value| assert_eq!(unsafe { *value }, 7));
    }
}

#[allow(unsafe_code)]
fn destroy(memory: &Memory) {
    // SAFETY: this is the claim under test: no reader may run at the same time.
    memory.0.with_mut(|value| unsafe { *value = 0 });
}

fn check(worker: impl Fn(&Quiescence<World>) + Sync + Send + Copy + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let memory = Arc::new(Memory(UnsafeCell::new(7)));
        let shared = Arc::new(Quiescence::new(Some(Arc::clone(&memory)), 1));
        let theirs = Arc::clone(&shared);
        let handle = thread::spawn(move || worker(&theirs));
        let number = shared.publish(None);
        shared.wait(number);
        destroy(&memory);
        handle.join().unwrap();
    });
}

#[test]
fn a_worker_that_wakes_sees_what_was_published_before() {
    check(|shared| {
        let (_, world) = shared.enter(0);
        read(&world);
        shared.leave(0);
    });
}

#[test]
fn a_worker_that_stays_awake_passes_at_its_next_turn() {
    check(|shared| {
        let (mut number, mut world) = shared.enter(0);
        for _ in 0..2 {
            if shared.newest() != number {
                (number, world) = shared.enter(0);
            }
            read(&world);
        }
        shared.leave(0);
    });
}

#[test]
fn sleeping_and_waking_again_is_safe() {
    check(|shared| {
        for _ in 0..2 {
            let (_, world) = shared.enter(0);
            read(&world);
            drop(world);
            shared.leave(0);
        }
    });
}
