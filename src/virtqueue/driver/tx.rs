//! The queue on which frames go to the device.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::HeaderBytes;
use super::memory::DriverMemory;
use super::ring::{Access, DeviceError, DriverFeatures, Ring, RingLayout};
use super::slots::{Layout, Parts, QueueError, QueueOptions, Slots};
use super::wake::Wake;
use crate::sys::cache;
use crate::virtqueue::copy::{Gather, copy_bytes, pieces};

/// Bytes of a frame in the first cache line of its buffer, behind the header.
const LINE: usize = 52;

/// How many buffers ahead the beginning of one is fetched into the cache.
const AHEAD: usize = 8;

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// No descriptors or no buffers are left; [`TxQueue::wait`] tells when that may have changed.
    #[error("the transmit queue is full")]
    Full,
    /// The frame is empty or does not fit a buffer.
    #[error("a frame of {0} bytes does not fit the queue's buffers")]
    Length(usize),
    /// The device broke the ring.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A transmit queue: what the guest sends.
#[derive(Debug)]
pub struct TxQueue {
    ring: Ring,
    slots: Slots,
    parts: Parts,
    header_len: usize,
    wake: Wake,
}

impl TxQueue {
    /// Makes a queue in `memory`; the device does not know of it yet.
    pub fn new(
        memory: &Arc<DriverMemory>,
        options: &QueueOptions,
        features: DriverFeatures,
    ) -> Result<Self, QueueError> {
        let indirect = options.indirect && features.indirect;
        let slots = Slots::new(memory, options, features.header_len, indirect)?;
        Ok(Self {
            ring: Ring::new(memory, options.size, features)?,
            slots,
            parts: Parts::new(),
            header_len: features.header_len.into(),
            wake: Wake::new()?,
        })
    }

    /// Puts a frame into the ring; [`TxQueue::kick`] shows it, and all before it, to the device.
    pub fn send(&mut self, header: &HeaderBytes, frame: &[u8]) -> Result<(), SendError> {
        let len = self.header_len + frame.len();
        let slot = self.take(len, frame.len())?;
        let to = self.slots.pointer(slot);
        // SAFETY: the slot has room for `len` bytes (checked by `take`), and for 12 in any case; it belongs
        // to us until it is published; the sources are ordinary slices, which cannot overlap the mapping.
        unsafe {
            // Two bytes too many of a short header are covered by the frame.
            std::ptr::copy_nonoverlapping(header.as_ptr(), to, header.len());
            std::ptr::copy_nonoverlapping(frame.as_ptr(), to.add(self.header_len), frame.len());
        }
        self.post(slot, len);
        Ok(())
    }

    /// Sends a frame of `len` bytes of which only the beginning is given. What follows is what its buffer last held
    /// there: zeros, or a part of an earlier frame. For a load, whose frames differ in their first bytes only.
    pub fn send_head(
        &mut self,
        header: &HeaderBytes,
        head: &[u8],
        len: usize,
    ) -> Result<(), SendError> {
        if head.len() > len {
            return Err(SendError::Length(len));
        }
        let whole = self.header_len + len;
        let slot = self.take(whole, len)?;
        let to = self.slots.pointer(slot);
        // SAFETY: as in `send`: the slot has room for header and `len` bytes, of which `head` is no more.
        unsafe {
            std::ptr::copy_nonoverlapping(header.as_ptr(), to, header.len());
            let to = to.add(self.header_len);
            match head.first_chunk::<LINE>() {
                // A length that the compiler knows.
                Some(line) => {
                    std::ptr::copy_nonoverlapping(line.as_ptr(), to, LINE);
                    let rest = &head[LINE..];
                    std::ptr::copy_nonoverlapping(rest.as_ptr(), to.add(LINE), rest.len());
                }
                None => std::ptr::copy_nonoverlapping(head.as_ptr(), to, head.len()),
            }
        }
        self.post(slot, whole);
        Ok(())
    }

    /// The same with a frame that lies in several places, behind a header of the queue's length.
    ///
    /// # Errors
    ///
    /// [`SendError::Length`] also for one with another header, or with less than it says.
    pub fn send_gather(&mut self, frame: &Gather<'_>) -> Result<(), SendError> {
        let wrong = SendError::Length(frame.len().saturating_sub(self.header_len));
        if frame.header.len() != self.header_len {
            return Err(wrong);
        }
        let slot = self.take(frame.len(), frame.len() - self.header_len)?;
        let to = self.slots.pointer(slot);
        let mut done = 0;
        let slices = [frame.header, frame.head].map(|part| (part.as_ptr(), part.len()));
        let rest = pieces(frame.rest, frame.rest_skip, frame.rest_len)
            .map(|(segment, from, count)| (segment.ptr().wrapping_add(from).cast_const(), count));
        for (from, count) in slices.into_iter().chain(rest) {
            // SAFETY: all parts together are `frame.len()` bytes at most, for which the slot has room
            // (checked by `take`); each is a slice or a checked range of a segment that `frame` borrows.
            unsafe { copy_bytes(to.add(done), from, count) };
            done += count;
        }
        if done < frame.len() {
            self.slots.give(slot);
            return Err(wrong);
        }
        self.post(slot, done);
        Ok(())
    }

    /// A slot for `len` bytes, `frame_len` of them without the header, that the ring has room for.
    fn take(&mut self, len: usize, frame_len: usize) -> Result<u16, SendError> {
        if frame_len == 0 || len > self.slots.len() as usize {
            return Err(SendError::Length(frame_len));
        }
        let cost = self.slots.cost(len as u32);
        if self.ring.room() < cost || self.slots.next().is_none() {
            self.reclaim()?;
            if self.ring.room() < cost {
                return Err(SendError::Full);
            }
        }
        if let Some(slot) = self.slots.ahead(AHEAD) {
            cache::prefetch::<true>(self.slots.pointer(slot));
        }
        self.slots.take().ok_or(SendError::Full)
    }

    /// Puts a filled slot into the ring.
    fn post(&mut self, slot: u16, len: usize) {
        self.slots.describe(slot, len as u32, &mut self.parts);
        self.ring.post(
            &self.parts,
            Access::DeviceReads,
            slot,
            self.slots.table(slot),
        );
    }

    /// Shows what was sent to the device and wakes it if it wishes; true if it was woken.
    pub fn kick(&mut self) -> io::Result<bool> {
        self.ring.publish();
        let wanted = self.ring.wants_kick();
        if wanted {
            self.wake.kick()?;
        }
        Ok(wanted)
    }

    /// Takes back the buffers that the device is done with; returns how many.
    pub fn reclaim(&mut self) -> Result<usize, DeviceError> {
        let mut count = 0;
        while let Some(used) = self.ring.pop()? {
            self.slots.give(used.token);
            count += 1;
        }
        Ok(count)
    }

    /// Frames that can be sent, if each needs one descriptor, without asking what the device has given back.
    pub fn vacant(&self) -> usize {
        self.slots.free().min(self.ring.room()).into()
    }

    /// Frames that the device has not given back yet, as of the last [`TxQueue::reclaim`].
    pub fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// Sleeps until the device has given something back; false when the time is over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        self.wake.wait(&mut self.ring, timeout)
    }

    /// Cuts the frames that follow in another way.
    pub fn set_layout(&mut self, layout: Layout) -> Result<(), QueueError> {
        self.slots.set_layout(layout)
    }

    /// Where the ring lies.
    pub fn layout(&self) -> RingLayout {
        self.ring.layout()
    }

    /// The vring base for a device that starts on this ring: after what was used or, with `consumed` false,
    /// after what is available. Of a packed ring only what was taken back counts as used.
    pub fn base(&self, consumed: bool) -> u32 {
        self.ring.base(consumed)
    }

    /// The eventfd that wakes the device.
    pub fn kick_fd(&self) -> &EventFd {
        self.wake.kick_fd()
    }

    /// The eventfd with which the device calls.
    pub fn call_fd(&self) -> &EventFd {
        self.wake.call_fd()
    }
}
