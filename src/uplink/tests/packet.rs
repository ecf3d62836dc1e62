//! Packet sockets.

use super::*;
use crate::uplink::{Inbox, Kind};
use crate::virtqueue;

fn spec(device: &str, queues: u16) -> Spec {
    let device = device.to_owned();
    Spec::Packet(PacketSpec { device, queues })
}

#[test]
fn frames_arrive_as_they_were_sent() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        assert_eq!(here.kind(), Kind::Packet);
        assert_eq!(here.mtu(), 1500);
        all_kinds_arrive(&here, &there, false);
        all_kinds_arrive(&there, &here, true);
    });
}

#[test]
fn a_tag_comes_back_where_it_was() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        let packet = Packet::new(false, false, 5000);
        let plain = packet.partial();
        // A priority tag, the largest VID, one of a provider, and one that no switch takes.
        for tag in [
            [0x81, 0, 0xe0, 0],
            [0x81, 0, 0x0f, 0xfe],
            [0x88, 0xa8, 0x30, 7],
            [0x81, 0, 0xff, 0xff],
        ] {
            let frame = [&plain[..12], &tag, &plain[12..]].concat();
            let mut vnet = packet.gso(1400);
            vnet.retag(4);
            send(&here, vnet, &frame);
            let (arrived, bytes) = receive(&there);
            assert_eq!(bytes, frame);
            assert_eq!((arrived.csum_start, arrived.csum_offset), (38, 16));
            assert_eq!(
                (arrived.flags, arrived.gso_type, arrived.gso_size),
                (1, 1, 1400)
            );
        }
    });
}

#[test]
fn what_the_host_sends_is_not_seen() {
    in_namespace(|| {
        veth("va", "vb");
        let (first, second, there) = (wire("va"), wire("va"), wire("vb"));
        let many = link(&spec("va", 2)).0;
        let packet = Packet::new(false, true, 100);
        send(&first, packet.needs_csum(), &packet.partial());
        receive(&there);
        for queue in [&first.queues()[0], &second.queues()[0]]
            .into_iter()
            .chain(many.queues())
        {
            assert!(receive_all(queue, 0).is_empty());
        }
        // All of them get what comes from outside, though it is for nobody here.
        send(&there, packet.needs_csum(), &packet.partial());
        receive(&first);
        receive(&second);
    });
}

#[test]
fn several_sockets_share_the_flows() {
    in_namespace(|| {
        veth("va", "vb");
        let (many, _) = link(&spec("va", 4));
        let there = wire("vb");
        flows_spread(&there, &many);
        // Another set of sockets on the same device is a group of its own.
        let (other, _) = link(&spec("va", 2));
        let packet = Packet::new(false, false, 100);
        send(&there, packet.needs_csum(), &packet.partial());
        for link in [&many, &other] {
            let arrived = link
                .queues()
                .iter()
                .map(|queue| receive_all(queue, 0).len());
            assert_eq!(arrived.sum::<usize>(), 1);
        }
    });
}

#[test]
fn a_frame_too_long_for_the_buffer_is_lost_alone() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        let long = Packet::new(false, true, 1000);
        let short = Packet::new(false, true, 100);
        for packet in [&long, &short] {
            send(&here, packet.needs_csum(), &packet.partial());
        }
        thread::sleep(Duration::from_millis(50));
        let queue = &there.queues()[0];
        let mut buffer = [0; 500];
        assert!(is_lost_frame(&queue.receive(&mut buffer).unwrap_err()));
        let received = queue.receive(&mut buffer).unwrap();
        assert_eq!(received.split(&mut buffer).1, short.partial());
        let error = queue.receive(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_frame_longer_than_the_mtu_is_refused_alone() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        let long = Packet::new(false, true, 2000);
        let queue = &here.queues()[0];
        let error = send_on(queue, long.needs_csum(), &long.partial()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert!(!is_full(&error));
        let short = Packet::new(false, true, 100);
        send(&here, short.needs_csum(), &short.partial());
        receive(&there);
    });
}

#[test]
fn a_device_that_cannot_be_used_is_told_with_the_reason() {
    in_namespace(|| {
        ip("link add va type veth peer name vb");
        for (device, expected) in [
            (
                "eth9",
                "there is no device eth9 in this network namespace; create it or correct the name",
            ),
            (
                "va",
                "va is down; switch it on with `ip link set dev va up`",
            ),
            ("lo", "lo carries no Ethernet frames; choose another device"),
        ] {
            assert_eq!(refusal(&spec(device, 1)).to_string(), expected);
        }
    });
}

#[test]
fn a_device_that_goes_down_refuses_and_comes_back() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        let packet = Packet::new(false, true, 100);
        let large = Packet::new(false, false, 5000);
        send(&there, packet.needs_csum(), &packet.partial());
        send(&there, large.gso(1400), &large.partial());
        ip("link set va down");
        // What came before is there, though the socket tells of its device first.
        let before = receive_all(&here.queues()[0], 2);
        assert_eq!(
            [&before[0].1, &before[1].1],
            [&packet.partial(), &large.partial()]
        );
        assert!(receive_all(&here.queues()[0], 0).is_empty());
        let sent = send_on(&here.queues()[0], packet.needs_csum(), &packet.partial());
        assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        ip("link set va up");
        thread::sleep(Duration::from_millis(100));
        send(&there, packet.needs_csum(), &packet.partial());
        receive(&here);
        // Nor is the first frame lost that is sent after that.
        ip("link set va down");
        ip("link set va up");
        thread::sleep(Duration::from_millis(100));
        send(&here, packet.needs_csum(), &packet.partial());
        receive(&there);
    });
}

/// Receives as workers do: the frames of one burst, and how many are missing.
fn burst(inbox: &mut Inbox, queue: &LinkQueue) -> (Vec<(VnetHeader, Vec<u8>)>, u32) {
    let mut arrivals = inbox.open(queue);
    let mut frames = vec![];
    loop {
        match arrivals.receive() {
            Ok((vnet, bytes)) => frames.push((vnet, bytes.to_vec())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    for (segment, (_, bytes)) in arrivals.segments().iter().zip(&frames) {
        let mut copy = vec![0; bytes.len() + 1];
        assert_eq!(virtqueue::read(&[*segment], 0, &mut copy), bytes.len());
        assert_eq!(copy[..bytes.len()], *bytes);
    }
    (frames, arrivals.take_losses())
}

#[test]
fn frames_of_the_ring_and_of_the_socket_stay_in_order() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        let sent: Vec<_> = all_kinds(true).into_iter().cycle().take(300).collect();
        let mut inbox = Inbox::default();
        let mut left = sent.iter();
        // Several times around the ring of each, in steps that are no parts of it.
        for _ in 0..100 {
            let some: Vec<_> = left.by_ref().take(3).collect();
            for (vnet, frame) in &some {
                send(&here, *vnet, frame);
            }
            let (frames, missed) = burst(&mut inbox, &there.queues()[0]);
            assert_eq!(missed, 0);
            let bytes: Vec<_> = frames.iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(
                bytes,
                some.iter().map(|(_, frame)| frame).collect::<Vec<_>>()
            );
        }
    });
}

#[test]
fn frames_that_find_no_slot_are_counted_and_the_ring_goes_on() {
    in_namespace(|| {
        veth("va", "vb");
        let (here, there) = (wire("va"), wire("vb"));
        let packet = Packet::new(false, true, 100);
        let mut inbox = Inbox::default();
        for _ in 0..3 {
            for _ in 0..2148 {
                send(&here, packet.needs_csum(), &packet.partial());
            }
            let mut all = (0, 0);
            loop {
                let (frames, missed) = burst(&mut inbox, &there.queues()[0]);
                all = (all.0 + frames.len(), all.1 + missed);
                if frames.is_empty() {
                    break;
                }
            }
            assert_eq!(
                all,
                (2048, 0),
                "the next frame tells that others are missing"
            );
            send(&here, packet.needs_csum(), &packet.partial());
            let (frames, missed) = burst(&mut inbox, &there.queues()[0]);
            assert_eq!((frames.len(), missed), (1, 100));
        }
    });
}
