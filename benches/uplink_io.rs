//! Frames to and from TAP and MACVTAP devices: one system call for each, against `io_uring` with 32 at once.
//!
//! `cargo bench --bench uplink_io` as root. It runs in a network namespace of its own, where it starts
//! itself again. Rounds of both ways alternate; shown are medians, and their ratio.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use evb::frame::vnet::VnetHeader;
use evb::uplink::{Link, MacvtapMode, MacvtapSpec, Opened, PacketSpec, Spec, TapSpec, open};
use evb::virtqueue::Gather;
use io_uring::{IoUring, opcode, types};

/// Set where the process is in its own namespace.
const INSIDE: &str = "EVB_BENCH_INSIDE";
/// Frames of a round, which find room in a device's queue, and of one submission.
const ROUND: u32 = 256;
const BATCH: u32 = 32;
/// Rounds of each way, and those before that are not counted.
const ROUNDS: usize = 2000;
const WARM_UP: usize = 100;

fn main() -> io::Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        let inside = "mount -t sysfs sysfs /sys && exec \"$0\"";
        let status = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", inside])
            .arg(std::env::current_exe()?)
            .env(INSIDE, "yes")
            .status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let script = "ip link set lo up; ip link add va type veth peer name vb; \
                  for d in va vb; do ip link set $d addrgenmode none up; done";
    Command::new("sh").args(["-c", script]).status()?;
    let tap = device(&Spec::Tap(TapSpec {
        name: "evb0".into(),
        queues: 1,
        mac: None,
        mtu: None,
        owner: None,
        group: None,
    }));
    let macvtap = device(&Spec::Macvtap(MacvtapSpec {
        name: "evb-up0".into(),
        parent: "va".into(),
        mode: MacvtapMode::Passthru,
        queues: 1,
        mac: None,
        mtu: None,
        take_parent: false,
    }));
    println!("ns a frame                  syscall  io_uring  ratio");
    for (name, file, from) in [("TAP", tap, "evb0"), ("MACVTAP", macvtap, "vb")] {
        let sender = sender(from);
        for len in [60, 1514] {
            let mut ring = IoUring::new(BATCH)?;
            ring.submitter().register_files(&[file.as_raw_fd()])?;
            let frame = frame(len);
            let mut buffers = vec![vec![0; 2048]; BATCH as usize];
            let read = alternate(|uring| {
                feed(&sender, &frame[VnetHeader::LEN..]);
                let start = Instant::now();
                let count = if uring {
                    read_by_ring(&mut ring, &mut buffers)
                } else {
                    read_by_calls(&file, &mut buffers[0])
                };
                (start.elapsed(), count)
            });
            show(name, "read", len, read);
            let write = alternate(|uring| {
                let start = Instant::now();
                let count = if uring {
                    write_by_ring(&mut ring, &frame)
                } else {
                    write_by_calls(&file, &frame)
                };
                (start.elapsed(), count)
            });
            show(name, "write", len, write);
        }
    }
    Ok(())
}

fn device(spec: &Spec) -> File {
    let Opened { mut queues, .. } = open(spec).expect("root can open devices");
    queues.remove(0).into()
}

/// A packet socket by which frames come to the device.
fn sender(device: &str) -> Link {
    let device = device.to_owned();
    let opened = open(&Spec::Packet(PacketSpec { device, queues: 1 })).expect("the device is up");
    Link::new(opened.facts, opened.queues).expect("a packet socket")
}

/// A frame of an unknown protocol for nobody, behind its virtio-net header.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; VnetHeader::LEN + len];
    frame[VnetHeader::LEN..][..14]
        .copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]);
    frame
}

fn feed(sender: &Link, frame: &[u8]) {
    let whole = Gather {
        header: &[0; VnetHeader::LEN],
        head: frame,
        rest: &[],
        rest_skip: 0,
        rest_len: 0,
    };
    for _ in 0..ROUND {
        sender.queues()[0].send(&whole).expect("room for a round");
    }
}

fn read_by_calls(mut file: &File, buffer: &mut [u8]) -> u32 {
    let mut count = 0;
    while file.read(buffer).is_ok() {
        count += 1;
    }
    count
}

fn write_by_calls(mut file: &File, frame: &[u8]) -> u32 {
    (0..ROUND)
        .map(|_| u32::from(file.write(frame).is_ok()))
        .sum()
}

fn read_by_ring(ring: &mut IoUring, buffers: &mut [Vec<u8>]) -> u32 {
    let mut count = 0;
    loop {
        for buffer in &mut *buffers {
            let (at, len) = (buffer.as_mut_ptr(), buffer.len() as u32);
            // The descriptor's O_NONBLOCK is not enough: a read would wait for the next frame.
            let read = opcode::Read::new(types::Fixed(0), at, len).rw_flags(libc::RWF_NOWAIT);
            // SAFETY: the buffers are borrowed until all of this batch is complete.
            unsafe { ring.submission().push(&read.build()) }.expect("room for a batch");
        }
        let done = complete(ring);
        count += done;
        if done < BATCH {
            return count;
        }
    }
}

fn write_by_ring(ring: &mut IoUring, frame: &[u8]) -> u32 {
    let mut count = 0;
    for _ in 0..ROUND / BATCH {
        for _ in 0..BATCH {
            let write = opcode::Write::new(types::Fixed(0), frame.as_ptr(), frame.len() as u32);
            // SAFETY: the frame is borrowed until all of this batch is complete.
            unsafe { ring.submission().push(&write.build()) }.expect("room for a batch");
        }
        count += complete(ring);
    }
    count
}

/// Waits for a batch; how many of it were done.
fn complete(ring: &mut IoUring) -> u32 {
    ring.submit_and_wait(BATCH as usize)
        .expect("a ring that works");
    let done = ring.completion().filter(|entry| entry.result() > 0);
    done.count() as u32
}

/// The nanoseconds of a frame in each round, by system calls and by the ring.
fn alternate(mut round: impl FnMut(bool) -> (Duration, u32)) -> [Vec<f64>; 2] {
    let mut times = [vec![], vec![]];
    for number in 0..2 * (WARM_UP + ROUNDS) {
        let way = number % 2;
        let (time, count) = round(way == 1);
        // Others' frames may have come, and some of ours may have found no room.
        assert!(count >= ROUND / 2, "{count} frames of {ROUND}");
        if number >= 2 * WARM_UP {
            times[way].push(time.as_secs_f64() * 1e9 / f64::from(count));
        }
    }
    times
}

fn show(device: &str, what: &str, len: usize, times: [Vec<f64>; 2]) {
    let [calls, ring] = times.map(median);
    println!(
        "{device:<8} {what:<6} {len:>4} bytes {calls:>9.0} {ring:>9.0} {:>6.2}",
        calls / ring
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
