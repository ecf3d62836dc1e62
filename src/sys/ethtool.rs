//! Features and channels of network devices (`linux/ethtool.h`), of the calling thread's network namespace.
//!
//! Features are told apart by the kernel's names for them, as `ethtool -k` shows those of its own.

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{c_char, c_void};

use super::tun::NAME_MAX;

use super::call::check;

const GET_STRINGS: u32 = 0x1b;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
/// The set of strings that names features.
const FEATURES: u32 = 4;
/// Bytes of a name, and how many words of 32 bits these are.
const STRING: usize = 32;
const STRING_WORDS: usize = STRING / 4;
/// Words for 32 features in an answer, and in a request to set them.
const GOT: usize = 4;
const SET: usize = 2;

/// A feature of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name.
    pub name: String,
    /// Whether somebody wants it on.
    pub wanted: bool,
    /// Whether it is on.
    pub active: bool,
    position: usize,
}

/// A socket by which devices are asked.
#[derive(Debug)]
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// The error of `socket`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: socket takes integers only.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// How many receive queues the device has now; one for a device that does not say.
    ///
    /// # Errors
    ///
    /// The error of the ioctl: `ENODEV` where there is no such device.
    pub fn receive_queues(&self, device: &str) -> io::Result<u32> {
        /// `struct ethtool_channels`.
        #[derive(Default)]
        #[repr(C)]
        struct Channels {
            command: u32,
            most: [u32; 4],
            rx: u32,
            tx: u32,
            other: u32,
            combined: u32,
        }
        let mut channels = Channels {
            command: GET_CHANNELS,
            ..Channels::default()
        };
        // SAFETY: the kernel reads and writes a `struct ethtool_channels`, which `channels` is.
        match unsafe { self.ask(device, (&raw mut channels).cast()) } {
            Ok(()) => Ok((channels.rx + channels.combined).max(1)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
            Err(error) => Err(error),
        }
    }

    /// All features of a device.
    ///
    /// # Errors
    ///
    /// The error of the ioctl.
    pub fn features(&self, device: &str) -> io::Result<Vec<Feature>> {
        let names = self.names(device)?;
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + blocks * GOT];
        words[0] = GET_FEATURES;
        words[1] = blocks as u32;
        // SAFETY: the kernel reads two words and writes those and at most as many blocks of `GOT` words
        // as the second says, for which there is room.
        unsafe { self.ask(device, words.as_mut_ptr().cast()) }?;
        let bit = |position: usize, word| {
            words[2 + position / 32 * GOT + word] >> (position % 32) & 1 != 0
        };
        let features = names.into_iter().enumerate();
        let features = features.map(|(position, name)| Feature {
            name,
            wanted: bit(position, 1),
            active: bit(position, 2),
            position,
        });
        Ok(features.collect())
    }

    /// Wants `features`, which are those of [`Ethtool::features`], on or off. Whether they are then is told
    /// by another look at them.
    ///
    /// # Errors
    ///
    /// The error of the ioctl: `EPERM` without `CAP_NET_ADMIN`, `EINVAL` where one cannot be changed.
    pub fn set<'a>(
        &self,
        device: &str,
        features: impl IntoIterator<Item = &'a Feature>,
        on: bool,
    ) -> io::Result<()> {
        let blocks = self.names(device)?.len().div_ceil(32);
        let mut words = vec![0; 2 + blocks * SET];
        words[0] = SET_FEATURES;
        words[1] = blocks as u32;
        for feature in features {
            let block = 2 + feature.position / 32 * SET;
            let bit = 1 << (feature.position % 32);
            words[block] |= bit;
            words[block + 1] |= if on { bit } else { 0 };
        }
        // SAFETY: the kernel reads two words, and as many blocks of `SET` words as the second says.
        unsafe { self.ask(device, words.as_mut_ptr().cast()) }
    }

    /// The names of all features by their position.
    fn names(&self, device: &str) -> io::Result<Vec<String>> {
        /// `struct ethtool_sset_info` for one set.
        #[repr(C)]
        struct SetInfo {
            command: u32,
            reserved: u32,
            mask: u64,
            count: u32,
        }
        let mut info = SetInfo {
            command: GET_SET_INFO,
            reserved: 0,
            mask: 1 << FEATURES,
            count: 0,
        };
        // SAFETY: the kernel reads and writes a `struct ethtool_sset_info`, with one number for the one
        // set in the mask, which `info` is.
        unsafe { self.ask(device, (&raw mut info).cast()) }?;
        let count = info.count as usize;
        let mut words = vec![0; 3 + count * STRING_WORDS];
        words[..3].copy_from_slice(&[GET_STRINGS, FEATURES, info.count]);
        // SAFETY: the kernel reads three words and writes those and the strings of the set, whose number,
        // which never changes, it has just told.
        unsafe { self.ask(device, words.as_mut_ptr().cast()) }?;
        let strings = words[3..].chunks_exact(STRING_WORDS).map(|words: &[u32]| {
            let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
            let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(strings.collect())
    }

    /// # Safety
    ///
    /// `data` must be what the command in its first word says.
    unsafe fn ask(&self, device: &str, data: *mut c_void) -> io::Result<()> {
        let name = CString::new(device)
            .ok()
            .filter(|name| name.count_bytes() <= NAME_MAX)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        // SAFETY: an all-zero ifreq is a valid one; its name keeps a zero at the end because of the check
        // above. The kernel reads the ifreq and, as the caller guarantees, uses `data` as it may.
        let rc = unsafe {
            let mut request: libc::ifreq = mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
                *to = c_char::from_ne_bytes([*from]);
            }
            request.ifr_ifru.ifru_data = data.cast();
            libc::ioctl(self.0.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request)
        };
        check(rc)
    }
}

/// The name of device number `ifindex` now; `None` where there is no such device.
pub fn name_of(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the function writes at most `IF_NAMESIZE` bytes, the last of them a zero.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: the function has put a string with its zero there.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    name.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_features_and_one_queue() {
        let ethtool = Ethtool::new().unwrap();
        let features = ethtool.features("lo").unwrap();
        let of = |name| features.iter().find(|feature| feature.name == name);
        assert!(of("loopback").unwrap().active);
        assert!(!of("rx-vlan-hw-parse").unwrap().active);
        assert_eq!(ethtool.receive_queues("lo").unwrap(), 1);
        assert_eq!(name_of(1).as_deref(), Some("lo"));
    }

    #[test]
    fn there_is_no_device_of_a_name_that_none_can_have() {
        let ethtool = Ethtool::new().unwrap();
        for name in ["", "a\0b", "sixteen-letters-"] {
            let error = ethtool.features(name).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
        assert_eq!(name_of(u32::MAX), None);
    }
}
