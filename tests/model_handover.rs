//! Every interleaving of two workers between which a queue moves, within bounds: the code of
//! `src/worker/handover.rs` itself, with the model checker's types in the place of the standard library's.

#[path = "../src/worker/handover.rs"]
#[allow(dead_code, missing_docs)]
mod handover;

mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering};
}

use handover::Handover;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// What wakes a worker: an eventfd in epoll. Whoever is woken sees what was written before.
struct Wake(Mutex<bool>, Condvar);

impl Wake {
    fn new() -> Wake {
        Wake(Mutex::new(false), Condvar::new())
    }

    fn wake(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn sleep(&self) {
        let mut woken = self.0.lock().unwrap();
        while !*woken {
            woken = self.1.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// Two workers, and a queue that only the one may touch that has taken it.
struct Pool {
    /// The worker of the queue in the newest snapshot; [`LAST`] more in the last one.
    newest: AtomicUsize,
    handover: Handover,
    queue: UnsafeCell<u32>,
    wakes: [Wake; 2],
}

const LAST: usize = 2;

impl Pool {
    fn publish(&self, newest: usize) {
        self.newest.store(newest, Ordering::Release);
        self.wakes.iter().for_each(Wake::wake);
    }

    #[allow(unsafe_code)]
    fn serve(&self) {
        // SAFETY: this is the claim under test: no other worker is here at the same time.
        self.queue.with_mut(|served| unsafe { *served += 1 });
    }

    /// What `worker/thread.rs` does with the queue, until it is where the last snapshot wants it.
    fn run(&self, worker: usize) {
        let mut held = false;
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let mine = newest % LAST == worker;
            if held && !mine {
                self.serve();
                self.handover.leave();
                held = false;
                self.wakes.iter().for_each(Wake::wake);
            }
            if mine && !held && self.handover.take(worker) {
                held = true;
                self.serve();
            }
            if newest >= LAST && held == mine {
                return;
            }
            // A wake that is lost leaves a worker here for ever, which the checker finds.
            self.wakes[worker].sleep();
        }
    }
}

/// A queue that is worker 0's goes to the workers in `moves`, one after the other. Threads are interrupted
/// `interruptions` times.
fn check(moves: &'static [usize], interruptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(interruptions);
    model.check(move || {
        let pool = Arc::new(Pool {
            newest: AtomicUsize::new(0),
            handover: Handover::new(),
            queue: UnsafeCell::new(0),
            wakes: [Wake::new(), Wake::new()],
        });
        let workers = [0, 1].map(|worker| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.run(worker))
        });
        let (last, before) = moves.split_last().unwrap();
        before.iter().for_each(|worker| pool.publish(*worker));
        pool.publish(last + LAST);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(pool.handover.holder(), Some(*last));
    });
}

#[test]
fn a_queue_that_moves_has_one_worker_at_a_time_and_is_not_forgotten() {
    check(&[1], 3);
}

#[test]
fn nor_is_one_that_comes_back() {
    check(&[1, 0], 2);
}

#[test]
fn nor_is_one_that_moves_on_before_the_move_is_done() {
    check(&[1, 0, 1], 1);
}
