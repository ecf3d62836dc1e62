//! Passthrough by a device: large frames go between the kernel and the guest's memory without a copy by the
//! daemon, all others with one, and nobody can tell.

use std::time::Duration;

use evb::vhost_user::front_end::LOG_ALL;

use crate::support::frames::patterns;
use crate::support::guest::{FIRMWARE, MODERN, MRG_RXBUF, RING_PACKED, hex};
use crate::support::netns::{in_namespace, veth};
use crate::support::packets::{FIN_PSH, Packet, TCPV4, TCPV6, read};
use crate::support::{DirtyLog, Frame, GuestOptions, LIMIT, Net, Wire, eth, eventually, mac};
use crate::{config, expect_state, uplink};

const CSUM: u64 = 1;
const GUEST_CSUM: u64 = 1 << 1;
const TSO: u64 = 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;
const OFFLOADS: u64 = CSUM | GUEST_CSUM | TSO;

/// The links that frames are read from straight, with the device at the far end of each.
const LINKS: [(&str, &str); 2] = [
    ("tap = { name = \"tap0\" }", "tap0"),
    ("macvtap = { parent = \"va\" }", "vb"),
];

fn guest(features: u64) -> GuestOptions {
    let mut options = GuestOptions::default().features(features);
    if features & (OFFLOADS | MRG_RXBUF) == OFFLOADS {
        options.queue.size = 16;
        options.queue.buffers = 16;
        options.queue.buffer_len = 70_000;
    }
    options
}

/// A passthrough relay with a guest of these features at `p`, and the far end of its link.
fn net((link, far): (&str, &str), features: u64) -> (Net, Wire) {
    let text = config(&[("p", "mode = \"passthrough\"\n")], &uplink(link));
    let net = Net::start_with(&text, |_| guest(features));
    expect_state(&net.evb, "up", "running");
    (net, Wire::new(far))
}

/// A large packet of this many bytes of data.
fn large(v6: bool, len: usize) -> (Packet, [u8; 12], Vec<u8>) {
    let packet = Packet::new(v6, false, len).flags(FIN_PSH);
    let header = packet.header(if v6 { TCPV6 } else { TCPV4 }, 1400);
    let frame = packet.partial();
    (packet, header, frame)
}

fn next(net: &mut Net) -> Frame {
    net.at("p").recv_any(LIMIT).expect("nothing arrived")
}

/// A large frame from the wire arrives as the guest takes it.
fn comes_in(net: &mut Net, wire: &Wire, len: usize, features: u64) {
    for v6 in [false, true] {
        let (packet, header, frame) = large(v6, len);
        wire.try_send(&header, &frame).unwrap();
        if features & OFFLOADS == 0 {
            let mut data = vec![];
            while data.len() < packet.data.len() {
                let frame = next(net);
                assert_eq!(frame.header[..10], [0; 10]);
                data.extend(read(&frame.bytes).data);
            }
            assert!(data == packet.data);
            continue;
        }
        let got = next(net);
        assert!(got.bytes == frame, "{len}: {}", got.bytes.len());
        assert_eq!(got.header[..10], header[..10], "{len}");
        let buffers = u16::from_le_bytes([got.header[10], got.header[11]]);
        let buffer_len = if features & MRG_RXBUF == 0 {
            70_000
        } else {
            2048
        };
        assert_eq!(
            usize::from(buffers),
            (frame.len() + 12).div_ceil(buffer_len)
        );
    }
}

#[test]
fn every_pattern_passes_beside_large_frames() {
    in_namespace(|| {
        veth("va", "vb");
        let modern = MODERN & !MRG_RXBUF;
        for link in LINKS {
            for features in [
                MODERN | OFFLOADS,
                MODERN | OFFLOADS | RING_PACKED,
                modern | OFFLOADS,
                FIRMWARE | OFFLOADS,
                MODERN,
                modern | RING_PACKED,
            ] {
                let (mut net, mut wire) = net(link, features);
                // Longer than expected, much shorter than expected, and something between.
                for (number, pattern) in patterns().iter().enumerate() {
                    let len = [5000, 65_000, 30_000, 3000, 64_000, 40_000, 41_000][number % 7];
                    comes_in(&mut net, &wire, len, features);
                    wire.send(pattern);
                    let got = next(&mut net);
                    assert_eq!(hex(&got.bytes), hex(pattern));
                    assert_eq!(got.header[..10], [0; 10]);
                }
                for (number, pattern) in patterns().iter().enumerate() {
                    // What has no address of a station is not told from what others say.
                    if pattern[6..9] == [0x52, 0x54, 0] {
                        net.at("p").send(pattern);
                        wire.expect(pattern);
                    }
                    // The others have no room for them in their buffers.
                    if features & (OFFLOADS | MRG_RXBUF) == OFFLOADS && number % 4 == 0 {
                        let (_, header, frame) = large(number % 8 == 0, 1000 * number + 2000);
                        net.at("p").send_with_header(0, &header, &frame);
                        wire.expect(&frame);
                    }
                }
                net.evb.stop();
            }
        }
    });
}

#[test]
fn a_guest_without_room_gets_what_fits_and_the_rest_is_counted() {
    in_namespace(|| {
        let features = MODERN | OFFLOADS;
        let (mut net, wire) = net(LINKS[0], features);
        for round in 1..4 {
            comes_in(&mut net, &wire, 60_000, features);
            let before = (
                net.evb.counter("p", "rx_frames"),
                net.evb.counter("p", "ring_full"),
            );
            let (_, header, frame) = large(false, 60_000);
            for _ in 0..20 {
                wire.try_send(&header, &frame).unwrap();
            }
            // There is room for four of them.
            net.evb.expect_counter("p", "rx_frames", before.0 + 4);
            net.evb.expect_counter("p", "ring_full", before.1 + 16);
            for _ in 0..4 {
                assert!(next(&mut net).bytes == frame, "round {round}");
            }
            assert_eq!(net.at("p").recv_any(Duration::ZERO), None);
        }
        net.evb.stop();
    });
}

#[test]
fn what_the_kernel_writes_is_in_the_dirty_log() {
    in_namespace(|| {
        let features = MODERN | OFFLOADS;
        let (mut net, wire) = net(LINKS[0], features);
        comes_in(&mut net, &wire, 60_000, features);
        let guest = net.at("p");
        let log = DirtyLog::new();
        log.give(&mut guest.front_end).unwrap();
        let acknowledged = guest.front_end.features();
        guest
            .front_end
            .set_features(acknowledged | LOG_ALL)
            .unwrap();
        guest.front_end.get_features().unwrap();
        let contents = |memory: &evb::virtqueue::driver::DriverMemory| {
            let regions = memory.regions().iter();
            let pages = regions.flat_map(|region| {
                let (start, size) = (region.guest_addr(), region.size());
                (start..start + size).step_by(4096)
            });
            pages
                .map(|page| {
                    let mut bytes = vec![0; 4096];
                    memory.read(page, &mut bytes).unwrap();
                    (page, bytes)
                })
                .collect::<Vec<_>>()
        };
        for len in [64_000, 50_000, 64_500] {
            let guest = net.at("p");
            let before = contents(&guest.memory);
            log.take();
            let (_, header, frame) = large(true, len);
            wire.try_send(&header, &frame).unwrap();
            let mut bytes = vec![];
            // Without new buffers, which would change pages.
            eventually("a frame", || guest.rx[0].recv(&mut bytes).unwrap());
            assert!(bytes == frame);
            // Nothing but used rings may be unmarked, as they are not logged here: the one that sends changes, too, when its
            // worker begins or ends to look by itself.
            let used = [guest.rx[0].layout(), guest.tx[0].layout()].map(|ring| ring.used & !4095);
            let changed = before.iter().zip(contents(&guest.memory));
            let changed = changed.filter(|(before, after)| before.1 != after.1);
            let pages: Vec<u64> = changed.map(|(before, _)| before.0).collect();
            assert!(pages.len() >= len / 4096, "{} pages", pages.len());
            for page in pages.into_iter().filter(|page| !used.contains(page)) {
                assert!(log.marked(page), "{page:#x}");
            }
        }
        net.evb.stop();
    });
}

#[test]
fn a_guest_may_start_anew_in_the_middle_of_a_flow() {
    in_namespace(|| {
        veth("va", "vb");
        for link in LINKS {
            let (mut net, wire) = net(link, MODERN | OFFLOADS);
            let (_, header, frame) = large(false, 60_000);
            for round in 0..12 {
                for _ in 0..32 {
                    wire.try_send(&header, &frame).unwrap();
                }
                let features = [MODERN | OFFLOADS, MODERN, MODERN | OFFLOADS | RING_PACKED];
                net.at("p").reboot(features[round % 3]);
                // What is left of the flow, and then this.
                let last = eth(mac(1), mac(600)).number(round as u32).bytes();
                wire.send(&last);
                while next(&mut net).bytes != last {}
            }
            net.evb.stop();
        }
    });
}
