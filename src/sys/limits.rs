//! Resource limits of the process.

use std::io;

/// Raises the soft limit of open descriptors to the hard one and returns it.
///
/// # Errors
///
/// The error of `getrlimit` or `setrlimit`.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit that outlives both calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done {
        Ok(limit.rlim_cur)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_limit_is_raised_and_stays() {
        let first = super::raise_descriptor_limit().unwrap();
        assert!(first >= 64);
        assert_eq!(super::raise_descriptor_limit().unwrap(), first);
    }
}
