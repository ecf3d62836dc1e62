//! Networks for the tests of all rooms that need devices.

use std::io::{self, Write};
use std::process::Command;
use std::thread;

use crate::sys::namespace;

/// Runs a test in a network of its own, or says that it cannot.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let done = thread::spawn(move || match namespace::enter_new() {
        Ok(()) => test(),
        Err(error) => {
            skipped(&format!("{name}: a network namespace: {error}"));
        }
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with the arguments in `line`.
pub fn ip(line: &str) {
    let done = Command::new("ip").args(line.split_whitespace()).output();
    let output = done.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {text}");
}

/// Whether there is a device of this name.
pub fn exists(name: &str) -> bool {
    let shown = Command::new("ip").args(["link", "show", name]).output();
    shown.unwrap().status.success()
}

/// Says that a test could not run. Not by the macro, whose output the test harness swallows.
pub fn skipped(why: &str) {
    let text = format!("SKIPPED {why}\n");
    io::stderr().write_all(text.as_bytes()).unwrap();
}
