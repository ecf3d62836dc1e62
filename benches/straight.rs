//! Frames from a TAP device to the guest of a passthrough relay: read straight into the guest's buffers, against
//! read into a buffer of the worker and copied.
//!
//! `cargo bench --bench straight` as root. It runs in a network namespace of its own, where it starts itself again.
//! Rounds of both ways alternate; shown are medians of the processor time of the worker for a frame, and the median of
//! the ratios of neighbouring rounds. The worker sleeps while a round is put into the device's queue, and both ways
//! call the guest as often.
#![allow(unsafe_code)]
// Numbers are far below 2^52.
#![allow(clippy::cast_precision_loss)]

#[path = "common/frames.rs"]
mod frames;
#[path = "common/measure.rs"]
mod measure;

use std::fs;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use evb::frame::offloads::Offloads;
use evb::frame::vnet::VnetHeader;
use evb::relay::{Fdb, Mode, Port as RelayPort, PortConfig, Relay, RelayConfig, Slot, VlanConfig};
use evb::stats::PortCounters;
use evb::sys::cpu;
use evb::uplink::{Link, PacketSpec, Spec, TapSpec, open};
use evb::virtqueue::driver::{DriverFeatures, DriverMemory, QueueOptions, RxQueue};
use evb::virtqueue::{Gather, GuestMemory, ResumeAt, RingConfig, RxRing};
use evb::worker::{
    Assignment, Attachment, Polling, Pool, Port, PortId, PortRings, RelayView, Settings, Snapshot,
};

use frames::{Frame, mac};
use measure::median;

/// Set where the process is in its own namespace.
const INSIDE: &str = "EVB_BENCH_INSIDE";
/// Rounds of each way, and those before that are not counted.
const ROUNDS: usize = 1000;
const WARM_UP: usize = 50;
/// Bytes of a round, which find room in the guest's buffers, and its frames at most.
const ROUND_BYTES: usize = 1 << 20;
const ROUND_FRAMES: usize = 128;

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
    let tap = TapSpec {
        name: "evb0".into(),
        queues: 1,
        mac: None,
        mtu: Some(9000),
        owner: None,
        group: None,
    };
    let opened = open(&Spec::Tap(tap)).expect("root can open devices");
    let link = Arc::new(Link::new(opened.facts, opened.queues).expect("a TAP device"));
    Command::new("ip")
        .args(["link", "set", "evb0", "addrgenmode", "none", "up"])
        .status()?;
    let device = "evb0".to_owned();
    let opened = open(&Spec::Packet(PacketSpec { device, queues: 1 })).expect("the device is up");
    let sender = Link::new(opened.facts, opened.queues).expect("a packet socket");

    println!("ns a frame          copied  straight  ratio");
    // As a Linux guest posts them at first, and under load; and where they are not mergeable.
    for buffer_len in [1536, 4096, 65_562] {
        println!("buffers of {buffer_len}");
        for len in [60, 1514, 9014, 16_000, 32_000, 65_000] {
            let mut bench = Bench::new(&link, buffer_len);
            let [copied, straight] = bench.alternate(&sender, &frame(len));
            let ratios = copied.iter().zip(&straight).map(|(a, b)| a / b).collect();
            let [copied, straight] = [copied, straight].map(median);
            let ratio = median(ratios);
            println!("{len:>6} bytes {copied:>12.0} {straight:>9.0} {ratio:>6.2}");
        }
    }
    Ok(())
}

/// A worker between the device and a guest.
struct Bench {
    pool: Pool,
    worker: i32,
    guest: RxQueue,
    /// Both ways.
    snapshots: [Arc<dyn Fn() -> Snapshot>; 2],
}

impl Bench {
    fn new(link: &Arc<Link>, buffer_len: u32) -> Self {
        let before = threads();
        let cpus = vec![0];
        cpu::pin_current_thread(cpus[0]).expect("there is a CPU");
        let settings = Settings {
            workers: 1,
            cpus,
            polling: Polling::Sleep,
            rx_wait_ns: 100_000,
        };
        let pool = Pool::start(settings, |event| panic!("{event:?}")).expect("threads");
        let named = |tid: &i32| {
            let name = fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
            name.is_ok_and(|name| name.starts_with("evb-worker"))
        };
        let worker = threads().into_iter().filter(|tid| !before.contains(tid));
        let worker = worker.into_iter().find(named).expect("a worker");
        // It does not run before this thread, on the same CPU, waits.
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: a valid structure and a thread of this process.
        let done = unsafe { libc::sched_setscheduler(worker, libc::SCHED_BATCH, &raw const param) };
        assert_eq!(done, 0);

        let mergeable = buffer_len < 65_000;
        let memory = DriverMemory::with_mib(32).expect("memory");
        let options = QueueOptions {
            size: 1024,
            buffers: if mergeable { 1024 } else { 256 },
            buffer_len,
            ..QueueOptions::default()
        };
        let bits = 1 << 32 | u64::from(mergeable) << 15 | 1 << 29;
        let features = DriverFeatures::from_bits(bits);
        let mut guest = RxQueue::new(&memory, &options, features).expect("a queue");
        let ring = Arc::new(ring(&memory, &guest, features));
        guest.refill();
        guest.kick().expect("a kick");
        let relay = relay();
        let way = |rx: usize| {
            let (link, ring, relay) = (Arc::clone(link), Arc::clone(&ring), Arc::clone(&relay));
            Arc::new(move || snapshot(&link, &relay, vec![Arc::clone(&ring); rx]))
                as Arc<dyn Fn() -> Snapshot>
        };
        Self {
            pool,
            worker,
            guest,
            // The same ring twice is for the worker a choice that it has to make for every frame.
            snapshots: [way(2), way(1)],
        }
    }

    /// The nanoseconds of a frame in each round, copied and straight.
    fn alternate(&mut self, sender: &Link, frame: &[u8]) -> [Vec<f64>; 2] {
        let count = (ROUND_BYTES / frame.len()).min(ROUND_FRAMES);
        let whole = Gather {
            header: &frame[..VnetHeader::LEN],
            head: &frame[VnetHeader::LEN..],
            rest: &[],
            rest_skip: 0,
            rest_len: 0,
        };
        let mut times = [vec![], vec![]];
        let mut bytes = vec![0; frame.len()];
        for number in 0..2 * (WARM_UP + ROUNDS) {
            let way = number % 2;
            let published = self.pool.publish((self.snapshots[way])());
            self.pool.barrier().wait(published);
            let start = cpu_time(self.worker);
            for _ in 0..count {
                sender.queues()[0].send(&whole).expect("room for a round");
            }
            let mut left = count;
            while left > 0 {
                match self.guest.recv_into(&mut bytes).expect("frames") {
                    // The kernel says something now and then.
                    Some(len) => left -= usize::from(len == frame.len()),
                    None => drop(self.guest.wait(Duration::from_secs(1)).expect("a call")),
                }
            }
            self.guest.refill();
            self.guest.kick().expect("a kick");
            let time = cpu_time(self.worker) - start;
            if number >= 2 * WARM_UP {
                times[way].push(time as f64 / count as f64);
            }
        }
        times
    }
}

fn relay() -> Arc<Relay> {
    let local = PortConfig::local(Mode::Passthrough, VlanConfig::Flat, vec![]);
    let uplink = PortConfig::uplink(VlanConfig::Flat, false);
    let ports = [local, uplink].map(|config| Some(RelayPort::new(config, Arc::default())));
    let (config, fdb) = (RelayConfig::default(), Arc::new(Fdb::new(1024)));
    Arc::new(Relay::new(config, ports.into(), fdb).expect("a passthrough relay"))
}

fn snapshot(link: &Arc<Link>, relay: &Arc<Relay>, rx: Vec<Arc<RxRing>>) -> Snapshot {
    let slot = |n| Slot::new(n).expect("a small number");
    let port = |n, attachment| {
        Some(Arc::new(Port {
            name: "a port".into(),
            relay: 0,
            slot: slot(n),
            counters: Arc::new([PortCounters::default()]),
            queues: vec![Assignment::new(0)],
            attachment,
        }))
    };
    let rings = PortRings {
        rx,
        accepts: Offloads::CSUM | Offloads::TSO4,
        ..PortRings::none(1)
    };
    let view = RelayView {
        relay: Arc::clone(relay),
        active: [slot(0), slot(1)].into_iter().collect(),
        ports: vec![Some(PortId(0)), Some(PortId(1))],
        vlans: Arc::new([]),
    };
    Snapshot {
        epoch: 1,
        ports: vec![
            port(0, Attachment::Rings(Arc::new(rings))),
            port(1, Attachment::Link(Some(Arc::clone(link)))),
        ],
        relays: vec![Some(Arc::new(view))],
    }
}

fn ring(memory: &DriverMemory, guest: &RxQueue, features: DriverFeatures) -> RxRing {
    let config = RingConfig::of_driver(memory, guest.layout(), features);
    let config = RingConfig {
        call: Some(Arc::new(guest.call_fd().try_clone().expect("a descriptor"))),
        ..config.expect("the ring is in the memory")
    };
    let memory = GuestMemory::of_driver(memory).expect("memory");
    let ring = config.activate_rx(memory, None, ResumeAt::fresh(false));
    ring.expect("a ring that works")
}

/// A frame behind its virtio-net header: of an unknown protocol, or a TCP segment to be cut.
fn frame(len: usize) -> Vec<u8> {
    let frame = if len > 1514 { Frame::tso } else { Frame::plain };
    let Frame { header, bytes } = frame(mac(9), mac(8), len);
    [&header[..], &bytes].concat()
}

/// The threads of this process.
fn threads() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("a /proc");
    let names = tasks.filter_map(|task| task.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Processor time that a thread has had, in nanoseconds.
fn cpu_time(thread: i32) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // The clock of another thread, as the kernel numbers them.
    let clock = (!thread << 3) | 6;
    // SAFETY: a structure that is valid for writing.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
