//! Devices that the host needs.

use std::process::Command;

use super::super::testing::skipped;
use super::*;
use crate::uplink::{MacvtapMode, MacvtapSpec, Standing, XdpSpec};

fn xdp(take_parent: bool) -> Spec {
    Spec::Xdp(XdpSpec {
        device: "va".to_owned(),
        queues: 1,
        take_parent,
        sheltered: false,
    })
}

fn stands(device: &str, addresses: &[&str], default_routes: &[&str]) -> Standing {
    let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    Standing {
        device: device.to_owned(),
        addresses: list(addresses),
        default_routes: list(default_routes),
    }
}

/// What stands on `va` is the reason for which it is refused.
fn refused(expected: &[Standing]) {
    let error = refusal(&xdp(false));
    let LinkError::Occupied { parent, occupied } = &error else {
        panic!("{error}");
    };
    assert_eq!(parent, "va");
    assert_eq!(occupied.above, expected);
    assert!(occupied.addresses.is_empty() && occupied.default_routes.is_empty());
    let (device, address) = (&expected[0].device, &expected[0].addresses[0]);
    for words in [
        format!(
            "va connects the host itself: {device}, which stands on it, has the address {address}"
        ),
        format!("ip address del {address} dev {device}; ip address add {address} dev evb0"),
    ] {
        assert!(error.to_string().contains(&words), "{error}");
    }
}

/// Does what `ip` does with the arguments in `line`, or says that the kernel cannot.
fn supported(line: &str) -> bool {
    let done = Command::new("ip").args(line.split_whitespace()).output();
    done.unwrap().status.success()
}

#[test]
fn a_device_that_others_get_their_frames_from_is_not_taken_either() {
    for (lines, device) in [
        (
            &["link add br0 type bridge", "link set va master br0"][..],
            "br0",
        ),
        (&["link add link va name va.7 type vlan id 7"], "va.7"),
        (
            &["link add link va name mac0 type macvlan mode bridge"],
            "mac0",
        ),
        (
            &[
                "link add link va name mac0 type macvlan mode bridge",
                "link add br0 type bridge",
                "link set mac0 master br0",
                "link add link br0 name mac1 type macvlan mode bridge",
            ],
            "mac1",
        ),
    ] {
        in_namespace(move || {
            veth("va", "vb");
            // What the peer holds it gets elsewhere.
            ip("address add 198.51.100.1/24 dev vb");
            for line in lines {
                if !supported(line) {
                    assert!(line.contains("type vlan"), "{line}");
                    return skipped("a VLAN device that holds an address: the kernel has none");
                }
            }
            link(&xdp(false)).1.unwrap().remove().unwrap();
            ip(&format!("link set {device} up"));
            ip(&format!("address add 10.0.0.1/24 dev {device}"));
            refused(&[stands(device, &["10.0.0.1/24"], &[])]);
            if device == "br0" {
                ip("route add default via 10.0.0.2 dev br0");
                refused(&[stands("br0", &["10.0.0.1/24"], &["10.0.0.2"])]);
            }
            link(&xdp(true)).1.unwrap().remove().unwrap();
        });
    }
}

#[test]
fn what_a_sibling_holds_is_no_obstacle_to_a_device_that_shares_the_parent() {
    in_namespace(|| {
        veth("va", "vb");
        ip("link add link va name mac0 type macvlan mode bridge");
        ip("address add 10.0.0.1/24 dev mac0");
        let wanted = MacvtapSpec {
            name: "evb-up0".to_owned(),
            parent: "va".to_owned(),
            mode: MacvtapMode::Bridge,
            queues: 1,
            mac: None,
            mtu: None,
            take_parent: false,
        };
        link(&Spec::Macvtap(wanted)).1.unwrap().remove().unwrap();
    });
}
