//! vhost-user as QEMU and cloud-hypervisor speak it (vhost-user.md, "Front ends").

mod support;

use std::time::Duration;

use evb::vhost_user::front_end::{FrontEnd, FrontEndError, LOG_ALL, Options, Order, RingSetup};
use evb::virtqueue::driver::{DriverMemory, Layout, RegionSpec};
use support::evb::bridge_config;
use support::guest::{
    EVENT_IDX, FIRMWARE, IN_ORDER, INDIRECT, MODERN, MRG_RXBUF, RING_PACKED, VERSION_1, connect,
    talk,
};
use support::ring::RawRing;
use support::{BROADCAST, DirtyLog, Evb, Guest, GuestOptions, eth, eventually, mac, silence};

const ORDERS: [Order; 2] = [Order::Qemu, Order::CloudHypervisor];

#[test]
fn both_orders_work_with_every_feature_set() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        for bits in 0..64u64 {
            let bit = |i: u32, feature: u64| if bits & 1 << i != 0 { feature } else { 0 };
            let features = FIRMWARE
                | bit(0, VERSION_1)
                | bit(1, MRG_RXBUF)
                | bit(2, EVENT_IDX)
                | bit(3, INDIRECT)
                | bit(4, IN_ORDER)
                | bit(5, RING_PACKED);
            let mut options = GuestOptions::order(order).features(features);
            options.queue.indirect = bits % 2 == 0;
            options.queue.layout =
                [Layout::Contiguous, Layout::HeaderApart, Layout::Pieces(5)][bits as usize % 3];
            let mut a = evb.guest_with("p0", 1, options.clone());
            let mut b = evb.guest_with("p1", 2, options);
            for n in 0..5 {
                talk(&mut a, &mut b, n);
            }
        }
    }
    evb.stop();
}

#[test]
fn packed_rings_go_round_and_round() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        for features in [
            0,
            EVENT_IDX,
            MRG_RXBUF,
            IN_ORDER,
            EVENT_IDX | MRG_RXBUF | IN_ORDER | INDIRECT,
        ] {
            let features = FIRMWARE | VERSION_1 | RING_PACKED | features;
            let mut options = GuestOptions::order(order).features(features);
            options.queue.indirect = true;
            let mut a = evb.guest_with("p0", 1, options.clone());
            let mut b = evb.guest_with("p1", 2, options);
            // More frames than the ring has entries, so that both wrap counters turn.
            for n in 0..300 {
                talk(&mut a, &mut b, n);
            }
        }
    }
    evb.stop();
}

#[test]
fn a_split_and_a_packed_guest_understand_each_other() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest_with(
        "p0",
        1,
        GuestOptions::default().features(MODERN | RING_PACKED),
    );
    let mut b = evb.guest("p1", 2);
    for n in 0..300 {
        talk(&mut a, &mut b, n);
    }
    evb.stop();
}

#[test]
fn what_is_offered_is_what_is_promised() {
    let evb = Evb::bridge(1);
    let mut front_end = connect(&evb.path("p0.sock"), &Options::default());
    front_end.negotiate().unwrap();
    let offered = front_end.offered();
    let needed = MODERN & !support::guest::MQ | LOG_ALL;
    assert_eq!(offered & needed, needed, "{offered:#x}");
    // Neither cross-endian, crypto, page faults, host notifier, inflight, in-band notifications, status, Xen
    // nor shared objects: nothing that is not handled.
    let refused = [6, 7, 8, 11, 12, 14, 16, 17, 18]
        .map(|bit| 1u64 << bit)
        .into_iter()
        .sum::<u64>();
    let protocol = front_end.get_protocol_features().unwrap();
    assert_eq!(protocol & refused, 0, "{protocol:#x}");
    let ours = front_end.protocol_features();
    assert_eq!(protocol & ours, ours);
    // ACCESS_PLATFORM, NOTIFICATION_DATA, RSS, HASH_REPORT, UFO.
    let refused = 1 << 33 | 1 << 38 | 1 << 60 | 1 << 57 | 1 << 10 | 1 << 14;
    assert_eq!(offered & refused, 0, "{offered:#x}");
    evb.stop();
}

#[test]
fn the_offer_is_the_same_at_each_connection_and_start() {
    let offer = |evb: &Evb| {
        let mut front_end = connect(&evb.path("p0.sock"), &Options::default());
        front_end.negotiate().unwrap();
        let protocol = front_end.get_protocol_features().unwrap();
        (
            front_end.offered(),
            protocol,
            front_end.queue_num(),
            front_end.mem_slots(),
        )
    };
    let evb = Evb::bridge(1);
    let first = offer(&evb);
    assert_eq!(offer(&evb), first);
    evb.stop();
    let evb = Evb::bridge(1);
    assert_eq!(offer(&evb), first);
    evb.stop();
}

#[test]
fn the_configuration_space_is_read_at_the_length_asked_for() {
    let evb = Evb::start(&bridge_config(1, "mtu = 9000\nqueues = 4\n"));
    let mut front_end = connect(&evb.path("p0.sock"), &Options::default());
    front_end.negotiate().unwrap();
    let whole = front_end.get_config(0, 12).unwrap();
    assert_eq!(
        u16::from_le_bytes([whole[8], whole[9]]),
        4,
        "max_virtqueue_pairs"
    );
    assert_eq!(u16::from_le_bytes([whole[10], whole[11]]), 9000, "mtu");
    for (offset, size) in [(0, 1), (0, 6), (10, 2), (8, 4)] {
        let part = front_end.get_config(offset, size).unwrap();
        assert_eq!(part, whole[offset as usize..(offset + size) as usize]);
    }
    // Longer than what is filled in, as cloud-hypervisor asks; the rest is zero or more fields.
    assert_eq!(front_end.get_config(0, 24).unwrap()[..12], whole[..]);
    evb.stop();
}

#[test]
fn messages_beside_the_handshake_are_taken() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut options = GuestOptions::order(order);
        options.front_end.mtu = Some(1500);
        let mut a = evb.guest_with("p0", 1, options.clone());
        let mut b = evb.guest_with("p1", 2, options);
        talk(&mut a, &mut b, 1);
        a.front_end.set_mtu(1500).unwrap();
        a.front_end.send_rarp(a.mac).unwrap();
        // RARP: op 3, our address as sender and target, to everybody.
        let rarp = b.recv(Duration::from_secs(10)).expect("the RARP").bytes;
        assert_eq!(rarp[..14], [&BROADCAST[..], &a.mac, &[0x80, 0x35]].concat());
        assert_eq!(rarp[20..28], [&[0, 3][..], &a.mac].concat());
        assert_eq!(rarp.len(), 60);
        silence(&mut b, &mut [&mut a]);
        talk(&mut a, &mut b, 2);
        a.front_end.reset_owner().ok();
    }
    evb.stop();
}

#[test]
fn a_mechanical_stop_and_start_goes_on_where_it_was() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut a = evb.guest_with("p0", 1, GuestOptions::order(order));
        let mut b = evb.guest_with("p1", 2, GuestOptions::order(order));
        for n in 0..200 {
            talk(&mut a, &mut b, n);
            let bases = b.stop();
            assert_eq!(bases[0] as u16, b.rx[0].base(true) as u16, "rx base");
            assert_eq!(bases[1] as u16, b.tx[0].base(true) as u16, "tx base");
            b.start().unwrap();
        }
    }
    evb.stop();
}

#[test]
fn rings_pause_and_go_on_by_enable_alone() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut a = evb.guest_with("p0", 1, GuestOptions::order(order));
        let mut b = evb.guest_with("p1", 2, GuestOptions::order(order));
        talk(&mut a, &mut b, 0);
        for round in 1..50 {
            b.front_end.enable(0, false).unwrap();
            b.front_end.enable(1, false).unwrap();
            b.front_end.get_features().unwrap();
            let ring = RawRing::new(&b.memory, b.rx[0].layout());
            let before = ring.used_bytes();
            a.send(&eth(BROADCAST, a.mac).number(round).bytes());
            assert!(
                ring.used_bytes() == before,
                "a disabled ring was written to"
            );
            b.front_end.enable(0, true).unwrap();
            b.front_end.enable(1, true).unwrap();
            b.front_end.get_features().unwrap();
            until_heard(&mut a, &mut b, round);
        }
    }
    evb.stop();
}

/// Sends until the first frame arrives: a ring that was just enabled is served in a moment.
fn until_heard(a: &mut Guest, b: &mut Guest, number: u32) {
    let frame = eth(b.mac, a.mac).number(number).bytes();
    eventually("a frame gets through", || {
        a.send(&frame);
        b.recv(Duration::from_millis(20))
            .map(|got| assert_eq!(got.bytes, frame))
    });
    b.recv_now(a);
}

#[test]
fn after_get_vring_base_not_one_more_write() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let mut b = evb.guest("p1", 2);
    let frames: Vec<_> = (0..32)
        .map(|n| eth(BROADCAST, mac(1)).number(n).bytes())
        .collect();
    for _ in 0..100 {
        // A burst is under way while the ring stops.
        a.send_burst(0, frames.iter().map(Vec::as_slice));
        let base = b.front_end.stop_ring(0).unwrap();
        let ring = RawRing::new(&b.memory, b.rx[0].layout());
        let after = ring.used_bytes();
        assert_eq!(base as u16, ring.used_idx());
        a.drain(0);
        a.send(&frames[0]);
        assert!(ring.used_bytes() == after, "a stopped ring was written to");
        b.stop();
        b.start().unwrap();
        while b.recv(Duration::ZERO).is_some() {}
    }
    evb.stop();
}

#[test]
fn log_toggles_on_live_rings_lose_nothing() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut a = evb.guest_with("p0", 1, GuestOptions::order(order));
        let mut b = evb.guest_with("p1", 2, GuestOptions::order(order));
        let features = b.front_end.features();
        for round in 0..20 {
            talk(&mut a, &mut b, round);
            let log = DirtyLog::new();
            log.give(&mut b.front_end).unwrap();
            b.front_end.set_features(features | LOG_ALL).unwrap();
            set_addresses(&mut b, order, true);
            b.front_end.get_features().unwrap();
            talk(&mut a, &mut b, 1000 + round);
            assert!(log.marked(b.rx[0].layout().used), "rx used ring");
            // What the daemon did last may be marked after we have seen it.
            let tx_used = b.tx[0].layout().used;
            eventually("tx used ring", || log.marked(tx_used).then_some(()));
            b.front_end.set_features(features).unwrap();
            set_addresses(&mut b, order, false);
            b.front_end.get_features().unwrap();
            log.take();
            talk(&mut a, &mut b, 2000 + round);
            assert_eq!(
                log.take(),
                [0; 0],
                "logging goes on after LOG_ALL was cleared"
            );
        }
    }
    evb.stop();
}

fn set_addresses(guest: &mut Guest, order: Order, log: bool) {
    let rx = RingSetup {
        log,
        ..RingSetup::of_rx(&guest.rx[0], order)
    };
    let tx = RingSetup {
        log,
        ..RingSetup::of_tx(&guest.tx[0], order)
    };
    guest
        .front_end
        .set_vring_addr(0, &guest.memory, &rx)
        .unwrap();
    guest
        .front_end
        .set_vring_addr(1, &guest.memory, &tx)
        .unwrap();
}

#[test]
fn a_fresh_log_replaces_the_old_one_when_answered() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest_with("p0", 1, GuestOptions::order(Order::CloudHypervisor));
    let mut b = evb.guest_with("p1", 2, GuestOptions::order(Order::CloudHypervisor));
    let features = b.front_end.features();
    let mut old = DirtyLog::new();
    old.give(&mut b.front_end).unwrap();
    b.front_end.set_features(features | LOG_ALL).unwrap();
    for round in 0..20 {
        let new = DirtyLog::new();
        new.give(&mut b.front_end).unwrap();
        old.take();
        talk(&mut a, &mut b, round);
        talk(&mut a, &mut b, 100 + round);
        assert_eq!(old.take(), [0; 0], "the old log is written to");
        assert!(!new.take().is_empty());
        old = new;
    }
    evb.stop();
}

#[test]
fn memory_comes_and_goes_under_running_rings() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let mut b = evb.guest("p1", 2);
    for round in 0..50 {
        let region = RegionSpec {
            guest_addr: (1 << 40) + (u64::from(round) << 30),
            size: 2 << 20,
        };
        let extra = DriverMemory::new(&[region]).unwrap();
        b.front_end.add_region(&extra.regions()[0]).unwrap();
        talk(&mut a, &mut b, round);
        b.front_end.remove_region(&extra.regions()[0]).unwrap();
        talk(&mut a, &mut b, 1000 + round);
    }
    evb.stop();
}

#[test]
fn firmware_then_linux_on_one_connection() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut a = evb.guest("p0", 1);
        let mut b = evb.guest_with("p1", 2, GuestOptions::order(order).features(FIRMWARE));
        for (number, features) in (0..).zip([
            FIRMWARE,
            MODERN,
            FIRMWARE | VERSION_1,
            MODERN & !EVENT_IDX,
            FIRMWARE,
            MODERN,
        ]) {
            b.reboot(features);
            talk(&mut a, &mut b, number);
            talk(&mut a, &mut b, 100 + number);
        }
    }
    evb.stop();
}

#[test]
fn reset_device_stops_everything_and_a_start_follows() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let mut b = evb.guest("p1", 2);
    for round in 0..20 {
        talk(&mut a, &mut b, round);
        b.front_end.reset_device().unwrap();
        b.front_end.get_features().unwrap();
        let ring = RawRing::new(&b.memory, b.rx[0].layout());
        let before = ring.used_bytes();
        a.send(&eth(BROADCAST, mac(1)).bytes());
        assert!(ring.used_bytes() == before);
        b.start().unwrap();
    }
    evb.stop();
}

#[test]
fn a_port_reconnects_hundreds_of_times_as_server() {
    let mut evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let fds = evb.fds();
    let path = evb.path("p1.sock");
    let mut b = evb.guest("p1", 2);
    for round in 0..300 {
        talk(&mut a, &mut b, round);
        // A new machine each time, or the old one carrying on.
        if round % 2 == 0 {
            drop(b);
            b = evb.guest_with("p1", 2, GuestOptions::order(ORDERS[round as usize / 2 % 2]));
        } else {
            b.hang_up();
            b.reconnect(&path);
        }
    }
    drop(b);
    evb.expect_fds(fds);
    evb.assert_alive();
    // Of 1,200 messages at least.
    let lines = evb.log().matches("port p1: ").count();
    assert!((10..200).contains(&lines), "{lines} lines of log");
    evb.stop();
}

#[test]
fn a_port_reconnects_hundreds_of_times_as_client() {
    let config = bridge_config(1, "")
        + "\n[[port]]\nname = \"p1\"\nrelay = \"r\"\nconnect = \"{dir}/vm1.sock\"\n";
    let mut evb = Evb::start(&config);
    let mut a = evb.guest("p0", 1);
    // The monitor starts later than the daemon, which tries again and again.
    let listener = FrontEnd::listen(&evb.path("vm1.sock")).unwrap();
    let mut b = Guest::accept(&listener, 2, GuestOptions::default());
    for round in 0..200 {
        talk(&mut a, &mut b, round);
        if round % 2 == 0 {
            drop(b);
            b = Guest::accept(&listener, 2, GuestOptions::default());
        } else {
            let resumed = b.resumed();
            b.hang_up();
            b.resume(listener.accept(resumed).unwrap());
        }
    }
    evb.assert_alive();
    evb.stop();
}

#[test]
fn frames_posted_while_the_daemon_is_away_are_not_lost() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let mut b = evb.guest("p1", 2);
    let path = evb.path("p0.sock");
    talk(&mut a, &mut b, 0);
    for round in 1..20 {
        a.hang_up();
        let frames: Vec<_> = (0..10)
            .map(|n| eth(mac(2), mac(1)).number(100 * round + n).bytes())
            .collect();
        // The daemon may take some of these before it notices; none may be lost or come twice.
        a.send_burst(0, frames.iter().map(Vec::as_slice));
        a.reconnect(&path);
        for frame in &frames {
            b.expect_frame(frame);
        }
        silence(&mut a, &mut [&mut b]);
    }
    evb.stop();
}

#[test]
fn a_guest_without_call_descriptors_is_served() {
    let evb = Evb::bridge(2);
    for order in ORDERS {
        let mut a = evb.guest("p0", 1);
        let mut b = evb.guest_with(
            "p1",
            2,
            GuestOptions {
                call: false,
                ..GuestOptions::order(order)
            },
        );
        for n in 0..10 {
            talk(&mut a, &mut b, n);
        }
    }
    evb.stop();
}

#[test]
fn a_second_front_end_waits_or_is_turned_away() {
    let evb = Evb::bridge(2);
    let mut a = evb.guest("p0", 1);
    let mut b = evb.guest("p1", 2);
    talk(&mut a, &mut b, 1);
    let options = Options {
        timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let mut second = connect(&evb.path("p1.sock"), &options);
    match second.get_features() {
        Err(FrontEndError::Closed(_) | FrontEndError::Silent(_) | FrontEndError::Io(_)) => {}
        answer => panic!("a second front end was answered: {answer:?}"),
    }
    talk(&mut a, &mut b, 2);
    drop(second);
    talk(&mut a, &mut b, 3);
    evb.stop();
}
