//! Real devices, in network namespaces that each test makes and that end with it.

mod macvtap;
mod occupied;
mod packet;
mod tap;
mod watch;
mod xdp;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::testing::{exists, in_namespace, ip};
use super::{
    Link, LinkError, LinkQueue, Opened, PacketSpec, RECEIVE_BUFFER, Spec, is_full, is_lost_frame,
    macvtap_name, open,
};
use crate::frame::testing::Packet;
use crate::frame::vnet::{Origin, VnetHeader};
use crate::virtqueue::Gather;

/// The addresses of [`Packet`].
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A pair of devices that are joined, both up and without addresses that come by themselves.
fn veth(a: &str, b: &str) {
    ip(&format!("link add {a} type veth peer name {b}"));
    for name in [a, b] {
        ip(&format!("link set {name} addrgenmode none up"));
    }
}

fn link(spec: &Spec) -> (Link, Option<super::Created>) {
    let Opened {
        facts,
        created,
        queues,
    } = open(spec).unwrap();
    (Link::new(facts, queues).unwrap(), created)
}

fn refusal(spec: &Spec) -> LinkError {
    open(spec).expect_err("refused")
}

/// A packet socket on a device, to see and say what is on the wire.
fn wire(device: &str) -> Link {
    let device = device.to_owned();
    link(&Spec::Packet(PacketSpec { device, queues: 1 })).0
}

fn send(link: &Link, vnet: VnetHeader, frame: &[u8]) {
    send_on(&link.queues()[0], vnet, frame).unwrap();
}

/// Sends a frame in two parts, as workers do.
fn send_on(queue: &LinkQueue, vnet: VnetHeader, frame: &[u8]) -> io::Result<()> {
    let header = vnet.encode();
    let whole = Gather {
        header: &header,
        head: frame,
        rest: &[],
        rest_skip: 0,
        rest_len: 0,
    };
    queue.send(&whole)?;
    assert_eq!(queue.flush(), 0, "frames in line were lost");
    Ok(())
}

/// 64 flows from `wire` all arrive at `link`, and by more than one of its queues.
fn flows_spread(wire: &Link, link: &Link) {
    for port in 0..64 {
        let packet = Packet::new(false, true, 100);
        let mut frame = packet.partial();
        frame[34] = port;
        send(wire, packet.needs_csum(), &frame);
    }
    let counts: Vec<_> = link
        .queues()
        .iter()
        .map(|queue| receive_all(queue, 0).len())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 64, "{counts:?}");
    assert!(
        counts.iter().filter(|count| **count > 0).count() > 1,
        "{counts:?}"
    );
}

/// The frames of these tests that arrive until `count` are there or nothing comes for a while;
/// those of the kernel are left out.
fn receive_all(queue: &LinkQueue, count: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut buffer = vec![0; RECEIVE_BUFFER];
    let mut frames = vec![];
    let patience = if count == 0 {
        Duration::from_millis(100)
    } else {
        Duration::from_secs(10)
    };
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline && (count == 0 || frames.len() < count) {
        match queue.receive(&mut buffer) {
            Ok(received) => {
                let (vnet, frame) = received.split(&mut buffer);
                if frame[6..12] == HERE || frame[6..12] == THERE {
                    frames.push((vnet, frame.to_vec()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    frames
}

fn receive(link: &Link) -> (VnetHeader, Vec<u8>) {
    let mut frames = receive_all(&link.queues()[0], 1);
    frames.pop().expect("a frame")
}

/// The frame from the other side.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&HERE);
    frame[6..12].copy_from_slice(&THERE);
    frame
}

/// Frames with all that a header can ask for, with up to two tags.
fn all_kinds(uso: bool) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut frames = vec![];
    for tags in 0..3 {
        for (v6, udp) in crate::frame::testing::KINDS {
            if uso || !udp {
                let large = Packet::new(v6, udp, 5000).tagged(tags);
                frames.push((large.gso(1400), large.partial()));
            }
            let small = Packet::new(v6, udp, 100).tagged(tags);
            frames.push((small.needs_csum(), small.partial()));
        }
        let plain = VnetHeader {
            num_buffers: 1,
            ..VnetHeader::default()
        };
        frames.push((plain, Packet::new(false, true, 60).tagged(tags).partial()));
    }
    frames
}

/// Sends frames of all kinds and compares what arrives, checked as a worker checks it, bit by bit.
fn all_kinds_arrive(from: &Link, to: &Link, turn: bool) {
    // MACVTAP segments UDP before we see it, though it says that it will not.
    let uso = to.kind() != super::Kind::Macvtap;
    for (vnet, frame) in all_kinds(uso) {
        let frame = if turn { turned(&frame) } else { frame };
        send(from, vnet, &frame);
        let (arrived, mut bytes) = receive(to);
        assert!(
            bytes == frame,
            "{} bytes with {vnet:?} became {} with {arrived:?}",
            frame.len(),
            bytes.len()
        );
        let len = bytes.len();
        let head = &mut bytes[..len.min(128)];
        let checked = arrived.check(len, head, Origin::Uplink);
        assert_eq!(checked, Ok(vnet), "{arrived:?}");
    }
}

#[test]
fn names_and_numbers_of_queues_that_cannot_be_are_refused() {
    for device in ["", ".", "..", "a/b", "a b", "evb%d", "sixteen-letters-"] {
        let device = device.to_owned();
        let error = refusal(&Spec::Packet(PacketSpec { device, queues: 1 }));
        assert!(error.to_string().contains("is no name"), "{error}");
    }
    for queues in [0, 65] {
        let device = "eth0".to_owned();
        let error = refusal(&Spec::Packet(PacketSpec { device, queues }));
        assert_eq!(error, LinkError::Queues { queues });
    }
}

#[test]
fn an_uplink_gives_its_name_to_a_device_if_it_can() {
    assert_eq!(macvtap_name("up0"), "evb-up0");
    assert_eq!(macvtap_name("elevenchars"), "evb-elevenchars");
    for name in ["twelve-chars", "a b", "ü%d"] {
        let device = macvtap_name(name);
        assert_eq!(device.len(), 15);
        assert_eq!(device, macvtap_name(name));
        let spec = PacketSpec { device, queues: 1 };
        assert_eq!(Spec::Packet(spec).check(), Ok(()));
    }
    assert_ne!(macvtap_name("a-long-name-1"), macvtap_name("a-long-name-2"));
}

#[test]
fn errors_of_the_data_path_are_told_apart() {
    for errno in [libc::EAGAIN, libc::ENOBUFS] {
        assert!(is_full(&io::Error::from_raw_os_error(errno)));
    }
    assert!(!is_full(&io::Error::from_raw_os_error(libc::EIO)));
    assert!(is_lost_frame(&io::ErrorKind::InvalidData.into()));
    assert!(!is_lost_frame(&io::Error::from_raw_os_error(libc::EAGAIN)));
}
