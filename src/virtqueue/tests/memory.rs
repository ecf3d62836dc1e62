//! Memory tables, address translation and the dirty log.

use std::os::unix::fs::FileExt;

use super::*;
use crate::virtqueue::memory::Lookup;
use crate::virtqueue::{MAX_SLOTS, MappingError, MemoryError};

fn two() -> (File, GuestMemory) {
    let file = memfd(0x10000);
    let memory = GuestMemory::new(vec![
        region(&file, 0x8000, 0x4000, 0x4000),
        region(&file, 0x1000, 0, 0x4000),
    ])
    .unwrap();
    (file, memory)
}

#[test]
fn translates_by_guest_and_user_address() {
    let (_file, memory) = two();
    assert_eq!(memory.regions(), 2);
    let mut lookup = Lookup::new(&memory, 7);
    let mut found = |address, len| lookup.find(address, len).map(|(_, here)| here);
    assert_eq!(found(0x1000, 0x4000), Some(0x4000));
    assert_eq!(found(0x4fff, 2), Some(1), "the rest is not mapped");
    assert_eq!(found(0x5000, 1), None);
    assert_eq!(found(0xfff, 1), None);
    assert_eq!(found(0xbfff, 1), Some(1));
    assert_eq!(found(0xc000, 1), None);
    assert_eq!(found(u64::MAX, 1), None);
    assert_eq!(found(0, u32::MAX), None);

    let (base, guest) = memory.user(USER + 0x8000, 0x4000).unwrap();
    assert_eq!(guest, 0x8000);
    assert_eq!(
        memory.user(USER + 0x8010, 16),
        Some((base.wrapping_add(16), 0x8010))
    );
    assert_eq!(lookup.find(0x8000, 1).unwrap().0, base);
    assert_eq!(memory.user(USER + 0x8000, 0x4001), None);
    assert_eq!(memory.user(USER + 0xc000, 0), None);
    assert_eq!(memory.user(0x8000, 1), None);
}

/// A region of the first bytes of a file of 64 KiB.
fn at(guest_addr: u64, size: u64) -> Region {
    Region {
        guest_addr,
        size,
        user_addr: guest_addr.wrapping_add(0x10_0000),
        offset: 0,
        file: memfd(0x10000),
    }
}

#[test]
fn memory_comes_from_memory_or_a_disk() {
    // A regular file of 4096 bytes, as it says, on sysfs.
    let odd = Region {
        file: File::open("/sys/kernel/uevent_seqnum").unwrap(),
        ..at(0, 0x1000)
    };
    let error = GuestMemory::new(vec![odd]).unwrap_err();
    let MemoryError::Region { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(source, MappingError::FileSystem { found: 0x6265_6572 }),
        "{source}"
    );
    assert!(source.to_string().contains("memfd"));
}

fn refuse(regions: Vec<Region>) -> String {
    GuestMemory::new(regions).unwrap_err().to_string()
}

#[test]
fn refuses_impossible_tables() {
    assert_eq!(
        refuse(vec![at(0x1000, 0)]),
        "the memory region at guest address 0x1000 is empty"
    );
    assert_eq!(
        refuse(vec![at(0x1000, 0x2000), at(0x2000, 0x1000)]),
        "memory regions at guest address 0x1000 and 0x2000 overlap"
    );
    assert_eq!(
        refuse(vec![at(0x1000, 0x2000), at(0x1000, 0x2000)]),
        "memory regions at guest address 0x1000 and 0x1000 overlap"
    );
    let same_user = Region {
        user_addr: 0x10_1000,
        ..at(0x8000, 0x1000)
    };
    assert_eq!(
        refuse(vec![at(0x1000, 0x2000), same_user]),
        "memory regions at user address 0x101000 and 0x101000 overlap"
    );
    let many = (0..=MAX_SLOTS as u64).map(|i| at(i << 12, 0x1000));
    assert_eq!(
        refuse(many.collect()),
        "510 memory regions are more than the 509 allowed"
    );
}

#[test]
fn refuses_impossible_regions() {
    for (wrong, message) in [
        (
            at(0x1800, 0x1000),
            "guest address 0x1800 of the memory region at guest address 0x1800 is not a multiple of 0x1000",
        ),
        (
            at(0x1000, 0x1001),
            "size 0x1001 of the memory region at guest address 0x1000 is not a multiple of 0x1000",
        ),
        (
            Region {
                offset: 12,
                ..at(0, 0x1000)
            },
            "file offset 0xc of the memory region at guest address 0x0 is not a multiple of 0x1000",
        ),
        (
            Region {
                user_addr: 1,
                ..at(0, 0x1000)
            },
            "user address 0x1 of the memory region at guest address 0x0 is not a multiple of 0x1000",
        ),
        (
            Region {
                user_addr: 0,
                ..at(0xffff_ffff_ffff_f000, 0x2000)
            },
            "the memory region at guest address 0xfffffffffffff000 with size 0x2000 exceeds the address space",
        ),
        (
            Region {
                user_addr: 0xffff_ffff_ffff_f000,
                ..at(0, 0x2000)
            },
            "the memory region at user address 0xfffffffffffff000 with size 0x2000 exceeds the address space",
        ),
        (
            at(0x1000, 0x11000),
            "memory region at guest address 0x1000 with size 0x11000: the file is 65536 bytes long, but 69632 bytes are announced",
        ),
        (
            Region {
                offset: 0xffff_ffff_ffff_f000,
                ..at(0, 0x2000)
            },
            "memory region at guest address 0x0 with size 0x2000: offset 0xfffffffffffff000 plus size 0x2000 is out of range",
        ),
    ] {
        assert_eq!(refuse(vec![wrong]), message);
    }
    let socket = File::from(std::os::fd::OwnedFd::from(
        std::os::unix::net::UnixDatagram::unbound().unwrap(),
    ));
    let wrong = Region {
        file: socket,
        ..at(0, 0x1000)
    };
    assert!(matches!(
        GuestMemory::new(vec![wrong]),
        Err(MemoryError::Region {
            source: MappingError::NotRegular { .. },
            ..
        })
    ));
}

#[test]
fn regions_come_and_go() {
    let (file, memory) = two();
    let more = memory
        .with_added(region(&file, 0x20000, 0x8000, 0x1000))
        .unwrap();
    assert_eq!(more.regions(), 3);
    assert!(Lookup::new(&more, 0).find(0x20000, 0x1000).is_some());
    assert!(matches!(
        more.with_added(region(&file, 0x20000, 0, 0x1000)),
        Err(MemoryError::Overlap { .. })
    ));
    assert!(matches!(
        more.with_removed(0x20000, 0x2000, USER + 0x20000),
        Err(MemoryError::NotFound { .. })
    ));
    let less = more.with_removed(0x8000, 0x4000, USER + 0x8000).unwrap();
    drop(more);
    assert!(Lookup::new(&less, 2).find(0x8000, 1).is_none());
    // The mappings are the same ones.
    let first = |memory: &GuestMemory| Lookup::new(memory, 0).find(0x1000, 1).unwrap().0;
    assert_eq!(first(&memory), first(&less));
    let empty = GuestMemory::new(Vec::new()).unwrap();
    assert!(Lookup::new(&empty, 0).find(0, 1).is_none());
    assert!(!empty.poisoned());
}

fn log_bits(file: &File, offset: u64, len: usize) -> Vec<u64> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    (0..len as u64 * 8)
        .filter(|bit| bytes[(bit / 8) as usize] & (1 << (bit % 8)) != 0)
        .collect()
}

#[test]
fn the_log_marks_exactly_the_pages_written() {
    for (addr, len, pages) in [
        (0, 0, vec![]),
        (0, 1, vec![0]),
        (0xfff, 1, vec![0]),
        (0xfff, 2, vec![0, 1]),
        (0x1000, 0x1000, vec![1]),
        (0x7000, 0x2000, vec![7, 8]),
        (0x6fff, 0x2002, vec![6, 7, 8, 9]),
        (0x3000, 0x12000, (3..21).collect()),
        (0x1f_f000, 0x1000, vec![511]),
        (0x1f_f000, 0x9000, vec![511]),
        (0x20_0000, 1, vec![]),
        (u64::MAX, 1, vec![]),
        (u64::MAX, u64::MAX, vec![]),
        (0x1f_e000, u64::MAX, vec![510, 511]),
    ] {
        // 64 bytes, at an offset that is not page-aligned.
        let file = memfd(0x3000);
        let log = DirtyLog::new(file.try_clone().unwrap(), 0x1040, 64).unwrap();
        log.mark(addr, len);
        assert_eq!(log_bits(&file, 0x1040, 64), pages, "{addr:#x} + {len:#x}");
        assert_eq!(log_bits(&file, 0x1000, 0x40), [0_u64; 0]);
        assert_eq!(log_bits(&file, 0x1080, 0x40), [0_u64; 0]);
    }
    let short = DirtyLog::new(memfd(0x1000), 0x800, 0x801).unwrap_err();
    assert_eq!(
        short.to_string(),
        "dirty log of 2049 bytes: the file is 4096 bytes long, but 4097 bytes are announced"
    );
}

#[test]
fn rings_mark_what_they_write() {
    let file = memfd(0x2000);
    // One page of log covers 128 MiB of guest addresses; BASE is at 256 MiB.
    let window = BASE / 4096 / 8;
    let big = memfd(window + 0x1000);
    let log = Arc::new(DirtyLog::new(big.try_clone().unwrap(), 0, window + 0x1000).unwrap());
    let pages = || -> Vec<u64> {
        let bits = log_bits(&big, window, 0x1000);
        big.write_all_at(&[0; 0x1000], window).unwrap();
        bits
    };
    drop(file);
    // Used ring of a 1024-entry queue: 8,198 bytes from page 16 on.
    let mut guest = Guest::new(1024).start_at(510);
    guest.config.log_used = Some(guest.used_at());
    let rx = guest.rx_logged(Some(Arc::clone(&log)));
    assert_eq!(pages(), [16], "used.flags");
    for head in 0..4 {
        guest.post_buffer(head, DATA + 0xff0, 0x20, WRITE);
    }
    let mut batch = super::super::RxBatch::new();
    rx.reserve(&[0x20; 2], &mut batch).unwrap();
    assert_eq!(pages(), [0_u64; 0], "nothing is written yet");
    let frame = super::super::Gather {
        header: &[1; 12],
        head: &[2; 20],
        rest: &[],
        rest_skip: 0,
        rest_len: 0,
    };
    for grant in batch.grants() {
        let super::super::Grant::Buffers { segments, .. } = grant else {
            panic!("{grant:?}");
        };
        assert_eq!(rx.copy(segments, &frame), 32);
    }
    assert_eq!(pages(), [256, 257], "the buffer crosses a page");
    rx.complete(&mut batch);
    // Slots 510 and 511 end at byte 4 + 8 * 512, in the second page.
    assert_eq!(pages(), [16, 17]);
    drop(batch);

    let mut guest = Guest::with(4, |f| f.event_idx = true).start_at(0xfffe);
    guest.config.log_used = Some(BASE + 0x5ffc);
    let tx = guest.tx_logged(Some(Arc::clone(&log)));
    let mut guard = tx.lock();
    guard.enable_kicks().unwrap();
    assert_eq!(pages(), [6], "avail_event");
    guest.post_buffer(1, DATA, 1, 0);
    let mut batch = super::super::TxBatch::new();
    assert_eq!(guard.peek(&mut batch, 64).unwrap(), 1);
    guard.finish(0);
    assert_eq!(guard.publish(), 1);
    assert_eq!(pages(), [5, 6], "used.idx, and slot 2 behind the boundary");
}

#[test]
fn populating_leaves_holes_alone() {
    use std::os::unix::fs::MetadataExt;
    let file = memfd(0x40000);
    for page in [0, 1, 9, 0x3f] {
        file.write_all_at(&[1], page << 12).unwrap();
    }
    let memory = GuestMemory::new(vec![
        region(&file, 0x1000, 0x1000, 0x8000),
        region(&file, 0x10000, 0x9000, 0x37000),
    ])
    .unwrap();
    // Page 0 is in no region; the others are.
    assert_eq!(memory.populate().unwrap(), 3 * 4096);
    assert_eq!(file.metadata().unwrap().blocks() * 512, 4 * 4096);
    let unused = GuestMemory::new(vec![region(&file, 0, 0x10000, 0x1000)]).unwrap();
    assert_eq!(unused.populate().unwrap(), 0);
    file.set_len(0).unwrap();
    assert_eq!(memory.populate().unwrap(), 0);
}
