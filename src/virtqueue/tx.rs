//! TX: taking what the guest sends.
//!
//! A burst is peeked at, worked on, and given back. Peeking consumes nothing: a chain stays the
//! guest's until it is finished, so a worker that must wait for a receiver leaves it and finds it
//! again next time. Chains may be finished in any order and go back in the order they came.
//!
//! One worker at a time, by [`TxRing::try_lock`]. Everything here is about chains of bytes; what is
//! in them is not known.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use crossbeam_utils::CachePadded;

use super::copy::Segment;
use super::dirty::DirtyLog;
use super::error::RingError;
use super::format::{Cursor, Format, MAX_SEGMENTS, Segments, Sink, Spot, Take, Used, prefetch};
use super::lock::{Held, Lock};
use super::memory::{GuestMemory, Lookup};
use super::ring::{Progress, ResumeAt, RingConfig, Window, give_back, with_format};

/// How many chains a batch holds.
pub const MAX_BATCH: usize = 64;

/// One chain of a [`TxBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    start: u32,
    count: u32,
    /// Bytes in all.
    pub len: u32,
    /// It was finished before and waits for its turn to be given back; it has no segments.
    pub done: bool,
}

/// A burst of chains, meant to live on a worker's stack.
#[derive(Debug, Default)]
pub struct TxBatch<'m> {
    segments: Segments<'m>,
    chains: ArrayVec<Chain, MAX_BATCH>,
}

impl<'m> TxBatch<'m> {
    /// An empty batch.
    pub fn new() -> TxBatch<'m> {
        TxBatch {
            segments: ArrayVec::new_const(),
            chains: ArrayVec::new_const(),
        }
    }

    /// The chains, in ring order; index `i` is what [`TxGuard::finish`] takes.
    #[inline]
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The segments of a chain of this batch.
    #[inline]
    pub fn segments(&self, chain: &Chain) -> &[Segment<'m>] {
        &self.segments[chain.start as usize..][..chain.count as usize]
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.chains.clear();
    }
}

/// Positions; they outlast the ring object.
#[derive(Debug)]
struct State {
    /// The oldest chain that was not given back.
    head: Cursor,
    /// Where its used element goes.
    used: Spot,
    /// The chains from `head` on, as they were last peeked.
    peeked: ArrayVec<Used, MAX_BATCH>,
    /// Which of them are finished.
    done: u64,
    /// Memory region of the last chain.
    hint: usize,
    /// Its id.
    last: u16,
}

#[derive(Debug)]
struct Shared {
    state: CachePadded<Lock<State>>,
    progress: CachePadded<Progress>,
}

/// A running TX ring.
#[derive(Debug)]
pub struct TxRing {
    window: Window,
    shared: Arc<Shared>,
}

impl RingConfig {
    /// Starts a TX ring.
    pub fn activate_tx(
        &self,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
        at: ResumeAt,
    ) -> Result<TxRing, RingError> {
        let window = Window::new(self, memory, log, false)?;
        let (head, used, count) = window.resume(at)?;
        let state = State {
            head: Cursor {
                spot: head,
                seen: head.index,
            },
            used,
            peeked: ArrayVec::new(),
            done: 0,
            hint: 0,
            last: 0,
        };
        let shared = Arc::new(Shared {
            state: CachePadded::new(Lock::new(state)),
            progress: CachePadded::new(Progress::new(count)),
        });
        Ok(TxRing { window, shared })
    }
}

impl TxRing {
    /// The same ring with another memory table, log or call descriptor.
    pub fn reconfigure(
        &self,
        config: &RingConfig,
        memory: Arc<GuestMemory>,
        log: Option<Arc<DirtyLog>>,
    ) -> Result<TxRing, RingError> {
        let window = self.window.successor(config, memory, log)?;
        self.shared.progress.succeed(&window);
        Ok(TxRing {
            window,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Takes the ring for one worker; `None` while another has it.
    #[inline]
    pub fn try_lock(&self) -> Option<TxGuard<'_>> {
        let state = self.shared.state.try_lock()?;
        Some(TxGuard { ring: self, state })
    }

    /// Waits for the worker that has the ring.
    pub fn lock(&self) -> TxGuard<'_> {
        TxGuard {
            ring: self,
            state: self.shared.state.lock(),
        }
    }

    /// How the ring looks for as long as nothing comes; `None` while chains are under way, or another worker has it.
    pub fn silence(&self) -> Option<Silence> {
        let state = self.shared.state.try_lock()?;
        let idle = state.peeked.is_empty();
        idle.then_some(Silence {
            next: state.head.spot,
            last: state.last,
        })
    }

    /// Whether it still looks so; if not, what has come is on its way here. Takes no lock: it is for the worker that serves
    /// the ring, and has taken nothing since.
    #[inline]
    pub fn is_silent(&self, Silence { next, last }: Silence) -> bool {
        with_format!(&self.window.layout, f => {
            let silent = f.is_silent(next);
            if !silent {
                f.expect_next(next, last);
            }
            silent
        })
    }

    /// Where to go on, for `GET_VRING_BASE` after quiescence: what [`ResumeAt::Base`] takes.
    pub fn base(&self) -> u32 {
        let state = self.shared.state.lock();
        self.window.base(state.head.spot, state.used)
    }

    /// Calls the guest if something was given back since the last time and it wants to know; true
    /// if it was called. Once at the end of a burst.
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

/// What a ring looks like in which there is nothing, see [`TxRing::silence`].
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// Where the next chain will be.
    next: Spot,
    /// The id of the last one, for hints.
    last: u16,
}

/// The ring, taken by one worker.
pub struct TxGuard<'m> {
    ring: &'m TxRing,
    state: Held<'m, State>,
}

impl<'m> TxGuard<'m> {
    /// Walks up to `max` available chains, at most [`MAX_BATCH`], from the oldest on. Nothing is
    /// consumed. Fewer come back when the batch has no room for the segments of the next one.
    ///
    /// After an error the ring must not be used again: it is the guest's fault, and the same error
    /// would come back.
    #[inline]
    pub fn peek(&mut self, batch: &mut TxBatch<'m>, max: usize) -> Result<usize, RingError> {
        batch.clear();
        let ring = self.ring;
        let result = with_format!(&ring.window.layout, f => self.peek_in(f, batch, max));
        if result.is_err() {
            batch.clear();
        }
        result
    }

    /// A function of its own, once for each format: it needs all registers.
    #[inline(never)]
    fn peek_in<F: Format>(
        &mut self,
        format: &F,
        batch: &mut TxBatch<'m>,
        max: usize,
    ) -> Result<usize, RingError> {
        let state = &mut *self.state;
        let memory: &'m GuestMemory = &self.ring.window.memory;
        let TxBatch { segments, chains } = batch;
        let mut cursor = state.head;
        let mut sink = Sink::<false>::new(Lookup::new(memory, state.hint), segments);
        let mut slots = 0;
        let max = max.min(MAX_BATCH);
        while chains.len() < max {
            let index = chains.len();
            let start = sink.segments();
            if state.done & (1 << index) != 0 {
                let skipped = state.peeked[index].slots;
                cursor.spot = format.advance(cursor.spot, skipped);
                slots += skipped;
                chains.push(Chain {
                    start: start as u32,
                    count: 0,
                    len: 0,
                    done: true,
                });
                continue;
            }
            if !format.available(&mut cursor)? {
                break;
            }
            if index == 0 {
                format.expect_next(cursor.spot, state.last);
            }
            if index == state.peeked.len() {
                // Not seen before, so that there is nothing to compare them with.
                let room = usize::from(self.ring.window.size - slots).min(max - index);
                let peeked = (&mut *chains, &mut state.peeked);
                let taken = take_singles(format, &mut cursor, &mut sink, peeked, room);
                slots += taken as u16;
                if taken != 0 {
                    continue;
                }
            }
            let used = match take_chain(format, &mut cursor, &mut sink)? {
                Take::Chain(used) => used,
                Take::Empty => break,
                Take::NoRoom(head) if start == 0 => {
                    return Err(RingError::Fragmented {
                        head,
                        limit: MAX_SEGMENTS,
                    });
                }
                Take::NoRoom(_) => {
                    sink.truncate(start);
                    break;
                }
            };
            slots += used.slots;
            if slots > self.ring.window.size {
                // More than the ring has: some were made available a second time.
                sink.truncate(start);
                break;
            }
            let len = u32::try_from(sink.len()).map_err(|_| RingError::ChainBytes {
                head: used.id,
                found: sink.len(),
            })?;
            match state.peeked.get_mut(index) {
                // Positions behind it depend on this.
                Some(before) if before.slots != used.slots => {
                    return Err(RingError::Rewritten {
                        id: used.id,
                        expected: before.slots,
                        found: used.slots,
                    });
                }
                Some(before) => *before = used,
                None => state.peeked.push(used),
            }
            chains.push(Chain {
                start: start as u32,
                count: (sink.segments() - start) as u32,
                len,
                done: false,
            });
        }
        state.head.seen = cursor.seen;
        state.hint = sink.hint();
        if let Some(last) = state.peeked.last() {
            state.last = last.id;
            format.expect_used(state.used);
        }
        Ok(chains.len())
    }

    /// Chain `index` of the last peek needs no more. Out of range is ignored.
    #[inline]
    pub fn finish(&mut self, index: usize) {
        if index < self.state.peeked.len() {
            self.state.done |= 1 << index;
        }
    }

    /// The same for the chains whose bits are set in `chains`.
    #[inline]
    pub fn finish_set(&mut self, chains: u64) {
        let peeked = 1_u64.checked_shl(self.state.peeked.len() as u32);
        self.state.done |= chains & peeked.map_or(u64::MAX, |end| end - 1);
    }

    /// The chains of the last peek that are finished and not given back yet, one bit each.
    #[inline]
    pub fn finished(&self) -> u64 {
        self.state.done
    }

    /// Gives the finished chains at the front back to the guest; returns how many. The indices of
    /// those behind them move down by as many.
    #[inline]
    pub fn publish(&mut self) -> u16 {
        let state = &mut *self.state;
        let window = &self.ring.window;
        let count = state.done.trailing_ones() as usize;
        let Some(last) = count.checked_sub(1).map(|last| state.peeked[last]) else {
            return 0;
        };
        let slots = state.peeked[..count].iter().map(|used| used.slots).sum();
        let advance = |spot| with_format!(&window.layout, f => f.advance(spot, slots));
        let end = advance(state.used);
        if window.features.in_order {
            // One element stands for the whole batch: the last chain's (VIRTIO 1.2, 2.7.8).
            let batch = Used { slots, ..last };
            give_back(&window.layout, state.used, end, std::iter::once(batch));
        } else {
            let chains = state.peeked[..count].iter().copied();
            give_back(&window.layout, state.used, end, chains);
        }
        state.used = end;
        state.head.spot = advance(state.head.spot);
        state.peeked.drain(..count);
        // A shift by 64 would overflow; then all were done.
        state.done = state.done.checked_shr(count as u32).unwrap_or(0);
        self.ring.shared.progress.add(u64::from(slots));
        count as u16
    }

    /// Whether there are chains that were not given back, finished or not.
    #[inline]
    pub fn available(&mut self) -> Result<bool, RingError> {
        with_format!(&self.ring.window.layout, f => f.available(&mut self.state.head))
    }

    /// Asks the guest not to kick: the queue is polled.
    pub fn disable_kicks(&mut self) {
        let at = self.state.head.spot;
        with_format!(&self.ring.window.layout, f => f.disable_kicks(at));
    }

    /// Asks the guest to kick. True if there is work after all, which the guest may not kick for.
    pub fn enable_kicks(&mut self) -> Result<bool, RingError> {
        let at = self.state.head.spot;
        with_format!(&self.ring.window.layout, f => f.enable_kicks(at));
        // Full fence: the guest must see the request before we look for the last time
        // (VIRTIO 1.2, 2.7.10.2).
        fence(Ordering::SeqCst);
        self.available()
    }
}

/// Takes chains of the simplest kind, at most as many as both vectors have room for; how many.
#[inline]
fn take_singles<F: Format>(
    format: &F,
    cursor: &mut Cursor,
    sink: &mut Sink<'_, '_, false>,
    (chains, peeked): (
        &mut ArrayVec<Chain, MAX_BATCH>,
        &mut ArrayVec<Used, MAX_BATCH>,
    ),
    room: usize,
) -> usize {
    let room = room
        .min(chains.remaining_capacity())
        .min(peeked.remaining_capacity());
    let start = sink.segments() as u32;
    let first = (chains.len(), peeked.len());
    let places = (
        chains.as_mut_ptr().wrapping_add(first.0),
        peeked.as_mut_ptr().wrapping_add(first.1),
    );
    let count = sink.take_singles(format, cursor, room, prefetch::<false>, |number, single| {
        if single.len == 0 {
            // An error, which the long way finds.
            return None;
        }
        let chain = Chain {
            start: start + number as u32,
            count: 1,
            len: single.len,
            done: false,
        };
        let used = Used {
            id: single.id,
            slots: 1,
            written: 0,
        };
        // SAFETY: `take_singles` numbers its calls from 0 to below `room`, which both have behind their `first` elements.
        unsafe {
            places.0.add(number).write(chain);
            places.1.add(number).write(used);
        }
        Some(single.len)
    });
    // SAFETY: `take_singles` has taken those, and all those, of which both elements were written behind the `first`.
    unsafe {
        chains.set_len(first.0 + count);
        peeked.set_len(first.1 + count);
    }
    count
}

/// Takes a chain that need not be of the simplest kind, out of the way of those that are.
#[inline(never)]
fn take_chain<F: Format>(
    format: &F,
    cursor: &mut Cursor,
    sink: &mut Sink<'_, '_, false>,
) -> Result<Take, RingError> {
    sink.aside(|sink| {
        sink.begin(u64::MAX);
        format.take(cursor, sink)
    })
}
