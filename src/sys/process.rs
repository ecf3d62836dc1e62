//! What a process says of itself to the kernel.

use std::io;

/// Ignores the signals by which an operator or a terminal stops a process.
///
/// For a process whose life hangs on its parent's: Ctrl-C reaches the whole group, and the parent
/// decides.
///
/// # Errors
///
/// The error of `signal`.
pub fn ignore_stop_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring installs no handler, so no code of ours runs in a signal.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets which permissions new files of this process do not get. It concerns every thread.
pub fn set_umask(mask: u32) {
    // SAFETY: umask takes and returns plain integers and cannot fail.
    unsafe { libc::umask(mask) };
}
