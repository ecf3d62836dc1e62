//! Files that are cut off under a mapping. Deaths are observed in a child: this test binary again.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use super::*;
use crate::virtqueue::{
    Gather, RingError, RxBatch, TxBatch, install_sigbus_handler, read, sigbus_count, writev,
};

#[test]
fn a_truncated_file_poisons_its_memory_only() {
    install_sigbus_handler().unwrap();
    install_sigbus_handler().unwrap();
    let healthy = Guest::new(4);
    let healthy_rx = healthy.rx();
    let mut guest = Guest::new(4);
    guest.post_buffer(0, DATA, 100, 0);
    let tx = guest.tx();
    let before = sigbus_count();
    assert!(!tx.memory().poisoned());
    // The rings stay, the buffers go.
    guest.file.set_len(0x2_0000).unwrap();
    let mut batch = TxBatch::new();
    let mut guard = tx.lock();
    assert_eq!(guard.peek(&mut batch, 1).unwrap(), 1);
    let mut out = [1; 100];
    let segments = batch.segments(&batch.chains()[0]);
    assert_eq!(read(segments, 0, &mut out), 100);
    assert_eq!(out, [0; 100]);
    assert!(tx.memory().poisoned());
    assert!(sigbus_count() > before);
    assert!(!healthy_rx.memory().poisoned());
    // The whole region was replaced, the ring in it too.
    let error = guard.peek(&mut batch, 1).unwrap_err();
    assert!(matches!(error, RingError::ZeroLength { .. }), "{error}");
    // A table that shares the mapping knows it too; a new one of the same file is refused.
    assert!(
        tx.memory()
            .with_added(region(&memfd(0x1000), 0, 0, 0x1000))
            .unwrap()
            .poisoned()
    );
    assert!(GuestMemory::new(vec![region(&guest.file, BASE, 0, SIZE)]).is_err());
}

#[test]
fn a_vanished_ring_reads_as_zeros() {
    install_sigbus_handler().unwrap();
    let mut guest = Guest::new(4);
    guest.post_receive_buffers(4, 2048);
    let rx = guest.rx();
    guest.file.set_len(0).unwrap();
    let mut batch = RxBatch::new();
    let reserved = rx.reserve(&[64], &mut batch).unwrap();
    assert!(reserved.starved);
    assert!(rx.memory().poisoned());
}

#[test]
fn the_log_survives_too() {
    install_sigbus_handler().unwrap();
    let file = memfd(0x2000);
    let log = DirtyLog::new(file.try_clone().unwrap(), 0, 0x2000).unwrap();
    file.set_len(0).unwrap();
    log.mark(0x1000_0000 - 0x2000, 0x1000);
    assert!(log.poisoned());
}

#[test]
fn the_kernel_finding_it_first_ends_the_same() {
    install_sigbus_handler().unwrap();
    let mut guest = Guest::new(4);
    guest.post_buffer(0, DATA, 0x3000, 0);
    let tx = guest.tx();
    let mut batch = TxBatch::new();
    let mut guard = tx.lock();
    assert_eq!(guard.peek(&mut batch, 1).unwrap(), 1);
    guest.file.set_len(DATA - BASE + 0x2000).unwrap();
    let (near, _far) = UnixDatagram::pair().unwrap();
    let frame = Gather {
        header: &[],
        head: &[],
        rest: batch.segments(&batch.chains()[0]),
        rest_skip: 0,
        rest_len: 0x3000,
    };
    let error = writev(near.as_fd(), &frame).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    assert!(tx.memory().poisoned());
}

/// Runs one of the ignored tests below in a process of its own.
fn child(name: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--test-threads=1"])
        .arg(format!("virtqueue::tests::sigbus::{name}"))
        .env("EVB_SIGBUS_CHILD", "1")
        .output()
        .unwrap()
        .status
}

/// A page behind the end of a file, mapped without anybody's knowledge.
fn touch_foreign() {
    let map =
        vm_memory::MmapRegion::<()>::from_file(FileOffset::new(memfd(0x1000), 0), 0x1000).unwrap();
    map.file_offset().unwrap().file().set_len(0).unwrap();
    // SAFETY: mapped; that it faults is the point.
    unsafe { map.as_ptr().read_volatile() };
}

fn is_child() -> bool {
    std::env::var_os("EVB_SIGBUS_CHILD").is_some()
}

#[test]
#[ignore = "dies; run by foreign_faults_are_passed_on"]
fn child_default() {
    if is_child() {
        install_sigbus_handler().unwrap();
        touch_foreign();
    }
}

#[test]
#[ignore = "dies; run by foreign_faults_are_passed_on"]
fn child_sent() {
    if is_child() {
        // SAFETY: the default action is always valid. The standard library's handler, which is
        // there otherwise, lets a signal pass that is no fault.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        install_sigbus_handler().unwrap();
        // SAFETY: no memory is involved.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

#[test]
#[ignore = "exits; run by foreign_faults_are_passed_on"]
fn child_handled() {
    extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(42) };
    }
    if is_child() {
        // SAFETY: the handler has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
        install_sigbus_handler().unwrap();
        touch_foreign();
    }
}

#[test]
fn foreign_faults_are_passed_on() {
    assert_eq!(child("child_default").signal(), Some(libc::SIGBUS));
    assert_eq!(child("child_sent").signal(), Some(libc::SIGBUS));
    assert_eq!(child("child_handled").code(), Some(42));
}
