//! The same of packed rings, and positions that they do not have.

use crate::support::guest::{INDIRECT as INDIRECT_DESC, MODERN, RING_PACKED, connect};
use crate::support::ring::{Desc, INDIRECT, NEXT, RawPacked, WRITE, desc};
use crate::support::{Guest, GuestOptions, eth, eventually, mac};
use crate::{Scene, broadcast_frame};

/// Guest memory that nobody uses, in the upper region of the default guest.
const SPARE: u64 = (1 << 32) + (7 << 20);

fn options() -> GuestOptions {
    GuestOptions::default().features(MODERN | RING_PACKED)
}

/// A transmit chain that breaks a rule.
fn sends(words: &[&str], chain: &[Desc]) {
    sends_with(words, options(), |ring, at, _| ring.offer(at, chain));
}

fn sends_with(words: &[&str], options: GuestOptions, crime: impl FnOnce(&RawPacked, u16, &Guest)) {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let villain = scene.guest(options);
    let ring = RawPacked::new(&villain.memory, villain.tx[0].layout());
    let at = villain.tx[0].base(false) as u16;
    crime(&ring, at, &villain);
    villain.tx[0].kick_fd().write(1).unwrap();
    scene.evb.expect_complaint(mark, "p2", words);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}

#[test]
fn transmit_chains_that_break_the_rules() {
    let ok = |flags| desc(SPARE, 100, flags, 7);
    sends(&["descriptor"], &[desc(SPARE, 100, WRITE, 0)]);
    sends(&["descriptor"], &[ok(NEXT), desc(SPARE, 100, WRITE, 0)]);
    sends(&["descriptor"], &[desc(1 << 50, 100, 0, 0)]);
    sends(&["descriptor"], &[desc(u64::MAX - 10, 100, 0, 0)]);
    sends(&["descriptor"], &[desc((4 << 20) - 50, 100, 0, 0)]);
    sends(&["descriptor"], &[desc(SPARE, u32::MAX, 0, 0)]);
    sends(&["descriptor"], &[desc(SPARE, 0, 0, 0)]);
    // A chain without end.
    sends(&["more than 128"], &[ok(NEXT); 128]);
}

#[test]
fn indirect_tables_that_break_the_rules() {
    let at = SPARE + 4096;
    let refused = |head: Desc| sends(&["descriptor"], &[head, desc(SPARE, 100, 0, 0)]);
    refused(desc(at, 0, INDIRECT, 0));
    refused(desc(at, 15, INDIRECT, 0));
    refused(desc(at, u32::MAX - 15, INDIRECT, 0));
    refused(desc(at, 16 * 4096, INDIRECT, 0));
    refused(desc(1 << 50, 16, INDIRECT, 0));
    refused(desc(at, 16, INDIRECT | NEXT, 0));
    // Nested, of no length, and without the feature.
    let with_entry = |entry: [u8; 16], features: u64| {
        let mut options = options();
        options.front_end.features &= features;
        sends_with(&["descriptor"], options, |ring, place, villain| {
            villain.memory.write(at, &entry).unwrap();
            ring.offer(place, &[desc(at, 16, INDIRECT, 0)]);
        });
    };
    let entry = |len: u32, flags: u16| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&SPARE.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[14..].copy_from_slice(&flags.to_le_bytes());
        bytes
    };
    with_entry(entry(16, INDIRECT), u64::MAX);
    with_entry(entry(0, 0), u64::MAX);
    with_entry(entry(16, WRITE), u64::MAX);
    with_entry(entry(100, 0), !INDIRECT_DESC);
}

#[test]
fn receive_chains_that_break_the_rules() {
    let ok = desc(SPARE, 8, WRITE | NEXT, 0);
    for chain in [
        vec![desc(SPARE, 2048, 0, 0)],
        vec![ok, desc(SPARE, 2048, 0, 0)],
        vec![desc(1 << 50, 2048, WRITE, 0)],
        vec![desc(u64::MAX - 100, 2048, WRITE, 0)],
        vec![ok; 127],
        vec![desc(SPARE, 1, WRITE, 0)],
    ] {
        let mut scene = Scene::new();
        let mark = scene.evb.log_mark();
        let mut options = options();
        options.queue.buffers = 1;
        let villain = scene.guest(options);
        let ring = RawPacked::new(&villain.memory, villain.rx[0].layout());
        ring.offer(villain.rx[0].base(false) as u16, &chain);
        villain.rx[0].kick_fd().write(1).unwrap();
        scene.broadcast(3);
        scene.evb.expect_complaint(mark, "p2", &[]);
        scene.others_go_on();
        drop(villain);
        scene.aftermath();
    }
}

/// Everything that was used is available again, and everything that is not yet there: the daemon serves what it sees.
#[test]
fn flags_without_sense_hurt_nobody_else() {
    for flags in [
        0,
        1 << 7,
        1 << 15,
        1 << 7 | 1 << 15,
        !(NEXT | INDIRECT | WRITE),
    ] {
        let mut scene = Scene::new();
        let mut villain = scene.guest(options());
        let ring = RawPacked::new(&villain.memory, villain.tx[0].layout());
        for index in 0..128 {
            ring.raw(index, desc(SPARE, 64, flags, index));
        }
        villain.tx[0].kick_fd().write(1).unwrap();
        scene.broadcast(3);
        scene.others_go_on();
        // Another driver takes over.
        villain.reboot(MODERN | RING_PACKED);
        let frame = eth(mac(1), mac(3)).bytes();
        villain.send(&frame);
        scene.a.expect_frame(&frame);
        drop(villain);
        scene.aftermath();
    }
}

#[test]
fn buffers_come_back_by_the_name_that_they_have() {
    let mut scene = Scene::new();
    let villain = scene.guest(options());
    let ring = RawPacked::new(&villain.memory, villain.tx[0].layout());
    let at = villain.tx[0].base(false) as u16;
    // The name is the guest's affair, as long as it is one.
    ring.offer(at, &[desc(SPARE, 100, 0, u16::MAX)]);
    villain.tx[0].kick_fd().write(1).unwrap();
    eventually("the chain is used", || ring.is_used(at).then_some(()));
    drop(villain);
    scene.others_go_on();
    scene.aftermath();
}

#[test]
fn a_guest_that_takes_no_frames_holds_nobody_up() {
    let mut scene = Scene::new();
    let mut options = options();
    options.queue.buffers = 4;
    let mut villain = scene.guest(options);
    scene.broadcast(200);
    for n in 0..4 {
        villain.expect_frame(&broadcast_frame(n));
    }
    drop(villain);
    scene.aftermath();
}

#[test]
fn bases_that_no_ring_has() {
    for base in [0x8080_8080, 0x0080_0000, 0x0000_8080, 0x7fff_8000, u32::MAX] {
        let scene = Scene::new();
        let mark = scene.evb.log_mark();
        let front_end = connect(&scene.evb.path("p2.sock"), &options().front_end);
        let mut villain = Guest::cold(front_end, 3, options());
        assert!(villain.launch_at(base).is_err());
        scene.evb.expect_complaint(mark, "p2", &["resume"]);
        drop(villain);
        scene.aftermath();
    }
}

/// A running ring cannot become one of the other format.
#[test]
fn formats_do_not_change_under_a_running_ring() {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let mut villain = scene.guest(options());
    let features = villain.front_end.features();
    assert!(
        villain
            .front_end
            .set_features(features & !RING_PACKED)
            .is_ok()
    );
    scene.evb.expect_complaint(mark, "p2", &["RING_PACKED"]);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}
