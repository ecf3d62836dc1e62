//! Counts under callgrind, and the table that they are compared with.
//!
//! What callgrind wrote of each case stays in [`DIR`]; `callgrind_annotate` shows where its instructions are.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde::Deserialize;

/// Set where the process runs under callgrind.
const INSIDE: &str = "EVB_BENCH_INSIDE";
/// The function that is counted.
const COUNTED: &str = "frame_path::counted_pass";
/// Where callgrind writes.
const DIR: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions");
/// The table.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");
/// By how much a count may be larger than the table says: a fraction of it, and that many instructions.
const TOLERANCE: (f64, f64) = (0.02, 1.0);
const COMMENT: &str = "\
# Instructions of the worker for a frame, in bursts of 32 (floods: 8, 65000 bytes: 4): `make instructions` compares,
# `make instructions UPDATE=1` writes this file. Counts of other tools than these are shown and not judged.
";

/// What counts depend on, apart from the code, and the counts by the names of their cases.
#[derive(Deserialize)]
struct Table {
    tools: String,
    instructions: BTreeMap<String, f64>,
}

/// Whether this process is the one whose instructions are counted.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Tells what the passes since the last report were, and how many frames each had.
pub fn report(name: &str, frames: usize) {
    println!("{frames} {name}");
}

/// Runs this program under callgrind, with `passes` passes before each report, and compares with the table or
/// writes it.
pub fn compare(passes: usize, update: bool, wanted: impl Fn(&str) -> bool) -> ExitCode {
    let tools = match tools() {
        Ok(tools) => tools,
        Err(missing) => {
            println!("SKIPPED instructions: {missing} does not run here");
            return ExitCode::SUCCESS;
        }
    };
    let counts = counts(passes);
    if update {
        write(&tools, &counts);
        return ExitCode::SUCCESS;
    }
    let text = fs::read_to_string(TABLE).expect("a table");
    let table: Table = toml::from_str(&text).expect("a table as this program writes it");
    let judged = table.tools == tools;
    if !judged {
        println!(
            "The table was made with other tools: {}\nThese are here: {tools}",
            table.tools
        );
    }
    println!("{:<42}  table     here", "instructions a frame");
    let (mut more, mut less) = (false, false);
    for (name, count) in counts.iter().filter(|(name, _)| wanted(name)) {
        let Some(&before) = table.instructions.get(name) else {
            println!("{name:>42}      -  {count:>7.1}");
            more = true;
            continue;
        };
        let allowed = before * TOLERANCE.0 + TOLERANCE.1;
        let mark = if count - before > allowed {
            more = true;
            "  MORE"
        } else if before - count > allowed {
            less = true;
            "  less"
        } else {
            ""
        };
        println!("{name:>42} {before:>6.1}  {count:>7.1}{mark}");
    }
    if more || less {
        println!("If this is as it should be: make instructions UPDATE=1");
    }
    if more && judged {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// What is here of the tools that counts depend on, or the name of one that is missing.
fn tools() -> Result<String, &'static str> {
    // Copies of more than 128 bytes are the C library's.
    let tools = [
        ("rustc", "--version"),
        ("valgrind", "--version"),
        ("getconf", "GNU_LIBC_VERSION"),
    ];
    let mut found = vec![std::env::consts::ARCH.to_owned()];
    for (tool, arg) in tools {
        let output = Command::new(tool).arg(arg).output().map_err(|_| tool)?;
        let line = String::from_utf8_lossy(&output.stdout);
        let words: Vec<_> = line.split_whitespace().take(2).collect();
        found.push(words.join(" "));
    }
    Ok(found.join(", "))
}

/// Each case with its instructions for a frame: the least of its passes, since one in so many takes the time of its
/// parts.
fn counts(passes: usize) -> Vec<(String, f64)> {
    // Nothing is there the first time.
    let _ = fs::remove_dir_all(DIR);
    fs::create_dir_all(DIR).expect("a directory");
    let part = Path::new(DIR).join("part");
    let output = Command::new("valgrind")
        .args([
            "-q",
            "--tool=callgrind",
            "--collect-atstart=no",
            "--compress-strings=no",
        ])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", part.display()))
        .arg(std::env::current_exe().expect("this program has a path"))
        .env(INSIDE, "yes")
        .output()
        .expect("valgrind runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "under valgrind: {errors}");
    let reports = String::from_utf8_lossy(&output.stdout).into_owned();
    let reports = reports.lines().filter_map(|line| line.split_once(' '));
    let mut number = 0;
    let case = |(frames, name): (&str, &str)| {
        let frames: f64 = frames.parse().expect("a number of frames");
        let next = |_| {
            number += 1;
            let part = part.with_extension(number.to_string());
            (total(&part), part)
        };
        let mut totals: Vec<_> = (0..passes).map(next).collect();
        totals.sort_unstable();
        let (least, part) = &totals[0];
        fs::rename(part, Path::new(DIR).join(name)).expect("a part of its own");
        (name.to_owned(), *least as f64 / frames)
    };
    let counts = reports.map(case).collect();
    println!("where they are: callgrind_annotate --threshold=100 --auto=no {DIR}/CASE\n");
    counts
}

/// The instructions of one pass.
fn total(part: &Path) -> u64 {
    let text = fs::read_to_string(part).expect("a part of what callgrind wrote");
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = totals.and_then(|number| number.parse().ok());
    total.expect("a number of instructions")
}

fn write(tools: &str, counts: &[(String, f64)]) {
    let mut text = format!("{COMMENT}tools = {tools:?}\n\n[instructions]\n");
    for (name, count) in counts {
        writeln!(text, "{name:?} = {count:.1}").expect("a string grows");
    }
    fs::write(TABLE, text).expect("the table can be written");
    println!("wrote {TABLE}");
}
