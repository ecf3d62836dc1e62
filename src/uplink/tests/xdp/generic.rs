//! The same when the kernel runs the program and not the driver. The pair has a driver that could, and sees to
//! it that frames come whole.

use super::*;
use crate::sys::bpf::Runner;
use crate::uplink::netlink::Device;
use crate::uplink::xdp::{hands_over_whole_frames, open_by};

fn generic(device: &str) -> (Link, Created) {
    let Spec::Xdp(spec) = spec(device, 1) else {
        unreachable!()
    };
    let Opened {
        facts,
        created,
        queues,
    } = open_by(&spec, Runner::Kernel).unwrap();
    assert!(facts.generic);
    (Link::new(facts, queues).unwrap(), created.unwrap())
}

fn shown(device: &str) -> String {
    let shown = std::process::Command::new("ip")
        .args(["-d", "link", "show", device])
        .output();
    String::from_utf8(shown.unwrap().stdout).unwrap()
}

#[test]
fn frames_cross_byte_for_byte_by_way_of_the_kernel() {
    in_namespace(|| {
        veth("va", "vb");
        let before = [features("va"), features("vb")];
        let ((here, created), there) = (generic("va"), wire("vb"));
        assert_eq!(here.xdp_mode(), Some(XdpMode::Generic));
        assert!(shown("va").contains(" xdpgeneric "), "{}", shown("va"));
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
        created.remove().unwrap();
        assert!(!shown("va").contains("xdp"));
        assert_eq!([features("va"), features("vb")], before);
    });
}

#[test]
fn tags_beside_their_frames_are_as_invisible_to_the_kernel() {
    in_namespace(|| {
        veth("va", "vb");
        veth("vc", "vd");
        ip("link add br0 type bridge mcast_snooping 0");
        ip("link set br0 addrgenmode none up");
        for port in ["vb", "vc"] {
            ip(&format!("link set {port} master br0"));
        }
        let ((here, _created), there) = (generic("va"), wire("vd"));
        let frame = turned(&complete(&Packet::new(false, true, 100).tagged(1)));
        send(&there, VnetHeader::PLAIN, &frame);
        assert_eq!(receive(&here).1, frame);
        switch("vb", "tx-vlan-hw-insert", true);
        send(&there, VnetHeader::PLAIN, &frame);
        let stripped = [&frame[..12], &frame[16..]].concat();
        assert_eq!(receive(&here).1, stripped);
    });
}

#[test]
fn the_kernel_merges_nothing_before_the_program() {
    in_namespace(|| {
        veth("va", "vb");
        // Segments come one after the other, and the receiver may put them together again.
        switch("vb", "tx-checksum-ip-generic", false);
        switch("va", "rx-gro", true);
        let large = Packet::new(false, false, 5000);
        let frame = turned(&large.partial());
        let there = wire("vb");
        {
            let host = wire("va");
            send(&there, large.gso(1000), &frame);
            assert!(receive(&host).1.len() > 2000, "they are merged");
        }
        let (here, _created) = generic("va");
        send(&there, large.gso(1000), &frame);
        let segments = receive_all(&here.queues()[0], 5);
        let payload = segments
            .iter()
            .flat_map(|(_, segment)| crate::frame::testing::receive(segment).payload);
        assert_eq!(payload.collect::<Vec<_>>(), large.payload);
        assert!(is_on("va", "rx-gro"));
    });
}

#[test]
fn what_is_sheltered_is_told_its_addresses() {
    in_namespace(|| {
        veth("va", "vb");
        let sheltered = Spec::Xdp(XdpSpec {
            device: "va".to_owned(),
            queues: 1,
            take_parent: false,
            sheltered: true,
        });
        let (here, _created) = link(&sheltered);
        let now = shown("va");
        assert!(now.contains(" promiscuity 0  allmulti 1 "), "{now}");
        // What can be left in frames is, also where no tagged one should come.
        assert!(!is_on("va", "rx-vlan-hw-parse"));
        drop(here);
        assert!(shown("va").contains(" promiscuity 0  allmulti 0 "));
    });
}

#[test]
fn frames_of_software_and_of_hypervisors_may_come_unfinished() {
    let device = |kind: Option<&str>, bus: Option<&str>| Device {
        kind: kind.map(str::to_owned),
        bus: bus.map(str::to_owned),
        ..Device::default()
    };
    assert!(hands_over_whole_frames(&device(None, Some("pci"))));
    for (kind, bus) in [
        (None, None),
        (None, Some("virtio")),
        (None, Some("xen")),
        (Some("veth"), None),
        (Some("netdevsim"), Some("pci")),
    ] {
        assert!(
            !hands_over_whole_frames(&device(kind, bus)),
            "{kind:?} {bus:?}"
        );
    }
}
