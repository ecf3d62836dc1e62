//! A guest in a memfd, seen through a mapping of its own, and the tests of the room against it.

mod copying;
mod hostile;
mod memory;
mod oracle;
mod packed;
mod packed_guest;
mod packed_hostile;
mod positions;
mod put;
mod receive;
mod sigbus;
mod threads;
mod transmit;

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    DirtyLog, GuestMemory, Region, ResumeAt, RingConfig, RingFeatures, RxRing, Segment, TxRing,
};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Guest addresses start here, so that 0 is outside.
pub const BASE: u64 = 0x1000_0000;
/// Front-end addresses are guest addresses plus this.
pub const USER: u64 = 0x7f00_0000_0000;
pub const SIZE: u64 = 4 << 20;

/// Buffers of tests lie behind the rings.
pub const DATA: u64 = BASE + 0x10_0000;

pub fn memfd(len: u64) -> File {
    // SAFETY: the name is a valid C string; the result is checked.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: `fd` is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len).unwrap();
    file
}

pub fn region(file: &File, guest_addr: u64, offset: u64, size: u64) -> Region {
    Region {
        guest_addr,
        size,
        user_addr: guest_addr + USER,
        offset,
        file: file.try_clone().unwrap(),
    }
}

pub fn features() -> RingFeatures {
    RingFeatures {
        packed: false,
        indirect: true,
        event_idx: false,
        in_order: false,
        mergeable: true,
        header_len: 12,
    }
}

/// One guest with one split ring.
pub struct Guest {
    pub file: File,
    pub mem: GuestMemoryMmap,
    pub config: RingConfig,
    pub size: u16,
    /// Where the next posted chain goes in the available ring.
    pub avail: u16,
    pub call: Arc<EventFd>,
}

impl Guest {
    pub fn new(size: u16) -> Guest {
        let file = memfd(SIZE);
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(BASE), SIZE as usize, Some(offset));
        let mem = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let call = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let config = RingConfig {
            size,
            desc: USER + BASE,
            avail: USER + BASE + 0x8000,
            used: USER + BASE + 0x1_0000,
            log_used: None,
            features: features(),
            call: Some(Arc::clone(&call)),
            position: None,
        };
        Guest {
            file,
            mem,
            config,
            size,
            avail: 0,
            call,
        }
    }

    pub fn with(size: u16, change: impl FnOnce(&mut RingFeatures)) -> Guest {
        let mut guest = Guest::new(size);
        change(&mut guest.config.features);
        guest
    }

    /// Makes the ring look as if `index` chains had gone through it.
    pub fn start_at(mut self, index: u16) -> Guest {
        self.avail = index;
        self.set_avail_idx(index);
        self.write(self.used_at() + 2, index);
        self
    }

    pub fn memory(&self) -> Arc<GuestMemory> {
        Arc::new(GuestMemory::new(vec![region(&self.file, BASE, 0, SIZE)]).unwrap())
    }

    pub fn tx(&self) -> TxRing {
        self.tx_logged(None)
    }

    pub fn tx_logged(&self, log: Option<Arc<DirtyLog>>) -> TxRing {
        self.config
            .activate_tx(self.memory(), log, ResumeAt::UsedIndex)
            .unwrap()
    }

    pub fn rx(&self) -> RxRing {
        self.rx_logged(None)
    }

    pub fn rx_logged(&self, log: Option<Arc<DirtyLog>>) -> RxRing {
        self.config
            .activate_rx(self.memory(), log, ResumeAt::UsedIndex)
            .unwrap()
    }

    pub fn write<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.mem.write_obj(value, GuestAddress(address)).unwrap();
    }

    pub fn read<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.mem.read_obj(GuestAddress(address)).unwrap()
    }

    pub fn fill(&self, address: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.mem
            .read_slice(&mut out, GuestAddress(address))
            .unwrap();
        out
    }

    pub fn desc_at(&self) -> u64 {
        self.config.desc - USER
    }

    pub fn avail_at(&self) -> u64 {
        self.config.avail - USER
    }

    pub fn used_at(&self) -> u64 {
        self.config.used - USER
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn descriptor(&self, table: u64, index: u16, d: (u64, u32, u16, u16)) {
        let at = table + 16 * u64::from(index);
        self.write(at, d.0);
        self.write(at + 8, d.1);
        self.write(at + 12, d.2);
        self.write(at + 14, d.3);
    }

    pub fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        self.descriptor(self.desc_at(), index, (addr, len, flags, next));
    }

    /// Makes the chain at `head` available.
    pub fn post(&mut self, head: u16) {
        let slot = u64::from(self.avail % self.size);
        self.write(self.avail_at() + 4 + 2 * slot, head);
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_idx(self.avail);
    }

    /// A chain of one buffer, in descriptor `head`.
    pub fn post_buffer(&mut self, head: u16, addr: u64, len: u32, flags: u16) {
        self.desc(head, addr, len, flags, 0);
        self.post(head);
    }

    /// `count` receive buffers of `len` bytes, from DATA on, in the descriptors from 0 on.
    pub fn post_receive_buffers(&mut self, count: u16, len: u32) {
        for i in 0..count {
            self.post_buffer(i, DATA + u64::from(i) * u64::from(len), len, WRITE);
        }
    }

    pub fn set_avail_idx(&self, index: u16) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.write(self.avail_at() + 2, index);
    }

    pub fn used_idx(&self) -> u16 {
        let index = self.read(self.used_at() + 2);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        index
    }

    /// Element `index` of the used ring: id and length.
    pub fn used(&self, index: u16) -> (u32, u32) {
        let at = self.used_at() + 4 + 8 * u64::from(index % self.size);
        (self.read(at), self.read(at + 4))
    }

    pub fn used_flags(&self) -> u16 {
        self.read(self.used_at())
    }

    pub fn avail_event(&self) -> u16 {
        self.read(self.used_at() + 4 + 8 * u64::from(self.size))
    }

    pub fn set_used_event(&self, index: u16) {
        self.write(self.avail_at() + 4 + 2 * u64::from(self.size), index);
    }

    pub fn set_no_interrupt(&self, on: bool) {
        self.write(self.avail_at(), u16::from(on));
    }

    /// How often the guest was called since the last time.
    pub fn calls(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }
}

/// A log of dirty pages, as its front end sees it.
pub struct Log {
    file: File,
    pub log: Arc<DirtyLog>,
}

impl Log {
    const LEN: u64 = 0x4000;

    pub fn new() -> Log {
        let file = memfd(Log::LEN);
        let log = DirtyLog::new(file.try_clone().unwrap(), 0, Log::LEN).unwrap();
        Log {
            file,
            log: Arc::new(log),
        }
    }

    /// The addresses of the pages that were marked since the last time.
    pub fn take(&self) -> Vec<u64> {
        let mut bits = vec![0; Log::LEN as usize];
        self.file.read_exact_at(&mut bits, 0).unwrap();
        self.file
            .write_all_at(&vec![0; Log::LEN as usize], 0)
            .unwrap();
        (0..8 * Log::LEN)
            .filter(|bit| bits[*bit as usize / 8] & 1 << (bit % 8) != 0)
            .map(|bit| bit * 0x1000)
            .collect()
    }
}

/// Guest address and length of each segment.
pub fn spans(segments: &[Segment<'_>]) -> Vec<(u64, usize)> {
    segments.iter().map(|s| (s.guest(), s.len())).collect()
}
