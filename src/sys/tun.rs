//! The controls of `/dev/net/tun` and of MACVTAP's device nodes (`linux/if_tun.h`).
//!
//! Both take the same requests. Knows nothing of what goes through the devices.

use std::io;
use std::mem;
use std::os::fd::AsFd;

use libc::{c_int, c_short, c_uint};

use super::call::{check, raw};

/// Longest name of a network device.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// How a queue is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The device has, or gets, several queues.
    pub multi_queue: bool,
    /// The device must be new.
    pub exclusive: bool,
}

/// Attaches an open node to the device `name`, which carries Ethernet frames behind a virtio-net
/// header. A TAP device that is not there is made, and lives as long as a descriptor.
///
/// # Errors
///
/// The error of the ioctl: `EPERM` without `CAP_NET_ADMIN`, `EBUSY` where the device is in use or
/// must be new and is not, `EINVAL` where it is of another kind.
pub fn attach(node: &impl AsFd, name: &str, how: Attach) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > NAME_MAX || bytes.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if how.multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    if how.exclusive {
        flags |= libc::IFF_TUN_EXCL;
    }
    // SAFETY: an all-zero ifreq is a valid one; its name keeps a zero at the end because of the
    // check above. The kernel reads and writes an ifreq.
    let rc = unsafe {
        let mut request: libc::ifreq = mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags = flags as c_short;
        libc::ioctl(raw(node), libc::TUNSETIFF, &raw mut request)
    };
    check(rc)
}

/// What an open node is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name of the device.
    pub name: String,
    /// It carries Ethernet frames.
    pub tap: bool,
    /// A virtio-net header is in front of each frame.
    pub vnet_header: bool,
    /// Something else is in front of each frame, too.
    pub packet_information: bool,
}

/// What an open node is attached to.
///
/// # Errors
///
/// The error of the ioctl: `EBADFD` or `ENOLINK` where it is attached to nothing, or not any more;
/// `ENOTTY` and others for another file.
pub fn interface(node: &impl AsFd) -> io::Result<Interface> {
    // SAFETY: an all-zero ifreq is a valid one, which the kernel fills in. Any bytes are a valid name and
    // valid flags.
    let (name, flags) = unsafe {
        let mut request: libc::ifreq = mem::zeroed();
        check(libc::ioctl(raw(node), libc::TUNGETIFF, &raw mut request))?;
        (request.ifr_name, request.ifr_ifru.ifru_flags)
    };
    let name: Vec<u8> = name
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0)
        .collect();
    let has = |flag: c_int| c_int::from(flags) & flag != 0;
    Ok(Interface {
        name: String::from_utf8_lossy(&name).into_owned(),
        tap: has(libc::IFF_TAP),
        vnet_header: has(libc::IFF_VNET_HDR),
        packet_information: !has(libc::IFF_NO_PI),
    })
}

/// Sets the length of the virtio-net header in front of each frame, and that it is little endian.
///
/// # Errors
///
/// The error of the ioctl.
pub fn set_header_len(node: &impl AsFd, len: usize) -> io::Result<()> {
    let len = c_int::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let yes: c_int = 1;
    // SAFETY: the kernel reads an int through each pointer.
    unsafe {
        check(libc::ioctl(
            raw(node),
            libc::TUNSETVNETHDRSZ,
            &raw const len,
        ))?;
        check(libc::ioctl(raw(node), libc::TUNSETVNETLE, &raw const yes))
    }
}

/// Says what we take without repair: a set of `TUN_F_*`.
///
/// # Errors
///
/// The error of the ioctl: `EINVAL` for an offload that the kernel does not know.
pub fn set_offload(node: &impl AsFd, offloads: c_uint) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    check(unsafe {
        libc::ioctl(
            raw(node),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(offloads),
        )
    })
}

/// Sets how many bytes may wait for the device below before a write is refused.
///
/// # Errors
///
/// The error of the ioctl.
pub fn set_send_buffer(node: &impl AsFd, bytes: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int through the pointer.
    check(unsafe { libc::ioctl(raw(node), libc::TUNSETSNDBUF, &raw const bytes) })
}

/// Lets a user attach to the TAP device without `CAP_NET_ADMIN`.
///
/// # Errors
///
/// The error of the ioctl.
pub fn set_owner(node: &impl AsFd, user: u32) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    check(unsafe { libc::ioctl(raw(node), libc::TUNSETOWNER, libc::c_ulong::from(user)) })
}

/// Lets a group attach to the TAP device without `CAP_NET_ADMIN`.
///
/// # Errors
///
/// The error of the ioctl.
pub fn set_group(node: &impl AsFd, group: u32) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    check(unsafe { libc::ioctl(raw(node), libc::TUNSETGROUP, libc::c_ulong::from(group)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn names_that_no_device_can_have_are_refused_before_the_kernel_sees_them() {
        let file = File::open("/dev/null").unwrap();
        let how = Attach {
            multi_queue: false,
            exclusive: true,
        };
        for name in ["", "a\0b", "sixteen-letters-"] {
            let error = attach(&file, name, how).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{name:?}");
        }
    }

    #[test]
    fn other_files_are_refused_by_the_kernel() {
        let file = File::open("/dev/null").unwrap();
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        };
        refused(set_header_len(&file, 12));
        refused(set_offload(&file, libc::TUN_F_CSUM));
        refused(interface(&file).map(drop));
        refused(set_send_buffer(&file, 1));
        refused(set_owner(&file, 0));
        refused(set_group(&file, 0));
    }
}
