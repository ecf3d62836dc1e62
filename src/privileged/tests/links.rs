//! Network devices by way of the helper, in network namespaces that end with the test.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{HELPER, again};
use crate::privileged::{Error, LinkRefusal, Privileged};
use crate::sys::ethtool;
use crate::uplink::testing::{exists, in_namespace, ip};
use crate::uplink::{
    Kind, LinkError, MacvtapMode, MacvtapSpec, PacketSpec, RECEIVE_BUFFER, Spec, TapSpec, XdpMode,
    XdpSpec,
};
use crate::virtqueue::Gather;

const DEVICES: [&str; 4] = ["evb0", "evb-up0", "va", "vb"];
const NOWHERE: [&Path; 0] = [];

fn spawn() -> Privileged {
    let command = again("serve_if_told", HELPER, Path::new("yes"));
    Privileged::spawn_as(command, NOWHERE, DEVICES).unwrap()
}

fn tap(name: &str) -> Spec {
    Spec::Tap(TapSpec {
        name: name.to_owned(),
        queues: 3,
        mac: None,
        mtu: Some(4000),
        owner: None,
        group: None,
    })
}

fn macvtap() -> Spec {
    Spec::Macvtap(MacvtapSpec {
        name: "evb-up0".into(),
        parent: "va".into(),
        mode: MacvtapMode::Bridge,
        queues: 2,
        mac: None,
        mtu: Some(2000),
        take_parent: false,
    })
}

fn packet(device: &str) -> Spec {
    let device = device.to_owned();
    Spec::Packet(PacketSpec { device, queues: 1 })
}

fn xdp() -> Spec {
    Spec::Xdp(XdpSpec {
        device: "va".to_owned(),
        queues: 1,
        take_parent: false,
        sheltered: false,
    })
}

fn veth() {
    ip("link add va type veth peer name vb");
    ip("link set va up");
    ip("link set vb up");
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> LinkRefusal {
    match result.unwrap_err() {
        Error::LinkRefused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn links_of_all_kinds_are_opened_and_work() {
    in_namespace(|| {
        veth();
        let privileged = spawn();
        let tap = privileged.open_link(&tap("evb0")).unwrap();
        assert_eq!(
            (tap.kind(), tap.mtu(), tap.queues().len()),
            (Kind::Tap, 4000, 3)
        );
        let near = privileged.open_link(&macvtap()).unwrap();
        assert_eq!(
            (near.kind(), near.mtu(), near.queues().len()),
            (Kind::Macvtap, 2000, 2)
        );
        let far = privileged.open_link(&packet("vb")).unwrap();
        assert_eq!((far.kind(), far.name()), (Kind::Packet, "vb"));
        let mut frame = [7; 60];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&near.mac().octets());
        let gather = Gather {
            header: &[0; 12],
            head: &frame,
            rest: &[],
            rest_skip: 0,
            rest_len: 0,
        };
        near.queues()[0].send(&gather).unwrap();
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let deadline = Instant::now() + Duration::from_secs(10);
        // The kernel has frames of its own to send.
        let mut arrived = false;
        while !arrived && Instant::now() < deadline {
            arrived = far.queues()[0]
                .receive(&mut buffer)
                .is_ok_and(|received| received.split(&mut buffer).1 == frame);
        }
        assert!(arrived);
    });
}

#[test]
fn devices_end_with_the_link_on_request_or_with_the_helper() {
    in_namespace(|| {
        veth();
        let privileged = spawn();
        let first = privileged.open_link(&tap("evb0")).unwrap();
        privileged.remove_link(&first).unwrap();
        assert!(exists("evb0"));
        drop(first);
        assert!(!exists("evb0"));
        for _ in 0..2 {
            let link = privileged.open_link(&macvtap()).unwrap();
            assert!(exists("evb-up0"));
            privileged.remove_link(&link).unwrap();
            assert!(!exists("evb-up0"));
            privileged.remove_link(&link).unwrap();
        }
        let _link = privileged.open_link(&macvtap()).unwrap();
        drop(privileged);
        assert!(!exists("evb-up0"));
        assert!(exists("va"));
    });
}

#[test]
fn other_devices_are_refused() {
    in_namespace(|| {
        veth();
        ip("link add vc type veth peer name vd");
        let privileged = spawn();
        let on_another = Spec::Macvtap(MacvtapSpec {
            parent: "vc".into(),
            ..match macvtap() {
                Spec::Macvtap(spec) => spec,
                _ => unreachable!(),
            }
        });
        for (spec, device) in [
            (tap("evb1"), "evb1"),
            (on_another, "vc"),
            (packet("vd"), "vd"),
        ] {
            let expected = LinkRefusal::NotAllowed {
                device: device.into(),
            };
            assert_eq!(refusal(privileged.open_link(&spec)), expected);
        }
        let text = privileged.open_link(&tap("evb1")).unwrap_err().to_string();
        let expected = "cannot open evb1: evb1 is not one of the devices that evb was started \
                        with; restart evb with this configuration";
        assert_eq!(text, expected);
    });
}

#[test]
fn errors_travel_with_their_remedy() {
    in_namespace(|| {
        veth();
        let privileged = spawn();
        ip("addr add 192.0.2.5/24 dev va");
        let error = privileged.open_link(&macvtap()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("cannot open evb-up0: va connects the host itself: "),
            "{text}"
        );
        assert!(
            text.ends_with("ip address add 192.0.2.5/24 dev evb0"),
            "{text}"
        );
        ip("link del va");
        let missing = LinkRefusal::Device(LinkError::Missing {
            device: "vb".into(),
        });
        assert_eq!(refusal(privileged.open_link(&packet("vb"))), missing);
    });
}

/// A helper that can never have some of its capabilities.
fn spawn_without(capabilities: &str) -> Option<Privileged> {
    let command = again("serve_if_told", HELPER, Path::new("yes"));
    let mut without = Command::new("setpriv");
    without
        .args(["--bounding-set", capabilities, "--inh-caps=-all"])
        .arg(command.get_program())
        .args(command.get_args())
        .env(HELPER, "yes");
    match Privileged::spawn_as(without, NOWHERE, DEVICES) {
        Err(Error::Start(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            crate::uplink::testing::skipped("setpriv is not installed");
            None
        }
        started => Some(started.unwrap()),
    }
}

#[test]
fn a_missing_capability_is_named() {
    in_namespace(|| {
        veth();
        let opening = "opening an AF_XDP socket on va";
        for (without, spec, call, capability) in [
            (
                "-net_admin,-net_raw",
                tap("evb0"),
                "making a TAP device",
                "CAP_NET_ADMIN",
            ),
            (
                "-net_admin,-net_raw",
                macvtap(),
                "making a MACVTAP device on va",
                "CAP_NET_ADMIN",
            ),
            (
                "-net_raw",
                packet("va"),
                "opening a packet socket on va",
                "CAP_NET_RAW",
            ),
            (
                "-net_admin,-net_raw",
                xdp(),
                "switching features of va off",
                "CAP_NET_ADMIN",
            ),
            ("-net_raw", xdp(), opening, "CAP_NET_RAW"),
            (
                "-bpf,-sys_admin",
                xdp(),
                "loading the XDP program",
                "CAP_BPF",
            ),
        ] {
            let Some(privileged) = spawn_without(without) else {
                return;
            };
            let expected = LinkRefusal::Device(LinkError::Capability {
                call: call.into(),
                capability: capability.into(),
            });
            assert_eq!(refusal(privileged.open_link(&spec)), expected);
        }
    });
}

/// What `ethtool` says of a device.
fn features(device: &str) -> Vec<ethtool::Feature> {
    ethtool::Ethtool::new().unwrap().features(device).unwrap()
}

fn has_program(device: &str) -> bool {
    let shown = Command::new("ip").args(["link", "show", device]).output();
    String::from_utf8_lossy(&shown.unwrap().stdout).contains(" prog/xdp ")
}

#[test]
fn a_device_of_sockets_is_as_before_on_request_or_with_the_helper() {
    in_namespace(|| {
        veth();
        let before = [features("va"), features("vb")];
        let privileged = spawn();
        for _ in 0..2 {
            let link = privileged.open_link(&xdp()).unwrap();
            assert_eq!(link.xdp_mode(), Some(XdpMode::Copy));
            assert_ne!([features("va"), features("vb")], before);
            privileged.remove_link(&link).unwrap();
            assert_eq!([features("va"), features("vb")], before);
        }
        let link = privileged.open_link(&xdp()).unwrap();
        assert!(has_program("va"));
        drop(privileged);
        assert_eq!([features("va"), features("vb")], before);
        // The program went first, though the link is still there.
        assert!(!has_program("va"));
        drop(link);
    });
}

#[test]
fn a_device_whose_queue_is_taken_is_as_before() {
    in_namespace(|| {
        veth();
        let before = [features("va"), features("vb")];
        let privileged = spawn();
        // Its program is gone, but its sockets are bound.
        let rival = privileged.open_link(&xdp()).unwrap();
        privileged.remove_link(&rival).unwrap();
        let expected = LinkRefusal::Device(LinkError::QueueTaken {
            device: "va".into(),
            queue: 0,
        });
        assert_eq!(refusal(privileged.open_link(&xdp())), expected);
        assert_eq!([features("va"), features("vb")], before);
        drop(rival);
        privileged.open_link(&xdp()).unwrap();
    });
}
