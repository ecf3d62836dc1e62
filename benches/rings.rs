//! What a short receive ring costs TCP, and what it costs others.
//!
//! `cargo bench --bench rings`. Two TCP stacks, one behind each of two ports of a daemon, and bulk data from one to the
//! other: in turn through receive rings of 256 and of 1,024 entries. Meanwhile another port sends frames to a fourth, a few
//! each millisecond: it is to lose none. The ratio is the median of those of neighbouring runs.
//!
//! The stack gives up waiting for an acknowledgement after a second, where Linux has 200 ms, and knows no selective ones: after
//! several frames lost in a row it is silent for half a run. So that time is shown, and how long the receiver's thread was
//! kept from the CPU that it wanted, which is why frames are lost.

// Numbers are far below 2^52.
#![allow(clippy::cast_precision_loss)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as Now;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use support::evb::bridge_config;
use support::{Evb, Guest, GuestOptions, eth, mac};

/// How long data flows in each run.
const RUN: Duration = Duration::from_secs(2);
/// Runs with each size.
const RUNS: usize = 5;
/// Frames of the other sender in each millisecond.
const OTHERS: u32 = 16;
/// Entries of its rings and of its receiver's.
const ENTRIES: u16 = 256;
/// Without data for so many milliseconds the stack waits for its timer.
const SILENT: u64 = 4;
/// How long a stack sleeps at most while no frame comes.
const PAUSE: Duration = Duration::from_micros(200);
const PORT: u16 = 5001;
/// Bytes that a socket holds.
const BUFFER: usize = 1 << 20;

/// A guest's queue pair as a network card.
struct Card(Guest);

/// A frame that has come.
struct Came(Vec<u8>);

/// Room for a frame that goes.
struct Goes<'a>(&'a mut Guest);

impl Device for Card {
    type RxToken<'a> = Came;
    type TxToken<'a> = Goes<'a>;

    fn receive(&mut self, _: Now) -> Option<(Came, Goes<'_>)> {
        let frame = self.0.recv_any(Duration::ZERO)?;
        Some((Came(frame.bytes), Goes(&mut self.0)))
    }

    fn transmit(&mut self, _: Now) -> Option<Goes<'_>> {
        let tx = &mut self.0.tx[0];
        tx.reclaim().expect("a ring that works");
        // What does not fit stays in the stack.
        (tx.outstanding() < tx.layout().size).then_some(Goes(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ethernet;
        all.max_transmission_unit = 1514;
        // The stacks are not what is measured.
        all.checksum.ipv4 = Checksum::None;
        all.checksum.tcp = Checksum::None;
        all
    }
}

impl phy::RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Goes<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.send_burst(0, [&frame[..]]);
        result
    }
}

/// A station with one TCP socket.
struct Station {
    card: Card,
    iface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    begun: Instant,
}

impl Station {
    fn new(mut card: Card, host: u8) -> Self {
        let mut config = Config::new(EthernetAddress(card.0.mac).into());
        config.random_seed = host.into();
        let mut iface = Interface::new(config, &mut card, Now::ZERO);
        iface.update_ip_addrs(|all| {
            let address = IpCidr::new(IpAddress::v4(10, 0, 0, host), 24);
            all.push(address).expect("room for an address");
        });
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        let mut sockets = SocketSet::new(vec![]);
        Self {
            card,
            iface,
            socket: sockets.add(socket),
            sockets,
            begun: Instant::now(),
        }
    }

    /// Lets the stack do what there is to do, and waits for a moment where that is nothing; the socket afterwards.
    fn poll(&mut self) -> &mut Socket<'static> {
        let now = Now::from_micros(self.begun.elapsed().as_micros() as i64);
        if self.iface.poll(now, &mut self.card, &mut self.sockets) == PollResult::None {
            // A guest does not poll either.
            self.card.0.rx[0].wait(PAUSE).expect("an event");
        }
        self.sockets.get_mut(self.socket)
    }
}

/// Sends as much as it can.
fn send(mut station: Station, stop: &AtomicBool) {
    let Station {
        iface,
        sockets,
        socket,
        ..
    } = &mut station;
    let to = (IpAddress::v4(10, 0, 0, 2), PORT);
    let socket = sockets.get_mut::<Socket>(*socket);
    socket
        .connect(iface.context(), to, 40_000)
        .expect("an address");
    let data = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let socket = station.poll();
        if socket.can_send() {
            socket.send_slice(&data).expect("a connection");
        }
    }
}

/// Counts what arrives; returns how long the thread was kept from its CPU.
fn receive(mut station: Station, stop: &AtomicBool, bytes: &AtomicU64) -> Duration {
    let before = kept_waiting();
    let socket = station.sockets.get_mut::<Socket>(station.socket);
    socket.listen(PORT).expect("a port");
    while !stop.load(Ordering::Relaxed) {
        let socket = station.poll();
        while socket.can_recv() {
            let read = socket.recv(|data| (data.len(), data.len()));
            bytes.fetch_add(read.expect("a connection") as u64, Ordering::Relaxed);
        }
    }
    kept_waiting().saturating_sub(before)
}

/// How long this thread could have run and had no CPU, since it began.
fn kept_waiting() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).map(str::parse);
    Duration::from_nanos(nanoseconds.and_then(Result::ok).unwrap_or_default())
}

/// What one run came to.
struct Outcome {
    gigabits: f64,
    /// Frames for which the receive ring had no room.
    dropped: u64,
    /// Milliseconds in which the stack waited for its timer.
    silent: u64,
    /// How long the receiver was kept from its CPU.
    kept: Duration,
    /// Frames of the other sender, and those of them that did not arrive.
    sent: u32,
    lost: u32,
}

fn run(size: u16) -> Outcome {
    let evb = Evb::start(&bridge_config(4, ""));
    let guest = |number: u16, size| {
        let mut options = GuestOptions::default();
        (options.queue.size, options.queue.buffers) = (size, size);
        evb.guest_with(&format!("p{number}"), number, options)
    };
    let sender = Station::new(Card(guest(0, 256)), 1);
    let receiver = Station::new(Card(guest(1, size)), 2);
    let (mut c, mut d) = (guest(2, ENTRIES), guest(3, ENTRIES));
    d.send(&eth(d.mac, d.mac).bytes());
    let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut sent, mut arrived) = (0, 0);
    let (mut gigabits, mut silent, mut kept) = (0.0, 0, Duration::ZERO);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(receiver, &stop, &bytes));
        scope.spawn(|| send(sender, &stop));
        while bytes.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let (begun, before) = (Instant::now(), bytes.load(Ordering::Relaxed));
        let (mut moved, mut last) = (begun, before);
        while begun.elapsed() < RUN {
            // No more than the receiver has buffers for. It takes nothing before this thread does, and after a pause of
            // the worker the sender's ring is full as well: what is sent then would find no room, and rightly be dropped.
            if sent + OTHERS - arrived <= ENTRIES.into() {
                let frames: Vec<_> = (sent..sent + OTHERS)
                    .map(|number| eth(mac(3), mac(2)).number(number).bytes())
                    .collect();
                c.send_burst(0, frames.iter().map(Vec::as_slice));
                sent += OTHERS;
            }
            thread::sleep(Duration::from_millis(1));
            arrived += arrivals(&mut d);
            let now = bytes.load(Ordering::Relaxed);
            if now != last {
                let pause = moved.elapsed().as_millis() as u64;
                silent += if pause > SILENT { pause } else { 0 };
                (moved, last) = (Instant::now(), now);
            }
        }
        let data = bytes.load(Ordering::Relaxed) - before;
        gigabits = data as f64 * 8e-9 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        kept = receiver.join().expect("a receiver that ends");
    });
    // With one worker all that was sent has arrived when it is given back.
    c.drain(0);
    arrived += arrivals(&mut d);
    let dropped = evb.counter("p1", "ring_full");
    evb.stop();
    Outcome {
        gigabits,
        dropped,
        silent,
        kept,
        sent,
        lost: sent - arrived,
    }
}

/// Frames of the other sender that have come; before all addresses are known there are others.
fn arrivals(guest: &mut Guest) -> u32 {
    let frames = std::iter::from_fn(|| guest.recv_any(Duration::ZERO));
    let of_other = frames.filter(|frame| frame.bytes[6..12] == mac(2));
    of_other.count() as u32
}

fn main() {
    let mut ratios = vec![];
    println!(
        "entries  Gbit/s  dropped  silent ms  receiver without CPU ms  frames of the other sender, lost"
    );
    for _ in 0..RUNS {
        let rates = [256, 1024].map(|size| {
            let Outcome {
                gigabits,
                dropped,
                silent,
                kept,
                sent,
                lost,
            } = run(size);
            let kept = kept.as_millis();
            println!("{size:>7}  {gigabits:>6.2}  {dropped:>7}  {silent:>9}  {kept:>23}  {sent:>26}, {lost}");
            gigabits
        });
        ratios.push(rates[0] / rates[1]);
    }
    ratios.sort_by(f64::total_cmp);
    println!("256 to 1,024 entries: {:.2}", ratios[RUNS / 2]);
}
