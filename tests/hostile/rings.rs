//! Descriptors and indices that a guest should not write, and calls that should not block.

use std::io::Read;
use std::os::fd::AsRawFd;

use vhost::vhost_user::message::FrontendReq;
use vmm_sys_util::eventfd::EventFd;

use crate::support::guest::MODERN;
use crate::support::ring::{Desc, INDIRECT, NEXT, RawRing, WRITE, desc};
use crate::support::{Guest, GuestOptions, eth, eventually, mac};
use crate::{Scene, broadcast_frame};

/// A transmit chain that breaks a rule: the descriptors from number 8 on, offered by head 8.
fn sends(words: &[&str], chain: &[Desc]) {
    sends_with(words, |ring, _| {
        ring.descriptors(8, chain);
        ring.offer(8);
    });
}

fn sends_with(words: &[&str], crime: impl FnOnce(&RawRing, &Guest)) {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let villain = scene.guest(GuestOptions::default());
    let ring = RawRing::new(&villain.memory, villain.tx[0].layout());
    crime(&ring, &villain);
    villain.tx[0].kick_fd().write(1).unwrap();
    scene.evb.expect_complaint(mark, "p2", words);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}

/// Guest memory that nobody uses, in the upper region of the default guest.
const SPARE: u64 = (1 << 32) + (7 << 20);

#[test]
fn transmit_chains_that_break_the_rules() {
    let ok = |next| desc(SPARE, 100, NEXT, next);
    sends(&["descriptor"], &[ok(9), ok(10), ok(8)]);
    sends(&["descriptor"], &[ok(8)]);
    sends(&["descriptor"], &[ok(128)]);
    sends(&["descriptor"], &[ok(65535)]);
    sends(&["descriptor"], &[desc(SPARE, 100, WRITE, 0)]);
    sends(&["descriptor"], &[ok(9), desc(SPARE, 100, WRITE, 0)]);
    sends(&["descriptor"], &[desc(1 << 50, 100, 0, 0)]);
    sends(&["descriptor"], &[desc(u64::MAX - 10, 100, 0, 0)]);
    sends(&["descriptor"], &[desc((4 << 20) - 50, 100, 0, 0)]);
    sends(&["descriptor"], &[desc(SPARE, u32::MAX, 0, 0)]);
}

#[test]
fn indirect_tables_that_break_the_rules() {
    let with_table = |head: Desc, table: &[Desc]| {
        let table = table.to_vec();
        sends_with(&["descriptor"], move |ring, _| {
            ring.table(SPARE + 4096, &table);
            ring.descriptors(8, &[head, desc(SPARE, 100, 0, 0)]);
            ring.offer(8);
        });
    };
    let at = SPARE + 4096;
    let ok = desc(SPARE, 100, 0, 0);
    with_table(desc(at, 0, INDIRECT, 0), &[ok]);
    with_table(desc(at, 15, INDIRECT, 0), &[ok]);
    with_table(desc(at, 24, INDIRECT, 0), &[ok]);
    with_table(desc(at, u32::MAX - 15, INDIRECT, 0), &[ok]);
    with_table(desc(at, 16 * 4096, INDIRECT, 0), &[ok]);
    with_table(desc(1 << 50, 16, INDIRECT, 0), &[ok]);
    with_table(desc(at, 16, INDIRECT | NEXT, 9), &[ok]);
    with_table(desc(at, 16, INDIRECT, 0), &[desc(at, 16, INDIRECT, 0)]);
    with_table(desc(at, 16, INDIRECT, 0), &[desc(SPARE, 100, WRITE, 0)]);
    with_table(
        desc(at, 32, INDIRECT, 0),
        &[desc(SPARE, 100, NEXT, 1), desc(SPARE, 100, NEXT, 0)],
    );
    with_table(desc(at, 16, INDIRECT, 0), &[desc(SPARE, 100, NEXT, 9)]);
}

#[test]
fn avail_rings_that_break_the_rules() {
    sends_with(&["avail"], |ring, _| {
        ring.set_avail_idx(ring.avail_idx().wrapping_add(129));
    });
    sends_with(&["avail"], |ring, _| {
        ring.set_avail_idx(ring.avail_idx().wrapping_sub(1));
    });
    sends_with(&["avail"], |ring, _| {
        ring.set_avail_idx(ring.avail_idx().wrapping_add(32768));
    });
    sends_with(&["descriptor"], |ring, _| ring.offer(128));
    sends_with(&["descriptor"], |ring, _| ring.offer(65535));
}

#[test]
fn frames_that_are_too_short_or_too_long_do_not_stop_a_port() {
    let mut scene = Scene::new();
    let mut guest = scene.guest(GuestOptions::default());
    // Less than a header, a header and nothing, and 200 KiB in 100 pieces.
    let long: Vec<_> = (0..100u16)
        .map(|i| desc(SPARE, 2048, if i < 99 { NEXT } else { 0 }, 9 + i))
        .collect();
    for chain in [
        vec![desc(SPARE, 1, 0, 0)],
        vec![desc(SPARE, 12, 0, 0)],
        long,
    ] {
        let ring = RawRing::new(&guest.memory, guest.tx[0].layout());
        let used = ring.used_idx();
        ring.descriptors(8, &chain);
        ring.offer(8);
        guest.tx[0].kick_fd().write(1).unwrap();
        eventually("the chain is used", || {
            (ring.used_idx() != used).then_some(())
        });
        guest.reboot(MODERN);
        let frame = eth(mac(1), mac(3)).bytes();
        guest.send(&frame);
        scene.a.expect_frame(&frame);
        scene.others_go_on();
    }
    drop(guest);
    scene.aftermath();
}

/// Receive chains that break a rule: they stand behind one good buffer.
fn receives(words: &[&str], chain: &[Desc]) {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let mut options = GuestOptions::default();
    options.queue.buffers = 1;
    let villain = scene.guest(options);
    let ring = RawRing::new(&villain.memory, villain.rx[0].layout());
    ring.descriptors(8, chain);
    ring.offer(8);
    villain.rx[0].kick_fd().write(1).unwrap();
    scene.broadcast(3);
    scene.evb.expect_complaint(mark, "p2", words);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}

#[test]
fn receive_chains_that_break_the_rules() {
    // Pieces so small that a frame needs several: a chain is walked no further than it is needed.
    let ok = |next| desc(SPARE, 8, WRITE | NEXT, next);
    receives(&["descriptor"], &[desc(SPARE, 2048, 0, 0)]);
    receives(&["descriptor"], &[ok(9), ok(8)]);
    receives(&["descriptor"], &[ok(128)]);
    receives(&["descriptor"], &[ok(9), desc(SPARE, 2048, 0, 0)]);
    receives(&["descriptor"], &[desc(1 << 50, 2048, WRITE, 0)]);
    receives(&["descriptor"], &[desc(u64::MAX - 100, 2048, WRITE, 0)]);
    // Smaller than the header: CVE-2026-86566 elsewhere.
    receives(&[], &[desc(SPARE, 1, WRITE, 0)]);
    receives(&[], &[desc(SPARE, 11, WRITE, 0)]);
}

#[test]
fn a_receive_ring_that_runs_ahead_of_itself() {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let villain = scene.guest(GuestOptions::default());
    let ring = RawRing::new(&villain.memory, villain.rx[0].layout());
    ring.set_avail_idx(ring.avail_idx().wrapping_add(500));
    scene.broadcast(3);
    scene.evb.expect_complaint(mark, "p2", &["avail"]);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}

#[test]
fn a_guest_that_takes_no_frames_holds_nobody_up() {
    let mut scene = Scene::new();
    let mut options = GuestOptions::default();
    options.queue.buffers = 4;
    let mut villain = scene.guest(options);
    scene.broadcast(200);
    let dropped = scene.evb.counter("p2", "ring_full");
    assert!(dropped >= 190, "{dropped}");
    // What it does take is whole and in order.
    for n in 0..4 {
        villain.expect_frame(&broadcast_frame(n));
    }
    drop(villain);
    scene.aftermath();
}

/// Makes a descriptor blocking, for all who share it.
#[allow(unsafe_code)]
fn make_blocking(fd: &impl AsRawFd) {
    let fd = fd.as_raw_fd();
    // SAFETY: plain integers go in and out, and the descriptor is open.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        assert_eq!(libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK), 0);
    }
}

/// Fills a counter, so that a write to it waits.
fn block(event: &EventFd) {
    while event.write(u64::MAX - 1).is_err() {
        event.read().unwrap();
    }
    make_blocking(event);
}

#[test]
fn a_call_that_blocks_costs_the_port_its_front_end_and_nobody_else_anything() {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let villain = scene.guest(GuestOptions::default());
    block(villain.rx[0].call_fd());
    scene.broadcast(1);
    expelled(scene, mark, villain);
}

#[test]
fn an_error_descriptor_that_blocks_costs_the_same() {
    let scene = Scene::new();
    let mark = scene.evb.log_mark();
    let mut villain = scene.guest(GuestOptions::default());
    let error = EventFd::new(0).unwrap();
    let handed = Some(error.as_raw_fd());
    let front_end = &mut villain.front_end;
    let request = FrontendReq::SET_VRING_ERR;
    front_end.set_vring_fd(request, 1, handed).unwrap();
    // A question that has an answer: the descriptor is in use.
    front_end.get_features().unwrap();
    block(&error);
    RawRing::new(&villain.memory, villain.tx[0].layout()).offer(128);
    villain.tx[0].kick_fd().write(1).unwrap();
    expelled(scene, mark, villain);
}

fn expelled(mut scene: Scene, mark: usize, villain: Guest) {
    scene.evb.expect_complaint(mark, "p2", &["call", "blocks"]);
    scene.others_go_on();
    assert_eq!(villain.front_end.stream().read(&mut [0; 1]).unwrap(), 0);
    scene.evb.expect_log(mark, &["p2", "shut out"]);
    drop(villain);
    scene.others_go_on();
    scene.evb.expect_fds(scene.fds);
    scene.evb.stop();
}
