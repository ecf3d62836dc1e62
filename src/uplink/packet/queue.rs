//! One packet socket as workers use it.
//!
//! Frames are lent where the kernel has put them, in a ring of slots for frames of the device's MTU. Longer ones, which
//! are segments that the kernel has merged or left whole, are read into buffers, one by one, in their turn. *Threads.* Any; receiving
//! and sending do not wait for each other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::link::Received;
use super::{BUFFER, HEADER};
use crate::frame::ethernet::{HEADER_LEN, TAG_LEN};
use crate::frame::vnet::VnetHeader;
use crate::sys::packet::{self, Layout, Place, Ring};
use crate::virtqueue::{self, Gather};

/// Bytes in front of a received frame that are left for the tag that the kernel has taken out.
pub const TAG_ROOM: usize = TAG_LEN;

/// Both addresses, behind which a tag belongs.
const ADDRESSES: usize = 12;
/// What a tag that comes back adds.
const TAG_GROWTH: i16 = TAG_LEN as u8 as i16;

/// A socket with its ring.
#[derive(Debug)]
pub struct PacketQueue {
    socket: OwnedFd,
    ring: Mutex<Ring>,
}

/// Frames that are ours until the end.
#[derive(Debug)]
pub struct Lent<'a> {
    socket: &'a OwnedFd,
    ring: MutexGuard<'a, Ring>,
    losing: bool,
}

/// Where the frame is that was taken.
#[derive(Debug)]
pub enum Arrival {
    /// In the ring, as [`Lent::last`]; this is its header.
    Here(VnetHeader),
    /// In the socket, to be read with [`Lent::read`].
    Socket,
}

impl PacketQueue {
    /// Gives a socket its ring, for a device with this MTU.
    ///
    /// # Errors
    ///
    /// Those of [`Ring::new`].
    pub fn new(socket: OwnedFd, mtu: u16) -> io::Result<Self> {
        let longest = u32::from(mtu) + (HEADER_LEN + TAG_LEN) as u32;
        let ring = Ring::new(&socket, Layout::new(BUFFER as u32, longest), HEADER)?;
        Ok(Self {
            socket,
            ring: Mutex::new(ring),
        })
    }

    /// Begins to receive: the frames that are taken go back when the guard does.
    pub fn lend(&self) -> Lent<'_> {
        // Nobody panics while holding it.
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        Lent {
            socket: &self.socket,
            ring,
            losing: false,
        }
    }

    /// Sends one frame; returns as many bytes as the frame has if it went whole.
    pub fn send(&self, frame: &Gather<'_>) -> io::Result<usize> {
        let header = frame.header.get(..HEADER).unwrap_or(frame.header);
        let write = || virtqueue::writev(self.socket.as_fd(), &Gather { header, ..*frame });
        let sent = write().or_else(|error| match error.raw_os_error() {
            // A device that was down is told once, also when it is up again.
            Some(libc::ENETDOWN) => write(),
            _ => Err(error),
        })?;
        Ok(sent + frame.header.len() - header.len())
    }
}

impl AsRawFd for PacketQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Lent<'_> {
    /// The next frame, with its tag where it was. It is one of [`Lent::taken`], as an empty one if it is in the socket.
    #[inline]
    pub fn take(&mut self) -> io::Result<Arrival> {
        let slot = self.ring.take().ok_or(io::ErrorKind::WouldBlock)?;
        self.losing |= slot.losing;
        let header = match slot.place {
            Place::Here(tag) => self.unpack(tag),
            Place::Socket => return Ok(Arrival::Socket),
            Place::Lost => None,
        };
        header.map(Arrival::Here).ok_or_else(|| self.lost())
    }

    /// The frame that was taken last, if it is in the ring.
    #[inline]
    pub fn last(&mut self) -> &mut [u8] {
        self.ring.last()
    }

    /// Takes the header from the frame that was taken last, and puts its tag back.
    fn unpack(&mut self, tag: Option<(u16, u16)>) -> Option<VnetHeader> {
        let (header, frame) = self.ring.last().split_at_mut_checked(HEADER)?;
        let mut bytes = [0; VnetHeader::LEN];
        bytes[..HEADER].copy_from_slice(header);
        let mut vnet = VnetHeader::decode(&bytes);
        let mut ahead = HEADER;
        if let Some(tag) = tag {
            if frame.len() < ADDRESSES {
                return None;
            }
            vnet.retag(TAG_GROWTH);
            // The addresses move over the header.
            ahead -= TAG_LEN;
            put_tag_back(&mut self.ring.last()[ahead..], tag);
        }
        self.ring.trim(ahead);
        Some(vnet)
    }

    /// Reads the frame that was taken last, which is in the socket.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        // That the device went down is told once, before frames that were there by then.
        read(self.socket, buffer)
            .or_else(|_| read(self.socket, buffer))
            .map_err(|_| self.lost())
    }

    /// The frame that was taken last is none.
    #[cold]
    fn lost(&mut self) -> io::Error {
        self.ring.forget();
        io::ErrorKind::InvalidData.into()
    }

    /// The frames that were taken, in their order; an empty one for each that is in the socket.
    #[inline]
    pub fn taken(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.ring.taken()
    }

    /// How many frames did not get here, of which the ring has told and this not yet.
    #[inline]
    pub fn take_losses(&mut self) -> u32 {
        if !std::mem::take(&mut self.losing) {
            return 0;
        }
        packet::take_losses(self.socket).unwrap_or(0)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.ring.give_back();
    }
}

/// Receives a frame from a socket, and puts the tag back that the kernel has taken out.
fn read(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    const HEADER_AT: usize = TAG_ROOM;
    const FRAME_AT: usize = HEADER_AT + VnetHeader::LEN;
    let lost = || io::Error::from(io::ErrorKind::InvalidData);
    let (front, frame) = buffer.split_at_mut_checked(FRAME_AT).ok_or_else(lost)?;
    front.fill(0);
    let header = &mut front[HEADER_AT..HEADER_AT + HEADER];
    let arrival = packet::receive(socket.as_fd(), [header, frame])?;
    let len = arrival.len.checked_sub(HEADER).ok_or_else(lost)?;
    if arrival.truncated {
        return Err(lost());
    }
    let Some(tag) = arrival.tag else {
        return Ok(Received { at: HEADER_AT, len });
    };
    if len < ADDRESSES {
        return Err(lost());
    }
    let mut bytes = [0; VnetHeader::LEN];
    bytes.copy_from_slice(&buffer[HEADER_AT..FRAME_AT]);
    let mut vnet = VnetHeader::decode(&bytes);
    vnet.retag(TAG_GROWTH);
    buffer[..VnetHeader::LEN].copy_from_slice(&vnet.encode());
    put_tag_back(&mut buffer[VnetHeader::LEN..], tag);
    Ok(Received {
        at: 0,
        len: len + TAG_LEN,
    })
}

/// Puts a tag into a frame whose bytes begin after the room for it.
fn put_tag_back(bytes: &mut [u8], (tpid, tci): (u16, u16)) {
    bytes.copy_within(TAG_LEN..TAG_LEN + ADDRESSES, 0);
    let tag = &mut bytes[ADDRESSES..ADDRESSES + TAG_LEN];
    tag[..2].copy_from_slice(&tpid.to_be_bytes());
    tag[2..].copy_from_slice(&tci.to_be_bytes());
}
