//! Which queues change their worker: a decision made from loads alone.
//!
//! The work of a worker is that of its queues. Queues move from the busiest worker to the least busy one while that
//! makes the busier of the two less busy by a good deal. A single queue that is all the work of its worker stays, as
//! it would be no better off elsewhere; so does everything as long as no worker has much to do.
//!
//! Nothing flaps: a move that is worthwhile makes its way back a loss, until the loads have changed by as much as makes a
//! move worthwhile.

/// A worker that is busy for a smaller part of the time serves its queues well enough.
const BUSY: u32 = 500;
/// What a move has to gain.
pub const GAIN: u32 = 100;

/// The work that one queue was, and where. Loads are in thousandths of a worker's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The worker that serves it.
    pub worker: usize,
    /// How much of its time that takes.
    pub busy: u32,
    /// Whether it may go to another: it is not pinned, and did not come here just now.
    pub movable: bool,
}

/// A queue, by its place in the list, and the worker that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The queue.
    pub queue: usize,
    /// Its new worker.
    pub to: usize,
}

/// How busy each of the workers is.
pub fn totals(loads: &[Load], workers: usize) -> Vec<u32> {
    let mut totals = vec![0_u32; workers];
    for load in loads {
        if let Some(total) = totals.get_mut(load.worker) {
            *total = total.saturating_add(load.busy);
        }
    }
    totals
}

/// The moves to make, at most one for each queue.
pub fn plan(loads: &[Load], workers: usize) -> Vec<Move> {
    let mut after = loads.to_vec();
    let mut totals = totals(loads, workers);
    // Each step brings two totals nearer to each other, so this ends.
    while let Some(step) = best(&after, &totals) {
        let load = &mut after[step.queue];
        totals[load.worker] -= load.busy;
        totals[step.to] += load.busy;
        load.worker = step.to;
    }
    let changes = loads.iter().zip(&after).enumerate();
    changes
        .filter(|(_, (before, after))| before.worker != after.worker)
        .map(|(queue, (_, after))| Move {
            queue,
            to: after.worker,
        })
        .collect()
}

/// The move from the busiest worker to the least busy one that makes the busier of the two least busy, if it is
/// worthwhile.
fn best(loads: &[Load], totals: &[u32]) -> Option<Move> {
    let workers = || totals.iter().copied().enumerate();
    let (from, most) = workers().max_by_key(|(_, total)| *total)?;
    let (to, least) = workers().min_by_key(|(_, total)| *total)?;
    if most < BUSY {
        return None;
    }
    let candidates = loads.iter().enumerate();
    let candidates = candidates.filter(|(_, load)| load.movable && load.worker == from);
    let weighed = candidates.map(|(queue, load)| {
        let after = (most - load.busy).max(least.saturating_add(load.busy));
        (Move { queue, to }, after)
    });
    let (best, after) = weighed.min_by_key(|(_, after)| *after)?;
    (after.saturating_add(GAIN) <= most).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(worker: usize, busy: u32) -> Load {
        Load {
            worker,
            busy,
            movable: true,
        }
    }

    fn carry_out(loads: &[Load], moves: &[Move]) -> Vec<Load> {
        let mut loads = loads.to_vec();
        for step in moves {
            loads[step.queue].worker = step.to;
        }
        loads
    }

    fn most(loads: &[Load], workers: usize) -> u32 {
        totals(loads, workers).into_iter().max().unwrap_or(0)
    }

    #[test]
    fn two_busy_queues_get_a_worker_each() {
        let loads = [load(0, 500), load(0, 490), load(0, 0)];
        let moves = plan(&loads, 2);
        assert_eq!(moves.len(), 1);
        assert!(moves[0].queue < 2);
        assert_eq!(moves[0].to, 1);
    }

    #[test]
    fn what_would_not_help_is_left_alone() {
        let stuck = Load {
            movable: false,
            ..load(0, 500)
        };
        for (loads, workers) in [
            (vec![], 2),
            // Nowhere to go.
            (vec![load(0, 500), load(0, 500)], 1),
            // One queue is all there is to do.
            (vec![load(0, 1000), load(0, 0)], 2),
            (vec![load(0, 900), load(1, 0)], 2),
            // Nobody is busy.
            (vec![load(0, 200), load(0, 200)], 2),
            // Both are.
            (vec![load(0, 500), load(0, 450), load(1, 900)], 2),
            // Not worth it.
            (vec![load(0, 900), load(0, 99)], 2),
            (vec![stuck, stuck], 2),
            // A worker that is none is nobody's.
            (vec![load(7, 900)], 2),
        ] {
            assert_eq!(plan(&loads, workers), [], "{loads:?}");
        }
    }

    #[test]
    fn many_small_queues_are_spread_at_once() {
        let loads = vec![load(0, 100); 10];
        let after = carry_out(&loads, &plan(&loads, 4));
        assert!(most(&after, 4) < BUSY, "{after:?}");
        assert!(totals(&after, 4).iter().all(|total| *total > 0));
    }

    /// All loads of up to three queues on up to three workers, in steps of a fifth.
    #[test]
    fn small_cases_exhaustively() {
        for workers in 1..=3_usize {
            for queues in 0..=3_u32 {
                let kinds = workers * 6 * 2;
                for number in 0..kinds.pow(queues) {
                    let kind = |queue: u32| number / kinds.pow(queue) % kinds;
                    let loads: Vec<_> = (0..queues)
                        .map(|queue| Load {
                            worker: kind(queue) % workers,
                            busy: (kind(queue) / workers % 6) as u32 * 200,
                            movable: kind(queue) / workers / 6 == 0,
                        })
                        .collect();
                    hold(&loads, workers, &vec![0; loads.len()]);
                }
            }
        }
    }

    /// What is true of every plan, also when the loads are `later` by less than half of what a move has to gain.
    fn hold(loads: &[Load], workers: usize, later: &[u32]) {
        let moves = plan(loads, workers);
        let after = carry_out(loads, &moves);
        let before = most(loads, workers);
        let mut seen = std::collections::HashSet::new();
        for step in &moves {
            assert!(seen.insert(step.queue), "a queue moves once: {loads:?}");
            assert!(loads[step.queue].movable, "what is pinned stays: {loads:?}");
            assert!(step.to < workers && step.to != loads[step.queue].worker);
            assert!(loads[step.queue].busy >= GAIN, "{loads:?}");
        }
        if moves.is_empty() {
            return;
        }
        assert!(before >= BUSY);
        assert!(
            most(&after, workers) <= before,
            "nobody gets busier than the busiest was: {loads:?}"
        );
        // The same loads ask for nothing more, though all may move again.
        assert_eq!(plan(&after, workers), [], "{loads:?}");
        let drifted: Vec<_> = after
            .iter()
            .zip(later)
            .map(|(load, more)| Load {
                busy: load.busy + more,
                ..*load
            })
            .collect();
        for back in plan(&drifted, workers) {
            let was = loads[back.queue].worker;
            assert!(
                !seen.contains(&back.queue) || back.to != was,
                "queue {} goes back: {loads:?}, then {drifted:?}",
                back.queue
            );
        }
    }

    fn some_loads() -> impl Strategy<Value = (usize, Vec<Load>, Vec<u32>)> {
        (1..=6_usize, 0..12_usize).prop_flat_map(|(workers, queues)| {
            let one = (0..workers, 0..700_u32, prop::bool::weighted(0.8));
            let loads = prop::collection::vec(
                one.prop_map(|(worker, busy, movable)| Load {
                    worker,
                    busy,
                    movable,
                }),
                queues,
            );
            let later = prop::collection::vec(0..(GAIN / 2 / 12), queues);
            (Just(workers), loads, later)
        })
    }

    proptest! {
        #[test]
        fn any_loads((workers, loads, later) in some_loads()) {
            hold(&loads, workers, &later);
        }
    }
}
