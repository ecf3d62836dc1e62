//! SIGBUS: a front end that hands over a file shorter than it says, or truncates it later, must
//! cost its own port only, not the process.
//!
//! Mappings of foreign files register in a fixed table of atomics which is never freed. The handler
//! looks the faulting address up, maps anonymous zero pages over the *whole* mapping (a part would
//! fail on hugetlbfs) and marks it poisoned; the interrupted access is then repeated and reads zeros.
//! Addresses that are not ours go to the handler that was installed before.
//!
//! Invariants: the handler takes no lock, allocates nothing and preserves `errno`. A thread that
//! faults in a mapping keeps that mapping alive, so the entry it finds cannot be reused meanwhile;
//! entries of others that change during the look-up are recognised by their generation and skipped.

use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use libc::{c_int, c_void, siginfo_t};

/// How many mappings can be looked after: 1,024 ports of 64 regions each. Untouched entries cost no
/// memory, the table lies in zero pages.
pub(super) const SLOTS: usize = 65_536;

struct Entry {
    claimed: AtomicBool,
    poisoned: AtomicBool,
    /// Odd while `start` and `len` describe a live mapping.
    generation: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
}

static TABLE: [Entry; SLOTS] = [const {
    Entry {
        claimed: AtomicBool::new(false),
        poisoned: AtomicBool::new(false),
        generation: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
    }
}; SLOTS];

/// Entries at and beyond this index were never used.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

/// How many faults were taken over, ever.
static FAULTS: AtomicUsize = AtomicUsize::new(0);

/// What was installed before us. Written before our handler is.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A live entry of the table; dropping it withdraws the entry. Its owner unmaps only after that.
#[derive(Debug)]
pub(super) struct Slot(usize);

impl Slot {
    /// Registers a mapping. `None` when the table is full.
    pub fn register(start: *mut u8, len: usize) -> Option<Slot> {
        let index = TABLE.iter().position(|entry| {
            entry
                .claimed
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })?;
        let entry = &TABLE[index];
        // The even generation left by the previous owner must be visible before the new addresses.
        fence(Ordering::Release);
        entry.start.store(start as usize, Ordering::Relaxed);
        entry.len.store(len, Ordering::Relaxed);
        entry.poisoned.store(false, Ordering::Relaxed);
        HIGH_WATER.fetch_max(index + 1, Ordering::AcqRel);
        entry.generation.fetch_add(1, Ordering::Release);
        Some(Slot(index))
    }

    /// Whether the handler replaced this mapping.
    #[inline]
    pub fn poisoned(&self) -> bool {
        TABLE[self.0].poisoned.load(Ordering::Acquire)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let entry = &TABLE[self.0];
        entry.generation.fetch_add(1, Ordering::AcqRel);
        entry.claimed.store(false, Ordering::Release);
    }
}

/// Number of SIGBUS faults taken over since the process started. A worker that sees it change asks
/// each [`GuestMemory`](super::GuestMemory) whether it is poisoned.
#[inline]
pub fn sigbus_count() -> usize {
    FAULTS.load(Ordering::Relaxed)
}

/// Installs the handler for the whole process. Idempotent.
///
/// Threads must not block SIGBUS, and a seccomp filter must allow them `mmap` with
/// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE` and `rt_sigreturn`.
pub fn install_sigbus_handler() -> io::Result<()> {
    static INSTALLED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut installed = INSTALLED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    // SAFETY: an all-zero sigaction is a valid value (SIG_DFL, no flags, empty mask).
    let mut previous: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: asks for the current action only; `previous` is valid for writing.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let _ = PREVIOUS.set(previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_sigbus` has the signature SA_SIGINFO asks for and does async-signal-safe work only.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; for SIGBUS it has si_addr.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // A positive code means that the kernel raised it for an access, not that somebody sent it.
    if code > 0 && take_over(address) {
        return;
    }
    chain(signal, info, context, code);
}

/// Replaces the mapping that holds `address`; false when there is none of ours.
fn take_over(address: usize) -> bool {
    for entry in &TABLE[..HIGH_WATER.load(Ordering::Acquire)] {
        let generation = entry.generation.load(Ordering::Acquire);
        if generation & 1 == 0 {
            continue;
        }
        let start = entry.start.load(Ordering::Relaxed);
        let len = entry.len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if entry.generation.load(Ordering::Relaxed) != generation
            || address.wrapping_sub(start) >= len
        {
            continue;
        }
        return replace(entry, start, len);
    }
    false
}

fn replace(entry: &Entry, start: usize, len: usize) -> bool {
    // SAFETY: errno is a thread-local of libc; it is restored below because the interrupted code may
    // be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the range is exactly one mapping owned by this process: its owner is alive, because the
    // interrupted access goes through it, and registers nothing but what it mapped. Only raw pointers
    // lead there, never references, so its contents may change under them.
    let mapped = unsafe {
        libc::mmap(
            start as *mut c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    entry.poisoned.store(true, Ordering::Release);
    FAULTS.fetch_add(1, Ordering::Release);
    true
}

/// Does what would have happened without us.
fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int) {
    let Some(previous) = PREVIOUS.get() else {
        return;
    };
    match previous.sa_sigaction {
        libc::SIG_IGN if code <= 0 => {}
        libc::SIG_IGN | libc::SIG_DFL => {
            // SAFETY: restores the default action; a repeated access then ends the process as it
            // would have done, and a signal that was sent is raised once more for the same end.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the kernel held this address as a three-argument handler before we replaced it.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the kernel held this address as a one-argument handler before we replaced it.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}
