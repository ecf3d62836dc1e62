//! Networks of a test's own: namespaces of the kernel, which end with the last thread and process in
//! them, so that nothing is left behind and tests do not see each other.

// `unshare`, `mount`, `dup2` and `gettid` have no safe form in the standard library.
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use evb::sys::ethtool::Ethtool;

/// Runs a test in a network of its own, or says that it cannot.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let thread = thread::Builder::new().name(name);
    let done = thread.spawn(move || match enter_new() {
        Ok(()) => test(),
        Err(error) => skip(&format!("a network namespace: {error}")),
    });
    if let Err(panic) = done.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Says that the test of this thread goes no further, and why.
pub fn skip(why: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("a test");
    // Not by the macro, whose output the test harness swallows.
    let text = format!("SKIPPED {name}: {why}\n");
    io::stderr().write_all(text.as_bytes()).unwrap();
}

/// Runs a program that need not be installed, with the arguments in `line`; why it did not do it, if so.
pub fn try_run(program: &str, line: &str) -> Result<(), String> {
    let done = Command::new(program).args(line.split_whitespace()).output();
    match done {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program} {line}: {}", text.trim()))
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// The device completes no checksums and cuts no segments, so that the kernel has to do both before it sends.
pub fn without_offloads(device: &str) {
    let ethtool = Ethtool::new().unwrap();
    let works = |name: &str| {
        (name.starts_with("tx-checksum") || name.contains("segmentation"))
            && name != "tx-generic-segmentation"
    };
    let mut features = ethtool.features(device).unwrap();
    features.retain(|feature| feature.active && works(&feature.name));
    ethtool.set(device, &features, false).unwrap();
    let left = ethtool.features(device).unwrap();
    let left = left.iter().filter(|feature| feature.active);
    let names: Vec<_> = left.map(|feature| feature.name.as_str()).collect();
    assert!(!names.contains(&"tx-checksum-ip-generic"), "{names:?}");
    assert!(!names.contains(&"tx-tcp-segmentation"), "{names:?}");
}

/// Moves the thread, and what it starts, into an empty network with a `/sys` that shows it and
/// without IPv6, whose own frames would be in the way.
fn enter_new() -> io::Result<()> {
    let done = |rc| {
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let nothing = std::ptr::null();
    let sysfs = c"sysfs".as_ptr();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: strings are literals with their zero; null stands for what a kind of mount does not have.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS))?;
        let root = c"/".as_ptr();
        done(libc::mount(nothing, root, nothing, private, nothing.cast()))?;
        done(libc::mount(
            sysfs,
            c"/sys".as_ptr(),
            sysfs,
            0,
            nothing.cast(),
        ))?;
    }
    for which in ["all", "default"] {
        // A kernel without IPv6 has no such switch.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
    }
    ip("link set lo up");
    Ok(())
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

/// What `ip` says of a device.
pub fn shown(name: &str) -> String {
    let shown = Command::new("ip")
        .args(["-d", "link", "show", name])
        .output();
    String::from_utf8_lossy(&shown.unwrap().stdout).into_owned()
}

/// A pair of devices that are joined, both up.
pub fn veth(a: &str, b: &str) {
    ip(&format!("link add {a} type veth peer name {b}"));
    for name in [a, b] {
        ip(&format!("link set {name} up"));
    }
}

/// Puts a descriptor of this process under another number, and leaves it open for what the process becomes.
pub fn duplicate(descriptor: i32, place: i32) -> io::Result<()> {
    // SAFETY: a plain system call on numbers.
    if unsafe { libc::dup2(descriptor, place) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

type Work = Box<dyn FnOnce() + Send>;

/// Another network beside that of the test.
pub struct Elsewhere {
    /// The thread that is in it, as `ip link set … netns` takes it.
    pub id: i32,
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    /// An empty network.
    pub fn new() -> Self {
        let (work, orders) = mpsc::channel::<Work>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            enter_new().unwrap();
            // SAFETY: a call without arguments that cannot fail.
            tell.send(unsafe { libc::gettid() }).unwrap();
            for order in orders {
                order();
            }
        });
        Self {
            id: told.recv().unwrap(),
            work: Some(work),
            thread: Some(thread),
        }
    }

    /// Does something there, and waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let order: Work = Box::new(move || drop(answer.send(work())));
        self.work.as_ref().unwrap().send(order).unwrap();
        answered.recv().expect("the work panicked")
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has failed the test already.
            let _ = thread.join();
        }
    }
}
