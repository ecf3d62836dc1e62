//! Where threads run.

use std::{io, mem};

/// Pins the calling thread to one CPU.
///
/// # Errors
///
/// The error of `sched_setaffinity`: `InvalidInput` where the machine has no such CPU.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET stays inside it because of the check
    // above; the kernel reads exactly the size given.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set)
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The CPUs that the calling thread may run on, in their order.
///
/// # Errors
///
/// The error of `sched_getaffinity`.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is the empty set; the kernel writes no more than the size given; CPU_ISSET stays
    // inside the set because of the range.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(0, mem::size_of_val(&set), &raw mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        let all = 0..libc::CPU_SETSIZE as usize;
        Ok(all.filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpu_can_be_taken_and_an_absurd_one_cannot() {
        std::thread::spawn(|| {
            pin_current_thread(0).unwrap();
            assert!(pin_current_thread(1000).is_err());
            assert!(pin_current_thread(usize::MAX).is_err());
            assert_eq!(allowed().unwrap(), [0]);
        })
        .join()
        .unwrap();
    }
}
