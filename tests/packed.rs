//! Packed rings and what becomes of them over connections, drivers, daemons and migrations
//! (vhost-user.md, "Packed rings").

mod support;

use std::fs;
use std::time::Duration;

use evb::vhost_user::front_end::{LOG_ALL, Order, RingSetup};
use evb::virtqueue::driver::{DriverMemory, Layout, SendError};
use support::evb::bridge_config;
use support::guest::{
    EVENT_IDX, FIRMWARE, IN_ORDER, INDIRECT, MODERN, MRG_RXBUF, RING_PACKED, VERSION_1, connect,
    talk,
};
use support::{BROADCAST, DirtyLog, Evb, Guest, GuestOptions, eth, eventually, mac, silence};

const PACKED: u64 = MODERN | RING_PACKED;
const ORDERS: [Order; 2] = [Order::Qemu, Order::CloudHypervisor];
/// Where a packed ring starts.
const FRESH: u32 = 0x8000_8000;

fn options() -> GuestOptions {
    GuestOptions::default().features(PACKED)
}

/// Guests with descriptors of several kinds and features.
fn variants() -> Vec<GuestOptions> {
    let mut variants = Vec::new();
    for (features, indirect, layout) in [
        (PACKED, true, Layout::Contiguous),
        (PACKED & !IN_ORDER, true, Layout::HeaderApart),
        (PACKED & !(INDIRECT | EVENT_IDX), false, Layout::Pieces(5)),
        (
            FIRMWARE | VERSION_1 | RING_PACKED,
            false,
            Layout::HeaderApart,
        ),
    ] {
        let mut options = GuestOptions::default().features(features);
        options.queue.indirect = indirect;
        options.queue.layout = layout;
        variants.push(options);
    }
    variants
}

/// A daemon whose state is on a tmpfs, which the directory of its sockets need not be.
struct Place {
    state: tempfile::TempDir,
    sockets: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let at = |dir| {
            tempfile::Builder::new()
                .prefix("evb")
                .tempdir_in(dir)
                .unwrap()
        };
        Self {
            state: at("/dev/shm"),
            sockets: at("/tmp"),
        }
    }

    fn start(&self, ports: usize) -> Evb {
        let control = "control = \"{dir}/control.sock\"";
        let state = format!("{control}\nstate = \"{}\"", self.state.path().display());
        let config = bridge_config(ports, "").replace(control, &state);
        let sockets = self.sockets.path().to_str().unwrap();
        // The directory that it writes its configuration to is another each time.
        Evb::start(&config.replace("{dir}", sockets))
    }

    fn socket(&self, port: &str) -> std::path::PathBuf {
        self.sockets.path().join(format!("{port}.sock"))
    }

    fn guest(&self, port: &str, number: u16, options: GuestOptions) -> Guest {
        Guest::connect(&self.socket(port), number, options)
    }

    /// Names of the files of state.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn bases_have_both_positions() {
    let evb = Evb::bridge(2);
    for options in variants() {
        let mut a = evb.guest("p0", 1);
        let mut b = evb.guest_with("p1", 2, options);
        // Two rounds and more, so that a used ring stands at the start once.
        for n in 0..140 {
            talk(&mut a, &mut b, n);
            let bases = b.stop();
            assert_eq!(bases[0], b.rx[0].base(true), "rx base");
            assert_eq!(bases[1], b.tx[0].base(true), "tx base");
            b.start().unwrap();
        }
    }
    evb.stop();
}

#[test]
fn a_ring_that_never_ran_stands_at_the_start() {
    let evb = Evb::bridge(1);
    let mut front_end = connect(&evb.path("p0.sock"), &options().front_end);
    front_end.negotiate().unwrap();
    front_end.set_features(front_end.features()).unwrap();
    assert_eq!(front_end.stop_ring(0).unwrap(), FRESH);
    evb.stop();
}

#[test]
fn formats_change_with_the_driver_on_one_connection() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut a = evb.guest("p0", 1);
        let mut b = evb.guest_with("p1", 2, GuestOptions::order(order).features(FIRMWARE));
        for (number, features) in (0..).zip([
            FIRMWARE, PACKED, PACKED, MODERN, PACKED, FIRMWARE, PACKED, PACKED,
        ]) {
            b.reboot(features);
            for n in 0..150 {
                talk(&mut a, &mut b, 1000 * number + n);
            }
        }
    }
    evb.stop();
}

#[test]
fn reset_device_forgets_where_rings_stood() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let mut b = evb.guest_with("p1", 2, options());
    for round in 0..20 {
        talk(&mut a, &mut b, round);
        b.front_end.reset_device().unwrap();
        b.reset();
        b.start().unwrap();
    }
    evb.stop();
}

#[test]
fn connections_come_and_go_in_both_roles() {
    let config = bridge_config(1, "")
        + "\n[[port]]\nname = \"p1\"\nrelay = \"r\"\nconnect = \"{dir}/vm1.sock\"\n";
    let evb = Evb::start(&config);
    let path = evb.path("p0.sock");
    let vm1 = evb.path("vm1.sock");
    let listener = evb::vhost_user::front_end::FrontEnd::listen(&vm1).unwrap();
    for options in variants() {
        let mut a = evb.guest_with("p0", 1, options.clone());
        let mut b = Guest::accept(&listener, 2, options);
        for round in 0..70 {
            talk(&mut a, &mut b, round);
            a.hang_up();
            a.reconnect(&path);
            // The daemon pauses before it tries again.
            if round % 10 == 0 {
                let resumed = b.resumed();
                b.hang_up();
                b.resume(listener.accept(resumed).unwrap());
            }
        }
    }
    evb.stop();
}

#[test]
fn frames_posted_while_the_daemon_is_away_are_not_lost() {
    let evb = Evb::bridge(2);
    for options in variants() {
        let mut a = evb.guest_with("p0", 1, options.clone());
        let mut b = evb.guest_with("p1", 2, options);
        talk(&mut a, &mut b, 0);
        for round in 1..20 {
            a.hang_up();
            let frames: Vec<_> = (0..10)
                .map(|n| eth(mac(2), mac(1)).number(100 * round + n).bytes())
                .collect();
            a.send_burst(0, frames.iter().map(Vec::as_slice));
            a.reconnect(&evb.path("p0.sock"));
            for frame in &frames {
                b.expect_frame(frame);
            }
            silence(&mut a, &mut [&mut b]);
        }
    }
    evb.stop();
}

#[test]
fn a_daemon_that_is_killed_leaves_the_positions_behind() {
    let place = Place::new();
    for options in variants() {
        let mut evb = place.start(2);
        let mut a = place.guest("p0", 1, options.clone());
        let mut b = place.guest("p1", 2, options);
        for round in 0..10 {
            for n in 0..round * 7 {
                talk(&mut a, &mut b, 100 * round + n);
            }
            if round % 2 == 0 {
                evb.crash();
            } else {
                evb.stop();
            }
            assert_eq!(place.files(), ["p0.positions", "p1.positions"]);
            evb = place.start(2);
            for (guest, port) in [(&mut a, "p0"), (&mut b, "p1")] {
                guest.reconnect(&place.socket(port));
            }
        }
        talk(&mut a, &mut b, 9999);
        // Stopped as they should be: nothing to remember.
        a.stop();
        b.stop();
        evb.stop();
        assert!(place.files().is_empty(), "{:?}", place.files());
    }
}

/// Takes all that has arrived by now, which must be some of these.
fn take_all(guest: &mut Guest, frames: &[Vec<u8>]) {
    while let Some(frame) = guest.recv(Duration::ZERO) {
        assert!(frames.contains(&frame.bytes), "{:02x?}", frame.bytes);
    }
}

/// The daemon dies in the middle of bursts, and guests find no ring that is not as it should be.
#[test]
fn killed_under_load() {
    let place = Place::new();
    let frames: Vec<_> = (0..64)
        .map(|n| {
            let mut frame = eth(mac(2), mac(1)).number(n).unpadded();
            frame.resize(60 + 100 * (n as usize % 14), 0);
            frame
        })
        .collect();
    for mut options in variants() {
        let mut evb = place.start(2);
        let mut a = place.guest("p0", 1, options.clone());
        // Several buffers a frame, where they can be merged.
        if options.front_end.features & MRG_RXBUF != 0 {
            options.queue.buffer_len = 700;
        }
        let mut b = place.guest("p1", 2, options);
        for round in 0..12 {
            a.send_burst(0, frames.iter().map(Vec::as_slice));
            std::thread::scope(|scope| {
                let killer = scope.spawn(|| {
                    std::thread::sleep(round * Duration::from_micros(50));
                    evb.signal(libc::SIGKILL);
                });
                while !killer.is_finished() {
                    for frame in &frames {
                        match a.tx[0].send(&[0; 12], frame) {
                            Ok(()) => {}
                            Err(SendError::Full) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    a.tx[0].kick().unwrap();
                    take_all(&mut b, &frames);
                }
            });
            evb.crash();
            evb = place.start(2);
            // The receiver first, so that nothing has nowhere to go.
            for (guest, port) in [(&mut b, "p1"), (&mut a, "p0")] {
                guest.reconnect(&place.socket(port));
            }
            a.drain(0);
            // Its ring may be full, which leaves no room for what comes now.
            take_all(&mut b, &frames);
            talk(&mut a, &mut b, round);
        }
        evb.stop();
    }
}

#[test]
fn without_positions_a_port_stays_down_until_the_guest_resets() {
    // Sockets are on no tmpfs here, or the file is removed.
    let place = Place::new();
    let evb = place.start(2);
    let mut a = place.guest("p0", 1, options());
    let mut b = place.guest("p1", 2, options());
    talk(&mut a, &mut b, 0);
    evb.crash();
    fs::remove_file(place.state.path().join("p1.positions")).unwrap();
    let evb = place.start(2);
    a.reconnect(&place.socket("p0"));
    let mark = evb.log_mark();
    let resumed = b.resumed();
    b.adopt(connect(&place.socket("p1"), &resumed));
    b.launch().unwrap();
    evb.expect_complaint(mark, "p1", &["position", "resets"]);
    let control = place.sockets.path().join("control.sock");
    let status = evb.command(&["status", "--control", control.to_str().unwrap()]);
    assert!(
        status.output.contains("p1: failed: queue 0: "),
        "{}",
        status.output
    );
    let ring = |guest: &Guest| {
        let mut bytes = vec![0; 16 * 128];
        let at = guest.rx[0].layout().desc;
        guest.memory.read(at, &mut bytes).unwrap();
        bytes
    };
    let before = ring(&b);
    a.send(&eth(BROADCAST, a.mac).bytes());
    assert!(
        ring(&b) == before,
        "a ring that stands nobody knows where was written to"
    );
    // The same connection, another driver.
    b.reboot(PACKED);
    for n in 0..200 {
        talk(&mut a, &mut b, n);
    }
    evb.stop();
}

#[test]
fn a_guest_that_was_reset_while_the_daemon_was_away_starts_anew() {
    let place = Place::new();
    let mut evb = place.start(2);
    let mut a = place.guest("p0", 1, options());
    let mut b = place.guest("p1", 2, options());
    for round in 0..20 {
        for n in 0..10 {
            talk(&mut a, &mut b, 100 * round + n);
        }
        evb.crash();
        evb = place.start(2);
        a.reconnect(&place.socket("p0"));
        // The rings are in the same place, and new.
        let layouts = [b.rx[0].layout(), b.tx[0].layout()];
        b.reset();
        assert_eq!([b.rx[0].layout(), b.tx[0].layout()], layouts);
        b.reconnect(&place.socket("p1"));
    }
    evb.stop();
}

#[test]
fn where_no_file_can_be_the_daemon_says_so_and_reconnects_work() {
    let evb = Evb::start(
        &bridge_config(2, "").replace("[daemon]\n", "[daemon]\nstate = \"{dir}/missing\"\n"),
    );
    let mut a = evb.guest_with("p0", 1, options());
    let mut b = evb.guest_with("p1", 2, options());
    evb.expect_complaint(0, "p1", &["missing", "state", "tmpfs"]);
    for round in 0..20 {
        talk(&mut a, &mut b, round);
        b.hang_up();
        b.reconnect(&evb.path("p1.sock"));
    }
    evb.stop();
}

#[test]
fn what_lies_where_the_state_should_be_is_left_alone() {
    let place = Place::new();
    let file = place.state.path().join("p0.positions");
    fs::write(&file, "precious").unwrap();
    let evb = place.start(2);
    let mut a = place.guest("p0", 1, options());
    let mut b = place.guest("p1", 2, options());
    evb.expect_complaint(0, "p0", &["p0.positions"]);
    talk(&mut a, &mut b, 0);
    evb.stop();
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn logs_toggle_on_live_rings_and_have_what_is_written() {
    let evb = Evb::bridge(2);
    for mut options in variants() {
        // A page each, or more.
        options.queue.buffer_len = 4096;
        for order in ORDERS {
            options.front_end.order = order;
            let mut a = evb.guest_with("p0", 1, options.clone());
            let mut b = evb.guest_with("p1", 2, options.clone());
            let features = b.front_end.features();
            // More frames than the ring has places.
            for round in 0..8 {
                (0..20).for_each(|n| talk(&mut a, &mut b, 100 * round + n));
                let log = DirtyLog::new();
                log.give(&mut b.front_end).unwrap();
                b.front_end.set_features(features | LOG_ALL).unwrap();
                set_addresses(&mut b, order, true);
                writes_are_logged(&mut a, &mut b, &log, round);
                b.front_end.set_features(features).unwrap();
                set_addresses(&mut b, order, false);
                b.front_end.get_features().unwrap();
                log.take();
                talk(&mut a, &mut b, 10_000 + round);
                assert_eq!(log.take(), [0; 0], "it goes on after LOG_ALL was cleared");
            }
        }
    }
    evb.stop();
}

/// Frames arrive while the guest does nothing: the pages that change are those that are marked.
fn writes_are_logged(a: &mut Guest, b: &mut Guest, log: &DirtyLog, round: u32) {
    b.front_end.get_features().unwrap();
    let frames: Vec<_> = (0..6)
        .map(|n| {
            let mut frame = eth(b.mac, a.mac).number(5000 + 10 * round + n).unpadded();
            frame.resize(1500, n as u8 + 1);
            frame
        })
        .collect();
    let before = pages(&b.memory);
    a.send_burst(0, frames.iter().map(Vec::as_slice));
    a.drain(0);
    let mut marked = Vec::new();
    eventually("every page that changed is marked", || {
        marked.extend(log.take());
        let changed = changed(&before, &pages(&b.memory));
        let arrived = changed.len() > 6;
        (arrived && changed.iter().all(|page| marked.contains(page))).then_some(())
    });
    let changed = changed(&before, &pages(&b.memory));
    let rings = [b.rx[0].layout(), b.tx[0].layout()];
    let of_rings = rings.map(|ring| [ring.desc, ring.desc + 16 * 127, ring.used]);
    for page in marked {
        // Notifications are written again as they were.
        let ring = of_rings
            .as_flattened()
            .iter()
            .any(|at| at / 4096 == page / 4096);
        assert!(
            ring || changed.contains(&page),
            "{page:#x} is marked, and as it was"
        );
    }
    for frame in &frames {
        b.expect_frame(frame);
    }
}

fn set_addresses(guest: &mut Guest, order: Order, log: bool) {
    let rings = [
        RingSetup::of_rx(&guest.rx[0], order),
        RingSetup::of_tx(&guest.tx[0], order),
    ];
    for (index, ring) in (0..).zip(rings) {
        let setup = RingSetup { log, ..ring };
        guest
            .front_end
            .set_vring_addr(index, &guest.memory, &setup)
            .unwrap();
    }
}

/// All pages of a guest: addresses and contents.
fn pages(memory: &DriverMemory) -> Vec<(u64, Vec<u8>)> {
    let regions = memory.regions().iter();
    let all = regions.flat_map(|region| {
        let mut bytes = vec![0; region.size() as usize];
        memory.read(region.guest_addr(), &mut bytes).unwrap();
        let pages: Vec<_> = bytes.chunks(4096).map(<[u8]>::to_vec).collect();
        (0..)
            .map(|n| region.guest_addr() + 4096 * n)
            .zip(pages)
            .collect::<Vec<_>>()
    });
    all.collect()
}

fn changed(before: &[(u64, Vec<u8>)], after: &[(u64, Vec<u8>)]) -> Vec<u64> {
    let both = before.iter().zip(after);
    both.filter(|(old, new)| old != new)
        .map(|(old, _)| old.0)
        .collect()
}

/// What a monitor does with the memory and the bases of a guest: another process, another port.
#[test]
fn a_guest_moves_to_another_port_and_back() {
    let evb = Evb::bridge(3);
    let mut a = evb.guest_with("p0", 1, options());
    let mut b = evb.guest_with("p1", 2, options());
    for (round, port) in (0..).zip(["p2", "p1"].repeat(5)) {
        for n in 0..40 {
            talk(&mut a, &mut b, 100 * round + n);
        }
        b.stop();
        let target = connect(&evb.path(&format!("{port}.sock")), &b.resumed());
        b.resume(target);
    }
    talk(&mut a, &mut b, 9999);
    evb.stop();
}
