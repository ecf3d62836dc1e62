//! Setting a ring up, and what TX and RX rings share once it runs: format, progress, calls.
//!
//! [`RingConfig`] is what the front end said; activation checks it against guest memory and yields a
//! running ring, which cannot be half configured. Positions and progress live in a state that
//! outlasts a ring object: a new memory table, log or call descriptor makes a new object that shares it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use vmm_sys_util::eventfd::EventFd;

use super::dirty::DirtyLog;
use super::error::{Part, RingError};
use super::format::{Format, Spot, Used};
use super::memory::GuestMemory;
use super::packed::Packed;
use super::positions::RingPosition;
use super::split::Split;
use crate::sys::eventfd;

/// The longest queue that is offered.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// The longest virtio-net header, with `num_buffers`.
pub const MAX_HEADER: usize = 12;

/// What was negotiated, as far as it concerns a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a feature bit.
pub struct RingFeatures {
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`; RX only.
    pub mergeable: bool,
    /// Length of the virtio-net header: 12 with `VERSION_1` or `MRG_RXBUF`, else 10.
    pub header_len: usize,
}

/// A ring as a front end describes it.
#[derive(Debug, Clone)]
pub struct RingConfig {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table or packed ring, as a front-end address.
    pub desc: u64,
    /// Available ring, or the driver's event suppression structure, as a front-end address.
    pub avail: u64,
    /// Used ring, or the device's event suppression structure, as a front-end address.
    pub used: u64,
    /// Guest address of the used ring, where writes to the ring are to be logged.
    pub log_used: Option<u64>,
    /// What was negotiated.
    pub features: RingFeatures,
    /// How to call the guest; `None` for a guest that polls.
    pub call: Option<Arc<EventFd>>,
    /// Where a packed ring's position is kept; `None` for one that is forgotten with the ring.
    pub position: Option<RingPosition>,
}

/// Where a ring goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeAt {
    /// At the used index found in guest memory; split rings only.
    UsedIndex,
    /// At a vring base, as `SET_VRING_BASE` and `GET_VRING_BASE` have it. Split: an available index;
    /// the used index comes from guest memory. Packed: the available position in the lower half, the
    /// used position in the upper half, each with its wrap counter in its highest bit.
    Base(u32),
    /// Packed rings: where the front end says, unless the position that is kept knows better, see
    /// [`RingError::PositionLost`].
    Said(u32),
}

impl ResumeAt {
    /// Where a ring starts that nobody has used yet, see [`fresh_base`].
    pub fn fresh(packed: bool) -> ResumeAt {
        ResumeAt::Base(fresh_base(packed))
    }
}

/// The vring base of a ring that nobody has used yet: a split ring's index is 0 then, a packed ring starts at index 0
/// with both wrap counters set.
pub fn fresh_base(packed: bool) -> u32 {
    if packed { 0x8000_8000 } else { 0 }
}

/// One part of a ring and what it must satisfy.
pub(super) struct Area {
    pub part: Part,
    pub address: u64,
    pub align: usize,
    pub len: usize,
}

impl Area {
    /// Finds the part in guest memory: `len` bytes from there are mapped, and aligned to `align`.
    /// Returns the pointer and the guest address.
    pub fn locate(&self, memory: &GuestMemory) -> Result<(*mut u8, u64), RingError> {
        let &Area {
            part,
            address,
            align,
            len,
        } = self;
        let (ptr, guest) =
            memory
                .user(address, len)
                .ok_or(RingError::Unmapped { part, address, len })?;
        // Regions are page-aligned on all sides, so this says the same of the guest address.
        if ptr.align_offset(align) != 0 {
            return Err(RingError::Misaligned {
                part,
                found: address,
                expected: align,
            });
        }
        Ok((ptr, guest))
    }
}

/// Dirty marks for a part of a ring, if it is logged.
#[derive(Debug, Clone)]
pub(super) struct Marks(Option<(Arc<DirtyLog>, u64)>);

impl Marks {
    /// The same for a part at this guest address.
    pub fn at(&self, guest: u64) -> Marks {
        Marks(self.0.as_ref().map(|(log, _)| (Arc::clone(log), guest)))
    }

    #[inline]
    pub fn on(&self) -> bool {
        self.0.is_some()
    }

    /// Marks `len` bytes at `offset` of the part.
    #[inline]
    pub fn mark(&self, offset: u64, len: u64) {
        if let Some((log, base)) = &self.0 {
            log.mark(base.wrapping_add(offset), len);
        }
    }
}

/// The two formats. Matched once per burst; within it the code is generic.
#[derive(Debug)]
pub(super) enum Layout {
    Split(Split),
    Packed(Packed),
}

/// Runs a block with the concrete format of a [`Layout`].
macro_rules! with_format {
    ($layout:expr, $format:ident => $body:expr) => {
        match $layout {
            $crate::virtqueue::ring::Layout::Split($format) => $body,
            $crate::virtqueue::ring::Layout::Packed($format) => $body,
        }
    };
}
pub(super) use with_format;

/// A ring that was checked, with everything but its positions.
#[derive(Debug)]
pub(super) struct Window {
    pub layout: Layout,
    pub size: u16,
    pub features: RingFeatures,
    writes: bool,
    pub memory: Arc<GuestMemory>,
    pub log: Option<Arc<DirtyLog>>,
    call: Option<Arc<EventFd>>,
    /// How many windows the ring had before this one.
    generation: u64,
}

// SAFETY: the pointers inside lead into `memory`, which the window keeps alive and which belongs to
// no thread. The guest accesses the same bytes at any time, so all accesses are atomic, or volatile
// reads of values that are checked afterwards, or writes to slots that the positions' lock has given
// to one caller.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// `writes` says whether the device writes to the buffers: RX.
    pub fn new(
        config: &RingConfig,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
        writes: bool,
    ) -> Result<Window, RingError> {
        let RingConfig { size, features, .. } = *config;
        if !matches!(features.header_len, 10 | MAX_HEADER) {
            return Err(RingError::HeaderLength {
                found: features.header_len,
            });
        }
        let (allowed, expected) = if features.packed {
            (size != 0, "1 to 1024")
        } else {
            (
                size.is_power_of_two() && size != 1,
                "a power of two from 2 to 1024",
            )
        };
        if !allowed || size > MAX_QUEUE_SIZE {
            return Err(RingError::Size {
                found: size,
                expected,
            });
        }
        let marks = Marks(log.clone().zip(config.log_used));
        let layout = if features.packed {
            Layout::Packed(Packed::new(config, &memory, &marks, writes)?)
        } else {
            Layout::Split(Split::new(config, &memory, &marks)?)
        };
        Ok(Window {
            layout,
            size,
            features,
            writes,
            memory,
            log,
            call: config.call.clone(),
            generation: 0,
        })
    }

    /// The window of a ring that runs already and has a new configuration.
    pub fn successor(
        &self,
        config: &RingConfig,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
    ) -> Result<Window, RingError> {
        let packed = |features: &RingFeatures| u16::from(features.packed);
        for (field, expected, found) in [
            ("the size", self.size, config.size),
            (
                "RING_PACKED",
                packed(&self.features),
                packed(&config.features),
            ),
        ] {
            if expected != found {
                return Err(RingError::Changed {
                    field,
                    expected,
                    found,
                });
            }
        }
        let mut window = Window::new(config, memory, log, self.writes)?;
        if let (Layout::Packed(new), Layout::Packed(old)) = (&mut window.layout, &self.layout) {
            new.succeed(old);
        }
        window.generation = self.generation + 1;
        Ok(window)
    }

    /// Whether the memory or the log was cut off while in use.
    #[inline]
    pub fn poisoned(&self) -> bool {
        self.memory.poisoned() || self.log.as_ref().is_some_and(|log| log.poisoned())
    }

    /// Where to start: the next chain, the next used element, and the count that progress starts at.
    pub fn resume(&self, at: ResumeAt) -> Result<(Spot, Spot, u64), RingError> {
        let wrong = |format, found| RingError::Resume {
            format,
            size: self.size,
            found,
        };
        match (&self.layout, at) {
            (Layout::Split(split), at) => {
                let used = split.used_idx();
                let next = match at {
                    ResumeAt::UsedIndex => used,
                    ResumeAt::Base(base) | ResumeAt::Said(base) => {
                        u16::try_from(base).map_err(|_| wrong("split", base))?
                    }
                };
                let spot = |index| Spot { index, wrap: true };
                Ok((spot(next), spot(used), u64::from(used)))
            }
            (Layout::Packed(_), ResumeAt::UsedIndex) => Err(RingError::ResumeUnknown),
            (Layout::Packed(packed), ResumeAt::Base(base)) => {
                let next = Spot::from_bits(base as u16);
                let used = Spot::from_bits((base >> 16) as u16);
                if next.index >= self.size || used.index >= self.size {
                    return Err(wrong("packed", base));
                }
                packed.begin(base, used);
                Ok((next, used, packed.count(used)))
            }
            (Layout::Packed(packed), ResumeAt::Said(base)) => {
                let spot = packed.resume(base)?;
                let spot = spot.ok_or_else(|| wrong("packed", base))?;
                packed.begin(base, spot);
                Ok((spot, spot, packed.count(spot)))
            }
        }
    }

    /// The vring base for these positions.
    pub fn base(&self, next: Spot, used: Spot) -> u32 {
        match &self.layout {
            Layout::Split(_) => u32::from(next.index),
            Layout::Packed(_) => u32::from(next.to_bits()) | u32::from(used.to_bits()) << 16,
        }
    }
}

/// How much of a ring was given back, and how much of that the guest was told of. In slots, never
/// wrapping.
#[derive(Debug)]
pub(super) struct Progress {
    published: AtomicU64,
    /// How far it is known whether the guest wants a call.
    asked: AtomicU64,
    signalled: AtomicU64,
    /// Call once whatever the guest asked for: a call may have been lost with the previous
    /// descriptor, or with the daemon that ran before.
    owed: AtomicBool,
    /// The newest window's.
    generation: AtomicU64,
    /// A call has made a worker wait, which must not happen to the others that have frames for the ring.
    blocks: AtomicBool,
}

impl Progress {
    pub fn new(start: u64) -> Progress {
        Progress {
            published: AtomicU64::new(start),
            asked: AtomicU64::new(start),
            signalled: AtomicU64::new(start),
            owed: AtomicBool::new(true),
            generation: AtomicU64::new(0),
            blocks: AtomicBool::new(false),
        }
    }

    /// Records `slots` more; only the holder of the ring's lock does so.
    #[inline]
    pub fn add(&self, slots: u64) {
        let published = self.published.load(Ordering::Relaxed);
        self.published.store(published + slots, Ordering::Release);
    }

    /// From now on calls go by this window, and one is owed.
    pub fn succeed(&self, window: &Window) {
        self.generation.store(window.generation, Ordering::Relaxed);
        self.owed.store(true, Ordering::Release);
    }

    /// Calls the guest if something was published since the last time and it wants to know; whether it did.
    #[inline]
    pub fn notify(&self, window: &Window) -> Result<bool, RingError> {
        let called = self.call(window);
        // Workers use an old window until they take the newest snapshot, and its call may reach nobody.
        // Where one was made, its acquiring operation has seen the new window, or what is owed to that came later.
        if self.generation.load(Ordering::Relaxed) != window.generation {
            self.owed.store(true, Ordering::Relaxed);
        }
        called
    }

    #[inline]
    fn call(&self, window: &Window) -> Result<bool, RingError> {
        let published = self.published.load(Ordering::Acquire);
        let owed = self.owed.load(Ordering::Relaxed);
        if published == self.asked.load(Ordering::Relaxed) && !owed {
            return Ok(false);
        }
        // Full fence: the published index must be visible to the guest before we look whether it
        // wants a call, or both sides could wait (VIRTIO 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        self.asked.store(published, Ordering::Relaxed);
        let wants =
            |signalled| with_format!(&window.layout, f => f.wants_call(signalled, published));
        let signalled = self.signalled.load(Ordering::Relaxed);
        // A guest that polls wants no call for long, and to note each time that it was not called costs an operation
        // that waits for all that was stored. But positions are compared by their distance: it must stay below a round.
        let far = published.saturating_sub(signalled) >= window.size.into();
        if !(owed || far || signalled < published && wants(signalled)) {
            return Ok(false);
        }
        // Another worker may have reported further than this already.
        let signalled = self.signalled.fetch_max(published, Ordering::AcqRel);
        let news = signalled < published && wants(signalled);
        let owed = owed && self.owed.swap(false, Ordering::Acquire);
        match &window.call {
            Some(_) if self.blocks.load(Ordering::Relaxed) => Err(RingError::CallBlocks),
            Some(call) if news || owed => match eventfd::signal(call) {
                Ok(()) => Ok(true),
                // Only a call that waits can be interrupted.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.blocks.store(true, Ordering::Relaxed);
                    Err(RingError::CallBlocks)
                }
                // A full counter is as good as a call, and there is nobody else to tell.
                Err(_) => Ok(false),
            },
            _ => Ok(false),
        }
    }
}

/// Gives chains back as one range: elements first, then the word that shows them.
pub(super) fn give_back(layout: &Layout, from: Spot, to: Spot, chains: impl Iterator<Item = Used>) {
    with_format!(layout, f => {
        f.fill(from, chains);
        f.publish(from, to);
    });
}
