//! Which CPUs threads run on, and how far these are from each other.
//!
//! The machine decides more about the figures than the program: what goes from core to core takes four times as long
//! over one path as over another, and a hypervisor moves its CPUs between them. So the distance is measured
//! with each figure.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{BenchError, system};
use crate::cli::bench::Bench;
use crate::sys::cpu;

/// How often a cache line goes there and back in one measurement.
const TRIPS: u32 = 4000;
/// It is over after so long in any case: the other thread may not get to run.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who runs where; empty lists where nobody is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// CPUs of the generator's threads.
    pub generator: Vec<usize>,
    /// CPUs of the workers, or of the thread that copies.
    pub workers: Vec<usize>,
}

impl Placement {
    /// What the options say, or one CPU for each thread where there are enough.
    pub fn choose(options: &Bench) -> Result<Self, BenchError> {
        let allowed = cpu::allowed().map_err(system("find out the CPUs"))?;
        choose(options, &allowed)
    }

    /// Threads of the generator.
    pub fn threads(&self) -> usize {
        self.generator.len().max(1)
    }

    /// Nanoseconds that a cache line takes from the first CPU of the generator to that of the workers and back;
    /// none where they are not pinned, or where it cannot be told.
    pub fn round_trip_ns(&self) -> Option<f64> {
        round_trip(*self.generator.first()?, *self.workers.first()?)
    }
}

fn choose(options: &Bench, allowed: &[usize]) -> Result<Placement, BenchError> {
    let named = options.generator_cpus.iter().chain(&options.worker_cpus);
    if let Some(cpu) = named.clone().find(|cpu| !allowed.contains(cpu)) {
        return Err(BenchError::Options(format!(
            "CPU {cpu} cannot be used; those that can are {allowed:?}"
        )));
    }
    let workers = usize::from(options.workers);
    if !options.worker_cpus.is_empty() && options.worker_cpus.len() != workers {
        return Err(BenchError::Options(format!(
            "--worker-cpus names {} CPUs for {workers} workers: name one for each",
            options.worker_cpus.len()
        )));
    }
    let generator = options.generator_cpus.len().max(1);
    if generator > options.pairs.into() {
        return Err(BenchError::Options(format!(
            "{generator} threads share {} pairs of ports: say --pairs {generator}",
            options.pairs
        )));
    }
    let mut free = allowed
        .iter()
        .copied()
        .filter(|cpu| !named.clone().any(|n| n == cpu));
    let mut take = |given: &[usize], count| -> Vec<usize> {
        if given.is_empty() {
            free.by_ref().take(count).collect()
        } else {
            given.to_vec()
        }
    };
    let placement = Placement {
        generator: take(&options.generator_cpus, generator),
        workers: take(&options.worker_cpus, workers),
    };
    let enough = placement.generator.len() == generator && placement.workers.len() == workers;
    // Two threads on one CPU would be worse than what the kernel does.
    let unpinned = options.no_pin || !enough;
    Ok(if unpinned {
        Placement::default()
    } else {
        placement
    })
}

/// Nanoseconds that a cache line takes from one CPU to another and back; none where it cannot be told.
pub fn round_trip(here: usize, there: usize) -> Option<f64> {
    // Even while it is here, odd while it is there.
    let line = AtomicU32::new(0);
    let over = AtomicBool::new(false);
    let deadline = Instant::now() + PATIENCE;
    let turn = |odd: u32, trips: u32| {
        for _ in 0..trips {
            let mut turns = 0_u32;
            while line.load(Ordering::Acquire) % 2 != odd {
                turns += 1;
                if turns.is_multiple_of(4096)
                    && (Instant::now() > deadline || over.load(Ordering::Relaxed))
                {
                    over.store(true, Ordering::Relaxed);
                    return;
                }
                std::hint::spin_loop();
            }
            line.fetch_add(1, Ordering::Release);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            if cpu::pin_current_thread(there).is_ok() {
                turn(1, TRIPS + TRIPS / 4);
            }
        });
        let timed = scope.spawn(|| {
            cpu::pin_current_thread(here).ok()?;
            turn(0, TRIPS / 4);
            let begin = Instant::now();
            turn(0, TRIPS);
            let took = begin.elapsed();
            (!over.load(Ordering::Relaxed)).then(|| took.as_nanos() as f64 / f64::from(TRIPS))
        });
        timed.join().ok()?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        bench: Bench,
    }

    fn chosen(words: &str, allowed: &[usize]) -> Result<Placement, String> {
        let all = ["evb"].into_iter().chain(words.split_whitespace());
        let options = Words::try_parse_from(all).unwrap().bench;
        choose(&options, allowed).map_err(|error| error.to_string())
    }

    fn on(generator: &[usize], workers: &[usize]) -> Placement {
        Placement {
            generator: generator.to_vec(),
            workers: workers.to_vec(),
        }
    }

    #[test]
    fn everybody_gets_a_cpu_or_nobody() {
        assert_eq!(chosen("", &[0, 1]).unwrap(), on(&[0], &[1]));
        assert_eq!(chosen("", &[3]).unwrap(), on(&[], &[]));
        assert_eq!(chosen("--no-pin", &[0, 1]).unwrap(), on(&[], &[]));
        assert_eq!(chosen("--workers 2", &[0, 1]).unwrap(), on(&[], &[]));
        assert_eq!(
            chosen("--workers 2", &[0, 2, 4]).unwrap(),
            on(&[0], &[2, 4])
        );
        let both = "--generator-cpus 2,0 --worker-cpus 1 --pairs 2";
        assert_eq!(chosen(both, &[0, 1, 2]).unwrap(), on(&[2, 0], &[1]));
        assert_eq!(chosen("--worker-cpus 0", &[0, 1]).unwrap(), on(&[1], &[0]));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        for (words, expected) in [
            (
                "--worker-cpus 7",
                "CPU 7 cannot be used; those that can are [0, 1]",
            ),
            (
                "--workers 2 --worker-cpus 1",
                "names 1 CPUs for 2 workers: name one for each",
            ),
            (
                "--generator-cpus 0,1",
                "2 threads share 1 pairs of ports: say --pairs 2",
            ),
        ] {
            let error = chosen(words, &[0, 1]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_cache_line_comes_back() {
        let allowed = cpu::allowed().unwrap();
        if let [first, second, ..] = allowed[..] {
            assert!(round_trip(first, second).is_none_or(|ns| ns > 0.0));
        }
    }
}
