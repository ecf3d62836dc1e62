//! Frames from a packet socket: by a system call for each, out of the ring of slots that `evb` uses (`TPACKET_V2`),
//! and out of a ring of blocks (`TPACKET_V3`).
//!
//! `cargo bench --bench packet_ring` as root. It runs in a network namespace of its own, where it starts itself again,
//! and takes frames from a VETH device. Shown are medians: what receiving a frame costs, what sending and receiving it costs
//! together (the kernel fills a ring while it sends), and how long a frame that comes alone takes.
#![allow(unsafe_code, clippy::cast_ptr_alignment)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{ptr, slice, thread};

use evb::frame::vnet::VnetHeader;
use evb::sys::packet;
use evb::uplink::{Inbox, Link, Opened, PacketSpec, RECEIVE_BUFFER, Spec, open};
use evb::virtqueue::Gather;

/// Set where the process is in its own namespace.
const INSIDE: &str = "EVB_BENCH_INSIDE";
/// Frames of a round, and rounds; those before that are not counted.
const ROUND: u16 = 64;
const ROUNDS: usize = 1000;
const WARM_UP: usize = 50;
/// Frames that come alone.
const SINGLES: usize = 300;
/// Blocks of `TPACKET_V3`.
const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 32;
/// Bytes before a frame, on a packet socket.
const HEADER: usize = VnetHeader::LEGACY_LEN;

/// Makes one.
type Make = fn() -> io::Result<Box<dyn Receiver>>;

/// A way to receive: takes what is there, copies it as to a guest, and tells how many frames it was.
trait Receiver: AsRawFd {
    fn receive(&mut self, copy: &mut [u8]) -> usize;
}

fn main() -> io::Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe()?)
            .env(INSIDE, "yes")
            .status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let script = "ip link add va type veth peer name vb; \
                  for d in va vb; do ip link set $d addrgenmode none up; done";
    Command::new("sh").args(["-c", script]).status()?;
    println!("                  receive   in all    alone");
    let ways: [(_, Make); 3] = [
        ("system call", || Ok(Box::new(Calls::new()?))),
        ("slots", || Ok(Box::new(Slots::new()))),
        ("blocks", || Ok(Box::new(Blocks::new()?))),
    ];
    for len in [60, 1514, 16014, 64014] {
        for (name, make) in &ways {
            let sender = link("vb");
            let mut receiver = make()?;
            let (receive, all) = costs(&sender, &mut *receiver, len);
            let alone = alone(&sender, &mut *receiver, len);
            println!("{len:>5} {name:<11} {receive:>6.0} ns {all:>5.0} ns {alone:>5.0} us");
        }
    }
    Ok(())
}

/// Nanoseconds a frame for receiving, and for sending and receiving.
fn costs(sender: &Link, receiver: &mut dyn Receiver, len: usize) -> (f64, f64) {
    let mut copy = vec![0; RECEIVE_BUFFER];
    let (mut receive, mut all) = (vec![], vec![]);
    for round in 0..WARM_UP + ROUNDS {
        let begin = Instant::now();
        for _ in 0..ROUND {
            send(sender, len);
        }
        let sent = begin.elapsed();
        let (mut count, mut spent, end) = (0, Duration::ZERO, begin + Duration::from_secs(1));
        // Blocks may come later; waiting for them is no cost.
        while count < ROUND.into() && Instant::now() < end {
            let start = Instant::now();
            let some = receiver.receive(&mut copy);
            spent += if some > 0 {
                start.elapsed()
            } else {
                Duration::ZERO
            };
            count += some;
        }
        assert_eq!(count, usize::from(ROUND), "frames are lost");
        if round >= WARM_UP {
            receive.push(spent.as_secs_f64() * 1e9 / f64::from(ROUND));
            all.push((sent + spent).as_secs_f64() * 1e9 / f64::from(ROUND));
        }
    }
    (median(receive), median(all))
}

/// Microseconds until a frame that comes alone is received by somebody who waits for it.
fn alone(sender: &Link, receiver: &mut dyn Receiver, len: usize) -> f64 {
    let mut copy = vec![0; RECEIVE_BUFFER];
    let times = (0..SINGLES).map(|_| {
        thread::sleep(Duration::from_micros(700));
        let begin = Instant::now();
        send(sender, len);
        while receiver.receive(&mut copy) == 0 {
            let mut wait = libc::pollfd {
                fd: receiver.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one structure, borrowed for the call.
            unsafe { libc::poll(&raw mut wait, 1, 1000) };
        }
        begin.elapsed().as_secs_f64() * 1e6
    });
    median(times.collect())
}

fn link(device: &str) -> Link {
    let spec = Spec::Packet(PacketSpec {
        device: device.into(),
        queues: 1,
    });
    let Opened { facts, queues, .. } = open(&spec).expect("root can open a packet socket");
    Link::new(facts, queues).expect("a ring")
}

/// Sends a frame of an unknown protocol, or a TCP segment that is to be cut later.
fn send(link: &Link, len: usize) {
    let mut frame = vec![0; len];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]);
    let mut header = [0; VnetHeader::LEN];
    if len > 1514 {
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6]);
        frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
        frame[46..48].copy_from_slice(&[0x50, 0x10]);
        // NEEDS_CSUM, TCPv4, headers of 54 bytes, segments of 1448, checksum at 34 + 16.
        header[..10].copy_from_slice(&[1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0]);
    }
    let whole = Gather {
        header: &header,
        head: &frame,
        rest: &[],
        rest_skip: 0,
        rest_len: 0,
    };
    link.queues()[0].send(&whole).expect("room for a round");
}

/// As a socket is without a ring.
struct Calls {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Calls {
    fn new() -> io::Result<Self> {
        let socket = socket()?;
        begin(&socket)?;
        let buffer = vec![0; RECEIVE_BUFFER];
        Ok(Self { socket, buffer })
    }
}

impl Receiver for Calls {
    fn receive(&mut self, copy: &mut [u8]) -> usize {
        use std::os::fd::AsFd;
        let mut count = 0;
        let (header, frame) = self.buffer.split_at_mut(HEADER);
        while let Ok(arrival) = packet::receive(self.socket.as_fd(), [&mut *header, &mut *frame]) {
            let len = arrival.len - HEADER;
            copy[..len].copy_from_slice(&frame[..len]);
            count += 1;
        }
        count
    }
}

impl AsRawFd for Calls {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

/// As `evb` does it.
struct Slots {
    link: Link,
    inbox: Inbox,
}

impl Slots {
    fn new() -> Self {
        Self {
            link: link("va"),
            inbox: Inbox::default(),
        }
    }
}

impl Receiver for Slots {
    fn receive(&mut self, copy: &mut [u8]) -> usize {
        let mut count = 0;
        loop {
            let mut arrivals = self.inbox.open(&self.link.queues()[0]);
            let before = count;
            while let Ok((_, frame)) = arrivals.receive() {
                copy[..frame.len()].copy_from_slice(frame);
                count += 1;
            }
            if count == before {
                return count;
            }
        }
    }
}

impl AsRawFd for Slots {
    fn as_raw_fd(&self) -> i32 {
        self.link.queues()[0].as_raw_fd()
    }
}

/// `TPACKET_V3`, with the shortest time that a block may be open.
struct Blocks {
    socket: OwnedFd,
    base: *mut u8,
    next: usize,
}

impl Blocks {
    fn new() -> io::Result<Self> {
        let socket = socket()?;
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        packet::set_option(&socket, libc::PACKET_VERSION, version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2048,
            tp_frame_nr: (BLOCK * BLOCKS / 2048) as u32,
            tp_retire_blk_tov: 1,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        let fd = socket.as_raw_fd();
        // SAFETY: the kernel reads a structure of the size given; a new mapping takes nothing away.
        let base = unsafe {
            let size = size_of_val(&request) as u32;
            let at = (&raw const request).cast();
            if libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, at, size) != 0 {
                return Err(io::Error::last_os_error());
            }
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                ptr::null_mut(),
                BLOCK * BLOCKS,
                access,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        begin(&socket)?;
        let base = base.cast();
        Ok(Self {
            socket,
            base,
            next: 0,
        })
    }
}

impl Receiver for Blocks {
    fn receive(&mut self, copy: &mut [u8]) -> usize {
        let mut count = 0;
        loop {
            // SAFETY: a block begins with its description, and what that says of the frames in it is true once the
            // kernel has handed it over.
            unsafe {
                let block = self.base.add(self.next * BLOCK);
                let described = block.cast::<libc::tpacket_block_desc>();
                let header = &raw mut (*described).hdr.bh1;
                let status = AtomicU32::from_ptr(&raw mut (*header).block_status);
                if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                    return count;
                }
                let mut at = block.add((*header).offset_to_first_pkt as usize);
                for _ in 0..(*header).num_pkts {
                    let frame = at.cast::<libc::tpacket3_hdr>();
                    let len = (*frame).tp_snaplen as usize;
                    let bytes = slice::from_raw_parts(at.add((*frame).tp_mac.into()), len);
                    copy[..len].copy_from_slice(bytes);
                    at = at.add((*frame).tp_next_offset as usize);
                    count += 1;
                }
                status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            }
            self.next = (self.next + 1) % BLOCKS;
        }
    }
}

impl AsRawFd for Blocks {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody uses it any more.
        unsafe { libc::munmap(self.base.cast(), BLOCK * BLOCKS) };
    }
}

fn socket() -> io::Result<OwnedFd> {
    let socket = packet::open()?;
    packet::set_option(&socket, libc::PACKET_VNET_HDR, 1)?;
    packet::set_option(&socket, libc::PACKET_AUXDATA, 1)?;
    packet::set_option(&socket, libc::PACKET_IGNORE_OUTGOING, 1)?;
    packet::set_buffers(&socket, 8 << 20)?;
    Ok(socket)
}

fn begin(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: a literal with its zero.
    let index = unsafe { libc::if_nametoindex(c"va".as_ptr()) };
    packet::bind(socket, index)?;
    packet::join_promiscuous(socket, index)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
