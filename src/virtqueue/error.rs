//! What can be wrong with guest memory and with a ring, as small typed errors.
//!
//! Every value that a guest or a front end controls and that we refuse is named here with what was
//! found and what was expected, so that the one line an operator sees says who is at fault. Nothing
//! in this module knows how the values were read.

use std::fmt;
use std::io;

/// Why a file descriptor could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The descriptor is a socket, a pipe or a device, which cannot be checked for its length.
    #[error("the file descriptor is not a regular file (mode {mode:#o})")]
    NotRegular {
        /// `st_mode` as found.
        mode: u32,
    },
    /// The file is on a file system whose pages may take any time to come, and the worker with them.
    #[error(
        "the file is on a file system (type {found:#x}) that may keep a reader waiting for ever: use memory \
         that is shared from a memfd, /dev/shm or hugepages"
    )]
    FileSystem {
        /// `f_type` as found.
        found: u64,
    },
    /// The file ends before the mapping does; the first touch beyond its end would raise SIGBUS.
    #[error("the file is {found} bytes long, but {needed} bytes are announced")]
    Truncated {
        /// Offset plus size.
        needed: u64,
        /// Length of the file.
        found: u64,
    },
    /// Offset plus size exceeds 64 bits, or what this machine can address.
    #[error("offset {offset:#x} plus size {size:#x} is out of range")]
    Range {
        /// Offset into the file.
        offset: u64,
        /// Announced size.
        size: u64,
    },
    /// The process has as many shared mappings as the SIGBUS handler can look after.
    #[error("this process already holds {0} mappings of guest memory")]
    TooMany(usize),
    /// `fstat` failed.
    #[error("cannot examine the file")]
    Stat(#[source] io::Error),
    /// `mmap` failed.
    #[error("cannot map the file")]
    Map(#[source] vm_memory::mmap::MmapRegionError),
}

/// Why a table of guest memory was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A region of no bytes.
    #[error("the memory region at guest address {guest_addr:#x} is empty")]
    Empty {
        /// Its guest address.
        guest_addr: u64,
    },
    /// Address plus size leaves the 64-bit address space.
    #[error(
        "the memory region at {field} {start:#x} with size {size:#x} exceeds the address space"
    )]
    Overflow {
        /// Which address.
        field: &'static str,
        /// The address.
        start: u64,
        /// The size.
        size: u64,
    },
    /// An address or size that is no multiple of the page size.
    #[error(
        "{field} {found:#x} of the memory region at guest address {guest_addr:#x} is not a multiple of {expected:#x}"
    )]
    Misaligned {
        /// Which value.
        field: &'static str,
        /// Guest address of the region.
        guest_addr: u64,
        /// The value.
        found: u64,
        /// The page size.
        expected: u64,
    },
    /// Two regions share addresses.
    #[error("memory regions at {field} {first:#x} and {second:#x} overlap")]
    Overlap {
        /// Which kind of address.
        field: &'static str,
        /// Start of the lower one.
        first: u64,
        /// Start of the higher one.
        second: u64,
    },
    /// More regions than a table holds.
    #[error("{found} memory regions are more than the {max} allowed")]
    TooManyRegions {
        /// How many were announced.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// No region has exactly these addresses and this size.
    #[error(
        "no memory region at guest address {guest_addr:#x}, user address {user_addr:#x} with size {size:#x}"
    )]
    NotFound {
        /// Guest address asked for.
        guest_addr: u64,
        /// User address asked for.
        user_addr: u64,
        /// Size asked for.
        size: u64,
    },
    /// A region could not be mapped.
    #[error("memory region at guest address {guest_addr:#x} with size {size:#x}: {source}")]
    Region {
        /// Its guest address.
        guest_addr: u64,
        /// Its size.
        size: u64,
        /// Why.
        source: MappingError,
    },
    /// The dirty log could not be mapped.
    #[error("dirty log of {size} bytes: {source}")]
    Log {
        /// Its size.
        size: u64,
        /// Why.
        source: MappingError,
    },
}

/// Why the positions of packed rings cannot be kept in a file.
#[derive(Debug, thiserror::Error)]
pub enum PositionsError {
    /// Another process has it.
    #[error("another evb uses the file")]
    InUse,
    /// There is something in it, of another kind or version.
    #[error("the file has something else in it")]
    Foreign,
    /// A worker could have to wait for the disk.
    #[error("the file is on a disk, for which workers must not wait")]
    OnDisk,
    /// The file cannot be mapped.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The operating system refused.
    #[error("cannot {call} the file: {source}")]
    Os {
        /// What was tried.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// The parts of a ring that a front end places in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The descriptor table, or the descriptor ring of a packed queue.
    Descriptors,
    /// The available ring, or the driver's event suppression area of a packed queue.
    Available,
    /// The used ring, or the device's event suppression area of a packed queue.
    Used,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Descriptors => "descriptor area",
            Part::Available => "driver area (available ring)",
            Part::Used => "device area (used ring)",
        })
    }
}

/// Where a descriptor stands: in the ring itself or in an indirect table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Descriptor of the ring.
    Ring(u16),
    /// Entry of the indirect table that descriptor `of` refers to.
    Indirect {
        /// Descriptor of the ring.
        of: u16,
        /// Entry in its table.
        entry: u16,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Ring(index) => write!(f, "descriptor {index}"),
            Place::Indirect { of, entry } => {
                write!(f, "entry {entry} of the indirect table of descriptor {of}")
            }
        }
    }
}

/// Why a ring cannot be started or cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A queue size that the format does not allow.
    #[error("queue size {found} is not allowed: expected {expected}")]
    Size {
        /// The size.
        found: u16,
        /// What would be right.
        expected: &'static str,
    },
    /// A running ring cannot change its size or its format.
    #[error("{field} of a running ring cannot change from {expected} to {found}")]
    Changed {
        /// What differs.
        field: &'static str,
        /// What it runs with.
        expected: u16,
        /// What was asked for.
        found: u16,
    },
    /// The virtio-net header has 10 or 12 bytes.
    #[error("a virtio-net header of {found} bytes does not exist: expected 10 or 12")]
    HeaderLength {
        /// Length asked for.
        found: usize,
    },
    /// A resume position that this ring format does not have, or that is outside the ring.
    #[error("cannot resume a {format} ring of {size} at {found:#x}")]
    Resume {
        /// Split or packed.
        format: &'static str,
        /// Queue size.
        size: u16,
        /// Position as `SET_VRING_BASE` has it.
        found: u32,
    },
    /// A packed ring cannot start without a position: it has none in memory.
    #[error("a packed ring has no index in memory: expected a position to resume at")]
    ResumeUnknown,
    /// A packed ring that has been in use, and nobody knows where it stands.
    #[error(
        "the position of the packed ring is lost: the driver uses it, and neither the front end nor this daemon knows \
         where it stands"
    )]
    PositionLost,
    /// A part of the ring at an address that the format does not allow.
    #[error("the {part} at {found:#x} is not aligned to {expected} bytes")]
    Misaligned {
        /// Which part.
        part: Part,
        /// Its address.
        found: u64,
        /// Alignment needed.
        expected: usize,
    },
    /// A part of the ring is not within one memory region.
    #[error(
        "the {part}, {len} bytes at user address {address:#x}, is not inside one memory region"
    )]
    Unmapped {
        /// Which part.
        part: Part,
        /// Its address.
        address: u64,
        /// Its length.
        len: usize,
    },
    /// The available index is further ahead than the ring is long.
    #[error("available index {found} is {} ahead of {next}, more than the queue size {size}", found.wrapping_sub(*next))]
    AvailIndex {
        /// Index as found.
        found: u16,
        /// The next one we would take.
        next: u16,
        /// Queue size.
        size: u16,
    },
    /// An available ring entry outside the descriptor table.
    #[error("available ring slot {slot} names descriptor {found}, expected one below {size}")]
    Head {
        /// Slot in the available ring.
        slot: u16,
        /// Descriptor it names.
        found: u16,
        /// Queue size.
        size: u16,
    },
    /// A `next` field outside the table.
    #[error("{place} continues at {found}, expected an index below {limit}")]
    Next {
        /// The descriptor.
        place: Place,
        /// Its next field.
        found: u16,
        /// Length of the table.
        limit: u16,
    },
    /// A loop, or more descriptors than the queue has.
    #[error("the chain at descriptor {head} has more than {limit} descriptors")]
    ChainLength {
        /// First descriptor.
        head: u16,
        /// How many there may be.
        limit: u16,
    },
    /// A chain that scatters over more regions or buffers than a batch can hold.
    #[error("the chain at descriptor {head} is split into more than {limit} pieces")]
    Fragmented {
        /// First descriptor.
        head: u16,
        /// How many there may be.
        limit: usize,
    },
    /// A chain that changed its length after it was made available.
    #[error("buffer {id} had {expected} descriptors when it was made available, now {found}")]
    Rewritten {
        /// Buffer id.
        id: u16,
        /// Descriptors at first.
        expected: u16,
        /// Descriptors now.
        found: u16,
    },
    /// A device-writable descriptor in a chain that the device only reads.
    #[error("{place} is device-writable, expected a device-readable buffer")]
    Writable {
        /// The descriptor.
        place: Place,
    },
    /// A device-readable descriptor in a chain that the device only writes.
    #[error("{place} is device-readable, expected a device-writable buffer")]
    Readable {
        /// The descriptor.
        place: Place,
    },
    /// A buffer of no bytes.
    #[error("{place} has length 0, expected at least 1")]
    ZeroLength {
        /// The descriptor.
        place: Place,
    },
    /// A buffer that is not, or not wholly, in guest memory.
    #[error(
        "{place} covers {len} bytes at guest address {address:#x}, which is not all guest memory"
    )]
    Outside {
        /// The descriptor.
        place: Place,
        /// Its address.
        address: u64,
        /// Its length.
        len: u32,
    },
    /// A chain of more than 4 GiB.
    #[error(
        "the chain at descriptor {head} has {found} bytes, expected at most {}",
        u32::MAX
    )]
    ChainBytes {
        /// First descriptor.
        head: u16,
        /// Sum of its lengths.
        found: u64,
    },
    /// An indirect descriptor without the feature.
    #[error("{place} is indirect, but INDIRECT_DESC was not negotiated")]
    IndirectRefused {
        /// The descriptor.
        place: Place,
    },
    /// An indirect descriptor inside an indirect table.
    #[error("{place} is indirect itself, expected a buffer")]
    IndirectNested {
        /// The descriptor.
        place: Place,
    },
    /// An indirect descriptor that also continues.
    #[error("{place} is indirect and has a next descriptor, expected one or the other")]
    IndirectNext {
        /// The descriptor.
        place: Place,
    },
    /// An indirect table of no or too many entries, or of a fraction of one.
    #[error("{place} refers to an indirect table of {found} bytes, expected a multiple of 16 up to {}", u32::from(*limit) * 16)]
    IndirectSize {
        /// The descriptor.
        place: Place,
        /// Table length in bytes.
        found: u32,
        /// How many entries there may be.
        limit: u16,
    },
    /// A receive buffer that cannot even hold the virtio-net header.
    #[error(
        "the receive buffer at descriptor {head} has {found} bytes, expected at least the {expected} of a header"
    )]
    Runt {
        /// First descriptor.
        head: u16,
        /// Its length.
        found: u64,
        /// Length of the header.
        expected: usize,
    },
    /// The call or the error descriptor made a worker wait, and it had to be woken.
    #[error(
        "its call or error descriptor blocks: the front end has taken O_NONBLOCK away and left the counter \
         full"
    )]
    CallBlocks,
}
