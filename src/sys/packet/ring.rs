//! The frames of a packet socket in memory that is shared with the kernel (`TPACKET_V2`).
//!
//! The ring has slots of one length. The kernel fills them one after the other, each as soon as its frame is
//! there, and waits at one that it has not got back. `TPACKET_V3` would hand over blocks of frames, and a frame that
//! comes alone only when its block's time is up. A frame that is too long for a slot has it filled with its
//! beginning, and can be received from the socket as a whole.
//!
//! *Threads.* One at a time. The memory is shared with the kernel alone, which is trusted as far as it goes.

use std::io;
use std::os::fd::AsFd;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{tpacket_req, tpacket2_hdr};

use super::super::mapping::Mapping;
use super::{set_option, tag_in};

/// Bytes of the blocks that the kernel allocates. Slots, whose length is a power of two, lie in them without a gap.
const BLOCK: u32 = 64 << 10;
/// What the kernel puts in front of a frame, its virtio-net header among that, at most.
const OVERHEAD: u32 = 128;

/// How a ring is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a slot, a power of two.
    pub slot: u32,
    /// How many there are.
    pub slots: u32,
}

impl Layout {
    /// A ring of `bytes`, a power of two and at least 64 KiB, with slots for frames of `frame` bytes, or for as long ones as
    /// 16 KiB hold.
    pub fn new(bytes: u32, frame: u32) -> Self {
        let slot = (frame + OVERHEAD).next_power_of_two().clamp(2048, 16384);
        Self {
            slot,
            slots: bytes / slot,
        }
    }
}

/// The ring of a socket.
#[derive(Debug)]
pub struct Ring {
    memory: Mapping,
    layout: Layout,
    /// Bytes of the virtio-net header before each frame.
    header: usize,
    /// The slot that the kernel fills next, of those that we have not seen.
    next: u32,
    /// The first one that is ours until [`Ring::give_back`], if it is not that.
    ours: u32,
    /// Where in them frames lie.
    taken: Vec<Area>,
}

/// A part of a slot.
#[derive(Clone, Copy, Debug)]
struct Area {
    slot: u32,
    from: usize,
    to: usize,
}

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where the frame is.
    pub place: Place,
    /// Whether frames were lost since the kernel was asked for their number.
    pub losing: bool,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the slot, behind its virtio-net header, without the outer VLAN tag: TPID and TCI.
    Here(Option<(u16, u16)>),
    /// In the socket.
    Socket,
    /// Nowhere: it was too long for the slot, and there was no room in the socket.
    Lost,
}

impl Ring {
    /// Gives `socket` a ring, in which a virtio-net header of `header` bytes is before each frame. What waits in
    /// the socket is thrown away.
    ///
    /// # Errors
    ///
    /// The error of a system call: `ENOMEM` where the kernel has not so much memory.
    pub fn new(socket: &impl AsFd, layout: Layout, header: usize) -> io::Result<Self> {
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set_option(socket, libc::PACKET_VERSION, version)?;
        set_option(socket, libc::PACKET_COPY_THRESH, 1)?;
        let bytes = layout.slot * layout.slots;
        let request = tpacket_req {
            tp_block_size: BLOCK,
            tp_block_nr: bytes / BLOCK,
            tp_frame_size: layout.slot,
            tp_frame_nr: layout.slots,
        };
        super::set(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        Ok(Self {
            memory: Mapping::new(socket, bytes as usize, 0)?,
            layout,
            header,
            next: 0,
            ours: 0,
            taken: vec![],
        })
    }

    fn slot(&self, number: u32) -> *mut tpacket2_hdr {
        let at = (number % self.layout.slots) as usize * self.layout.slot as usize;
        // SAFETY: the mapping has so many slots of this length, one behind the other.
        unsafe { self.memory.base().add(at).cast() }
    }

    /// The word by which a slot changes hands.
    fn status(&self, number: u32) -> &AtomicU32 {
        // SAFETY: a slot begins with a tpacket2_hdr, and that with its status; both sides use it as an atomic,
        // and it is valid for as long as the mapping, which `self` owns.
        unsafe { &*self.slot(number).cast() }
    }

    /// Takes the next slot that the kernel has filled.
    #[inline]
    pub fn take(&mut self) -> Option<Slot> {
        let slot = self.next;
        let status = self.status(slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.next = slot.wrapping_add(1);
        // SAFETY: the kernel has handed over the slot, which begins with this structure, of which any bytes are
        // valid.
        let header = unsafe { ptr::read(self.slot(slot)) };
        let frame = usize::from(header.tp_mac);
        let mut area = Area {
            slot,
            from: frame.saturating_sub(self.header),
            to: frame + header.tp_snaplen as usize,
        };
        let place = if status & libc::TP_STATUS_COPY != 0 {
            Place::Socket
        } else if header.tp_snaplen < header.tp_len || area.to > self.layout.slot as usize {
            Place::Lost
        } else {
            Place::Here(tag_in(status, header.tp_vlan_tpid, header.tp_vlan_tci))
        };
        if !matches!(place, Place::Here(_)) {
            (area.from, area.to) = (0, 0);
        }
        self.taken.push(area);
        Some(Slot {
            place,
            losing: status & libc::TP_STATUS_LOSING != 0,
        })
    }

    /// The bytes in the slot that was taken last, the virtio-net header's first; none where the frame is elsewhere.
    #[inline]
    pub fn last(&mut self) -> &mut [u8] {
        self.taken.last().map_or(&mut [], |area| self.bytes(*area))
    }

    /// Leaves the slot that was taken last out of [`Ring::taken`].
    #[cold]
    pub fn forget(&mut self) {
        self.taken.pop();
    }

    /// Leaves the first `count` bytes of the slot that was taken last out of [`Ring::taken`].
    #[inline]
    pub fn trim(&mut self, count: usize) {
        if let Some(area) = self.taken.last_mut() {
            area.from = (area.from + count).min(area.to);
        }
    }

    /// The bytes in the slots that were taken, in their order.
    #[inline]
    pub fn taken(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let ring = &*self;
        ring.taken.iter().map(|area| ring.bytes(*area))
    }

    /// The slots in `taken` are different ones, and whoever calls this has `&mut self` for as long as the bytes.
    #[allow(clippy::mut_from_ref)]
    fn bytes(&self, area: Area) -> &mut [u8] {
        // SAFETY: the area is within its slot, which the kernel has handed over and gets back in `give_back` only;
        // the callers lend the bytes of each slot once while `self` is borrowed exclusively.
        unsafe {
            slice::from_raw_parts_mut(
                self.slot(area.slot).cast::<u8>().add(area.from),
                area.to - area.from,
            )
        }
    }

    /// Gives all slots that were taken back to the kernel.
    #[inline]
    pub fn give_back(&mut self) {
        while self.ours != self.next {
            let status = self.status(self.ours);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.ours = self.ours.wrapping_add(1);
        }
        self.taken.clear();
    }
}
