//! Virtual functions of a machine made of files, and everything that can stand against them.

mod handover;
mod making;

use std::fs;

use super::error::HandoverError;
use super::handover::bind;
use super::hold;
use super::host::Host;
use super::prepare::{Ready, prepare};
use super::spec::{FunctionSettings, Serves, SriovSpec, Via};
use super::testing::{Machine, PF};
use crate::uplink::error::Occupied;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// Function 1, for one station that is pinned.
fn spec() -> SriovSpec {
    SriovSpec {
        pf: "eth1".into(),
        vf: 1,
        create: None,
        settings: FunctionSettings::default(),
        serves: Serves {
            macs: vec![MAC],
            ..Serves::default()
        },
        via: Via::Macvtap {
            name: "evb-up0".into(),
        },
        queues: 1,
        mtu: None,
        take_parent: false,
    }
}

/// The same for two stations, with what they need.
fn several() -> SriovSpec {
    SriovSpec {
        settings: FunctionSettings {
            trust: Some(true),
            spoofchk: Some(false),
            ..FunctionSettings::default()
        },
        serves: Serves {
            macs: vec![MAC, OTHER],
            ..Serves::default()
        },
        ..spec()
    }
}

#[track_caller]
fn refusal(machine: &Machine, spec: &SriovSpec) -> String {
    match prepare(machine, spec) {
        Ok(_) => panic!("prepared"),
        Err(error) => error.to_string(),
    }
}

fn address(number: u16) -> super::Address {
    Machine::address(number).parse().unwrap()
}

#[test]
fn functions_are_listed() {
    let machine = Machine::with_functions(2);
    let list = machine.sysfs().physical_functions().unwrap();
    let [pf] = list.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(pf.address.as_ref(), PF);
    assert_eq!(
        (pf.device.as_deref(), pf.driver.as_deref()),
        (Some("eth1"), Some("igb"))
    );
    assert_eq!((pf.total, pf.made), (7, 2));
    let seen: Vec<_> = pf
        .functions
        .iter()
        .map(|vf| {
            (
                vf.number,
                vf.device.as_deref(),
                vf.driver.as_deref(),
                vf.iommu_group,
            )
        })
        .collect();
    let expected = [
        (0, Some("eth1v0"), Some("igbvf"), Some(20)),
        (1, Some("eth1v1"), Some("igbvf"), Some(21)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn one_station_has_the_address_of_the_function() {
    let machine = Machine::with_functions(2);
    let Ready { device, .. } = prepare(&machine, &spec()).unwrap();
    assert_eq!(device, "eth1v1");
    let expected = [
        "eth1 vf 1 mac 52:54:00:00:00:01",
        "eth1v1 address",
        "eth1v1 up true silent true",
    ];
    assert_eq!(machine.asked(), expected);
    assert!(machine.inner.borrow().addresses.is_empty());
}

#[test]
fn what_is_set_already_is_left_alone() {
    let machine = Machine::with_functions(2);
    let spec = SriovSpec {
        settings: FunctionSettings {
            mac: Some(MAC),
            vlan: Some(7),
            spoofchk: Some(true),
            trust: Some(false),
            rate: Some(100),
        },
        ..spec()
    };
    drop(prepare(&machine, &spec).unwrap());
    let expected = [
        "eth1 vf 1 mac 52:54:00:00:00:01",
        "eth1 vf 1 vlan 7",
        "eth1 vf 1 max_tx_rate 100",
        "eth1v1 address",
        "eth1v1 up true silent true",
    ];
    assert_eq!(machine.asked(), expected);
    drop(prepare(&machine, &spec).unwrap());
    assert_eq!(machine.asked(), ["eth1v1 up true silent true"]);
}

#[test]
fn a_driver_that_takes_an_address_at_its_start_is_started() {
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().fixed_addresses = true;
    let Ready { device, .. } = prepare(&machine, &spec()).unwrap();
    let expected = [
        "eth1 vf 1 mac 52:54:00:00:00:01".to_owned(),
        "devices/0000:01:10.1/driver/unbind < 0000:01:10.1".to_owned(),
        "drivers_probe < 0000:01:10.1".to_owned(),
        "eth1v1 up true silent true".to_owned(),
    ];
    assert_eq!(machine.asked(), expected);
    assert_eq!(machine.device(&device).unwrap().mac, MAC);
}

#[test]
fn several_stations_are_received_for() {
    let machine = Machine::with_functions(2);
    let mac = Some(MAC);
    let mut spec = several();
    spec.settings.mac = mac;
    let ready = prepare(&machine, &spec).unwrap();
    let ifindex = machine.device("eth1v1").unwrap().ifindex;
    assert_eq!(machine.inner.borrow().addresses, [(ifindex, OTHER)]);
    assert_eq!(ready.held.addresses, [OTHER]);
}

#[test]
fn addresses_that_do_not_fit_take_back_those_that_did() {
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().refused = vec![("address", libc::ENOSPC)];
    let text = refusal(&machine, &several());
    let start = "eth1v1, which is VF 1 of eth1, does not take 52:54:00:00:00:02, the address of a station: ";
    assert!(text.starts_with(start), "{text}");
    assert!(machine.inner.borrow().addresses.is_empty());
}

#[test]
fn an_untrusted_function_is_refused_with_the_command_that_repairs_it() {
    let tail = "`, or write `trust = true, spoofchk = false` into `sriov`";
    let table = [
        (
            Serves {
                macs: vec![MAC, OTHER],
                ..Serves::default()
            },
            "the relay serves several addresses",
        ),
        (
            Serves {
                macs: vec![MAC],
                open: true,
                tagged: false,
            },
            "ports of the relay may use addresses that nobody has named",
        ),
        (
            Serves {
                macs: vec![MAC],
                open: false,
                tagged: true,
            },
            "the uplink sends tagged frames",
        ),
    ];
    for (serves, why) in table {
        let machine = Machine::with_functions(2);
        let mut spec = SriovSpec { serves, ..spec() };
        let expected = format!(
            "VF 1 of eth1 would lose frames: {why}; run `ip link set dev eth1 vf 1 trust on spoofchk off{tail}"
        );
        assert_eq!(refusal(&machine, &spec), expected);
        spec.settings.trust = Some(true);
        let expected = format!(
            "VF 1 of eth1 would lose frames: {why}; run `ip link set dev eth1 vf 1 spoofchk off{tail}"
        );
        assert_eq!(refusal(&machine, &spec), expected);
        spec.settings.spoofchk = Some(false);
        prepare(&machine, &spec).unwrap();
    }
    let machine = Machine::with_functions(2);
    let mut foreign = spec();
    foreign.settings.mac = Some(OTHER);
    let why = "its address is not the one that the relay serves";
    let text = refusal(&machine, &foreign);
    assert!(
        text.starts_with(&format!("VF 1 of eth1 would lose frames: {why}; run ")),
        "{text}"
    );
}

#[test]
fn tags_are_not_put_on_tags() {
    let machine = Machine::with_functions(2);
    machine
        .inner
        .borrow_mut()
        .functions
        .get_mut(&1)
        .unwrap()
        .vlan = 7;
    let mut spec = several();
    spec.serves.tagged = true;
    assert_eq!(
        refusal(&machine, &spec),
        "VF 1 of eth1 is in VLAN 7, which the NIC tags itself, and the uplink sends tags of its own; run `ip \
         link set dev eth1 vf 1 vlan 0`, or make the uplink `access = 7`"
    );
}

#[test]
fn tags_that_would_not_arrive_are_refused() {
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().filters_vlans = true;
    prepare(&machine, &several()).unwrap();
    let mut spec = several();
    spec.serves.tagged = true;
    assert_eq!(
        refusal(&machine, &spec),
        "VF 1 of eth1 would lose frames: eth1v1 drops tagged ones, which the uplink takes; run `ethtool -K eth1v1 \
         rx-vlan-filter off`, or, where its driver cannot do that, give the uplink one VLAN that the NIC tags: \
         `vlan = 10` in `sriov` and `access = 10`"
    );
}

#[test]
fn what_a_driver_refuses_becomes_a_sentence() {
    let all = FunctionSettings {
        mac: Some(OTHER),
        vlan: Some(7),
        spoofchk: Some(false),
        trust: Some(true),
        rate: Some(100),
    };
    let table = [
        (
            "mac",
            libc::EINVAL,
            "`mac 52:54:00:00:00:02`",
            "choose another unicast address for `mac`",
        ),
        (
            "vlan",
            libc::EOPNOTSUPP,
            "`vlan 7`",
            "it cannot do that: leave `vlan` out, or choose another NIC",
        ),
        (
            "rate",
            libc::EINVAL,
            "`max_tx_rate 100`",
            "the limit has to be below the speed of eth1, whose link has to be up: `ip link set dev eth1 up`, \
             or leave `rate` out",
        ),
        (
            "trust",
            libc::EAGAIN,
            "`trust on`",
            "switch the NIC on with `ip link set dev eth1 up` and try again",
        ),
        (
            "spoofchk",
            libc::EIO,
            "`spoofchk off`",
            "look into the kernel's log with `dmesg`, or leave `spoofchk` out",
        ),
    ];
    for (word, errno, setting, remedy) in table {
        let machine = Machine::with_functions(2);
        machine.inner.borrow_mut().refused = vec![(word, errno)];
        let spec = SriovSpec {
            settings: all,
            ..spec()
        };
        let text = refusal(&machine, &spec);
        let start = format!("igb, the driver of eth1, refuses {setting} for VF 1: ");
        assert!(text.starts_with(&start), "{text}");
        assert!(text.ends_with(&format!("; {remedy}")), "{text}");
    }
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().refused = vec![("mac", libc::EPERM)];
    let text = refusal(&machine, &spec());
    let call = "`ip link set dev eth1 vf 1 mac 52:54:00:00:00:01` needs CAP_NET_ADMIN; ";
    assert!(text.starts_with(call), "{text}");
}

#[test]
fn what_the_driver_of_a_function_refuses_becomes_a_sentence() {
    let down = "switch the NIC on with `ip link set dev eth1 up` and try again";
    let trust = "run `ip link set dev eth1 vf 1 trust on`, or write `trust = true` into `sriov`";
    let table = [
        ("up", libc::ENETDOWN, "cannot be switched on: ", down),
        ("up", libc::EIO, "cannot be switched on: ", down),
        (
            "up",
            libc::EADDRNOTAVAIL,
            "cannot be switched on: ",
            "write `mac` into `sriov`",
        ),
        (
            "up",
            libc::ENOMEM,
            "cannot be switched on: ",
            "or use fewer queues",
        ),
        (
            "up",
            libc::EREMOTEIO,
            "cannot be switched on: ",
            "with `dmesg`",
        ),
        (
            "address",
            libc::ENOSPC,
            "does not take 52:54:00:00:00:02, ",
            "behind a further function",
        ),
        (
            "address",
            libc::EPERM,
            "does not take 52:54:00:00:00:02, ",
            trust,
        ),
        (
            "address",
            libc::EOPNOTSUPP,
            "does not take 52:54:00:00:00:02, ",
            "or choose another NIC",
        ),
        (
            "address",
            libc::EINVAL,
            "does not take 52:54:00:00:00:02, ",
            "the `mac` of the port",
        ),
        (
            "address",
            libc::EIO,
            "does not take 52:54:00:00:00:02, ",
            "or put fewer addresses behind it",
        ),
    ];
    for (what, errno, wrong, remedy) in table {
        let machine = Machine::with_functions(2);
        machine.inner.borrow_mut().refused = vec![(what, errno)];
        let text = refusal(&machine, &several());
        let start = format!("eth1v1, which is VF 1 of eth1, {wrong}");
        assert!(text.starts_with(&start), "{text}");
        let reason = std::io::Error::from_raw_os_error(errno).to_string();
        assert!(text.contains(&format!(": {reason}; ")), "{text}");
        assert!(text.ends_with(remedy), "{text}");
    }
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().refused = vec![("up", libc::EPERM)];
    assert!(refusal(&machine, &spec()).contains("needs CAP_NET_ADMIN"));
}

#[test]
fn a_setting_that_is_taken_and_not_made_is_found_out() {
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().ignored = vec!["trust"];
    assert_eq!(
        refusal(&machine, &several()),
        "igb, the driver of eth1, took `trust on` for VF 1 and does not show it; leave `trust` out, or try \
         `ip link set dev eth1 vf 1 trust on` and look at `ip link show dev eth1`"
    );
}

#[test]
fn a_driver_that_tells_nothing_is_taken_at_its_word() {
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().silent = true;
    prepare(&machine, &several()).unwrap();
    let expected = [
        "eth1 vf 1 trust on",
        "eth1 vf 1 spoofchk off",
        "eth1v1 up true silent true",
    ];
    assert_eq!(machine.asked(), expected);
}

#[test]
fn a_function_out_of_range_is_refused() {
    let numvfs = "/sys/class/net/eth1/device/sriov_numvfs";
    let range = |made, vf| refusal(&Machine::with_functions(made), &SriovSpec { vf, ..spec() });
    assert_eq!(
        range(0, 3),
        format!(
            "eth1 has no virtual functions yet; make them with `echo 4 > {numvfs}`, or write `create = 4` into \
             `sriov`"
        )
    );
    assert_eq!(
        range(2, 3),
        format!(
            "there is no VF 3: eth1 has 2; choose one of 0 to 1, or make more, for which these have to go first: \
             `echo 0 > {numvfs}; echo 4 > {numvfs}`"
        )
    );
    let last = "there is no VF 7: eth1 can have 7; choose one of 0 to 6";
    assert_eq!(range(2, 7), last);
    assert_eq!(range(0, 7), last);
}

#[test]
fn a_device_without_functions_is_refused() {
    let machine = Machine::new();
    machine.file("class/net/evb0/flags", "0x1002");
    let on = |pf: &str| {
        refusal(
            &machine,
            &SriovSpec {
                pf: pf.into(),
                ..spec()
            },
        )
    };
    assert!(on("eth9").starts_with("there is no device eth9 in this network namespace; "));
    assert!(on("evb0").starts_with("evb0 has no virtual functions: "));
    for name in ["", "..", "../net/eth1", "eth1/device"] {
        assert!(
            on(name).contains("is no name for a network device"),
            "{name}"
        );
    }
}

#[test]
fn a_function_has_one_user() {
    let machine = Machine::with_functions(2);
    let first = prepare(&machine, &spec()).unwrap();
    let other = SriovSpec { vf: 0, ..spec() };
    prepare(&machine, &other).unwrap();
    assert_eq!(
        refusal(&machine, &spec()),
        "VF 1 of eth1 is in use by another uplink or another evb; remove that one, or choose another VF"
    );
    let busy = bind(&machine, &address(1), None).unwrap_err();
    assert!(matches!(busy, HandoverError::InUse { .. }), "{busy}");
    drop(first);
    prepare(&machine, &spec()).unwrap();
}

#[test]
fn a_function_whose_device_is_named_has_one_user_too() {
    let machine = Machine::with_functions(2);
    let busy = "VF 1 of eth1 is in use by another uplink or another evb; remove that one, or choose another VF";
    let hold = |alone| hold(&machine, "eth1v1", alone).map_err(|error| error.to_string());
    let alone = hold(true).unwrap().unwrap();
    assert_eq!(refusal(&machine, &spec()), busy);
    assert_eq!(hold(true).unwrap_err(), busy);
    assert_eq!(hold(false).unwrap_err(), busy);
    drop(alone);
    let shared = [hold(false).unwrap(), hold(false).unwrap()];
    assert_eq!(hold(true).unwrap_err(), busy);
    drop(shared);
    let ready = prepare(&machine, &spec()).unwrap();
    assert_eq!(hold(true).unwrap_err(), busy);
    drop(ready);
    hold(true).unwrap().unwrap();
    // There is no virtual function behind these.
    for device in ["eth1", "nil"] {
        assert!(super::hold(&machine, device, true).unwrap().is_none());
    }
}

#[test]
fn what_connects_the_host_is_left_alone() {
    let machine = Machine::with_functions(2);
    machine.inner.borrow_mut().occupied = Occupied {
        addresses: vec!["192.0.2.5/24".into()],
        ..Occupied::default()
    };
    let text = refusal(&machine, &spec());
    assert!(
        text.starts_with("eth1v1 connects the host itself: "),
        "{text}"
    );
    assert!(machine.asked().is_empty());
    for spec in [
        SriovSpec {
            take_parent: true,
            ..spec()
        },
        SriovSpec {
            via: Via::Packet,
            ..spec()
        },
    ] {
        prepare(&machine, &spec).unwrap();
    }
}

#[test]
fn a_function_that_has_no_device_here_is_refused() {
    let machine = Machine::with_functions(2);
    fs::remove_dir_all(machine.path("bus/pci/devices/0000:01:10.1/net")).unwrap();
    assert!(refusal(&machine, &spec()).contains("though igbvf drives it; move the device here"));
    bind(&machine, &address(1), None).unwrap();
    assert_eq!(
        refusal(&machine, &spec()),
        "VF 1 of eth1 is bound to vfio-pci, for a virtual machine; take it back with `evb sriov unbind eth1 1`, \
         or choose another"
    );
    let machine = Machine::new();
    machine.inner.borrow_mut().driver = None;
    let spec = SriovSpec {
        create: Some(2),
        ..spec()
    };
    assert!(
        refusal(&machine, &spec).starts_with("VF 1 of eth1 (0000:01:10.1) has no driver; load")
    );
}
