//! Networks of a test's own.

use std::io;

/// Moves the calling thread into a new, empty network namespace, with a `/sys` that shows it. Both
/// are inherited by the processes that it starts, and are gone with the last of them.
///
/// # Errors
///
/// `PermissionDenied` without `CAP_SYS_ADMIN`.
pub fn enter_new() -> io::Result<()> {
    let done = |rc| {
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let nothing = std::ptr::null();
    // SAFETY: all strings are literals with their zero, and a null stands for an argument that the
    // kind of mount does not have.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        done(libc::mount(
            nothing,
            c"/".as_ptr(),
            nothing,
            private,
            nothing.cast(),
        ))?;
        let sysfs = c"sysfs".as_ptr();
        done(libc::mount(
            sysfs,
            c"/sys".as_ptr(),
            sysfs,
            0,
            nothing.cast(),
        ))
    }
}
