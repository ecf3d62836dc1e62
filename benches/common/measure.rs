//! Measuring several things in turn, so that what the machine does meanwhile happens to all of them.
// Each program uses a part of it.
#![allow(dead_code)]
// Numbers are far below 2^52.
#![allow(clippy::cast_precision_loss)]

use std::time::{Duration, Instant};

/// Something that can be measured again and again: it returns how often it did its work, and in which time.
pub type Run = Box<dyn FnMut() -> (usize, Duration)>;

/// Makes a run of work that is measured as a whole.
pub fn timed(mut work: impl FnMut() -> usize + 'static) -> Run {
    Box::new(move || {
        let start = Instant::now();
        let count = work();
        (count, start.elapsed())
    })
}

/// How many rounds to measure. `cargo test --benches` wants to know only that it runs at all.
pub fn rounds(wanted: usize) -> usize {
    if std::env::args().any(|arg| arg == "--bench") {
        wanted
    } else {
        1
    }
}

/// Measures in turn and prints a line for each: nanoseconds, the median of the rounds, and the median of the ratios
/// to the first in the same round.
pub fn series(what: &str, rounds: usize, mut runs: Vec<(String, Run)>) {
    let mut times = vec![Vec::with_capacity(rounds); runs.len()];
    for _ in 0..rounds {
        for ((_, run), times) in runs.iter_mut().zip(&mut times) {
            // What the runs before have left in the caches goes first.
            run();
            let (count, time) = run();
            times.push(time.as_secs_f64() * 1e9 / count as f64);
        }
    }
    println!("\n{what:<42}      ns    ratio");
    for ((name, _), own) in runs.iter().zip(&times) {
        let ratios = own.iter().zip(&times[0]).map(|(a, b)| a / b).collect();
        let (ns, ratio) = (median(own.clone()), median(ratios));
        println!("{name:>42} {ns:>7.1} {ratio:>8.2}");
    }
}

/// The one in the middle.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
