//! Passthrough (relay.md §1 and §3): one VM and one uplink, byte for byte both ways.

mod support;

use support::frames::patterns;
use support::net::relay;
use support::{BROADCAST, Net, eth, mac};

fn net(lines: &str) -> Net {
    Net::new(
        "",
        &[
            ("vm", &format!("mode = \"passthrough\"\n{lines}")),
            ("up", ""),
        ],
    )
}

#[test]
fn every_pattern_passes_both_ways_as_it_is() {
    let mut net = net("");
    assert_eq!(patterns().len(), 64);
    for frame in patterns() {
        // From the uplink first: what the VM sends afterwards makes its source the VM's own.
        net.flow("up", &frame, &["vm"]);
    }
    for frame in patterns() {
        net.flow("vm", &frame, &["up"]);
    }
    assert_eq!(
        net.fdb(&[])
            .iter()
            .filter(|(.., kind)| kind != "learned")
            .count(),
        0
    );
    net.evb.stop();
}

#[test]
fn pause_frames_end_here() {
    let mut net = net("");
    for from in ["vm", "up"] {
        let pause = eth([0x01, 0x80, 0xc2, 0, 0, 1], mac(1)).payload(0x8808, &[0, 1, 0, 9]);
        net.refused(from, &pause.bytes(), "pause");
        let unicast = eth(mac(600), mac(1)).payload(0x8808, &[0, 1, 0, 9]);
        net.refused(from, &unicast.bytes(), "pause");
        net.refused(
            from,
            &eth([0x01, 0x80, 0xc2, 0, 0, 1], mac(1)).bytes(),
            "pause",
        );
    }
    net.evb.stop();
}

#[test]
fn the_vm_does_not_hear_its_own_group_frames() {
    let mut net = net("");
    let shout = |n| eth(BROADCAST, mac(n)).bytes();
    net.flow("vm", &shout(1), &["up"]);
    net.flow("vm", &shout(2), &["up"]);
    for n in [1, 2] {
        net.refused("up", &shout(n), "own_source");
        net.refused(
            "up",
            &eth([0x33, 0x33, 0, 0, 0, 1], mac(n)).bytes(),
            "own_source",
        );
        // Unicast is the VM's, whoever it is from.
        net.flow("up", &eth(mac(600), mac(n)).bytes(), &["vm"]);
    }
    net.flow("up", &shout(3), &["vm"]);
    net.evb.stop();
    let mut net = self::net("accept_own_src = true");
    net.flow("vm", &shout(1), &["up"]);
    net.flow("up", &shout(1), &["vm"]);
    net.evb.stop();
}

#[test]
fn a_pinned_vm_keeps_to_its_address() {
    let mut net = net("mac = [\"52:54:00:00:00:01\"]\nmac_policy = \"pinned\"");
    net.flow("vm", &eth(BROADCAST, mac(1)).bytes(), &["up"]);
    net.flow("vm", &eth(mac(1), mac(1)).vlan(4095).bytes(), &["up"]);
    net.refused("vm", &eth(BROADCAST, mac(2)).bytes(), "spoofed");
    net.refused("vm", &eth(BROADCAST, [0; 6]).bytes(), "spoofed");
    net.flow("up", &eth(mac(9), mac(2)).bytes(), &["vm"]);
    net.evb.stop();
}

#[test]
fn the_mtu_is_kept() {
    let mut net = net("mtu = 1500");
    let sized = |tags: usize, len: usize| {
        let mut frame = (0..tags)
            .fold(eth(mac(1), mac(600)), |f, _| f.vlan(7))
            .unpadded();
        frame.resize(len, 0);
        frame
    };
    for (tags, most) in [(0, 1514), (1, 1518), (2, 1522), (3, 1522)] {
        net.flow("up", &sized(tags, most), &["vm"]);
        let mark = net.evb.log_mark();
        net.lost("up", &sized(tags, most + 1), "vm", "oversize");
        net.evb
            .expect_complaint(mark, "vm", &[&(most + 1).to_string()]);
    }
    net.evb.stop();
}

#[test]
fn a_passthrough_port_is_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evb.toml");
    let vm = "mode = \"passthrough\"";
    let cases: [&[(&str, &str)]; 5] = [
        &[("vm", vm)],
        &[("vm", vm), ("b", ""), ("up", "")],
        &[("vm", vm), ("b", vm), ("up", "")],
        &[("vm", "mode = \"passthrough\"\naccess = 10"), ("up", "")],
        &[("vm", vm), ("up", "trunk = [10]")],
    ];
    for ports in cases {
        std::fs::write(&file, relay("", ports).replace("{dir}", "/tmp")).unwrap();
        let check = support::evb::run(&["check", "--config", file.to_str().unwrap()], dir.path());
        assert_eq!(check.code, Some(2), "{ports:?}");
        assert!(check.output.contains("passthrough"), "{}", check.output);
    }
}
