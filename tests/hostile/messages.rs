//! Messages, memory and descriptors that a front end should not send.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use evb::vhost_user::front_end::{FrontEnd, NEED_REPLY, Options, REPLY, VERSION, message};
use evb::virtqueue::driver::{DriverMemory, RegionSpec};
use vhost::vhost_user::message::FrontendReq;
use vmm_sys_util::eventfd::EventFd;

use crate::support::guest::connect;
use crate::support::{Guest, GuestOptions, LIMIT, eth, eventually, mac};
use crate::{Scene, broadcast_frame};

/// Something a front end says; then it leaves. The log has a warning that names the
/// port and, if there are any, these words.
fn says(words: &[&str], speech: impl FnOnce(&mut FrontEnd)) {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let mut villain = scene.front_end();
    speech(&mut villain);
    scene.others_go_on();
    drop(villain);
    scene.evb.expect_complaint(mark, "p2", words);
    scene.aftermath();
}

fn file(bytes: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes).unwrap();
    file
}

fn words(fields: &[u64]) -> Vec<u8> {
    fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
}

/// `SET_MEM_TABLE` with regions as guest address, size, user address, offset.
fn mem_table(front_end: &mut FrontEnd, regions: &[[u64; 4]], fds: &[RawFd]) {
    let body = words(&[&[regions.len() as u64][..], &regions.concat()].concat());
    front_end
        .raw_request(FrontendReq::SET_MEM_TABLE, &body, fds)
        .unwrap();
}

#[test]
fn a_memory_file_shorter_than_its_region() {
    let short = file(4096);
    says(&["4096"], |v| {
        mem_table(v, &[[0, 1 << 20, 1 << 32, 0]], &[short.as_raw_fd()]);
    });
}

#[test]
fn a_memory_offset_beyond_the_file() {
    let short = file(1 << 20);
    says(&[], |v| {
        mem_table(v, &[[0, 1 << 20, 1 << 32, 4096]], &[short.as_raw_fd()]);
    });
}

#[test]
fn regions_that_overlap() {
    let (x, y) = (file(1 << 20), file(1 << 20));
    let fds = [x.as_raw_fd(), y.as_raw_fd()];
    let table = [[0, 1 << 20, 1 << 32, 0], [1 << 19, 1 << 20, 1 << 33, 0]];
    says(&["overlap"], |v| mem_table(v, &table, &fds));
    let table = [
        [0, 1 << 20, 1 << 32, 0],
        [1 << 30, 1 << 20, (1 << 32) + 4096, 0],
    ];
    says(&["overlap"], |v| mem_table(v, &table, &fds));
}

#[test]
fn regions_that_are_empty_or_wrap_or_are_unaligned() {
    let memory = file(1 << 20);
    for region in [
        [0, 0, 1 << 32, 0],
        [u64::MAX - 4095, 1 << 20, 1 << 32, 0],
        [0, 1 << 20, u64::MAX - 4095, 0],
        [0, 1 << 20, 1 << 32, u64::MAX - 4095],
        [0, u64::MAX, 1 << 32, 0],
        [100, 1 << 19, 1 << 32, 0],
    ] {
        says(&[], |v| mem_table(v, &[region], &[memory.as_raw_fd()]));
    }
}

#[test]
fn memory_that_is_no_file() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let directory = File::open("/").unwrap();
    let null = File::open("/dev/null").unwrap();
    for fd in [socket.as_raw_fd(), directory.as_raw_fd(), null.as_raw_fd()] {
        says(&[], |v| mem_table(v, &[[0, 1 << 20, 1 << 32, 0]], &[fd]));
    }
}

#[test]
fn descriptors_missing_or_too_many() {
    let memory = file(1 << 20);
    let fd = memory.as_raw_fd();
    let region = [0, 1 << 20, 1 << 32, 0];
    says(&[], |v| mem_table(v, &[region], &[]));
    says(&[], |v| mem_table(v, &[region], &[fd, fd]));
    says(&[], |v| mem_table(v, &[], &[]));
    says(&[], |v| {
        v.raw(
            &message(FrontendReq::GET_FEATURES.into(), VERSION, &[]),
            &[fd; 3],
        )
        .unwrap();
    });
    says(&[], |v| {
        v.raw_request(FrontendReq::SET_VRING_KICK, &words(&[0]), &[])
            .unwrap();
    });
    says(&[], |v| {
        v.raw_request(FrontendReq::SET_VRING_CALL, &words(&[0]), &[fd, fd])
            .unwrap();
    });
    says(&[], |v| {
        v.raw_request(FrontendReq::SET_LOG_BASE, &words(&[4096, 0]), &[])
            .unwrap();
    });
    says(&[], |v| {
        let body = words(&[0, 1 << 40, 1 << 20, 1 << 41, 0]);
        v.raw_request(FrontendReq::ADD_MEM_REG, &body, &[]).unwrap();
    });
}

#[test]
fn more_regions_than_were_announced_as_possible() {
    let memory = file(4096);
    let fd = memory.as_raw_fd();
    says(&[], |v| {
        for n in 0..600u64 {
            let body = words(&[0, n << 20, 4096, (1 << 40) + (n << 20), 0]);
            if v.raw_request(FrontendReq::ADD_MEM_REG, &body, &[fd])
                .is_err()
            {
                break;
            }
        }
    });
}

#[test]
fn a_dirty_log_shorter_than_said() {
    let log = file(4096);
    says(&["log"], |v| {
        let body = words(&[1 << 20, 0]);
        v.raw_request(FrontendReq::SET_LOG_BASE, &body, &[log.as_raw_fd()])
            .unwrap();
    });
}

#[test]
fn ring_sizes_that_do_not_exist() {
    for size in [0u32, 3, 100, 2048, 32768, 65536, u32::MAX] {
        let memory = DriverMemory::with_mib(4).unwrap();
        let kick = EventFd::new(0).unwrap();
        says(&["size"], |v| {
            let base = memory.user_addr(0).unwrap();
            let state = [0u32.to_ne_bytes(), size.to_ne_bytes()].concat();
            v.set_mem_table(&memory).unwrap();
            let ack = message(FrontendReq::SET_VRING_NUM.into(), VERSION, &state);
            v.raw(&ack, &[]).unwrap();
            let addr = words(&[0, base, base + (1 << 20), base + (2 << 20), 0]);
            let _ = v.raw_request(FrontendReq::SET_VRING_ADDR, &addr, &[]);
            let _ = v.raw_request(
                FrontendReq::SET_VRING_KICK,
                &words(&[0]),
                &[kick.as_raw_fd()],
            );
            let _ = v.enable(0, true);
        });
    }
}

#[test]
fn ring_addresses_outside_memory_or_askew() {
    let memory = DriverMemory::with_mib(1).unwrap();
    let base = memory.user_addr(0).unwrap();
    let end = base + (1 << 20);
    let good = [base, base + 8192, base + 16384];
    for (which, bad) in [
        (0, 0),
        (0, end - 16),
        (1, end - 4),
        (2, end - 2),
        (0, u64::MAX - 15),
        (1, u64::MAX - 3),
        (2, u64::MAX - 1),
        (0, base + 8),
        (1, base + 8194),
        (2, base + 16385),
    ] {
        let mut addresses = good;
        addresses[which] = bad;
        let kick = EventFd::new(0).unwrap();
        says(&[], |v| {
            v.set_mem_table(&memory).unwrap();
            v.set_vring_num(0, 256).unwrap();
            let [desc, used, avail] = addresses;
            let body = words(&[0, desc, used, avail, 0]);
            v.raw_request(FrontendReq::SET_VRING_ADDR, &body, &[])
                .unwrap();
            let _ = v.raw_request(
                FrontendReq::SET_VRING_KICK,
                &words(&[0]),
                &[kick.as_raw_fd()],
            );
            let _ = v.enable(0, true);
        });
    }
}

#[test]
fn rings_that_do_not_exist() {
    for request in [
        FrontendReq::SET_VRING_NUM,
        FrontendReq::SET_VRING_BASE,
        FrontendReq::GET_VRING_BASE,
        FrontendReq::SET_VRING_ENABLE,
    ] {
        for index in [100u32, 255, 256, u32::MAX] {
            let body = [index.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
            says(&[], |v| v.raw_request(request, &body, &[]).unwrap());
        }
    }
}

#[test]
fn messages_of_the_wrong_size() {
    let header = |request: FrontendReq, size: u32| {
        [u32::from(request), VERSION, size]
            .map(u32::to_ne_bytes)
            .concat()
    };
    for request in [
        FrontendReq::SET_FEATURES,
        FrontendReq::SET_MEM_TABLE,
        FrontendReq::SET_VRING_ADDR,
    ] {
        for size in [0u32, 1, 7, 9, 4095] {
            says(&[], |v| {
                let _ = v.raw(
                    &[header(request, size), vec![1; size as usize]].concat(),
                    &[],
                );
            });
        }
        for size in [4097, 1 << 20, u32::MAX] {
            says(&[], |v| {
                let _ = v.raw(&header(request, size), &[]);
            });
        }
    }
    // A header that is cut off, and a body that is, are a front end that has gone.
    let mut scene = Scene::new();
    for bytes in [
        &header(FrontendReq::SET_FEATURES, 8)[..5],
        &header(FrontendReq::SET_FEATURES, 8),
    ] {
        let mut villain = scene.front_end();
        villain.raw(bytes, &[]).unwrap();
        scene.others_go_on();
    }
    scene.aftermath();
}

#[test]
fn a_table_that_counts_more_regions_than_it_holds() {
    let memory = file(1 << 20);
    says(&[], |v| {
        let body = words(&[8, 0, 1 << 20, 1 << 32, 0]);
        v.raw_request(FrontendReq::SET_MEM_TABLE, &body, &[memory.as_raw_fd()])
            .unwrap();
    });
}

#[test]
fn requests_that_do_not_exist_or_are_not_offered() {
    for request in [0u32, 7, 22, 23, 26, 28, 31, 39, 40, 41, 45, 200, u32::MAX] {
        says(&[], |v| {
            v.raw(&message(request, VERSION, &words(&[0])), &[])
                .unwrap();
        });
    }
    for flags in [0, 2, 3, VERSION | REPLY, VERSION | NEED_REPLY | REPLY] {
        says(&[], |v| {
            v.raw(&message(FrontendReq::GET_FEATURES.into(), flags, &[]), &[])
                .unwrap();
        });
    }
}

#[test]
fn features_that_were_not_offered() {
    says(&["feature"], |v| {
        v.raw_request(FrontendReq::SET_FEATURES, &words(&[u64::MAX]), &[])
            .unwrap();
    });
}

#[test]
fn messages_before_their_time() {
    let kick = EventFd::new(0).unwrap();
    let fd = Some(kick.as_raw_fd());
    let mut scene = Scene::new();
    // Odd, and some front end does it: it may be refused, it need not be, and it does no harm.
    let options = Options {
        timeout: LIMIT,
        ..Options::default()
    };
    for case in 0..6 {
        let mut early = connect(&scene.evb.path("p2.sock"), &options);
        early.set_owner().unwrap();
        early.get_features().unwrap();
        let said = match case {
            0 => early.set_vring_fd(FrontendReq::SET_VRING_KICK, 0, fd),
            1 => early.enable(0, true),
            2 => early.set_vring_base(0, 7),
            3 => early.stop_ring(0).map(drop),
            4 => early.reset_owner(),
            _ => {
                let body = words(&[0, 4096, 8192, 12288, 0]);
                let _ = early.raw_request(FrontendReq::SET_VRING_ADDR, &body, &[]);
                early
                    .set_vring_fd(FrontendReq::SET_VRING_KICK, 0, fd)
                    .and_then(|()| early.enable(0, true))
            }
        };
        let _ = said.and_then(|()| early.get_features());
        scene.others_go_on();
    }
    scene.aftermath();
}

#[test]
fn a_silent_front_end() {
    let mut scene = Scene::new();
    let path = scene.evb.path("p2.sock");
    let silent = UnixStream::connect(&path).unwrap();
    scene.others_go_on();
    let half = UnixStream::connect(&path).unwrap();
    // It may have been refused already, as the second one.
    let _ = std::io::Write::write_all(&mut &half, &[1, 0, 0, 0, 1]);
    scene.others_go_on();
    drop(silent);
    scene.others_go_on();
    drop(half);
    scene.aftermath();
}

#[test]
fn a_front_end_that_does_not_listen() {
    let mut scene = Scene::new();
    let mut deaf = scene.front_end();
    deaf.stream()
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let question = message(FrontendReq::GET_FEATURES.into(), VERSION, &[]).repeat(1000);
    for _ in 0..200 {
        if deaf.raw(&question, &[]).is_err() {
            break;
        }
    }
    scene.others_go_on();
    drop(deaf);
    scene.aftermath();
}

#[test]
fn hundreds_of_short_visits() {
    let mut scene = Scene::new();
    let path = scene.evb.path("p2.sock");
    let memory = file(4096);
    for n in 0..300u32 {
        let visitor = UnixStream::connect(&path).unwrap();
        if n % 3 == 1 {
            let _ = std::io::Write::write_all(&mut &visitor, &n.to_ne_bytes().repeat(n as usize));
        }
        if n % 3 == 2 {
            let mut visitor = FrontEnd::from_stream(visitor, Options::default()).unwrap();
            let _ = visitor.raw(
                &message(n % 50, VERSION, &[n as u8; 40]),
                &[memory.as_raw_fd(); 5],
            );
        }
    }
    scene.others_go_on();
    scene.aftermath();
}

#[test]
fn kick_and_call_descriptors_that_are_none() {
    let null = File::open("/dev/null").unwrap();
    let plain = file(0);
    let (socket, _other) = UnixStream::pair().unwrap();
    // A blocking eventfd whose counter is full: writing to it waits for ever.
    let full = EventFd::new(0).unwrap();
    full.write(u64::MAX - 1).unwrap();
    for fd in [
        null.as_raw_fd(),
        plain.as_raw_fd(),
        socket.as_raw_fd(),
        full.as_raw_fd(),
    ] {
        for request in [FrontendReq::SET_VRING_KICK, FrontendReq::SET_VRING_CALL] {
            let mut scene = Scene::new();
            let mut villain = scene.guest(GuestOptions::default());
            for ring in 0..2 {
                let _ = villain.front_end.set_vring_fd(request, ring, Some(fd));
            }
            let _ = villain.front_end.get_features();
            scene.broadcast(5);
            // Calls are wanted, and kicks come.
            let _ = villain.rx[0].wait(Duration::ZERO);
            villain.send_burst(0, [&eth(mac(1), mac(3)).bytes()[..]]);
            scene.a.recv(Duration::from_millis(50));
            scene.others_go_on();
            drop(villain);
            scene.aftermath();
        }
    }
}

#[test]
fn a_dirty_log_that_is_truncated_under_running_rings() {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let mut options = GuestOptions::default();
    options.front_end.features |= 1 << 26; // VHOST_F_LOG_ALL
    let mut villain = scene.guest(options);
    let bits = file(256 << 10);
    villain
        .front_end
        .set_log_base(bits.as_raw_fd(), 256 << 10, 0)
        .unwrap();
    scene.broadcast(1);
    villain.expect_frame(&broadcast_frame(0));
    bits.set_len(0).unwrap();
    scene.broadcast(1);
    scene
        .evb
        .expect_complaint(mark, "p2", &["dirty log", "truncated"]);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}

#[test]
fn announcements_without_end() {
    let mut scene = Scene::new();
    let mut villain = scene.guest(GuestOptions::default());
    for n in 0..2000_u16 {
        let [high, low] = n.to_be_bytes();
        villain
            .front_end
            .send_rarp([2, 0xbb, 0, 0, high, low])
            .unwrap();
    }
    // The others get some of them, and get on with their own traffic.
    let frame = eth(mac(2), mac(1)).number(0).bytes();
    let pause = Duration::from_millis(50);
    eventually("a frame among the announcements", || {
        scene.a.send(&frame);
        std::iter::from_fn(|| scene.b.recv_any(pause))
            .any(|got| got.bytes == frame)
            .then_some(())
    });
    drop(villain);
    scene.evb.assert_alive();
    scene.evb.stop();
}

#[test]
fn memory_that_is_truncated_under_running_rings() {
    let mut scene = Scene::new();
    let mark = scene.evb.log_mark();
    let spec = RegionSpec {
        guest_addr: 0,
        size: 4 << 20,
    };
    let options = GuestOptions {
        regions: vec![spec],
        ..GuestOptions::default()
    };
    let front_end = connect(&scene.evb.path("p2.sock"), &options.front_end);
    let mut villain = Guest::cold(front_end, 3, options.clone());
    villain.rebuild(&DriverMemory::unsealed(&options.regions).unwrap());
    villain.start().unwrap();
    villain.memory.regions()[0].file().set_len(0).unwrap();
    // From here on this process must not touch that memory either.
    scene.broadcast(3);
    villain.tx[0].kick_fd().write(1).unwrap();
    scene.evb.expect_complaint(mark, "p2", &["truncated"]);
    scene.others_go_on();
    drop(villain);
    scene.aftermath();
}
