//! Ending a system call in which a thread waits although it never should.

use std::io;
use std::ptr;

use libc::c_int;

/// The thread that called [`Interruptible::current`], to be woken by others.
#[derive(Clone, Copy, Debug)]
pub struct Interruptible {
    thread: libc::pid_t,
}

impl Interruptible {
    /// The calling thread.
    pub fn current() -> Self {
        // SAFETY: gettid takes nothing and cannot fail.
        let thread = unsafe { libc::gettid() };
        Self { thread }
    }

    /// Makes the system call in which the thread waits, if there is one, fail with `Interrupted`.
    /// Nothing else happens to the thread, and nothing at all if it has ended.
    pub fn interrupt(self) {
        // SAFETY: the signal has a handler that does nothing, installed by `prepare`. A thread that is gone
        // is an error that nobody needs to know.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, signal());
        }
    }
}

/// Prepares the process for [`Interruptible::interrupt`]. It may be called again.
///
/// # Errors
///
/// The error of `sigaction`.
pub fn prepare() -> io::Result<()> {
    extern "C" fn wake(_: c_int) {}
    // SAFETY: an all-zero sigaction is valid: no flags, so system calls are not restarted, and an empty mask.
    // The handler does nothing, which is safe at any point of any thread.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = wake as *const () as libc::sighandler_t;
        libc::sigaction(signal(), &raw const action, ptr::null_mut())
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A signal that nothing else uses.
fn signal() -> c_int {
    libc::SIGRTMIN() + 5
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::sys::eventfd;

    #[test]
    fn a_write_that_waits_is_ended() {
        prepare().unwrap();
        let full = EventFd::new(0).unwrap();
        full.write(u64::MAX - 1).unwrap();
        let (tell, told) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            tell.send(Interruptible::current()).unwrap();
            eventfd::signal(&full).unwrap_err().kind()
        });
        let thread = told.recv().unwrap();
        // It may not have begun to wait yet.
        while !waiting.is_finished() {
            thread.interrupt();
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waiting.join().unwrap(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_thread_that_has_ended_is_let_be() {
        prepare().unwrap();
        let gone = std::thread::spawn(Interruptible::current).join().unwrap();
        gone.interrupt();
    }
}
