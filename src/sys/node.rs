//! Device nodes.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The number of a device: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl Number {
    /// As `stat` has it.
    pub fn raw(self) -> u64 {
        libc::makedev(self.major, self.minor)
    }
}

/// Makes a node for a character device that only its owner may use.
///
/// # Errors
///
/// The error of `mknod`: `EPERM` without `CAP_MKNOD`.
pub fn make_character(path: &Path, number: Number) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a string with its zero that outlives the call.
    let rc = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, number.raw()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
