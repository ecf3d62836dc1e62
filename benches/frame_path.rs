//! What a frame costs on its way through the worker, from ring to ring.
//!
//! `cargo bench --bench frame_path` shows nanoseconds. `cargo bench --bench frame_path -- instructions` counts
//! instructions under callgrind instead and compares them with `instructions.toml`: they are the same whatever else
//! the machine does. `-- instructions --update` writes that file anew. More words pick the cases that have one of
//! them in their names.
//!
//! Measured is the pass of the worker only. Guests and worker share one thread and its caches.

// Numbers are far below 2^52.
#![allow(clippy::cast_precision_loss)]

#[path = "common/frames.rs"]
mod frames;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/instructions.rs"]
mod instructions;
#[path = "common/measure.rs"]
mod measure;
#[path = "common/scenes.rs"]
mod scenes;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use evb::worker::Manual;
use guests::{FORMATS, Stage};
use scenes::scenes;

/// Measurements of each scene.
const ROUNDS: usize = 21;
/// Bursts of a measurement.
const BURSTS: usize = 500;
/// Passes that are counted.
const PASSES: usize = 5;
/// Bursts after which everything is as it will be.
const WARM_UP: usize = 8;
/// After so long the worker looks at the clock and asks who has kicked: in each pass that is counted, then, and not in
/// those on slow machines only.
const PAUSE: Duration = Duration::from_micros(50);

fn main() -> ExitCode {
    if instructions::inside() {
        return count();
    }
    let words: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted = |name: &str, words: &[String]| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    if words.first().is_some_and(|word| word == "instructions") {
        let update = std::env::args().any(|arg| arg == "--update");
        return instructions::compare(PASSES, update, |name| wanted(name, &words[1..]));
    }
    let rounds = measure::rounds(ROUNDS);
    for (format, features) in FORMATS {
        let scenes = scenes().into_iter();
        let runs = scenes.filter(|(name, _)| wanted(&format!("{name}, {format}"), &words));
        let runs = runs.map(|(name, scene)| (name.to_owned(), run(Stage::new(scene, features))));
        measure::series(&format!("{format} ring, a frame"), rounds, runs.collect());
    }
    ExitCode::SUCCESS
}

fn run(mut stage: Stage) -> measure::Run {
    Box::new(move || {
        let (mut frames, mut time) = (0, Duration::ZERO);
        for _ in 0..BURSTS {
            frames += stage.send();
            let start = Instant::now();
            stage.worker().pass();
            time += start.elapsed();
            stage.receive();
        }
        (frames, time)
    })
}

/// What runs under callgrind.
fn count() -> ExitCode {
    for (format, features) in FORMATS {
        for (name, scene) in scenes() {
            let mut stage = Stage::new(scene, features);
            let mut frames = 0;
            for number in 0..WARM_UP + PASSES {
                frames = stage.send();
                thread::sleep(PAUSE);
                if number < WARM_UP {
                    stage.worker().pass();
                } else {
                    counted_pass(stage.worker());
                }
                stage.receive();
            }
            instructions::report(&format!("{name}, {format}"), frames);
        }
    }
    ExitCode::SUCCESS
}

/// Callgrind counts what happens in here; it knows it by its name.
#[inline(never)]
fn counted_pass(worker: &mut Manual) {
    worker.pass();
}
