//! Where packed rings stand, kept beside the rings: nothing in a packed ring says it (see `packed`), and a
//! front end that loses its back end does not know either.
//!
//! Each port has its [`Positions`], which outlive its connections and, in a file, the process. A ring has a
//! record there: whose it is, and what was published last. Before elements become visible in the ring, what they are
//! and where they go is written here, so that whoever comes after a crash can look at the first of them and
//! knows: it is in the ring, or all of them are to be written again. There is no third case, hence one store to the
//! record a publication, and one for each element.
//!
//! *Layout.* Words of 64 bits in the machine's byte order: a header of a cache line, then for each ring its
//! record, a cache line, and a word for each place in the ring.
//!
//! *Threads.* A ring's words are written by whoever may write the ring: elements by the writer that has
//! reserved the place, the record under the ring's lock. The file is locked, so nobody else writes it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::error::PositionsError;
use super::format::{Spot, Used};
use super::mapping::{Mapping, PAGE, examine};
use super::ring::MAX_QUEUE_SIZE;
use crate::sys::zeroed::CacheLines;

/// Words of the header and of a record.
const LINE: usize = 8;
/// Words of a ring: its record, and its elements.
const RING: usize = LINE + MAX_QUEUE_SIZE as usize;
/// First word of a file: what it is, and the version of its layout.
const MAGIC: [u8; 8] = *b"evbpos\0\x01";

/// Words of a record, by number.
mod word {
    /// 1 while the ring runs, or ran when it was lost.
    pub const RUNNING: usize = 0;
    /// Start and end of the last publication, as [`Spot::to_bits`](super::Spot::to_bits) in 16 bits each.
    pub const LAST: usize = 1;
    /// Where the front end said that the ring starts.
    pub const BASE: usize = 2;
    /// The first of [`Identity`](super::Identity).
    pub const IDENTITY: usize = 3;
}

/// Which ring it is: the memory that it lies in and how it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub device: u64,
    pub inode: u64,
    /// Of the first descriptor in that file.
    pub offset: u64,
    /// The queue size, and features.
    pub shape: u64,
}

impl Identity {
    fn words(&self) -> [u64; 4] {
        [self.device, self.inode, self.offset, self.shape]
    }
}

/// What is remembered of a ring that was not stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// Where the front end said that it starts.
    pub base: u32,
    /// The last publication, which may not have come about.
    pub from: Spot,
    pub to: Spot,
}

/// The positions of one port's packed rings.
#[derive(Debug)]
pub struct Positions {
    words: *const AtomicU64,
    rings: usize,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Process(#[expect(dead_code, reason = "it keeps the words")] CacheLines),
    File(#[expect(dead_code, reason = "it keeps the words")] Mapping),
}

// SAFETY: `words` points into `owner`, which lives as long, never moves what it owns and belongs to no thread; all
// words are atomic.
unsafe impl Send for Positions {}
// SAFETY: as above.
unsafe impl Sync for Positions {}

impl Positions {
    /// For `rings` rings, in the memory of this process: they outlive connections.
    pub fn in_process(rings: usize) -> Positions {
        let lines = CacheLines::new(1 + rings * RING / LINE);
        Positions {
            words: lines.as_ptr().cast(),
            rings,
            owner: Owner::Process(lines),
        }
    }

    /// The same in a file, which is made larger where it is too small: they outlive this process, too. What it
    /// remembers stays. It has to be on a file system in memory, for a write to it must not wait.
    ///
    /// # Errors
    ///
    /// [`PositionsError`]; nothing in the file has changed then.
    pub fn in_file(file: File, rings: usize) -> Result<Positions, PositionsError> {
        let os = |call| move |source| PositionsError::Os { call, source };
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => PositionsError::InUse,
            TryLockError::Error(source) => os("lock")(source),
        })?;
        let found = file.metadata().map_err(os("examine"))?.len();
        let mut magic = [0; 8];
        if found != 0 {
            let read = file.read_exact_at(&mut magic, 0);
            if read.is_err() || magic != MAGIC {
                return Err(PositionsError::Foreign);
            }
        }
        if !examine(&file, 0)?.in_memory {
            return Err(PositionsError::OnDisk);
        }
        let len = (8 * (LINE + rings * RING) as u64).next_multiple_of(PAGE);
        allocate(&file, len).map_err(os("make room for"))?;
        let mapping = Mapping::new(file, 0, len)?;
        #[allow(clippy::cast_ptr_alignment)] // Mappings begin at a page.
        let words = mapping.base().cast::<AtomicU64>().cast_const();
        let positions = Positions {
            words,
            rings,
            owner: Owner::File(mapping),
        };
        // Everything behind it is zero, or of this version.
        positions
            .word(0)
            .store(u64::from_ne_bytes(MAGIC), Ordering::Release);
        Ok(positions)
    }

    /// Whether they outlive the process.
    pub fn is_in_file(&self) -> bool {
        matches!(self.owner, Owner::File(_))
    }

    /// Whether no ring is remembered, so that nothing is lost with this.
    pub fn is_idle(&self) -> bool {
        (0..self.rings).all(|ring| {
            let running = self.word(LINE + ring * RING + word::RUNNING);
            running.load(Ordering::Acquire) == 0
        })
    }

    /// The position of ring number `index`.
    ///
    /// # Panics
    ///
    /// For a ring beyond those that this was made for.
    pub fn ring(self: &Arc<Self>, index: usize) -> RingPosition {
        assert!(index < self.rings, "no ring {index} of {}", self.rings);
        let record = std::ptr::from_ref(self.word(LINE + index * RING));
        RingPosition {
            record,
            _owner: Arc::clone(self),
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < LINE + self.rings * RING);
        // SAFETY: `owner` has a header and `rings` rings from `words` on, which is aligned to a cache line at
        // least, for as long as `self` lives.
        unsafe { &*self.words.add(index) }
    }
}

/// Makes a file at least `len` bytes long, all of them there: no write to it can fail.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    // SAFETY: no memory is involved, and `file` is open.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len.cast_signed()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The position of one ring.
#[derive(Debug, Clone)]
pub struct RingPosition {
    /// A record, and the elements behind it.
    record: *const AtomicU64,
    _owner: Arc<Positions>,
}

// SAFETY: `record` points into the positions, which `_owner` keeps and which may be used from any thread.
unsafe impl Send for RingPosition {}
// SAFETY: as above.
unsafe impl Sync for RingPosition {}

impl RingPosition {
    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < RING);
        // SAFETY: a ring has `RING` words from `record` on, see `Positions::ring`.
        unsafe { &*self.record.add(index) }
    }

    /// What is remembered of this ring.
    pub(super) fn recall(&self, identity: &Identity) -> Option<Kept> {
        let word = |index: usize| self.word(index).load(Ordering::Acquire);
        let remembered = word(word::RUNNING) == 1
            && (word::IDENTITY..)
                .zip(identity.words())
                .all(|(index, expected)| word(index) == expected);
        remembered.then(|| {
            let last = word(word::LAST);
            Kept {
                base: word(word::BASE) as u32,
                from: Spot::from_bits(last as u16),
                to: Spot::from_bits((last >> 16) as u16),
            }
        })
    }

    /// The ring starts at `spot`; the front end has said `base`.
    pub(super) fn begin(&self, identity: &Identity, base: u32, spot: Spot) {
        // One store, where it goes on: it is never unknown.
        if self.recall(identity).is_some_and(|kept| kept.base == base) {
            return self.move_to(spot, spot);
        }
        self.forget();
        self.move_to(spot, spot);
        self.word(word::BASE).store(base.into(), Ordering::Release);
        self.identify(identity);
    }

    /// From now on the ring is this one, and runs.
    pub(super) fn identify(&self, identity: &Identity) {
        self.forget();
        for (index, value) in (word::IDENTITY..).zip(identity.words()) {
            self.word(index).store(value, Ordering::Release);
        }
        self.word(word::RUNNING).store(1, Ordering::Release);
    }

    /// The front end knows where the ring stands, or it is of no use any more.
    pub fn forget(&self) {
        self.word(word::RUNNING).store(0, Ordering::Release);
        // What follows must not come first.
        fence(Ordering::SeqCst);
    }

    /// Notes the used element for the place `index`, which is for the caller alone until it is published.
    #[inline]
    pub(super) fn note(&self, index: u16, used: Used) {
        let Used { id, slots, written } = used;
        let element = u64::from(written) | u64::from(id) << 32 | u64::from(slots) << 48;
        self.word(LINE + usize::from(index))
            .store(element, Ordering::Relaxed);
    }

    /// The element that was noted last for a place.
    #[inline]
    pub(super) fn noted(&self, index: u16) -> Used {
        let element = self.word(LINE + usize::from(index)).load(Ordering::Relaxed);
        Used {
            id: (element >> 32) as u16,
            slots: (element >> 48) as u16,
            written: element as u32,
        }
    }

    /// The elements noted from `from` to `to` are about to be written to the ring.
    #[inline]
    pub(super) fn move_to(&self, from: Spot, to: Spot) {
        let last = u64::from(from.to_bits()) | u64::from(to.to_bits()) << 16;
        // After the elements, and before the ring. A process that is killed has done its stores in this order.
        self.word(word::LAST).store(last, Ordering::Release);
        fence(Ordering::Release);
    }
}
