//! Packet sockets (`packet(7)`) that carry a virtio-net header in front of each frame.
//!
//! Knows where the kernel keeps a VLAN tag that it has taken out of a frame, and nothing else of
//! Ethernet.

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, iovec, socklen_t};

use super::call::{check, raw, set};

mod ring;

pub use ring::{Layout, Place, Ring};

/// What the kernel says of a frame besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes in all, the header's among them.
    pub len: usize,
    /// There were more than the parts hold; the rest is lost.
    pub truncated: bool,
    /// The outer VLAN tag, if there was one: TPID and TCI. It is not in the bytes.
    pub tag: Option<(u16, u16)>,
}

/// A non-blocking socket that receives nothing before [`bind`].
///
/// # Errors
///
/// The error of `socket`: `EPERM` without `CAP_NET_RAW`.
pub fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes integers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an integer option of level `SOL_PACKET`.
///
/// # Errors
///
/// The error of `setsockopt`: `ENOPROTOOPT` for an option that the kernel does not know.
pub fn set_option(socket: &impl AsFd, option: c_int, value: c_int) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, option, &value)
}

/// Sets both buffers of the socket, beyond the limit of the system where the process may.
///
/// # Errors
///
/// The error of `setsockopt`.
pub fn set_buffers(socket: &impl AsFd, bytes: c_int) -> io::Result<()> {
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        set(socket, libc::SOL_SOCKET, force, &bytes)
            .or_else(|_| set(socket, libc::SOL_SOCKET, plain, &bytes))?;
    }
    Ok(())
}

/// Receives the frames of all addresses from device number `ifindex` for as long as it is open.
///
/// # Errors
///
/// The error of `setsockopt`.
pub fn join_promiscuous(socket: &impl AsFd, ifindex: u32) -> io::Result<()> {
    join(socket, ifindex, libc::PACKET_MR_PROMISC as u16)
}

/// Receives the frames of all groups from device number `ifindex` for as long as it is open.
///
/// # Errors
///
/// The error of `setsockopt`.
pub fn join_all_groups(socket: &impl AsFd, ifindex: u32) -> io::Result<()> {
    join(socket, ifindex, libc::PACKET_MR_ALLMULTI as u16)
}

fn join(socket: &impl AsFd, ifindex: u32, mr_type: u16) -> io::Result<()> {
    let membership = libc::packet_mreq {
        mr_ifindex: index(ifindex)?,
        mr_type,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &membership,
    )
}

/// Lets nothing in until [`open_gate`].
///
/// # Errors
///
/// The error of `setsockopt`.
pub fn close_gate(socket: &impl AsFd) -> io::Result<()> {
    let mut nothing = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut nothing,
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Ends what [`close_gate`] began.
///
/// # Errors
///
/// The error of `setsockopt`.
pub fn open_gate(socket: &impl AsFd) -> io::Result<()> {
    let unused: c_int = 0;
    set(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &unused)
}

/// Binds to device number `ifindex`, for frames of all protocols.
///
/// # Errors
///
/// The error of `bind`.
pub fn bind(socket: &impl AsFd, ifindex: u32) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr_ll is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index(ifindex)?;
    // SAFETY: the kernel reads a sockaddr_ll of exactly the size given.
    check(unsafe {
        libc::bind(
            raw(socket),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as socklen_t,
        )
    })
}

/// Spreads the frames of a device by their flow over the sockets of a group. The first socket makes
/// the group and gets its number, the others join it. What a host sends is left out.
///
/// # Errors
///
/// The error of `setsockopt` or `getsockopt`.
pub fn join_fanout(socket: &impl AsFd, group: Option<u16>) -> io::Result<u16> {
    let mut kind = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    if group.is_none() {
        kind |= libc::PACKET_FANOUT_FLAG_UNIQUEID;
    }
    let value = kind << 16 | u32::from(group.unwrap_or(0));
    set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, &value)?;
    let mut now: u32 = 0;
    let mut len = size_of::<u32>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `now`.
    check(unsafe {
        libc::getsockopt(
            raw(socket),
            libc::SOL_PACKET,
            libc::PACKET_FANOUT,
            (&raw mut now).cast(),
            &raw mut len,
        )
    })?;
    Ok((now & 0xffff) as u16)
}

/// Room for the auxiliary data of a frame, aligned as a control message is.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives one frame into `parts`, one after the other.
///
/// # Errors
///
/// The error of `recvmsg`: `WouldBlock` where there is none, `EINVAL` where the one that there was
/// has no virtio-net header, `ENETDOWN` once when the device went down.
pub fn receive<const N: usize>(
    socket: BorrowedFd<'_>,
    parts: [&mut [u8]; N],
) -> io::Result<Arrival> {
    let mut parts = parts.map(|part| iovec {
        iov_base: part.as_mut_ptr().cast::<c_void>(),
        iov_len: part.len(),
    });
    let mut control = Control([0; 64]);
    // SAFETY: an all-zero msghdr is an empty one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: the message points to `N` parts of exclusively borrowed memory and to `control`, with
    // their true lengths; all of it outlives the call.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let len = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    Ok(Arrival {
        len,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        tag: tag(&message),
    })
}

/// The VLAN tag in the auxiliary data of a received message.
fn tag(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: recvmsg has left in `message` the control buffer and the length of what is in it, and
    // the macros stay within that. A control message of this type and length holds a
    // tpacket_auxdata, of which any bytes are valid, and which is copied byte by byte.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = at.as_ref() {
            if header.cmsg_level == libc::SOL_PACKET
                && header.cmsg_type == libc::PACKET_AUXDATA
                && header.cmsg_len >= libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) as _
            {
                let mut data: libc::tpacket_auxdata = mem::zeroed();
                let len = size_of_val(&data);
                std::ptr::copy_nonoverlapping(libc::CMSG_DATA(at), (&raw mut data).cast(), len);
                return tag_of(&data);
            }
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
    None
}

fn tag_of(data: &libc::tpacket_auxdata) -> Option<(u16, u16)> {
    tag_in(data.tp_status, data.tp_vlan_tpid, data.tp_vlan_tci)
}

/// The tag that the kernel tells of, if its status says that there is one.
fn tag_in(status: u32, tpid: u16, tci: u16) -> Option<(u16, u16)> {
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let told = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    Some((if told { tpid } else { 0x8100 }, tci))
}

/// How many frames for the socket were lost since it was asked last: there was no room, or no virtio-net header can
/// describe them.
///
/// # Errors
///
/// The error of `getsockopt`.
pub fn take_losses(socket: &impl AsFd) -> io::Result<u32> {
    let mut counts = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut len = size_of_val(&counts) as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `counts`.
    check(unsafe {
        libc::getsockopt(
            raw(socket),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut len,
        )
    })?;
    Ok(counts.tp_drops)
}

fn index(ifindex: u32) -> io::Result<c_int> {
    c_int::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_taken_only_where_the_kernel_says_that_there_is_one() {
        let mut data = libc::tpacket_auxdata {
            tp_status: 0,
            tp_len: 60,
            tp_snaplen: 60,
            tp_mac: 0,
            tp_net: 14,
            tp_vlan_tci: 0,
            tp_vlan_tpid: 0x88a8,
        };
        assert_eq!(tag_of(&data), None);
        data.tp_status = libc::TP_STATUS_VLAN_VALID;
        assert_eq!(tag_of(&data), Some((0x8100, 0)));
        data.tp_status |= libc::TP_STATUS_VLAN_TPID_VALID;
        data.tp_vlan_tci = 0x2007;
        assert_eq!(tag_of(&data), Some((0x88a8, 0x2007)));
    }

    #[test]
    fn an_index_beyond_the_kernels_is_no_device() {
        assert_eq!(index(7).unwrap(), 7);
        assert!(index(u32::MAX).is_err());
    }
}
