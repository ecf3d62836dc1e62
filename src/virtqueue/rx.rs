//! RX: writing into what the guest posted, by several writers at once.
//!
//! A writer *reserves* chains for a burst: under the ring's lock they are walked, validated and taken
//! as one consecutive range. It then copies without a lock, and *completes* the range: used elements
//! are written to slots that are its own, and whoever finishes the oldest range publishes all finished
//! ones behind it, in the order of reservation. A range that will not be used is *cancelled*: taken
//! back if nothing was reserved after it, else completed as frames of zeros, which the guest drops.
//! A short frame may be *put* in one step, in `put.rs`, while nobody has a reservation.
//!
//! An RX ring knows buffers and the length of the header they begin with, not frames.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam_utils::CachePadded;

use super::batch::{Held as Reservation, RxBatch};
use super::copy::{self, Gather, Segment};
use super::dirty::DirtyLog;
use super::error::RingError;
use super::format::{Cursor, Format, Single, Sink};
use super::iovec::{self, Scatter};
use super::lock::Lock;
use super::memory::{GuestMemory, Lookup};
use super::order::Order;
use super::ring::{MAX_HEADER, Progress, ResumeAt, RingConfig, Window, with_format};
use super::start::{self, Start};
use super::sum;
use super::walk::{Outcome, Walk};
use crate::frame::checksum::Sum;

/// What a call of [`RxRing::reserve`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// How many of the wanted frames are in the batch; those too big for the ring count.
    pub granted: usize,
    /// The ring has too few buffers for the next frame. When this is false and `granted` is short,
    /// the batch is full: complete it and reserve again.
    pub starved: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub order: Order,
    /// Memory region of the last chain.
    pub hint: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub state: CachePadded<Lock<State>>,
    pub progress: CachePadded<Progress>,
    /// Buffers were seen since the start.
    posted: AtomicBool,
    /// When the present drought began: 0 there is none, [`UNTIMED`] nobody has asked the time yet.
    pub starved_at: AtomicU64,
}

const UNTIMED: u64 = u64::MAX;

/// A running RX ring.
#[derive(Debug)]
pub struct RxRing {
    pub(super) window: Window,
    pub(super) shared: Arc<Shared>,
}

impl RingConfig {
    /// Starts an RX ring. The guest is asked not to kick.
    pub fn activate_rx(
        &self,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
        at: ResumeAt,
    ) -> Result<RxRing, RingError> {
        let window = Window::new(self, memory, log, true)?;
        let (next, used, count) = window.resume(at)?;
        with_format!(&window.layout, f => f.disable_kicks(next));
        let state = State {
            order: Order::new(next, used, self.size),
            hint: 0,
        };
        let shared = Arc::new(Shared {
            state: CachePadded::new(Lock::new(state)),
            progress: CachePadded::new(Progress::new(count)),
            posted: AtomicBool::new(false),
            starved_at: AtomicU64::new(0),
        });
        Ok(RxRing { window, shared })
    }
}

impl RxRing {
    /// The same ring with another memory table, log or call descriptor.
    pub fn reconfigure(
        &self,
        config: &RingConfig,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
    ) -> Result<RxRing, RingError> {
        let window = self.window.successor(config, memory, log)?;
        self.shared.progress.succeed(&window);
        Ok(RxRing {
            window,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Reserves buffers for frames of `wants` bytes each, virtio-net header included, in order.
    ///
    /// A frame that this ring could never hold (a chain too small without mergeable buffers, or more
    /// bytes than all its buffers have) is granted as [`Grant::TooBig`](super::Grant::TooBig) and takes nothing; the next
    /// frame gets the chain. It ends at the first frame for which too few buffers are posted.
    ///
    /// What `batch` still held is cancelled. After an error the ring must not be used again.
    #[inline]
    pub fn reserve<'m>(
        &'m self,
        wants: &[u32],
        batch: &mut RxBatch<'m>,
    ) -> Result<Reserved, RingError> {
        batch.release();
        let result = with_format!(&self.window.layout, f => self.reserve_in(f, wants, batch));
        match &result {
            Ok(reserved) => self.note(reserved),
            Err(_) => batch.clear(),
        }
        result
    }

    #[inline]
    fn reserve_in<'m, F: Format>(
        &'m self,
        format: &F,
        wants: &[u32],
        batch: &mut RxBatch<'m>,
    ) -> Result<Reserved, RingError> {
        let memory: &'m GuestMemory = &self.window.memory;
        let mut state = self.shared.state.lock();
        if state.order.is_full() {
            return Ok(Reserved {
                granted: 0,
                starved: true,
            });
        }
        let mut starved_at = None;
        let start = state.order.next;
        let RxBatch {
            frames,
            chains,
            segments,
            single,
            held,
        } = batch;
        let mut walk = Walk {
            features: self.window.features,
            size: self.window.size,
            format,
            sink: Sink::new(Lookup::new(memory, state.hint), segments),
            cursor: start,
            chains,
            slots: 0,
        };
        format.available(&mut walk.cursor)?;
        let mut wants = wants;
        // The frame before took several buffers, so this one is likely to.
        let mut several = false;
        while starved_at.is_none() {
            let singles = if several {
                0
            } else {
                walk.singles(wants, frames)
            };
            let [want, behind @ ..] = &wants[singles..] else {
                break;
            };
            if frames.is_full() {
                break;
            }
            let (first, pieces) = (walk.chains.len(), walk.sink.segments());
            match walk.frame(*want)? {
                Outcome::Fits => {
                    let buffers = walk.chains.len() - first;
                    several = buffers > 1;
                    frames.push(buffers as u16);
                    // No chain has fewer segments than one.
                    *single &= walk.sink.segments() - pieces == 1;
                }
                Outcome::NoRoom if first != 0 => break,
                // With an empty batch there will never be more room.
                Outcome::TooBig | Outcome::NoRoom => {
                    frames.push(0);
                    *single = false;
                }
                Outcome::Starved(at) => starved_at = Some(at),
            }
            wants = behind;
        }
        let Walk { cursor, slots, .. } = walk;
        let reserved = Reserved {
            granted: frames.len(),
            starved: starved_at.is_some(),
        };
        state.hint = walk.sink.hint();
        state.order.next = cursor;
        state.order.frontier = starved_at.unwrap_or(cursor.spot);
        if !chains.is_empty() {
            let advance = |spot, slots| format.advance(spot, slots);
            let claim = state.order.claim(start.spot, slots, advance);
            format.expect_used(claim.used);
            *held = Some(Reservation { ring: self, claim });
        }
        Ok(reserved)
    }

    /// Keeps `starved_at` and `posted` up to date, without writing what is so already. A drought ends
    /// with what is completed, not here: a sender may cancel what is not enough for it, every time.
    #[inline]
    fn note(&self, reserved: &Reserved) {
        let starved_at = &self.shared.starved_at;
        if reserved.starved && starved_at.load(Ordering::Relaxed) == 0 {
            starved_at.store(UNTIMED, Ordering::Relaxed);
        }
        if reserved.granted != 0 {
            self.note_posted();
        }
    }

    /// The guest has posted buffers.
    #[inline]
    pub(super) fn note_posted(&self) {
        let posted = &self.shared.posted;
        if !posted.load(Ordering::Relaxed) {
            posted.store(true, Ordering::Relaxed);
        }
    }

    /// Writes a frame into the segments of one grant, and marks them in the dirty log. Returns how
    /// many bytes fitted, which is all of them if the reservation was for as many.
    #[inline]
    pub fn copy(&self, dst: &[Segment<'_>], frame: &Gather<'_>) -> usize {
        copy::copy(dst, frame, self.window.log.as_deref())
    }

    /// Writes a frame of which there is nothing but these two.
    #[inline]
    pub fn copy_front(&self, dst: &[Segment<'_>], header: &[u8], head: &[u8]) -> usize {
        start::copy_front(dst, header, head, self.window.log.as_deref())
    }

    /// Writes a frame that begins with `start`; `frame` has neither header nor head.
    #[inline]
    pub fn copy_behind(&self, dst: &[Segment<'_>], start: &Start<'_>, frame: &Gather<'_>) -> usize {
        debug_assert!(frame.header.is_empty() && frame.head.is_empty());
        copy::copy_behind(dst, start, frame, self.window.log.as_deref())
    }

    /// Writes a frame of which there is nothing but `start`. A header that stands there already is not written if it does
    /// not share a line with what is behind it, so that neither side has to wait for that line.
    #[inline]
    pub fn copy_start(&self, dst: &[Segment<'_>], start: &Start<'_>) -> usize {
        start::copy_start(dst, start, self.window.log.as_deref())
    }

    /// Writes what is behind the head of a frame into the segments of one grant, behind their first `at`
    /// bytes, and marks it in the dirty log; the sum of it.
    pub fn copy_summed(&self, dst: &[Segment<'_>], at: usize, frame: &Gather<'_>) -> Sum {
        sum::copy_summed(dst, at, frame, self.window.log.as_deref())
    }

    /// Reads a frame from an uplink into the segments of one grant, but for its first bytes, and marks
    /// them in the dirty log. Returns the bytes read in all.
    ///
    /// `fd` must be `O_NONBLOCK`, or guest memory stays with the kernel while it waits.
    ///
    /// # Errors
    ///
    /// Those of `readv`; `InvalidInput` for more than 1,024 parts, before anything is read. After
    /// `EFAULT` the frame is lost and the memory [`poisoned`](Self::poisoned).
    pub fn readv(&self, fd: BorrowedFd<'_>, to: Scatter<'_, '_>) -> io::Result<usize> {
        iovec::readv(fd, to, self.window.log.as_deref())
    }

    /// The frames of the batch are written: gives its chains to the guest, in the order of
    /// reservation. Empties the batch.
    #[inline]
    pub fn complete(&self, batch: &mut RxBatch<'_>) {
        debug_assert!(batch.belongs_to(self));
        let starved_at = &self.shared.starved_at;
        if !batch.is_empty() && starved_at.load(Ordering::Relaxed) != 0 {
            starved_at.store(0, Ordering::Relaxed);
        }
        batch.finish();
    }

    /// The frames of the batch were not written. Its chains are taken back if they are the newest
    /// reservation, and otherwise given to the guest as frames of zeros. Empties the batch.
    pub fn cancel(&self, batch: &mut RxBatch<'_>) {
        debug_assert!(batch.belongs_to(self));
        batch.release();
    }

    /// The last frame of the batch is `len` bytes long, not as long as reserved (a read tells the
    /// length only afterwards). Buffers beyond it are taken back, or follow as frames of zeros.
    /// Returns how many buffers the frame has now.
    pub fn shrink_last(&self, batch: &mut RxBatch<'_>, len: u32) -> u16 {
        debug_assert!(batch.belongs_to(self));
        let buffers = batch.cut_last(len, self.window.features.header_len);
        let Some(held) = batch.held else {
            return buffers;
        };
        let kept = batch.frames.iter().map(|&n| usize::from(n)).sum::<usize>();
        if kept == batch.chains.len() {
            return buffers;
        }
        let slots = batch.chains[..kept].iter().map(|c| c.used.slots).sum();
        let advance = |spot, n| with_format!(&self.window.layout, f => f.advance(spot, n));
        let mut state = self.shared.state.lock();
        let shortened = state.order.shorten(&held.claim, slots, advance);
        drop(state);
        if shortened {
            batch.chains.truncate(kept);
        } else {
            self.blank(batch, kept);
        }
        buffers
    }

    /// Turns each chain of the batch from index `first` on into a frame of zeros of its own.
    fn blank(&self, batch: &mut RxBatch<'_>, first: usize) {
        // The shortest Ethernet frame; its destination is nobody.
        const ZEROS: [u8; 60] = [0; 60];
        let mut header = [0; MAX_HEADER];
        // num_buffers, where the header has it.
        header[10] = 1;
        let header = &header[..self.window.features.header_len];
        let frame = Gather {
            header,
            head: &ZEROS,
            rest: &[],
            rest_skip: 0,
            rest_len: 0,
        };
        for index in first..batch.chains.len() {
            let written = self.copy(batch.chain_segments(index), &frame);
            batch.chains[index].used.written = written as u32;
        }
    }

    /// Publishes what `complete` and `cancel` have to.
    #[inline]
    pub(super) fn give_back(&self, batch: &RxBatch<'_>, held: &Reservation<'_>) {
        with_format!(&self.window.layout, f => {
            f.fill(held.claim.used, batch.chains.iter().map(|chain| chain.used));
            let mut slots = 0;
            let mut state = self.shared.state.lock();
            state.order.complete(&held.claim, |range| {
                f.publish(range.from, f.advance(range.from, range.slots));
                slots += u64::from(range.slots);
            });
            self.shared.progress.add(slots);
            let (next, hint) = (state.order.next, state.hint);
            drop(state);
            self.expect(f, next, hint);
        });
    }

    /// Hints that the next buffer is about to be written to. Until then nobody else does, so it may be long before.
    #[inline]
    pub(super) fn expect<F: Format>(&self, format: &F, next: Cursor, hint: usize) {
        if format.reach(next) > 0
            && let Some(Single { addr, len, .. }) = format.single::<true>(next, 0)
            && let Some(buffer) = Lookup::new(&self.window.memory, hint).find_here(addr, len)
        {
            start::prefetch_start(buffer);
        }
    }

    /// Gives up a reservation.
    pub(super) fn withdraw(&self, batch: &mut RxBatch<'_>, held: &Reservation<'_>) {
        let mut state = self.shared.state.lock();
        let withdrawn = state.order.withdraw(&held.claim);
        drop(state);
        if !withdrawn {
            self.blank(batch, 0);
            self.give_back(batch, held);
        }
    }

    /// Whether the guest posted a buffer since the ring started. Until it has, the queue is not one
    /// to steer frames to.
    #[inline]
    pub fn has_buffers(&self) -> bool {
        self.shared.posted.load(Ordering::Relaxed) || self.look_for_buffers()
    }

    #[cold]
    fn look_for_buffers(&self) -> bool {
        let mut state = self.shared.state.lock();
        let found = with_format!(&self.window.layout, f => f.available(&mut state.order.next));
        drop(state);
        // An impossible index is for `reserve` to report.
        let found = found.unwrap_or(true);
        if found {
            self.shared.posted.store(true, Ordering::Relaxed);
        }
        found
    }

    /// Turns kicks for new buffers on or off. Turning them on returns true if buffers have come since
    /// the last reservation, which the guest may not kick for. The last caller decides: a sender that
    /// waits does so for a bounded time anyway.
    pub fn wait_for_buffers(&self, on: bool) -> Result<bool, RingError> {
        let state = self.shared.state.lock();
        let at = state.order.frontier;
        if !on {
            with_format!(&self.window.layout, f => f.disable_kicks(at));
            return Ok(false);
        }
        with_format!(&self.window.layout, f => f.enable_kicks(at));
        // Full fence: the guest must see the request before we look for the last time.
        fence(Ordering::SeqCst);
        let mut cursor = Cursor {
            spot: at,
            seen: at.index,
        };
        with_format!(&self.window.layout, f => f.available(&mut cursor))
    }

    /// Whether reservations have fallen short of buffers for more than `limit_ns`, without anything
    /// that was completed. The time is counted from the first call after the first failure.
    pub fn stalled(&self, now_ns: u64, limit_ns: u64) -> bool {
        let starved_at = &self.shared.starved_at;
        match starved_at.load(Ordering::Relaxed) {
            0 => false,
            UNTIMED => {
                // Only from UNTIMED: what is completed meanwhile ends the drought.
                let now = now_ns.clamp(1, UNTIMED - 1);
                let _ =
                    starved_at.compare_exchange(UNTIMED, now, Ordering::Relaxed, Ordering::Relaxed);
                false
            }
            since => now_ns.saturating_sub(since) > limit_ns,
        }
    }

    /// Where to go on, for `GET_VRING_BASE` after quiescence: what [`ResumeAt::Base`] takes.
    pub fn base(&self) -> u32 {
        let state = self.shared.state.lock();
        self.window.base(state.order.next.spot, state.order.used)
    }

    /// Calls the guest if something was published since the last time and it wants to know; true if
    /// it was called. Once at the end of a burst, by each writer.
    ///
    /// # Errors
    ///
    /// [`RingError::CallBlocks`], after a signal has ended the wait.
    #[inline]
    pub fn notify(&self) -> Result<bool, RingError> {
        self.shared.progress.notify(&self.window)
    }

    /// Whether a file behind the ring, its buffers or the dirty log was cut off while in use.
    #[inline]
    pub fn poisoned(&self) -> bool {
        self.window.poisoned()
    }

    /// The memory that the ring and its buffers lie in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.window.memory
    }
}
