//! What a process says of itself to the kernel.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

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

/// Sees to it that no program that this process starts has more rights than it has itself.
///
/// # Errors
///
/// The error of `prctl`.
pub fn set_no_new_privileges() -> io::Result<()> {
    // SAFETY: the call takes plain integers.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets which permissions new files of this process do not get. It concerns every thread.
pub fn set_umask(mask: u32) {
    // SAFETY: umask takes and returns plain integers and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Processor time that a process has used, all its threads together, those that have ended included.
///
/// # Errors
///
/// The error of `clock_getcpuclockid` or `clock_gettime`: there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: `clock` is a valid place for the result.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}

/// Has a process to be started stopped when the thread that starts it ends, and keeps Ctrl-C in the terminal from
/// reaching it: its parent decides.
pub fn bind_to_parent(command: &mut Command) {
    command.process_group(0);
    // SAFETY: between fork and exec there is one system call, which takes plain integers.
    unsafe {
        command.pre_exec(|| {
            let signal = libc::SIGTERM as libc::c_ulong;
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
}

/// Asks a child process to end.
pub fn terminate(child: &Child) {
    // SAFETY: the child is borrowed and has not been waited for to its end, so the number is still its own. One that
    // has ended takes no harm.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_of_this_process_grows_and_of_none_is_an_error() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_time(u32::MAX).is_err());
    }
}
