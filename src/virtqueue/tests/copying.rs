//! Copies against the obvious: flatten, then compare.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;

use super::*;
use crate::virtqueue::copy::{copy, copy_behind, copy_bytes};
use crate::virtqueue::memory::Lookup;
use crate::virtqueue::start::{copy_start, stands_there};
use crate::virtqueue::{Changed, Gather, Segment, Start, read, writev};

/// Segments of the given lengths, with gaps of one byte, from `at` on.
fn segments<'m>(memory: &'m GuestMemory, at: u64, lens: &[u32]) -> Vec<Segment<'m>> {
    segments_apart(memory, at, lens, 1)
}

/// The same with gaps of so many bytes.
fn segments_apart<'m>(
    memory: &'m GuestMemory,
    mut at: u64,
    lens: &[u32],
    gap: u64,
) -> Vec<Segment<'m>> {
    let mut lookup = Lookup::new(memory, 0);
    lens.iter()
        .map(|&len| {
            let (ptr, here) = lookup.find(at, len).unwrap();
            assert_eq!(here, len);
            let guest = at;
            at += u64::from(len) + gap;
            // SAFETY: looked up just now, in the memory borrowed for 'm.
            unsafe { Segment::new(ptr, len, guest) }
        })
        .collect()
}

fn flatten(guest: &Guest, segments: &[Segment<'_>]) -> Vec<u8> {
    segments
        .iter()
        .flat_map(|s| guest.bytes(s.guest(), s.len()))
        .collect()
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8)
        .collect()
}

#[test]
fn every_length_and_overlap() {
    for len in (0..300).chain([511, 1500, 4096, 9000, 65536]) {
        for shift in [-130_isize, -17, -1, 0, 1, 7, 16, 64, 200] {
            let mut bytes = pattern(len + 600, 3);
            let mut expected = bytes.clone();
            let (src, dst) = (300_usize, 300_usize.wrapping_add_signed(shift));
            expected.copy_within(src..src + len, dst);
            let base = bytes.as_mut_ptr();
            // SAFETY: both ranges are inside the vector.
            unsafe { copy_bytes(base.add(dst), base.add(src), len) };
            assert!(bytes == expected, "{len} bytes moved by {shift}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pages_are_marked_that_were_written_to_and_no_others(
        to in proptest::collection::vec(1_u32..6000, 1..12),
        header in 0_usize..13,
        head in 0_usize..130,
        rest in proptest::collection::vec(1_u32..3000, 0..6),
    ) {
        let guest = Guest::new(2);
        let memory = guest.memory();
        let src = segments(&memory, DATA, &rest);
        // No two of them share a page.
        let dst = segments_apart(&memory, DATA + 0x1_0000, &to, 0x1000);
        let (header, head) = (pattern(header, 1), pattern(head, 2));
        let rest_len = rest.iter().sum::<u32>() as usize;
        let frame = Gather { header: &header, head: &head, rest: &src, rest_skip: 0, rest_len };
        let log = Log::new();
        let mut left = copy(&dst, &frame, Some(&log.log)) as u64;
        let mut expected = vec![];
        for segment in &dst {
            let count = left.min(segment.len() as u64);
            left -= count;
            if count != 0 {
                let last = (segment.guest() + count - 1) / 0x1000;
                expected.extend((segment.guest() / 0x1000..=last).map(|page| page * 0x1000));
            }
        }
        prop_assert_eq!(left, 0);
        prop_assert_eq!(log.take(), expected);
    }

    #[test]
    fn any_split_gives_the_same_bytes(
        from in proptest::collection::vec(1_u32..400, 0..12),
        to in proptest::collection::vec(1_u32..400, 0..12),
        header in 0_usize..13,
        head in 0_usize..130,
        skip in 0_usize..600,
        len in 0_usize..3000,
    ) {
        let guest = Guest::new(2);
        let memory = guest.memory();
        guest.fill(DATA, &pattern(8000, 9));
        let src = segments(&memory, DATA, &from);
        let dst = segments(&memory, DATA + 0x1_0000, &to);
        let before = guest.bytes(DATA + 0x1_0000, 8000);

        let (header, head) = (pattern(header, 77), pattern(head, 99));
        let rest: Vec<u8> = flatten(&guest, &src).into_iter().skip(skip).take(len).collect();
        let whole = [&header[..], &head, &rest].concat();
        let frame = Gather { header: &header, head: &head, rest: &src, rest_skip: skip, rest_len: len };

        let room = to.iter().sum::<u32>() as usize;
        let expected = whole.len().min(room);
        prop_assert_eq!(copy(&dst, &frame, None), expected);
        let written = flatten(&guest, &dst);
        prop_assert_eq!(&written[..expected], &whole[..expected]);
        prop_assert!(written[expected..].iter().all(|&b| b == 0));
        // The gaps are as they were.
        let after = guest.bytes(DATA + 0x1_0000, 8000);
        let mut at = 0;
        for len in &to {
            at += *len as usize;
            prop_assert_eq!(after[at], before[at]);
            at += 1;
        }
        prop_assert_eq!(&after[at..], &before[at..]);

        let mut out = vec![0; len];
        let count = read(&src, skip, &mut out);
        prop_assert_eq!(count, rest.len());
        prop_assert_eq!(&out[..count], &rest[..]);

        // Nothing at all is not sent as a datagram.
        prop_assert_eq!(frame.is_empty(), header.is_empty() && head.is_empty() && len == 0);
        let (near, far) = UnixDatagram::pair().unwrap();
        prop_assert_eq!(writev(near.as_fd(), &frame).unwrap(), whole.len());
        far.set_nonblocking(true).unwrap();
        let mut received = vec![0; 10000];
        let count = far.recv(&mut received).unwrap_or(0);
        prop_assert_eq!(&received[..count], &whole[..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_takes_the_place_of_first_bytes_stands_between_header_and_head(
        to in proptest::collection::vec(1_u32..300, 0..6),
        (header, head) in (0_usize..13, 0_usize..130),
        (first, second) in (any::<[u8; 12]>(), any::<Option<[u8; 4]>>()),
        rest_len in 0_usize..600,
    ) {
        let guest = Guest::new(2);
        let memory = guest.memory();
        guest.fill(DATA, &pattern(600, 9));
        let (src, dst) = (segments(&memory, DATA, &[600]), segments(&memory, DATA + 0x1000, &to));
        let (header, head) = (pattern(header, 1), pattern(head, 4));
        let changed = Some(Changed { first: &first, second: second.as_ref() });
        let start = Start { header: &header, changed, head: &head };
        let rest = Gather { header: &[], head: &[], rest: &src, rest_skip: 0, rest_len };
        let expected = [&header[..], &first, second.as_slice().as_flattened(), &head, &pattern(600, 9)[..rest_len]].concat();

        let written = copy_behind(&dst, &start, &rest, None);
        prop_assert_eq!(written, expected.len().min(to.iter().sum::<u32>() as usize));
        prop_assert_eq!(&flatten(&guest, &dst)[..written], &expected[..written]);
    }
}

#[test]
fn headers_are_written_unless_they_stand_there() {
    let guest = Guest::new(2);
    let memory = guest.memory();
    for len in [0, 4, 7, 8, 10, 12, 13, 16, 20] {
        let header = &pattern(20, 5)[..len];
        let start = Start::new(header, &[7; 60]);
        // At one place in a line the header shares it with nothing behind. Before, the header stood there with one byte
        // changed, or as it is.
        for at in 0..64 {
            for other in 0..=len {
                let mut before = [header, &[0xee; 61]].concat();
                if other < len {
                    before[other] ^= 1;
                }
                guest.fill(DATA + at, &before);
                let dst = segments(&memory, DATA + at, &[len as u32 + 60]);
                let kept = (8..=12).contains(&len) && (at as usize + len).is_multiple_of(64);
                // SAFETY: the segment begins with as many bytes as the header has.
                let stands = unsafe { stands_there(dst[0].ptr(), header) };
                assert_eq!(stands, kept && other == len, "{len} {at} {other}");
                assert_eq!(copy_start(&dst, &start, None), len + 60);
                let expected = [header, &[7; 60], &[0xee]].concat();
                assert_eq!(
                    guest.bytes(DATA + at, len + 61),
                    expected,
                    "{len} {at} {other}"
                );
            }
        }
    }
}

#[test]
fn a_header_that_stands_there_is_not_written() {
    let guest = Guest::new(2);
    let memory = guest.memory();
    let at = DATA + 0x1000 - 12;
    let start = Start::new(&[5; 12], &[7; 60]);
    guest.fill(at, start.header);
    let dst = segments(&memory, at, &[72]);
    let page = dst[0].ptr().wrapping_sub(0x1000 - 12).cast();
    // SAFETY: the page before that of the frame is mapped, and nobody else writes to it.
    let protect = |how| assert_eq!(unsafe { libc::mprotect(page, 0x1000, how) }, 0);
    // Whoever writes to the page of the header dies.
    protect(libc::PROT_READ);
    assert_eq!(copy_start(&dst, &start, None), 72);
    protect(libc::PROT_READ | libc::PROT_WRITE);
    assert_eq!(guest.bytes(at, 72), [&[5; 12][..], &[7; 60]].concat());
}

#[test]
fn headers_that_change_from_frame_to_frame_are_written() {
    let guest = Guest::new(2);
    let memory = guest.memory();
    // The header ends with its line.
    let dst = segments(&memory, DATA + 52, &[100]);
    for buffers in [1, 1, 2, 1, 1] {
        for first in [None, Some(&[9; 12])] {
            let mut header = [0; 12];
            header[10] = buffers;
            let changed = first.map(|first| Changed {
                first,
                second: None,
            });
            let start = Start {
                header: &header,
                changed,
                head: &[7; 40],
            };
            let log = Log::new();
            let written = copy_start(&dst, &start, Some(&log.log));
            assert_eq!(log.take(), [DATA]);
            let first = first.map_or(&[][..], |first| first);
            let expected = [&header[..], first, &[7; 40]].concat();
            assert_eq!(flatten(&guest, &dst)[..written], expected);
        }
    }
}

#[test]
fn more_parts_than_the_kernel_takes_is_an_error() {
    let guest = Guest::new(2);
    let memory = guest.memory();
    let src = segments(&memory, DATA, &[1; 1025]);
    let frame = Gather {
        header: &[],
        head: &[],
        rest: &src,
        rest_skip: 0,
        rest_len: 1025,
    };
    let (near, _far) = UnixDatagram::pair().unwrap();
    let error = writev(near.as_fd(), &frame).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
