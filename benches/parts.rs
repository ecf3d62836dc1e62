//! What the parts of the frame path cost, each by itself: `cargo bench --bench parts`.
//!
//! Words behind `--` pick the series that have one of them in their names. The relay has a program of its own,
//! `relay`, and the whole path too, `frame_path`.

#[path = "common/frames.rs"]
mod frames;
#[path = "common/guests.rs"]
mod guests;
#[path = "common/measure.rs"]
mod measure;
#[cfg(target_arch = "x86_64")]
#[path = "common/copies.rs"]
mod other_copies;

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use evb::frame::checksum::Sum;
use evb::frame::ethernet::{self, Tag, TagAction, Vid};
use evb::frame::flow::flow_hash;
use evb::frame::offloads::Offloads;
use evb::frame::segment::Segmenter;
use evb::frame::vnet::{Origin, VnetHeader};
use evb::virtqueue::driver::{DriverFeatures, Layout};
use evb::virtqueue::{Gather, Grant, RxBatch, RxRing, Segment, TxBatch};

use frames::{Frame, mac};
use guests::{FORMATS, Guest};
use measure::{Run, series, timed};

/// Measurements of each part.
const ROUNDS: usize = 21;
/// How often a measurement does a small thing.
const TIMES: usize = 1 << 14;
/// Frames of a burst.
const BURST: usize = 32;
/// Bytes of frames: small, middling, of Ethernet, jumbo, and of an IP packet.
const SIZES: [usize; 5] = [64, 256, 1514, 9000, 65_536];
/// Bytes of an IPv4 header without options.
const IP_HEADER: usize = 20;
/// Buffers of a guest, and bytes in each.
const BUFFERS: usize = 256;
const BUFFER: usize = 2048;
/// Bytes that copies walk through: more than the nearest caches have, as guests' buffers are.
const ROOM: usize = 4 << 20;
/// The same for a sender whose frames no cache has any more.
const MEMORY: usize = 128 << 20;
/// Bytes of the parts in which frames lie that are copied into a guest's buffers.
const PART: usize = 2048;
/// Parts of the largest frame.
const PARTS: usize = SIZES[SIZES.len() - 1].div_ceil(PART);
/// Bytes from one part to the next, as with DPDK's buffers.
const PART_STRIDE: usize = 2304;
/// Bytes of virtio-net header and frame that the worker looks at.
const HEAD: usize = 128;

fn main() {
    let words: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let rounds = measure::rounds(ROUNDS);
    let show = |what: &str, runs: &dyn Fn() -> Vec<(String, Run)>| {
        if words.is_empty() || words.iter().any(|word| what.contains(word.as_str())) {
            series(what, rounds, runs());
        }
    };
    show("classify: the first bytes of a frame", &classify);
    show("ring: a frame, in bursts of 32", &|| {
        let formats = FORMATS.into_iter();
        let runs = formats.map(|(format, features)| {
            [
                (format!("take, {format}"), take(features)),
                (format!("put, {format}"), put(features)),
            ]
        });
        runs.flatten().collect()
    });
    for size in SIZES {
        show(&format!("copy: {size} bytes"), &|| copies(size));
    }
    show("checksum: bytes", &|| {
        let sizes = [IP_HEADER].into_iter().chain(SIZES);
        let runs = sizes.map(|size| (format!("{size} bytes"), checksum(size)));
        runs.collect()
    });
    show(
        "segment: a frame of 1514 bytes out of a larger one",
        &|| {
            [9000, 65_000]
                .map(|size| (format!("{size} bytes"), segment(size)))
                .into()
        },
    );
}

/// Does something small many times.
fn repeated<T>(mut work: impl FnMut() -> T + 'static) -> Run {
    timed(move || {
        for _ in 0..TIMES {
            black_box(work());
        }
        TIMES
    })
}

fn classify() -> Vec<(String, Run)> {
    let plain = Frame::plain(mac(1), mac(0), HEAD);
    let tagged = plain.clone().tagged(5);
    let large = Frame::tso(mac(1), mac(0), 9000);
    let mut ipv6 = plain.clone();
    // TCP, with all that follows the header of 40 bytes as its length.
    ipv6.bytes[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, HEAD as u8 - 54, 6, 64]);
    let parse = |frame: &Frame| {
        let bytes = frame.bytes[..HEAD].to_vec();
        repeated(move || ethernet::parse(black_box(&bytes)))
    };
    let check = |Frame { header, bytes }: &Frame| {
        let (header, len, mut bytes) = (*header, bytes.len(), bytes[..HEAD].to_vec());
        repeated(move || {
            let header = VnetHeader::decode(black_box(&header));
            header.check(len, &mut bytes, Origin::Guest)
        })
    };
    let flow = |frame: &Frame| {
        let bytes = frame.bytes[..HEAD].to_vec();
        repeated(move || flow_hash(black_box(&bytes)))
    };
    let twice = |frame: &Frame| frame.clone().tagged(5).tagged(6);
    let (retagged, mut out) = (tagged.bytes.clone(), [0; HEAD + 4]);
    let action = TagAction {
        pop: true,
        push: Vid::new(6).map(|vid| Tag::new(0x8100, vid, 0, false)),
    };
    [
        ("addresses", parse(&plain)),
        ("addresses and a tag", parse(&tagged)),
        ("virtio-net header", check(&plain)),
        ("virtio-net header of a TCP segment", check(&large)),
        ("flow", flow(&large)),
        ("flow, two tags", flow(&twice(&large))),
        ("flow, IPv6", flow(&ipv6)),
        ("flow, IPv6 and two tags", flow(&twice(&ipv6))),
        (
            "another tag",
            repeated(move || action.apply(&retagged[..HEAD], &mut out)),
        ),
    ]
    .map(|(name, run)| (name.to_owned(), run))
    .into()
}

/// A guest and a place for what it receives.
fn guest(features: u64) -> (Guest, Vec<u8>) {
    let features = DriverFeatures::from_bits(features);
    let largest = (VnetHeader::LEN + 1514) as u32;
    (
        Guest::new(features, largest, Layout::default(), Offloads::NONE),
        vec![0; 12 + SIZES[4]],
    )
}

/// Takes bursts out of a ring of a guest, and gives the chains back.
fn take(features: u64) -> Run {
    let (mut guest, mut scratch) = guest(features);
    let burst = vec![Frame::plain(mac(1), mac(0), 64); BURST];
    in_bursts(move || {
        guest.send(&burst);
        let start = Instant::now();
        let mut ring = guest.rings.tx[0].ring.lock();
        let mut batch = TxBatch::new();
        let taken = ring.peek(&mut batch, BURST).expect("a ring that works");
        for chain in 0..taken {
            black_box(batch.segments(&batch.chains()[chain]));
            ring.finish(chain);
        }
        ring.publish();
        drop(ring);
        let _ = guest.rings.tx[0].ring.notify();
        let time = start.elapsed();
        drop(batch);
        guest.collect(&mut scratch);
        (taken, time)
    })
}

/// Puts small frames into buffers of a guest, in bursts.
fn put(features: u64) -> Run {
    let (mut guest, mut scratch) = guest(features);
    in_bursts(move || {
        let start = Instant::now();
        let ring = &guest.rings.rx[0];
        let mut batch = reserve(ring, 12 + 64, BURST);
        for grant in batch.grants() {
            write(ring, grant, &[0; 64], &[]);
        }
        ring.complete(&mut batch);
        let _ = ring.notify();
        let time = start.elapsed();
        drop(batch);
        guest.collect(&mut scratch);
        (BURST, time)
    })
}

fn in_bursts(mut burst: impl FnMut() -> (usize, Duration) + 'static) -> Run {
    Box::new(move || {
        let bursts = (0..TIMES / BURST).map(|_| burst());
        bursts.fold((0, Duration::ZERO), |(count, time), (more, longer)| {
            (count + more, time + longer)
        })
    })
}

fn reserve(ring: &RxRing, len: usize, frames: usize) -> RxBatch<'_> {
    let mut batch = RxBatch::new();
    let wants = vec![len as u32; frames];
    let reserved = ring.reserve(&wants, &mut batch).expect("a ring that works");
    assert_eq!(reserved.granted, frames);
    batch
}

/// Writes a frame where it was granted room.
fn write(ring: &RxRing, grant: Grant<'_, '_>, head: &[u8], rest: &[Segment<'_>]) {
    let Grant::Buffers { buffers, segments } = grant else {
        panic!("the guest has room")
    };
    let mut header = [0; VnetHeader::LEN];
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    let frame = Gather {
        header: &header,
        head,
        rest,
        rest_skip: 0,
        rest_len: rest.iter().map(Segment::len).sum(),
    };
    black_box(ring.copy(segments, &frame));
}

/// A plain copy from buffer to buffer, and the ring's.
fn copies(size: usize) -> Vec<(String, Run)> {
    let plain = |to: &mut [u8], from: &[u8]| to.copy_from_slice(from);
    let mut runs = vec![
        ("memcpy".to_owned(), walk(size, size, plain)),
        (
            "into a guest's buffers of 2048".to_owned(),
            copy(size, ROOM),
        ),
        ("the same from memory".to_owned(), copy(size, MEMORY)),
    ];
    #[cfg(target_arch = "x86_64")]
    runs.extend([
        (
            "rep movsb".to_owned(),
            walk(size, size, other_copies::string),
        ),
        (
            "stores around the caches".to_owned(),
            walk(size, size, other_copies::around_caches),
        ),
    ]);
    for piece in [2048, 4096] {
        if size > piece {
            runs.push((
                format!("memcpy, {piece} at a time"),
                walk(size, piece, plain),
            ));
        }
    }
    runs
}

/// Copies frames from buffer to buffer in pieces of so many bytes.
fn walk(size: usize, piece: usize, copy: impl Fn(&mut [u8], &[u8]) + 'static) -> Run {
    let stride = size.next_multiple_of(BUFFER);
    let places = ROOM / stride;
    let (from, mut to) = (vec![1_u8; ROOM], vec![0; ROOM]);
    let mut place = 0;
    in_bursts(move || {
        let start = Instant::now();
        for _ in 0..BURST {
            let range = place * stride..place * stride + size;
            let from = black_box(&from[range.clone()]);
            for (to, from) in to[range].chunks_mut(piece).zip(from.chunks(piece)) {
                copy(to, from);
            }
            place = (place + 1) % places;
        }
        black_box(&mut to);
        (BURST, start.elapsed())
    })
}

/// Copies frames into buffers of a guest, as many as it has. They lie in parts, in `room` bytes that are walked through again
/// and again.
fn copy(size: usize, room: usize) -> Run {
    let (mut guest, mut scratch) = guest(FORMATS[0].1);
    let mut from = vec![1; room];
    let parts = size.div_ceil(PART);
    let places = room / PART_STRIDE / parts;
    let frames = (BUFFERS / (VnetHeader::LEN + size).div_ceil(BUFFER)).min(BURST);
    let mut place = 0;
    in_bursts(move || {
        let ring = &guest.rings.rx[0];
        let mut batch = reserve(ring, VnetHeader::LEN + size, frames);
        let start = Instant::now();
        for grant in batch.grants() {
            let chain = &mut from[place * parts * PART_STRIDE..];
            let lens = (0..size).step_by(PART).map(|at| PART.min(size - at));
            let rest: ArrayVec<_, PARTS> = chain
                .chunks_mut(PART_STRIDE)
                .zip(lens)
                .map(|(part, len)| Segment::of(&mut part[..len]))
                .collect();
            place = (place + 1) % places;
            write(ring, grant, &[], &rest);
        }
        let time = start.elapsed();
        ring.complete(&mut batch);
        drop(batch);
        guest.collect(&mut scratch);
        (frames, time)
    })
}

fn checksum(size: usize) -> Run {
    let bytes = vec![0x5a; size];
    repeated(move || Sum::of(black_box(&bytes)).finish())
}

fn segment(size: usize) -> Run {
    let Frame { header, bytes } = Frame::tso(mac(1), mac(0), size);
    let header = VnetHeader::decode(&header);
    let mut out = vec![0; 1514];
    timed(move || {
        let mut segments = 0;
        while segments < TIMES / 16 {
            let cut = Segmenter::new(black_box(&bytes), &header, &mut out);
            let mut cut = cut.expect("a frame that can be cut");
            while let Some(segment) = cut.next() {
                black_box(segment);
                segments += 1;
            }
        }
        segments
    })
}
