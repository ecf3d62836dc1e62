//! The rings between this process and the kernel: one writes entries, the other takes them.
//!
//! The indices run free and are masked at each access. The kernel is trusted to keep them in bounds.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{off_t, xdp_ring_offset};

use super::super::mapping::Mapping;

/// A ring in its mapping.
#[derive(Debug)]
struct Ring<T> {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    entries: *mut T,
    mask: u32,
    /// What the pointers point into.
    _mapping: Mapping,
}

// SAFETY: the pointers are into the mapping that the ring owns, and may be used by any thread; entries
// are accessed by `&mut self` only.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn new(
        socket: &impl AsFd,
        page: off_t,
        at: &xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        let len = at.desc as usize + entries as usize * size_of::<T>();
        let mapping = Mapping::new(socket, len, page)?;
        let base = mapping.base();
        // SAFETY: the kernel tells the offsets in the very mapping that it has just made, with room for as
        // many entries as it was asked for; all of them are aligned for what is there.
        unsafe {
            Ok(Self {
                producer: base.add(at.producer as usize).cast(),
                consumer: base.add(at.consumer as usize).cast(),
                flags: base.add(at.flags as usize).cast(),
                entries: base.add(at.desc as usize).cast(),
                mask: entries - 1,
                _mapping: mapping,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid for as long as the mapping, which `self` owns; both sides use it as an atomic.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.consumer }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.flags }
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the number of entries.
        unsafe { self.entries.add((index & self.mask) as usize) }
    }

    fn len(&self) -> u32 {
        self.mask + 1
    }
}

/// A ring that we fill.
#[derive(Debug)]
pub struct Producer<T> {
    ring: Ring<T>,
    /// Where the next entry goes.
    next: u32,
    /// What the kernel had taken when we looked last.
    taken: u32,
}

impl<T: Copy> Producer<T> {
    /// Maps the ring of `socket` that lies at `page`.
    pub fn new(
        socket: &impl AsFd,
        page: off_t,
        at: &xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Ring::new(socket, page, at, entries)?,
            next: 0,
            taken: 0,
        })
    }

    /// Adds an entry, which the kernel sees after [`Producer::publish`]; whether there was room.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.next.wrapping_sub(self.taken) == self.ring.len()
            && self.waiting() == self.ring.len()
        {
            return false;
        }
        // SAFETY: the kernel has taken what was in this entry, and reads it again after `publish` only.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Lets the kernel see what was added.
    #[inline]
    pub fn publish(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// How many entries the kernel has not taken yet.
    #[inline]
    pub fn waiting(&mut self) -> u32 {
        self.taken = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.taken)
    }

    /// Takes all entries back that nobody will take any more, and tells how many these were.
    pub fn withdraw(&mut self) -> u32 {
        let waiting = self.waiting();
        self.next = self.taken;
        self.publish();
        waiting
    }

    /// Whether the kernel has to be told that there are new entries.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that the kernel fills.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: Ring<T>,
    /// Where the next entry comes from.
    next: u32,
    /// How far the kernel had come when we looked last.
    filled: u32,
}

impl<T: Copy> Consumer<T> {
    /// Maps the ring of `socket` that lies at `page`.
    pub fn new(
        socket: &impl AsFd,
        page: off_t,
        at: &xdp_ring_offset,
        entries: u32,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: Ring::new(socket, page, at, entries)?,
            next: 0,
            filled: 0,
        })
    }

    /// Takes the next entry. The kernel may use its place again after [`Consumer::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.filled {
            self.filled = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.filled {
                return None;
            }
        }
        // SAFETY: the kernel has filled this entry and leaves it alone until `release`.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of what was taken back.
    #[inline]
    pub fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
