//! What the machine takes to wake a thread: the part of `evb bench --tests wake` that no switch can avoid that sleeps.
//!
//! `cargo bench --bench wake`, on the first two CPUs that it may use. A thread sleeps in `epoll_wait` on one of them; after
//! each pause the other signals an eventfd, and polls a word in memory until the thread has seen it.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evb::sys::{cpu, eventfd};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// As in `evb bench`.
const PAUSE: Duration = Duration::from_millis(20);
const WAKES: u64 = 500;
/// Signals the end.
const END: u64 = u64::MAX;

fn main() {
    let allowed = cpu::allowed().expect("the kernel says where a thread may run");
    let Some([here, there]) = allowed.first_chunk().copied() else {
        println!("this needs two CPUs");
        return;
    };
    let wakes = if std::env::args().any(|arg| arg == "--bench") {
        WAKES
    } else {
        1
    };
    let event = EventFd::new(EFD_NONBLOCK).expect("a descriptor");
    let (asked, seen) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut times = thread::scope(|scope| {
        scope.spawn(|| {
            cpu::pin_current_thread(there).expect("it may run there");
            sleep_and_answer(&event, &asked, &seen);
        });
        cpu::pin_current_thread(here).expect("it may run here");
        let times: Vec<_> = (1..=wakes)
            .map(|number| {
                // Awake, as the guest there is.
                let rested = Instant::now() + PAUSE;
                while Instant::now() < rested {
                    std::hint::spin_loop();
                }
                asked.store(number, Ordering::Relaxed);
                let start = Instant::now();
                eventfd::signal(&event).expect("room in the counter");
                while seen.load(Ordering::Acquire) != number {
                    std::hint::spin_loop();
                }
                start.elapsed()
            })
            .collect();
        asked.store(END, Ordering::Relaxed);
        eventfd::signal(&event).expect("room in the counter");
        times
    });
    times.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| times[(times.len() - 1) * percent / 100]);
    println!(
        "a thread wakes after {:.1} µs (p50), {:.1} µs (p99)",
        p50.as_secs_f64() * 1e6,
        p99.as_secs_f64() * 1e6
    );
}

/// Shows the last number that was asked for whenever it is woken, until the end.
fn sleep_and_answer(event: &EventFd, asked: &AtomicU64, seen: &AtomicU64) {
    let epoll = Epoll::new().expect("a descriptor");
    let interest = EpollEvent::new(EventSet::IN, 0);
    epoll
        .ctl(ControlOperation::Add, event.as_raw_fd(), interest)
        .expect("an eventfd can be waited for");
    loop {
        epoll
            .wait(-1, &mut [EpollEvent::default()])
            .expect("nobody interrupts");
        event.read().expect("it was signalled");
        let number = asked.load(Ordering::Relaxed);
        if number == END {
            return;
        }
        seen.store(number, Ordering::Release);
    }
}
