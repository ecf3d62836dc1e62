//! The queues of a port that frames come from, as the daemon keeps them: which worker each has, and how much work it is.

use super::balance::Load;
use crate::worker::Assignment;

/// Measurements for which a queue stays where it has just come.
const REST: u8 = 5;

/// One queue.
#[derive(Debug)]
struct Queue {
    assignment: Assignment,
    meter: Meter,
    /// Its load, smoothed.
    busy: u32,
    /// Measurements until it may move again.
    rest: u8,
}

/// The queues of one port, by the number of the queue pair.
#[derive(Debug)]
pub struct Queues {
    list: Vec<Queue>,
    /// The worker that the configuration wants for all of them.
    pinned: Option<usize>,
}

impl Queues {
    /// One for each of `workers`.
    pub fn new(workers: impl Iterator<Item = usize>) -> Self {
        let list = workers.map(|worker| Queue {
            assignment: Assignment::new(worker),
            meter: Meter::default(),
            busy: 0,
            rest: 0,
        });
        Self {
            list: list.collect(),
            pinned: None,
        }
    }

    /// Adds one for each of `workers`.
    pub fn extend(&mut self, workers: impl Iterator<Item = usize>) {
        let workers = workers.map(|worker| self.pinned.unwrap_or(worker));
        self.list.append(&mut Self::new(workers).list);
    }

    /// The worker of each.
    pub fn workers(&self) -> impl Iterator<Item = usize> {
        self.list.iter().map(|queue| queue.assignment.worker)
    }

    /// What workers are told.
    pub fn assignments(&self) -> Vec<Assignment> {
        let each = self.list.iter();
        each.map(|queue| queue.assignment.clone()).collect()
    }

    /// Gives all queues to one worker for good, or sets them free; whether one has moved.
    pub fn pin(&mut self, worker: Option<usize>) -> bool {
        self.pinned = worker;
        let mut moved = false;
        for (queue, worker) in self.list.iter_mut().zip(worker.into_iter().cycle()) {
            moved |= std::mem::replace(&mut queue.assignment.worker, worker) != worker;
        }
        moved
    }

    /// Gives a queue to another worker.
    pub fn assign(&mut self, index: usize, worker: usize) {
        if let Some(queue) = self.list.get_mut(index) {
            queue.assignment.worker = worker;
            queue.rest = REST;
        }
    }

    /// Measures the loads of `elapsed_ns`, the time since the last measurement.
    pub fn measure(&mut self, elapsed_ns: u64) {
        for queue in &mut self.list {
            queue
                .meter
                .measure(queue.assignment.duty.busy().ns(), elapsed_ns);
            queue.busy = queue.busy.midpoint(queue.meter.share);
            queue.rest = queue.rest.saturating_sub(1);
        }
    }

    /// Their loads as they were measured last.
    pub fn loads(&self) -> impl Iterator<Item = Load> {
        self.list.iter().map(|queue| Load {
            worker: queue.assignment.worker,
            busy: queue.busy,
            movable: self.pinned.is_none() && queue.rest == 0,
        })
    }
}

/// Makes shares of counted times.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// What was counted until the last measurement.
    counted_ns: u64,
    /// The share of the time before that, in thousandths.
    pub share: u32,
}

impl Meter {
    /// Now `counted_ns` are counted, and `elapsed_ns` have passed since the last time.
    pub fn measure(&mut self, counted_ns: u64, elapsed_ns: u64) {
        let spent = counted_ns - std::mem::replace(&mut self.counted_ns, counted_ns);
        let share = u128::from(spent) * 1000 / u128::from(elapsed_ns.max(1));
        // What is measured by samples may come to more than there was.
        self.share = share.min(1000) as u32;
    }
}
