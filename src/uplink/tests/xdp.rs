//! `AF_XDP` sockets, on pairs of virtual devices, whose driver copies.

mod generic;

use std::time::{Duration, Instant};

use super::*;
use crate::frame::checksum::complete_checksum;
use crate::frame::offloads::Offloads;
use crate::sys::ethtool::{Ethtool, Feature};
use crate::sys::poller::Poller;
use crate::uplink::{ALL_QUEUES, Created, Inbox, Kind, XdpMode, XdpSpec};

fn spec(device: &str, queues: u16) -> Spec {
    Spec::Xdp(XdpSpec {
        device: device.to_owned(),
        queues,
        take_parent: false,
        sheltered: false,
    })
}

fn xdp(device: &str) -> (Link, Created) {
    let (link, created) = link(&spec(device, 1));
    (link, created.unwrap())
}

#[test]
fn a_device_with_more_queues_than_a_link_is_refused_unless_told() {
    in_namespace(|| {
        wide_veth(65, 65);
        let expected = "va has 65 receive queues, and a link has 64 at most; run `ethtool -L va combined 64`, or set \
                        `queues = 64` if filters keep frames out of the others";
        assert_eq!(refusal(&spec("va", ALL_QUEUES)).to_string(), expected);
        ip("link delete va");
        wide_veth(3, 3);
        for (queues, expected) in [(ALL_QUEUES, 3), (2, 2)] {
            let (link, created) = link(&spec("va", queues));
            assert_eq!(link.queues().len(), expected);
            created.unwrap().remove().unwrap();
        }
    });
}

/// A pair whose devices have so many queues.
fn wide_veth(va: u32, vb: u32) {
    let wide = |queues| format!("numrxqueues {queues} numtxqueues {queues}");
    let (va, vb) = (wide(va), wide(vb));
    ip(&format!("link add va {va} type veth peer name vb {vb}"));
    for name in ["va", "vb"] {
        ip(&format!("link set {name} addrgenmode none up"));
    }
}

fn features(device: &str) -> Vec<Feature> {
    Ethtool::new().unwrap().features(device).unwrap()
}

fn is_on(device: &str, name: &str) -> bool {
    let all = features(device);
    all.iter()
        .any(|feature| feature.name == name && feature.active)
}

fn switch(device: &str, name: &str, on: bool) {
    let mut features = features(device);
    features.retain(|feature| feature.name == name);
    Ethtool::new().unwrap().set(device, &features, on).unwrap();
}

/// A frame that is whole.
fn complete(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.partial();
    complete_checksum(&mut frame, &packet.needs_csum()).unwrap();
    frame
}

#[test]
fn frames_cross_byte_for_byte() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, _created) = xdp("va");
        assert_eq!(here.kind(), Kind::Xdp);
        assert_eq!((here.name(), here.mtu()), ("va", 1500));
        assert_eq!(here.accepts(), Offloads::NONE);
        assert_eq!(here.xdp_mode(), Some(XdpMode::Copy));
        let there = wire("vb");
        for tags in 0..3 {
            for len in [0, 1, 100, 1000, 1452] {
                let frame = complete(&Packet::new(false, false, len).tagged(tags));
                send(&here, VnetHeader::PLAIN, &frame);
                assert_eq!(receive(&there).1, frame, "out, {tags} tags");
                let back = turned(&frame);
                send(&there, VnetHeader::PLAIN, &back);
                assert_eq!(receive(&here), (VnetHeader::PLAIN, back), "in, {tags} tags");
            }
        }
    });
}

#[test]
fn a_page_holds_what_is_longer() {
    in_namespace(|| {
        veth("va", "vb");
        for device in ["va", "vb"] {
            ip(&format!("link set {device} mtu 3498"));
        }
        let ((here, _created), there) = (xdp("va"), wire("vb"));
        let frame = complete(&Packet::new(false, false, 3498 - 40).tagged(1));
        send(&here, VnetHeader::PLAIN, &frame);
        assert_eq!(receive(&there).1, frame);
        send(&there, VnetHeader::PLAIN, &turned(&frame));
        assert_eq!(receive(&here).1, turned(&frame));
        let long = vec![0; 5000];
        let error = send_on(&here.queues()[0], VnetHeader::PLAIN, &long).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    });
}

#[test]
fn tags_that_the_peer_would_keep_beside_its_frames_arrive_in_them() {
    in_namespace(|| {
        veth("va", "vb");
        veth("vc", "vd");
        // A bridge takes the outer tag out of a frame and notes it beside.
        ip("link add br0 type bridge mcast_snooping 0");
        ip("link set br0 addrgenmode none up");
        for port in ["vb", "vc"] {
            ip(&format!("link set {port} master br0"));
        }
        let ((here, _created), there) = (xdp("va"), wire("vd"));
        let inserts = ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];
        for (tags, insert) in [(1, inserts[0]), (2, inserts[1])] {
            let frame = turned(&complete(&Packet::new(false, true, 100).tagged(tags)));
            send(&there, VnetHeader::PLAIN, &frame);
            assert_eq!(receive(&here).1, frame, "{tags} tags");
            // This is what would become of it.
            switch("vb", insert, true);
            send(&there, VnetHeader::PLAIN, &frame);
            let stripped = [&frame[..12], &frame[16..]].concat();
            assert_eq!(receive(&here).1, stripped);
        }
    });
}

#[test]
fn what_the_peer_leaves_undone_arrives_done() {
    in_namespace(|| {
        veth("va", "vb");
        let ((here, _created), there) = (xdp("va"), wire("vb"));
        let small = Packet::new(false, false, 100);
        send(&there, small.needs_csum(), &turned(&small.partial()));
        assert_eq!(receive(&here).1, turned(&complete(&small)));
        let large = Packet::new(false, false, 5000);
        send(&there, large.gso(1000), &turned(&large.partial()));
        let segments = receive_all(&here.queues()[0], 5);
        let mut payload = vec![];
        for (vnet, segment) in &segments {
            assert_eq!(*vnet, VnetHeader::PLAIN);
            payload.extend(crate::frame::testing::receive(segment).payload);
        }
        assert_eq!(payload, large.payload);
    });
}

#[test]
fn a_burst_is_lent_and_given_back() {
    in_namespace(|| {
        veth("va", "vb");
        let ((here, _created), there) = (xdp("va"), wire("vb"));
        let poller = Poller::new().unwrap();
        poller.add(&here.queues()[0], 5).unwrap();
        let mut inbox = Inbox::default();
        let mut sent = 0_u32;
        // All of the memory is used more than once.
        for _ in 0..300 {
            for _ in 0..20 {
                let mut frame = turned(&complete(&Packet::new(false, true, 300)));
                frame[50..54].copy_from_slice(&sent.to_be_bytes());
                send(&there, VnetHeader::PLAIN, &frame);
                sent += 1;
            }
            let mut next = sent - 20;
            while next < sent {
                let mut arrivals = inbox.open(&here.queues()[0]);
                let mut count = 0;
                while let Ok((vnet, frame)) = arrivals.receive() {
                    assert_eq!(vnet, VnetHeader::PLAIN);
                    assert_eq!(frame[50..54], next.to_be_bytes());
                    next += 1;
                    count += 1;
                }
                let segments = arrivals.segments();
                assert_eq!(segments.len(), count);
                for (segment, number) in segments.iter().zip(next - count as u32..) {
                    let mut bytes = [0; 4];
                    crate::virtqueue::read(&[*segment], 50, &mut bytes);
                    assert_eq!(bytes, number.to_be_bytes());
                }
                drop(segments);
                drop(arrivals);
                if next < sent {
                    // What comes after the ring was empty is announced.
                    let mut woken = vec![];
                    poller.wait(10_000, |token| woken.push(token)).unwrap();
                    assert_eq!(woken, [5]);
                }
            }
        }
    });
}

#[test]
fn each_queue_has_a_socket_and_the_host_has_the_others() {
    in_namespace(|| {
        wide_veth(4, 4);
        let (link, _created) = link(&spec("va", 2));
        let (there, host) = (wire("vb"), wire("va"));
        for port in 0..64 {
            let mut frame = turned(&complete(&Packet::new(false, true, 100)));
            frame[34] = port;
            send(&there, VnetHeader::PLAIN, &frame);
        }
        let counts: Vec<_> = link
            .queues()
            .iter()
            .chain(host.queues())
            .map(|queue| receive_all(queue, 0).len())
            .collect();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), 64, "{counts:?}");
        for queue in link.queues() {
            let frame = complete(&Packet::new(true, true, 100));
            send_on(queue, VnetHeader::PLAIN, &frame).unwrap();
            assert_eq!(receive(&there).1, frame);
        }
    });
}

#[test]
fn the_device_is_promiscuous_as_long_as_the_link_is_there() {
    in_namespace(|| {
        veth("va", "vb");
        let promiscuity = || {
            let shown = std::process::Command::new("ip")
                .args(["-d", "link", "show", "va"])
                .output();
            String::from_utf8(shown.unwrap().stdout).unwrap()
        };
        let (here, _created) = xdp("va");
        assert!(promiscuity().contains(" promiscuity 1 "));
        drop(here);
        // A program that another test starts has the socket, too, until it runs.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !promiscuity().contains(" promiscuity 0 ") {
            assert!(Instant::now() < deadline, "{}", promiscuity());
        }
    });
}

#[test]
fn features_come_back_after_the_program_is_gone() {
    in_namespace(|| {
        veth("va", "vb");
        // What somebody has switched off stays off.
        switch("vb", "tx-vlan-stag-hw-insert", false);
        let before = [features("va"), features("vb")];
        let ((here, created), there) = (xdp("va"), wire("vb"));
        assert!(!is_on("va", "rx-vlan-hw-parse"));
        for feature in ["tx-vlan-hw-insert", "tx-checksum-ip-generic"] {
            assert!(!is_on("vb", feature));
        }
        // The link is still there, and gets nothing any more.
        created.remove().unwrap();
        assert_eq!([features("va"), features("vb")], before);
        let host = wire("va");
        let frame = turned(&complete(&Packet::new(false, true, 100)));
        send(&there, VnetHeader::PLAIN, &frame);
        receive(&host);
        assert!(receive_all(&here.queues()[0], 0).is_empty());
        created.remove().unwrap();
        // And it can be taken again.
        drop(here);
        let (here, _created) = xdp("va");
        send(&there, VnetHeader::PLAIN, &frame);
        assert_eq!(receive(&here).1, frame);
    });
}

#[test]
fn a_device_that_cannot_be_used_is_told_with_the_reason() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add vc type veth peer name vd");
        ip("tuntap add dev tap0 mode tap");
        ip("link set tap0 up");
        for (device, queues, expected) in [
            (
                "eth9",
                1,
                "there is no device eth9 in this network namespace; create it or correct the name",
            ),
            (
                "vc",
                1,
                "vc is down; switch it on with `ip link set dev vc up`",
            ),
            (
                "lo",
                1,
                "lo carries no Ethernet frames; choose another device",
            ),
            (
                "tap0",
                1,
                "AF_XDP does not work on tap0, a device of kind tun; use `af_packet = { dev = \"tap0\" }`",
            ),
            (
                "va",
                2,
                "va has 1 receive queues, and not 2; set `queues = 1`, or look with `ethtool -l va` whether \
                 it can have more",
            ),
        ] {
            assert_eq!(refusal(&spec(device, queues)).to_string(), expected);
        }
        ip("link set va mtu 9000");
        let expected = "the MTU of va is 9000, and AF_XDP takes frames for 3498 at most; set it with `ip link \
                        set dev va mtu 3498`, or use `af_packet`";
        assert_eq!(refusal(&spec("va", 1)).to_string(), expected);
        ip("link set va mtu 1500");
        ip("address add 192.0.2.1/24 dev va");
        let error = refusal(&spec("va", 1));
        assert!(matches!(error, LinkError::Occupied { .. }), "{error}");
        let taken = XdpSpec {
            device: "va".to_owned(),
            queues: 1,
            take_parent: true,
            sheltered: false,
        };
        link(&Spec::Xdp(taken));
    });
}

#[test]
fn a_pair_that_does_not_fit_is_told_with_the_reason() {
    in_namespace(|| {
        wide_veth(1, 2);
        let before = [features("va"), features("vb")];
        let expected = "va has fewer receive queues than its peer has transmit queues; give both as many with \
                        `ethtool -L`";
        assert_eq!(refusal(&spec("va", 1)).to_string(), expected);
        assert_eq!([features("va"), features("vb")], before);
    });
}

#[test]
fn a_peer_elsewhere_is_no_peer() {
    in_namespace(|| {
        veth("va", "vb");
        let mut elsewhere = std::process::Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let inside = format!("/proc/{}/ns/net", elsewhere.id());
        while std::fs::read_link(&inside).unwrap()
            == std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        {
            thread::yield_now();
        }
        ip(&format!("link set vb netns {}", elsewhere.id()));
        ip("link set va up");
        let expected = "AF_XDP does not work on va, whose peer is in another network namespace, where evb \
                        cannot see to it that frames come whole; use `af_packet = { dev = \"va\" }`";
        assert_eq!(refusal(&spec("va", 1)).to_string(), expected);
        drop(elsewhere.stdin.take());
        elsewhere.wait().unwrap();
    });
}

#[test]
fn a_device_with_another_program_is_left_alone() {
    in_namespace(|| {
        veth("va", "vb");
        let before = features("vb");
        let (first, created) = xdp("va");
        let expected = "another XDP program is attached to va; stop the process that has attached it, or remove \
                        it with `ip link set dev va xdp off`";
        assert_eq!(refusal(&spec("va", 1)).to_string(), expected);
        let there = wire("vb");
        let frame = turned(&complete(&Packet::new(false, true, 100)));
        send(&there, VnetHeader::PLAIN, &frame);
        assert_eq!(receive(&first).1, frame);
        created.remove().unwrap();
        assert_eq!(features("vb"), before);
    });
}

#[test]
fn a_flood_that_nobody_takes_is_lost_and_what_comes_later_is_not() {
    in_namespace(|| {
        veth("va", "vb");
        let ((here, _created), there) = (xdp("va"), wire("vb"));
        let numbered = |number: u32| {
            let mut frame = turned(&complete(&Packet::new(false, true, 100)));
            frame[50..54].copy_from_slice(&number.to_be_bytes());
            frame
        };
        for number in 0..6000 {
            send(&there, VnetHeader::PLAIN, &numbered(number));
        }
        let mut arrived = vec![];
        loop {
            let more = receive_all(&here.queues()[0], 0);
            if more.is_empty() {
                break;
            }
            arrived.extend(more);
        }
        assert!((1..=4096).contains(&arrived.len()), "{}", arrived.len());
        let numbers = arrived.iter().map(|(_, frame)| frame[50..54].to_vec());
        assert!(numbers.is_sorted_by(|a, b| a < b));
        for number in 6000..6100 {
            send(&there, VnetHeader::PLAIN, &numbered(number));
            assert_eq!(receive(&here).1, numbered(number));
        }
    });
}

#[test]
fn a_device_that_goes_down_refuses_and_comes_back() {
    in_namespace(|| {
        veth("va", "vb");
        let ((here, _created), there) = (xdp("va"), wire("vb"));
        let frame = complete(&Packet::new(false, true, 100));
        let queue = &here.queues()[0];
        ip("link set va down");
        // The first one is in line when it turns out that the device is down.
        send_on(queue, VnetHeader::PLAIN, &frame).unwrap();
        let error = send_on(queue, VnetHeader::PLAIN, &frame).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
        assert!(!is_full(&error));
        assert!(!queue.enable_calls(), "no reason to stay awake");
        ip("link set va up");
        send_on(queue, VnetHeader::PLAIN, &frame).unwrap();
        assert_eq!(receive_all(&there.queues()[0], 2).len(), 2);
        // The kernel activates the other end in its own time, and what is sent before is lost.
        let returned = (0..100).find_map(|_| {
            send(&there, VnetHeader::PLAIN, &turned(&frame));
            receive_all(queue, 0).pop()
        });
        assert_eq!(returned.expect("a frame").1, turned(&frame));
    });
}

#[test]
fn a_device_that_is_removed_refuses() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, created) = xdp("va");
        let queue = &here.queues()[0];
        let frame = complete(&Packet::new(false, true, 100));
        send(&here, VnetHeader::PLAIN, &frame);
        ip("link del va");
        let whole = |queue: &LinkQueue| {
            queue.send(&Gather {
                header: &[],
                head: &frame,
                rest: &[],
                rest_skip: 0,
                rest_len: 0,
            })
        };
        whole(queue).unwrap();
        whole(queue).unwrap();
        assert_eq!(queue.flush(), 2, "they are lost");
        assert_eq!(queue.flush(), 0, "and told once");
        let error = whole(queue).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        assert!(!queue.enable_calls());
        assert!(receive_all(queue, 0).is_empty());
        created.remove().unwrap();
    });
}
