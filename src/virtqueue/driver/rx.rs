//! The queue on which frames come from the device.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::HeaderBytes;
use super::memory::DriverMemory;
use super::ring::{Access, DeviceError, DriverFeatures, Ring, RingLayout};
use super::slots::{Layout, Parts, QueueError, QueueOptions, Slots};
use super::wake::Wake;
use crate::sys::cache;
use crate::virtqueue::copy::copy_bytes;

/// How many buffers ahead the beginning of one is fetched into the cache.
const AHEAD: u16 = 8;

/// A receive queue: what the guest gets.
#[derive(Debug)]
pub struct RxQueue {
    ring: Ring,
    slots: Slots,
    parts: Parts,
    header_len: u32,
    mergeable: bool,
    wake: Wake,
}

impl RxQueue {
    /// Makes a queue in `memory`, with no buffers posted.
    pub fn new(
        memory: &Arc<DriverMemory>,
        options: &QueueOptions,
        features: DriverFeatures,
    ) -> Result<Self, QueueError> {
        let indirect = options.indirect && features.indirect;
        Ok(Self {
            slots: Slots::new(memory, options, features.header_len, indirect)?,
            ring: Ring::new(memory, options.size, features)?,
            parts: Parts::new(),
            header_len: features.header_len.into(),
            mergeable: features.mergeable,
            wake: Wake::new()?,
        })
    }

    /// Posts every free buffer that the ring has room for; returns how many. The device sees them at the
    /// next [`RxQueue::kick`].
    pub fn refill(&mut self) -> usize {
        self.post(usize::MAX)
    }

    /// Posts at most `most` buffers, to test what happens when they run out.
    pub fn post(&mut self, most: usize) -> usize {
        let len = self.slots.len();
        let cost = self.slots.cost(len);
        let mut count = 0;
        while count < most
            && self.ring.room() >= cost
            && let Some(slot) = self.slots.take()
        {
            self.slots.describe(slot, len, &mut self.parts);
            self.ring.post(
                &self.parts,
                Access::DeviceWrites,
                slot,
                self.slots.table(slot),
            );
            count += 1;
        }
        count
    }

    /// Buffers that the device does not hold.
    pub fn free(&self) -> u16 {
        self.slots.free()
    }

    /// Shows the posted buffers to the device and wakes it if it wishes; true if it was woken.
    pub fn kick(&mut self) -> io::Result<bool> {
        self.ring.publish();
        let wanted = self.ring.wants_kick();
        if wanted {
            self.wake.kick()?;
        }
        Ok(wanted)
    }

    /// Takes one frame: its bytes replace what `frame` held, its header is returned, with
    /// `num_buffers` 1 where the header has no such field.
    pub fn recv(&mut self, frame: &mut Vec<u8>) -> Result<Option<HeaderBytes>, DeviceError> {
        frame.clear();
        self.take(|from, count| {
            frame.reserve(count);
            // SAFETY: `take` hands over `count` readable bytes; `reserve` made the room that `set_len` then
            // covers, and the vector is not in the mapping.
            unsafe {
                let to = frame.as_mut_ptr().add(frame.len());
                std::ptr::copy_nonoverlapping(from, to, count);
                frame.set_len(frame.len() + count);
            }
        })
    }

    /// Takes one frame into `out`, behind 12 bytes of header. Returns the bytes of both, which are more than
    /// `out` has where the end of the frame was cut off. `out` has room for a header at least.
    pub fn recv_into(&mut self, out: &mut [u8]) -> Result<Option<usize>, DeviceError> {
        let Some((place, room)) = out.split_first_chunk_mut::<12>() else {
            return Ok(None);
        };
        let (mut len, mut left) = (place.len(), room);
        let found = self.take(|from, count| {
            len += count;
            let room = std::mem::take(&mut left);
            let (now, later) = room.split_at_mut(count.min(room.len()));
            // SAFETY: `take` hands over `count` readable bytes, of which `now` has room for its length.
            unsafe { copy_bytes(now.as_mut_ptr(), from, now.len()) };
            left = later;
        })?;
        Ok(found.map(|header| {
            *place = header;
            len
        }))
    }

    /// Takes one frame whose first bytes, as many as it has and `head` holds, go there, behind 12 bytes of header. The
    /// rest replaces what `rest` held if `wanted` says so of them. Returns the bytes of header and frame. `head` has room
    /// for a header at least.
    pub fn recv_head(
        &mut self,
        head: &mut [u8],
        wanted: impl FnOnce(&[u8]) -> bool,
        rest: &mut Vec<u8>,
    ) -> Result<Option<usize>, DeviceError> {
        rest.clear();
        let Some((place, head)) = head.split_first_chunk_mut::<12>() else {
            return Ok(None);
        };
        let (mut len, mut filled) = (place.len(), 0);
        let mut wanted = Some(wanted);
        let mut keep = false;
        let found = self.take(|from, count| {
            len += count;
            let now = count.min(head.len() - filled);
            // SAFETY: `take` hands over `count` readable bytes, and `head` has room for `now` of them.
            unsafe { copy_bytes(head.as_mut_ptr().add(filled), from, now) };
            filled += now;
            // What is to be known of a frame is known when the head is full.
            if filled == head.len()
                && let Some(wanted) = wanted.take()
            {
                keep = wanted(head);
            }
            if keep {
                let more = count - now;
                rest.reserve(more);
                // SAFETY: `now + more` bytes are readable; `reserve` made the room that `set_len` then covers.
                unsafe {
                    let to = rest.as_mut_ptr().add(rest.len());
                    std::ptr::copy_nonoverlapping(from.add(now), to, more);
                    rest.set_len(rest.len() + more);
                }
            }
        })?;
        Ok(found.map(|header| {
            *place = header;
            len
        }))
    }

    /// Asks for a call at the next frame; true when there already is one.
    pub fn enable_calls(&mut self) -> bool {
        self.ring.enable_calls()
    }

    /// Asks for no more calls.
    pub fn disable_calls(&mut self) {
        self.ring.disable_calls();
    }

    /// Takes one frame, whose pieces go to `put`, and returns its header.
    fn take(
        &mut self,
        mut put: impl FnMut(*const u8, usize),
    ) -> Result<Option<HeaderBytes>, DeviceError> {
        let Some((slot, len)) = self.pop()? else {
            return Ok(None);
        };
        if len < self.header_len {
            return Err(DeviceError::ShortFrame(len));
        }
        let mut header: HeaderBytes = [0; 12];
        // SAFETY: the slot is longer than 12 bytes and the device has given it back.
        unsafe {
            let from = self.slots.pointer(slot);
            std::ptr::copy_nonoverlapping(from, header.as_mut_ptr(), header.len());
        }
        if self.header_len == 10 {
            header[10..].copy_from_slice(&[1, 0]);
        }
        self.give(slot, self.header_len, len, &mut put);
        if self.mergeable {
            let announced = u16::from_le_bytes([header[10], header[11]]);
            for published in 1..announced.max(1) {
                // All buffers of a frame are published at once (VIRTIO 1.2, 5.1.6.4).
                let (slot, len) = self.pop()?.ok_or(DeviceError::Merge {
                    announced,
                    published,
                })?;
                self.give(slot, 0, len, &mut put);
            }
            if announced == 0 {
                return Err(DeviceError::Merge {
                    announced,
                    published: 1,
                });
            }
        }
        Ok(Some(header))
    }

    fn pop(&mut self) -> Result<Option<(u16, u32)>, DeviceError> {
        if let Some(slot) = self.ring.upcoming(AHEAD) {
            cache::prefetch::<false>(self.slots.pointer(slot));
        }
        let Some(used) = self.ring.pop()? else {
            return Ok(None);
        };
        let room = self.slots.len();
        let len = used.len.unwrap_or(room);
        if len > room {
            return Err(DeviceError::TooLong { len, room });
        }
        Ok(Some((used.token, len)))
    }

    /// Passes bytes `from..to` of a slot that came back to `put`, and frees it.
    fn give(&mut self, slot: u16, from: u32, to: u32, put: &mut impl FnMut(*const u8, usize)) {
        let (from, count) = (from as usize, (to - from) as usize);
        // SAFETY: `pop` checked `to` against the slot's length, and the slot is ours again.
        let source = unsafe { self.slots.pointer(slot).add(from) };
        put(source, count);
        self.slots.give(slot);
    }

    /// Buffers that the device holds.
    pub fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// Sleeps until a frame is there; false when the time is over.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        self.wake.wait(&mut self.ring, timeout)
    }

    /// Cuts the buffers that are posted from now on in another way.
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
