//! One shared mapping of a foreign file: checked, registered against SIGBUS, unmapped on drop.
//!
//! It knows nothing of guest addresses. The pointer it gives out is valid for `size` bytes as long
//! as the `Mapping` lives, and what lies behind it may change at any time.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};

use super::error::MappingError;
use super::sigbus::{self, Slot};

/// The smallest page there is on the machines we run on.
pub(super) const PAGE: u64 = 4096;

/// `f_type` of hugetlbfs, from `linux/magic.h`.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The other file systems that memory is taken from, by `f_type` from `linux/magic.h`: their pages are in
/// memory, or on a disk of this machine. One that is served by a process, or over a network, could let a worker
/// wait for a page as long as it likes.
const FILE_SYSTEMS: [u64; 9] = [
    0x0102_1994, // tmpfs, memfd and System V shared memory
    0x8584_58f6, // ramfs
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x794c_7630, // overlayfs: made of others by whoever may mount
];

/// File systems without a disk behind them.
const IN_MEMORY: [u64; 2] = [FILE_SYSTEMS[0], FILE_SYSTEMS[1]];

/// Which file it is that is mapped, as long as somebody has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// What was found out about a file.
pub(super) struct Backing {
    pub id: FileId,
    /// The page size that it is mapped with.
    pub page: u64,
    /// A write never waits for a disk.
    pub in_memory: bool,
}

#[derive(Debug)]
pub(super) struct Mapping {
    // Dropped before `map`: the handler must forget the range before it can belong to someone else.
    slot: Slot,
    map: MmapRegion,
    file: FileId,
    huge: bool,
    /// Distance of the announced offset from the start of the mapping, which is page-aligned.
    lead: usize,
}

impl Mapping {
    pub fn new(file: File, offset: u64, size: u64) -> Result<Mapping, MappingError> {
        let range = || MappingError::Range { offset, size };
        let end = offset.checked_add(size).ok_or_else(range)?;
        let Backing { id, page, .. } = examine(&file, end)?;
        // hugetlbfs maps and unmaps in multiples of its own page size only.
        let start = offset - offset % page;
        let end = end.checked_next_multiple_of(page).ok_or_else(range)?;
        let len = usize::try_from(end - start).map_err(|_| range())?;
        let map = MmapRegionBuilder::new(len)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, start))
            .build()
            .map_err(MappingError::Map)?;
        let slot = Slot::register(map.as_ptr(), len).ok_or(MappingError::TooMany(sigbus::SLOTS))?;
        Ok(Mapping {
            slot,
            map,
            file: id,
            huge: page != PAGE,
            lead: (offset - start) as usize,
        })
    }

    /// First announced byte; valid while `self` lives.
    pub fn base(&self) -> *mut u8 {
        self.map.as_ptr().wrapping_add(self.lead)
    }

    /// The file.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Where in the file the first announced byte is.
    pub fn offset(&self) -> u64 {
        self.map.file_offset().map_or(0, FileOffset::start) + self.lead as u64
    }

    /// Maps those pages in that the file has already, so that workers need not fault on them; holes
    /// stay holes, or it would allocate memory that the guest never touched or gave back. Returns how
    /// many bytes that were. Huge pages are few enough to fault.
    pub fn populate(&self) -> io::Result<u64> {
        let Some(file) = self.map.file_offset().filter(|_| !self.huge) else {
            return Ok(0);
        };
        let end = file.start() + self.map.size() as u64;
        let (mut at, mut done) = (file.start(), 0);
        while let Some(data) = seek(file.file(), at, libc::SEEK_DATA)?.filter(|&data| data < end) {
            let hole = seek(file.file(), data, libc::SEEK_HOLE)?.map_or(end, |hole| hole.min(end));
            // An extent may end within a page.
            let from = data - data % PAGE;
            at = hole.next_multiple_of(PAGE).min(end);
            let (offset, len) = ((from - file.start()) as usize, (at - from) as usize);
            let start = self.map.as_ptr().wrapping_add(offset);
            // SAFETY: the range is within the mapping that `self` owns, and populating changes nothing
            // in it. Where the file was cut off meanwhile it fails instead of raising SIGBUS.
            if unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) } != 0 {
                return Err(io::Error::last_os_error());
            }
            done += len as u64;
        }
        Ok(done)
    }

    pub fn poisoned(&self) -> bool {
        self.slot.poisoned()
    }
}

/// The next data or hole at or behind `from`; `None` behind the last.
fn seek(file: &File, from: u64, what: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: no memory is involved. The position moves for the front end too, which maps the file
    // and does not read it.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from.cast_signed(), what) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Checks that the file reaches to `end` and is one to map.
pub(super) fn examine(file: &File, end: u64) -> Result<Backing, MappingError> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is valid for writing and `file` is open.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(MappingError::Stat(io::Error::last_os_error()));
    }
    // SAFETY: fstat succeeded, so it filled the structure.
    let stat = unsafe { stat.assume_init() };
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(MappingError::NotRegular { mode: stat.st_mode });
    }
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found < end {
        return Err(MappingError::Truncated { needed: end, found });
    }
    let mut fs = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `fs` is valid for writing and `file` is open.
    if unsafe { libc::fstatfs(file.as_raw_fd(), fs.as_mut_ptr()) } != 0 {
        return Err(MappingError::Stat(io::Error::last_os_error()));
    }
    // SAFETY: fstatfs succeeded, so it filled the structure.
    let fs = unsafe { fs.assume_init() };
    let found = fs.f_type.cast_unsigned();
    let huge = found == HUGETLBFS_MAGIC;
    if !huge && !FILE_SYSTEMS.contains(&found) {
        return Err(MappingError::FileSystem { found });
    }
    let page = match u64::try_from(fs.f_bsize) {
        Ok(size) if huge && size.is_power_of_two() && size > PAGE => size,
        _ => PAGE,
    };
    Ok(Backing {
        id: FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
        },
        page,
        in_memory: IN_MEMORY.contains(&found),
    })
}
